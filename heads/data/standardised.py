"""Features less what is the speaker's (or the corpus's) own: from each clip, the mean over all clips of one is taken.

The mean is over all time steps of all his clips that the manifest has, of every split, and over no label: a head on it
is transductive, and says so wherever a number of it stands. Clips whose speaker is unknown, or has fewer than
``FEWEST`` clips, are missing: what is not centred is nothing that such a head has learned from.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from configs.schema import Head
from extract.corpora.manifest import Manifest
from heads.data.features import Source
from heads.data.views import Viewed, views_of

FEWEST = 3  # clips of a speaker; a clip's own mean is a third of what is taken away then
COLUMNS = {"speaker": "speaker", "corpus": "meta_corpus"}  # of the manifest, which says whose a clip is


class Centred:
    """A source whose clips are centred; each is read once more, for the means, when the first one is asked for.

    Args:
        owners: clip id: whose it is.
    """

    centred = True

    def __init__(self, source: Source, owners: Mapping[str, str]) -> None:
        self._source = source
        clips = Counter(owner for clip, owner in owners.items() if clip in source)
        self._owners = {clip: owner for clip, owner in owners.items() if clips[owner] >= FEWEST and clip in source}

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._owners

    def __getitem__(self, clip_id: str) -> np.ndarray:
        return self.less_mean(clip_id, self._source[clip_id])

    def less_mean(self, clip_id: str, values: np.ndarray) -> np.ndarray:
        """Other values of a clip, (time, dim), centred as its own are; float32."""
        return _wide(values) - self._means[self._owners[clip_id]]

    @cached_property
    def _means(self) -> dict[str, np.ndarray]:
        """(dim,) of each owner; one clip is in memory at a time."""
        sums: dict[str, np.ndarray] = {}
        steps = Counter[str]()
        for clip, owner in self._owners.items():
            values = _wide(self._source[clip])
            sums[owner] = sums.get(owner, 0) + values.sum(axis=0, dtype=np.float64)
            steps[owner] += len(values)
        return {owner: (total / steps[owner]).astype(np.float32) for owner, total in sums.items()}

    # What stores, or live features, say of themselves; AttributeError where the source does not.

    @property
    def lengths(self) -> dict[str, int]:
        return {clip: n for clip, n in self._source.lengths.items() if clip in self}  # type: ignore[attr-defined]

    @property
    def dim(self) -> int:
        return self._source.dim  # type: ignore[attr-defined]

    @property
    def width(self) -> int:
        return self._source.width  # type: ignore[attr-defined]

    @property
    def fields(self) -> dict[str, Any]:
        return self._source.fields  # type: ignore[attr-defined]

    dtype = np.dtype(np.float32)


def _wide(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.array(values)).float().numpy()  # many times faster than NumPy, from float16


def standardised(head: Head, manifest: Manifest, sources: Mapping[str, Source]) -> Mapping[str, Source]:
    """What a head reads of some sources: they themselves, or centred ones; those that are centred stay as they are."""
    if head.standardise == "none":
        return sources
    owners = owners_of(head, manifest)
    return {name: _centred(each, owners) for name, each in sources.items()}


def _centred(source: Any, owners: Mapping[str, str]) -> Any:
    """A source, or with its views: these less the means of view 0."""
    plain, views = views_of(source)
    if hasattr(plain, "centred"):
        return source
    centred = Centred(plain, owners)
    return Viewed(centred, tuple(replace(view, centred=centred) for view in views)) if views else centred


def owners_of(head: Head, manifest: Manifest) -> dict[str, str]:
    """Clip id: its speaker or corpus, of the clips for which it is known."""
    column = COLUMNS[head.standardise]
    if column not in manifest.clips.columns:
        return {}
    return dict(manifest.clips.select("clip_id", column).drop_nulls(column).iter_rows())


def said_of(head: Head) -> str | None:
    """What of a head is transductive, for titles."""
    own = f"features centred per {head.standardise}, whose unlabelled clips are read"
    return None if head.standardise == "none" else own
