"""Counts of what was predicted for what, (..., classes, classes) with a row for each true class; and scores of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array

SMALLEST_PROBABILITY = 1e-15  # log-loss of a certain mistake stays finite


def class_numbers(labels: Sequence[Any], classes: Sequence[Any]) -> np.ndarray:
    """The place of each label among the classes, (n,) int64. ValueError: one is no class, or there is none."""
    numbers = {name: i for i, name in enumerate(classes)}
    unknown = [label for label in labels if label not in numbers]
    if unknown:
        raise ValueError(f"label {unknown[0]!r} is not one of the classes {', '.join(map(str, classes))}")
    if not len(labels):
        raise ValueError("no units to evaluate")
    return np.array([numbers[label] for label in labels], dtype=np.int64)


def numbered(groups: Sequence[str] | None, n: int) -> tuple[np.ndarray, int]:
    """The number of each unit's group, (n,), and how many groups there are; None: each unit is its own."""
    if groups is None:
        return np.arange(n), n
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} units")
    if any(group is None for group in groups):
        raise ValueError("a unit's group is null: leave groups out, or name one for every unit")
    names, numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return numbers.astype(np.int64), len(names)


def checked(probabilities: np.ndarray, n: int, n_classes: int) -> np.ndarray:
    """As float64, (n, n_classes). ValueError: of another shape, or not finite."""
    probabilities = np.asarray(probabilities, dtype=float)
    if probabilities.shape != (n, n_classes):
        raise ValueError(f"probabilities have shape {probabilities.shape}, expected ({n}, {n_classes})")
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities hold NaN or infinity")
    return probabilities


def counted(
    true: np.ndarray, predicted: np.ndarray, group_numbers: np.ndarray, n_groups: int, n_classes: int
) -> csr_array:
    """Counts, (groups, classes * classes); sparse, for few units are in a group."""
    cells = true * n_classes + predicted
    return csr_array((np.ones(len(cells)), (group_numbers, cells)), shape=(n_groups, n_classes**2))


def summed(per_group: csr_array, n_classes: int) -> np.ndarray:
    """All groups' counts together, (classes, classes)."""
    return per_group.sum(axis=0).reshape(n_classes, n_classes)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a, dtype=float), where=b > 0)


def precision_recall_f1(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class, (..., classes) each; 0/0 is 0."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    truth, guesses = confusion.sum(axis=-1), confusion.sum(axis=-2)
    return _divide(hits, guesses), _divide(hits, truth), _divide(2 * hits, truth + guesses)


def _accuracy(confusion: np.ndarray) -> np.ndarray:
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1))


def _balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    occurs = confusion.sum(axis=-1) > 0
    return precision_recall_f1(confusion)[1].sum(axis=-1) / occurs.sum(axis=-1)


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    occurs = confusion.sum(axis=-1) + confusion.sum(axis=-2) > 0
    return precision_recall_f1(confusion)[2].sum(axis=-1) / occurs.sum(axis=-1)


def _weighted_f1(confusion: np.ndarray) -> np.ndarray:
    support = confusion.sum(axis=-1)
    return (precision_recall_f1(confusion)[2] * support).sum(axis=-1) / support.sum(axis=-1)


SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "weighted_f1": _weighted_f1,
}
