"""The scores of predictions, with intervals, by folds, and compared: heads, fusion and report all call this."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heads.metrics.calibration import calibration_error, classwise_calibration_error
from heads.metrics.confusions import (
    SCORES,
    SMALLEST_PROBABILITY,
    checked,
    class_numbers,
    counted,
    numbered,
    precision_recall_f1,
    summed,
)
from heads.metrics.intervals import ROUGH_GROUPS, TESTABLE_GROUPS, percentiles, resampled, significance


def evaluate(
    labels: Sequence[str],
    probabilities: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score predictions; the predicted class is the most probable one (the first of equals).

    Args:
        labels: (n,) true class names.
        probabilities: (n, classes), rows summing to one.
        classes: class names, in the order of the columns.
        groups: (n,) what is resampled together; None: every unit is its own group.
        bootstrap: resamples behind each 95 % interval. With 0, or with a single group (one group says nothing
            about how groups vary), ``low`` and ``high`` are NaN; with fewer than ``ROUGH_GROUPS`` they reach as far
            as those of single units, too.
        seed: of the resampling.

    Returns:
        ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``weighted_f1``: each ``{"value", "low", "high"}``;
        ``log_loss`` (nats), ``ece`` and ``classwise_ece`` (see :func:`reliability`);
        ``per_class``: ``{class: {"precision", "recall", "f1", "support"}}``, NaN for a class without a unit;
        ``confusion``: rows are true classes; ``n_units``, ``n_groups``. All plain Python, ready for JSON.
        As in scikit-learn, balanced accuracy averages the classes that occur among the labels, macro-F1
        those that occur among the labels or the predictions, and 0/0 counts as 0.

    Raises:
        ValueError: shapes disagree, a label is not a class, a probability is not finite, or there is no unit.
    """
    true = class_numbers(labels, classes)
    probabilities = checked(probabilities, len(true), len(classes))
    predicted = probabilities.argmax(axis=1)
    n_classes = len(classes)
    group_numbers, n_groups = numbered(groups, len(true))
    per_group = counted(true, predicted, group_numbers, n_groups, n_classes)
    confusion = summed(per_group, n_classes)

    result: dict[str, Any] = {name: {"value": float(score(confusion))} for name, score in SCORES.items()}
    ways = [per_group]
    if 1 < n_groups < min(ROUGH_GROUPS, len(true)):
        ways.append(counted(true, predicted, np.arange(len(true)), len(true), n_classes))
    sampled = [resampled([counts], n_classes, bootstrap, seed) for counts in ways]
    for name in SCORES:
        lows, highs = zip(*(percentiles(scores[name][:, 0]) for scores in sampled), strict=True)
        result[name] |= {"low": min(lows), "high": max(highs)}

    of_truth = np.clip(probabilities[np.arange(len(true)), true], SMALLEST_PROBABILITY, 1)
    precision, recall, f1 = (
        np.where(confusion.sum(axis=1) > 0, values, math.nan) for values in precision_recall_f1(confusion)
    )
    return result | {
        "log_loss": float(-np.log(of_truth).mean()),
        "ece": calibration_error(probabilities.max(axis=1), predicted == true),
        "classwise_ece": classwise_calibration_error(probabilities, true),
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(confusion[i].sum()),
            }
            for i, name in enumerate(classes)
        },
        "confusion": confusion.astype(int).tolist(),
        "n_units": len(true),
        "n_groups": n_groups,
    }


def majority(
    training_labels: Sequence[str],
    labels: Sequence[str],
    classes: Sequence[str],
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The baseline that always answers the most frequent training class, scored on ``labels``.

    Its probabilities are the training frequencies, so its log-loss and calibration mean something.
    Returns what :func:`evaluate` returns, and ``"class"``, the class it answers.
    """
    shares = np.bincount(class_numbers(training_labels, classes), minlength=len(classes)) / len(training_labels)
    probabilities = np.tile(shares, (len(labels), 1))
    return evaluate(labels, probabilities, classes, groups, bootstrap, seed) | {"class": classes[int(shares.argmax())]}


def difference(
    labels: Sequence[str],
    probabilities: np.ndarray,
    other: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """How much better ``probabilities`` score than ``other`` on the same units: :func:`differences` of one model."""
    return differences(labels, {"it": probabilities}, other, classes, groups, bootstrap, seed)["it"]


def differences(
    labels: Sequence[str],
    models: Mapping[str, np.ndarray],
    other: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, float]]]:
    """How much better each model's probabilities score than ``other``'s on the same units, with paired 95 % intervals.

    All are scored on the same resamples, so what makes units hard for both of a pair cancels out.
    Arguments and errors are those of :func:`evaluate`; returns for each model the four scores, each
    ``{"value", "low", "high", "p"}``.
    ``p`` is the two-sided achieved significance level of the same resamples (Efron and Tibshirani 1993, chapter 15):
    twice the smaller share of them on either side of no difference. It is below .05 about where the interval leaves
    out zero, and NaN where there is no interval. It is never below 2 / (bootstrap + 1), nor below 2 / 2 ** groups: the
    odds that all groups agree by chance, which resampling a handful of groups would overlook. With fewer than
    ``TESTABLE_GROUPS`` there is no interval: ``low``, ``high`` and ``p`` are NaN.
    """
    true = class_numbers(labels, classes)
    group_numbers, n_groups = numbered(groups, len(true))
    counts = [
        counted(true, checked(p, len(true), len(classes)).argmax(axis=1), group_numbers, n_groups, len(classes))
        for p in (other, *models.values())
    ]
    sampled = resampled(counts, len(classes), bootstrap if n_groups >= TESTABLE_GROUPS else 0, seed)
    result: dict[str, dict[str, dict[str, float]]] = {name: {} for name in models}
    for score_name, score in SCORES.items():
        reference, *values = score(np.stack([summed(per_group, len(classes)) for per_group in counts]))
        gained = sampled[score_name][:, 1:] - sampled[score_name][:, :1]  # (resamples, models)
        for i, (name, value) in enumerate(zip(models, values, strict=True)):
            low, high = percentiles(gained[:, i])
            p = significance(gained[:, i], n_groups)
            result[name][score_name] = {"value": float(value - reference), "low": low, "high": high, "p": p}
    return result


def by_fold(
    labels: Sequence[str], probabilities: np.ndarray, classes: Sequence[str], folds: Sequence[int]
) -> dict[str, Any]:
    """Scores of each fold by itself, as papers print cross-validation; :func:`evaluate` pools the units of all folds.

    Args:
        labels, probabilities, classes: as in :func:`evaluate`.
        folds: (n,) the number of each unit's fold.

    Returns:
        ``folds``: for each one, ``{"fold", "n_units"}`` and the value of every score; ``mean`` and ``std`` (of the
        sample, divided by folds - 1; NaN of a single one): ``{score: value}``. Balanced accuracy averages the
        classes that occur in the fold.

    Raises:
        ValueError: as :func:`evaluate`.
    """
    true = class_numbers(labels, classes)
    predicted = checked(probabilities, len(true), len(classes)).argmax(axis=1)
    numbers, places = np.unique(np.asarray(folds), return_inverse=True)
    counts = counted(true, predicted, places, len(numbers), len(classes)).toarray()
    confusions = counts.reshape(-1, len(classes), len(classes))
    values = {name: score(confusions) for name, score in SCORES.items()}  # (folds,) each
    return {
        "folds": [
            {"fold": int(number), "n_units": int(confusions[i].sum())}
            | {name: float(value[i]) for name, value in values.items()}
            for i, number in enumerate(numbers)
        ],
        "mean": {name: float(value.mean()) for name, value in values.items()},
        "std": {name: float(value.std(ddof=1)) if len(numbers) > 1 else math.nan for name, value in values.items()},
    }
