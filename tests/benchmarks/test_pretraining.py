"""The shares of labels of the pre-training benchmark."""

import numpy as np
import pytest

from benchmarks.pretraining import share_of


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_a_share_has_every_class_and_what_smaller_ones_have(share: float) -> None:
    labels = np.repeat([0, 1, 2], [40, 20, 3])
    candidates = np.arange(1, 63)
    taken = share_of(labels, candidates, share, seed=3)
    assert set(labels[taken]) == {0, 1, 2}
    assert set(share_of(labels, candidates, share / 2, seed=3)) <= set(taken) <= set(candidates)
    assert len(taken) == sum(max(1, round(share * n)) for n in (39, 20, 3))
    assert (share_of(labels, candidates, share, seed=3) == taken).all()
