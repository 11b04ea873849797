"""Whether two candidates' scores on the same units differ by more than chance.

Two views, because neither is enough alone: McNemar's test asks about right and wrong answers and takes units for
independent; the clustered paired bootstrap asks about macro-F1 and resamples whole groups. Where many candidates are
compared, Holm's correction keeps the chance of one false alarm among all of them below the level.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from fusion.strategies.optimism import holm
from heads.metrics.scores import differences

LEVEL = 0.05


def mcnemar(right: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """McNemar's test (1947) in its exact form: of the units that one alone gets right, is each side's share a half?

    Args:
        right, other: (n,) bool, which units the one and the other get right.

    Returns:
        ``gained`` (only the first is right), ``lost`` (only the other is), and the two-sided binomial ``p``; 1 where
        the two never differ.
    """
    gained, lost = int((right & ~other).sum()), int((other & ~right).sum())
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return {"gained": gained, "lost": lost, "p": p}


def against(
    baseline: np.ndarray,
    candidates: Mapping[str, np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    bootstrap: int = 1000,
    seed: int = 0,
    known: Mapping[str, dict[str, dict[str, float]]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Compare each candidate with one baseline on the same units.

    Args:
        baseline, candidates: probabilities (n, c).
        labels: (n,) class numbers.
        known: candidates' :func:`heads.metrics.scores.differences` from the baseline, if they were worked out before.

    Returns:
        For each candidate ``macro_f1`` and ``accuracy`` as in :func:`differences`, and ``mcnemar``.
        ``p_holm`` stands beside ``p`` in ``macro_f1`` and in ``mcnemar``, adjusted over all candidates.
    """
    known = known or {}
    names = [classes[i] for i in labels]
    fresh = {name: p for name, p in candidates.items() if name not in known}
    gains = differences(names, fresh, baseline, classes, groups, bootstrap, seed) | dict(known)
    reference = baseline.argmax(axis=1) == labels
    result: dict[str, dict[str, Any]] = {
        name: {
            "macro_f1": gains[name]["macro_f1"],
            "accuracy": gains[name]["accuracy"],
            "mcnemar": mcnemar(p.argmax(axis=1) == labels, reference),
        }
        for name, p in candidates.items()
    }
    for test in ("macro_f1", "mcnemar"):
        adjusted = holm([row[test]["p"] for row in result.values()])
        for row, p_holm in zip(result.values(), adjusted, strict=True):
            row[test] = row[test] | {"p_holm": p_holm}
    return result
