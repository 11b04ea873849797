"""Features of new clips in place of a store: what an explanation reads of them."""

from collections.abc import Mapping

import numpy as np

from cache import Header


class Fresh(dict[str, np.ndarray]):
    """Arrays (time, dim) by clip id, with what the store that a head was trained on says of itself.

    Args:
        failures: clip id: why there is nothing of it.
    """

    def __init__(self, features: Mapping[str, np.ndarray], stored: Header, failures: Mapping[str, str]) -> None:
        super().__init__(features)
        self.width, self.fingerprint, self.fields, self.failures = (
            stored.dim,
            stored.fingerprint,
            stored.fields,
            failures,
        )

    @property
    def clip_ids(self) -> list[str]:
        return list(self)
