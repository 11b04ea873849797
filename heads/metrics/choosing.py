"""One number to choose by: of settings, of strategies, of what is read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heads.metrics.confusions import (
    SCORES,
    SMALLEST_PROBABILITY,
    checked,
    class_numbers,
    counted,
    numbered,
    summed,
)

GROUPS_AT_ONCE = 1000  # bounds memory: (groups, classes, classes) float64
ENOUGH = 4000  # units to choose a setting by: with more the choice matters little, and takes long


def goodness(metric: str, labels: Sequence[Any], log_p: np.ndarray, classes: Sequence[Any]) -> float:
    """What a choice goes by, the higher the better: one of ``SCORES``, or the log-loss with its sign turned.

    Args:
        metric: ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``weighted_f1`` or ``log_loss``.
        labels: (n,) true classes.
        log_p: (n, classes) log-probabilities.
        classes: in the order of the columns.

    Raises:
        ValueError: as :func:`heads.metrics.scores.evaluate`.
    """
    true = class_numbers(labels, classes)
    log_p = checked(log_p, len(true), len(classes))
    if metric == "log_loss":
        return float(np.maximum(log_p[np.arange(len(true)), true], math.log(SMALLEST_PROBABILITY)).mean())
    counts = counted(true, log_p.argmax(axis=1), np.zeros(len(true), dtype=np.int64), 1, len(classes))
    return float(SCORES[metric](summed(counts, len(classes))))


def goodness_without_each(
    metric: str, labels: Sequence[Any], log_p: np.ndarray, classes: Sequence[Any], groups: Sequence[str]
) -> np.ndarray:
    """:func:`goodness` with each of the groups left out in turn, (groups,): what a jackknife needs."""
    true = class_numbers(labels, classes)
    log_p = checked(log_p, len(true), len(classes))
    numbers, n_groups = numbered(groups, len(true))
    if metric == "log_loss":
        of_truth = np.maximum(log_p[np.arange(len(true)), true], math.log(SMALLEST_PROBABILITY))
        sizes = np.bincount(numbers, minlength=n_groups)
        return (of_truth.sum() - np.bincount(numbers, of_truth, n_groups)) / (len(true) - sizes)
    counts = counted(true, log_p.argmax(axis=1), numbers, n_groups, len(classes))
    whole, shape = summed(counts, len(classes)), (-1, len(classes), len(classes))
    return np.concatenate(
        [
            SCORES[metric](whole - counts[start : start + GROUPS_AT_ONCE].toarray().reshape(shape))
            for start in range(0, n_groups, GROUPS_AT_ONCE)
        ]
    )


@dataclass(frozen=True)
class Judgement:
    """How good predictions are: ``goodness`` orders them, higher is better, by the metric and then by log-loss."""

    goodness: tuple[float, float]
    loss: float
    macro_f1: float


def judged(metric: str, labels: np.ndarray, log_p: np.ndarray) -> Judgement:
    """Judge log-probabilities (n, classes) against class numbers (n,)."""
    value, unlike, macro_f1 = (
        goodness(name, labels.tolist(), log_p, range(log_p.shape[1])) for name in (metric, "log_loss", "macro_f1")
    )
    return Judgement((value, unlike), -unlike, macro_f1)


def is_sure(gains: np.ndarray, groups: np.ndarray, errors: float = 1.0) -> bool:
    """Whether units (n,) gain more than chance lets them: more than so many standard errors, whole groups (n,) at a
    time."""
    _, numbers = np.unique(groups, return_inverse=True)
    sums = np.bincount(numbers, weights=gains - gains.mean())
    return bool(gains.sum() > errors * math.sqrt(float(np.square(sums).sum())))


def some(units: np.ndarray, seed: int) -> np.ndarray:
    """All of some units, or ``ENOUGH`` of them, drawn at random."""
    return units if len(units) <= ENOUGH else np.sort(np.random.default_rng(seed).choice(units, ENOUGH, replace=False))
