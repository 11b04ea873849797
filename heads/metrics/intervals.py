"""Percentile bootstrap intervals (Efron 1979) that resample whole groups.

Units of one conversation or speaker are not independent: resampling single units would make the interval too narrow. A
handful of groups that happen to be alike would make it narrower still: below ``ROUGH_GROUPS`` the interval also covers
that of single units, and below ``TESTABLE_GROUPS`` a difference has neither interval nor p.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array, vstack

from heads.metrics.confusions import SCORES

RESAMPLES_AT_ONCE = 200  # bounds memory: (resamples, classes, classes) float64
ROUGH_GROUPS = 10  # with fewer, resampling them sees too little of how groups vary
TESTABLE_GROUPS = 6  # with fewer, even groups that all agree are no evidence: 2 / 2 ** 5 is above .05


def resampled(counts: Sequence[csr_array], n_classes: int, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Scores of resampled data, each (resamples, models), from each model's counts (groups, classes * classes).

    Groups with equal counts are interchangeable, so it is enough to draw how often each distinct pattern occurs.
    """
    n_groups = counts[0].shape[0]
    # A random linear hash tells patterns apart (odds of a collision: 1e-11 at 20,000 groups); sorting takes seconds.
    hashing = np.random.default_rng(0)
    keys = sum(part.astype(np.uint64) @ hashing.integers(2**64, size=n_classes**2, dtype=np.uint64) for part in counts)
    _, first, occurrences = np.unique(keys, return_index=True, return_counts=True)
    patterns = csr_array(vstack([part[first].T for part in counts]))  # (models * classes * classes, patterns)
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {name: [np.empty((0, len(counts)))] for name in SCORES}
    for start in range(0, resamples if n_groups > 1 else 0, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, resamples - start)
        draws = rng.multinomial(n_groups, occurrences / n_groups, size=size).astype(float)
        confusions = (patterns @ draws.T).T.reshape(size, len(counts), n_classes, n_classes)
        for name, score in SCORES.items():
            parts[name].append(score(confusions))
    return {name: np.concatenate(values) for name, values in parts.items()}


def percentiles(sampled: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of what was sampled; NaN where nothing was."""
    if not len(sampled):
        return math.nan, math.nan
    low, high = np.percentile(sampled, [2.5, 97.5])
    return float(low), float(high)


def significance(differences: np.ndarray, n_groups: int) -> float:
    """The two-sided p of sampled differences.

    With one added to either count: no finite number of resamples shows that something is impossible.
    """
    if not len(differences):
        return math.nan
    smaller = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, max(2 * (int(smaller) + 1) / (len(differences) + 1), 2.0 ** (1 - n_groups)))
