"""The one place where scores are computed: heads, fusion and report all call :func:`evaluate`.

Intervals are percentile bootstrap intervals (Efron 1979) that resample whole groups, because units of one
conversation or speaker are not independent: resampling single units would make the interval too narrow. A handful of
groups that happen to be alike would make it narrower still: below ``ROUGH_GROUPS`` the interval also covers that of
single units, and below ``TESTABLE_GROUPS`` a difference has neither interval nor p.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack

ECE_BINS = 15  # equal-width bins of confidence, as in Guo et al. 2017
SMALLEST_PROBABILITY = 1e-15  # log-loss of a certain mistake stays finite
RESAMPLES_AT_ONCE = 200  # bounds memory: (resamples, classes, classes) float64
GROUPS_AT_ONCE = 1000  # the same of groups
ROUGH_GROUPS = 10  # with fewer, resampling them sees too little of how groups vary
TESTABLE_GROUPS = 6  # with fewer, even groups that all agree are no evidence: 2 / 2 ** 5 is above .05
ENOUGH = 4000  # units to choose a setting by: with more the choice matters little, and takes long


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
    true = _class_numbers(labels, classes)
    probabilities = _checked(probabilities, len(true), len(classes))
    predicted = probabilities.argmax(axis=1)
    n_classes = len(classes)
    group_numbers, n_groups = _group_numbers(groups, len(true))
    per_group = _confusions(true, predicted, group_numbers, n_groups, n_classes)
    confusion = _whole(per_group, n_classes)

    result: dict[str, Any] = {name: {"value": float(score(confusion))} for name, score in SCORES.items()}
    ways = [per_group]
    if 1 < n_groups < min(ROUGH_GROUPS, len(true)):
        ways.append(_confusions(true, predicted, np.arange(len(true)), len(true), n_classes))
    sampled = [_bootstrap([counts], n_classes, bootstrap, seed) for counts in ways]
    for name in SCORES:
        lows, highs = zip(*(_interval(scores[name][:, 0]) for scores in sampled), strict=True)
        result[name] |= {"low": min(lows), "high": max(highs)}

    of_truth = np.clip(probabilities[np.arange(len(true)), true], SMALLEST_PROBABILITY, 1)
    precision, recall, f1 = (
        np.where(confusion.sum(axis=1) > 0, values, math.nan) for values in _precision_recall_f1(confusion)
    )
    return result | {
        "log_loss": float(-np.log(of_truth).mean()),
        "ece": _calibration_error(probabilities.max(axis=1), predicted == true),
        "classwise_ece": _classwise_calibration_error(probabilities, true),
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
    shares = np.bincount(_class_numbers(training_labels, classes), minlength=len(classes)) / len(training_labels)
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
    true = _class_numbers(labels, classes)
    group_numbers, n_groups = _group_numbers(groups, len(true))
    counts = [
        _confusions(true, _checked(p, len(true), len(classes)).argmax(axis=1), group_numbers, n_groups, len(classes))
        for p in (other, *models.values())
    ]
    sampled = _bootstrap(counts, len(classes), bootstrap if n_groups >= TESTABLE_GROUPS else 0, seed)
    result: dict[str, dict[str, dict[str, float]]] = {name: {} for name in models}
    for score_name, score in SCORES.items():
        reference, *values = score(np.stack([_whole(per_group, len(classes)) for per_group in counts]))
        gained = sampled[score_name][:, 1:] - sampled[score_name][:, :1]  # (resamples, models)
        for i, (name, value) in enumerate(zip(models, values, strict=True)):
            low, high = _interval(gained[:, i])
            p = _two_sided(gained[:, i], n_groups)
            result[name][score_name] = {"value": float(value - reference), "low": low, "high": high, "p": p}
    return result


# What the field calls its scores: unweighted average recall, and (weighted) accuracy.
PAPERS = {"balanced_accuracy": "UA", "accuracy": "WA", "weighted_f1": "weighted F1"}


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
    true = _class_numbers(labels, classes)
    predicted = _checked(probabilities, len(true), len(classes)).argmax(axis=1)
    numbers, places = np.unique(np.asarray(folds), return_inverse=True)
    counts = _confusions(true, predicted, places, len(numbers), len(classes)).toarray()
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


def as_printed(folds: Mapping[str, Any]) -> str:
    """What :func:`by_fold` gave in a line, under the field's names, in percent: mean and standard deviation."""
    said = (f"{name} {100 * folds['mean'][key]:.1f} ± {100 * folds['std'][key]:.1f}" for key, name in PAPERS.items())
    return f"{', '.join(said)} % (mean and standard deviation of {len(folds['folds'])} folds)"


def reliability(labels: Sequence[str], probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """How far confidence can be trusted: what a reliability diagram (Guo et al. 2017) shows.

    Returns:
        ``ece``: mean distance between confidence and accuracy over equal-width bins of confidence, weighted by units;
        ``classwise_ece``: the same of each class's probability and frequency, averaged over classes (Kull et al.
        2019); ``bins``: those that hold units, each ``{"low", "high", "units", "confidence", "accuracy"}``.

    Raises:
        ValueError: as :func:`evaluate`.
    """
    true = _class_numbers(labels, classes)
    probabilities = _checked(probabilities, len(true), len(classes))
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    units, confident, correct = _binned(confidence, right)
    return {
        "ece": _calibration_error(confidence, right),
        "classwise_ece": _classwise_calibration_error(probabilities, true),
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


# --- scores of confusion matrices: (..., classes, classes) -> (...), rows true ---


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a, dtype=float), where=b > 0)


def _precision_recall_f1(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    truth, guesses = confusion.sum(axis=-1), confusion.sum(axis=-2)
    return _divide(hits, guesses), _divide(hits, truth), _divide(2 * hits, truth + guesses)


def _accuracy(confusion: np.ndarray) -> np.ndarray:
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1))


def _balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    occurs = confusion.sum(axis=-1) > 0
    return _precision_recall_f1(confusion)[1].sum(axis=-1) / occurs.sum(axis=-1)


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    occurs = confusion.sum(axis=-1) + confusion.sum(axis=-2) > 0
    return _precision_recall_f1(confusion)[2].sum(axis=-1) / occurs.sum(axis=-1)


def _weighted_f1(confusion: np.ndarray) -> np.ndarray:
    support = confusion.sum(axis=-1)
    return (_precision_recall_f1(confusion)[2] * support).sum(axis=-1) / support.sum(axis=-1)


SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "weighted_f1": _weighted_f1,
}


# --- one number to choose by ---


def goodness(metric: str, labels: Sequence[Any], log_p: np.ndarray, classes: Sequence[Any]) -> float:
    """What a choice goes by, the higher the better: one of ``SCORES``, or the log-loss with its sign turned.

    Args:
        metric: ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``weighted_f1`` or ``log_loss``.
        labels: (n,) true classes.
        log_p: (n, classes) log-probabilities.
        classes: in the order of the columns.

    Raises:
        ValueError: as :func:`evaluate`.
    """
    true = _class_numbers(labels, classes)
    log_p = _checked(log_p, len(true), len(classes))
    if metric == "log_loss":
        return float(np.maximum(log_p[np.arange(len(true)), true], math.log(SMALLEST_PROBABILITY)).mean())
    counts = _confusions(true, log_p.argmax(axis=1), np.zeros(len(true), dtype=np.int64), 1, len(classes))
    return float(SCORES[metric](_whole(counts, len(classes))))


def goodness_without_each(
    metric: str, labels: Sequence[Any], log_p: np.ndarray, classes: Sequence[Any], groups: Sequence[str]
) -> np.ndarray:
    """:func:`goodness` with each of the groups left out in turn, (groups,): what a jackknife needs."""
    true = _class_numbers(labels, classes)
    log_p = _checked(log_p, len(true), len(classes))
    numbers, n_groups = _group_numbers(groups, len(true))
    if metric == "log_loss":
        of_truth = np.maximum(log_p[np.arange(len(true)), true], math.log(SMALLEST_PROBABILITY))
        sizes = np.bincount(numbers, minlength=n_groups)
        return (of_truth.sum() - np.bincount(numbers, of_truth, n_groups)) / (len(true) - sizes)
    counts = _confusions(true, log_p.argmax(axis=1), numbers, n_groups, len(classes))
    whole, shape = _whole(counts, len(classes)), (-1, len(classes), len(classes))
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


# --- calibration ---


def _binned(confidence: np.ndarray, happened: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each bin of confidence, (ECE_BINS,) each: units, summed confidence, how often it happened."""
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    weights = (None, confidence, happened)
    units, confident, correct = (np.bincount(bins, weights=w, minlength=ECE_BINS) for w in weights)
    return units, confident, correct


def _calibration_error(confidence: np.ndarray, happened: np.ndarray) -> float:
    _, confident, correct = _binned(confidence, happened)
    return float(np.abs(correct - confident).sum() / len(confidence))


def _classwise_calibration_error(probabilities: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([_calibration_error(p, true == i) for i, p in enumerate(probabilities.T)]))


# --- the clustered bootstrap ---


def _confusions(
    true: np.ndarray, predicted: np.ndarray, group_numbers: np.ndarray, n_groups: int, n_classes: int
) -> csr_array:
    """Counts, (groups, classes * classes); sparse, for few units are in a group."""
    cells = true * n_classes + predicted
    return csr_array((np.ones(len(cells)), (group_numbers, cells)), shape=(n_groups, n_classes**2))


def _whole(per_group: csr_array, n_classes: int) -> np.ndarray:
    """All groups' counts together, (classes, classes)."""
    return per_group.sum(axis=0).reshape(n_classes, n_classes)


def _bootstrap(counts: Sequence[csr_array], n_classes: int, resamples: int, seed: int) -> dict[str, np.ndarray]:
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


def _interval(sampled: np.ndarray) -> tuple[float, float]:
    if not len(sampled):
        return math.nan, math.nan
    low, high = np.percentile(sampled, [2.5, 97.5])
    return float(low), float(high)


def _two_sided(differences: np.ndarray, n_groups: int) -> float:
    """With one added to either count: no finite number of resamples shows that something is impossible."""
    if not len(differences):
        return math.nan
    smaller = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, max(2 * (int(smaller) + 1) / (len(differences) + 1), 2.0 ** (1 - n_groups)))


# --- reading the arguments ---


def _class_numbers(labels: Sequence[Any], classes: Sequence[Any]) -> np.ndarray:
    numbers = {name: i for i, name in enumerate(classes)}
    unknown = [label for label in labels if label not in numbers]
    if unknown:
        raise ValueError(f"label {unknown[0]!r} is not one of the classes {', '.join(map(str, classes))}")
    if not len(labels):
        raise ValueError("no units to evaluate")
    return np.array([numbers[label] for label in labels], dtype=np.int64)


def _group_numbers(groups: Sequence[str] | None, n: int) -> tuple[np.ndarray, int]:
    if groups is None:
        return np.arange(n), n
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} units")
    if any(group is None for group in groups):
        raise ValueError("a unit's group is null: leave groups out, or name one for every unit")
    names, numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return numbers.astype(np.int64), len(names)


def _checked(probabilities: np.ndarray, n: int, n_classes: int) -> np.ndarray:
    probabilities = np.asarray(probabilities, dtype=float)
    if probabilities.shape != (n, n_classes):
        raise ValueError(f"probabilities have shape {probabilities.shape}, expected ({n}, {n_classes})")
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities hold NaN or infinity")
    return probabilities


def interval(score: dict[str, float], spec: str = ".3f") -> str:
    """``[0.612, 0.704]``, or a dash where one group cannot give an interval."""
    return "[-]" if math.isnan(score["low"]) else f"[{score['low']:{spec}}, {score['high']:{spec}}]"


def shown(value: float, spec: str = ".3f") -> str:
    """A score, or ``none`` where there was no unit to score."""
    return "none" if math.isnan(value) else f"{value:{spec}}"


def without_nan(content: Any) -> Any:
    """NaN (an interval that one group cannot give, a class without a unit) becomes null: JSON has no NaN."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
