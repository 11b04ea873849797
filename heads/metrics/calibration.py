"""How far confidence can be trusted."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from heads.metrics.confusions import checked, class_numbers

ECE_BINS = 15  # equal-width bins of confidence, as in Guo et al. 2017


def reliability(labels: Sequence[str], probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """How far confidence can be trusted: what a reliability diagram (Guo et al. 2017) shows.

    Returns:
        ``ece``: mean distance between confidence and accuracy over equal-width bins of confidence, weighted by units;
        ``classwise_ece``: the same of each class's probability and frequency, averaged over classes (Kull et al.
        2019); ``bins``: those that hold units, each ``{"low", "high", "units", "confidence", "accuracy"}``.

    Raises:
        ValueError: as :func:`heads.metrics.scores.evaluate`.
    """
    true = class_numbers(labels, classes)
    probabilities = checked(probabilities, len(true), len(classes))
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    units, confident, correct = _binned(confidence, right)
    return {
        "ece": calibration_error(confidence, right),
        "classwise_ece": classwise_calibration_error(probabilities, true),
        "bins": [
            {
                "low": i / ECE_BINS,
                "high": (i + 1) / ECE_BINS,
                "units": int(units[i]),
                "confidence": float(confident[i] / units[i]),
                "accuracy": float(correct[i] / units[i]),
            }
            for i in np.flatnonzero(units).tolist()
        ],
    }


def _binned(confidence: np.ndarray, happened: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each bin of confidence, (ECE_BINS,) each: units, summed confidence, how often it happened."""
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    weights = (None, confidence, happened)
    units, confident, correct = (np.bincount(bins, weights=w, minlength=ECE_BINS) for w in weights)
    return units, confident, correct


def calibration_error(confidence: np.ndarray, happened: np.ndarray) -> float:
    _, confident, correct = _binned(confidence, happened)
    return float(np.abs(correct - confident).sum() / len(confidence))


def classwise_calibration_error(probabilities: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([calibration_error(p, true == i) for i, p in enumerate(probabilities.T)]))
