"""What a fusion's predictions show beyond their scores: worked out once for the report, the charts and the tables."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fusion.report.doubt import measured
from fusion.report.significance import against
from fusion.strategies.choice import BASELINE, HEAD
from fusion.strategies.nested import Fusion
from fusion.tables.predictions import Predictions
from heads.metrics.calibration import reliability
from heads.metrics.scores import difference, evaluate

FEWEST_UNITS = 10  # of a subgroup that has a row of its own; smaller ones are pooled
MOST_VALUES = 8  # of a field, by number of units; the rest is pooled
OTHER, UNKNOWN = "(other: {} values)", "(unknown)"
SUBGROUP_RESAMPLES = 300  # behind the interval of the fusion in a subgroup
MOST_MISTAKES = 20
SAME = 5e-4  # heads that differ by less share the place of the best


@dataclass(frozen=True)
class Row:
    """One class or subgroup: the scores of the fusion and of each head on its units."""

    units: int
    fusion: float
    heads: dict[str, float]
    best: tuple[str, ...]  # the heads with the highest score
    low: float = math.nan  # 95 % interval of the fusion's; NaN where there is none
    high: float = math.nan


@dataclass(frozen=True)
class Weight:
    """What the attention fusion gives to a head, over some units."""

    mean: float
    std: float


@dataclass(frozen=True)
class Gate:
    overall: dict[str, Weight]  # by head
    by_class: dict[str, tuple[int, dict[str, Weight]]]  # predicted class: units, and weights by head


@dataclass(frozen=True)
class Mistake:
    unit_id: str
    label: str
    predicted: str
    confidence: float  # the probability of the predicted class
    of_label: float  # that of the true one
    heads: dict[str, tuple[str, float] | None]  # head: its own answer and the probability of it; None where absent


@dataclass(frozen=True)
class Findings:
    """All of the headline split."""

    comparisons: dict[str, dict[str, Any]]  # candidate: significance.against the best head; that one is left out
    # metrics.reliability "before" and "after" calibration. The fusion's before is the plain mean of uncalibrated heads.
    calibration: dict[str, dict[str, dict[str, Any]]]  # of each head; empty where it has no prediction
    fused_calibration: dict[str, dict[str, Any]]
    classes: dict[str, Row]  # F1 of each class
    subgroups: dict[str, dict[str, Row]]  # field: value: macro-F1
    pooled: dict[str, str]  # field: why it has no rows
    gate: Gate | None  # None where attention was not among the strategies
    doubt: dict[str, Any]  # of all splits: doubt.measured
    mistakes: list[Mistake] = field(default_factory=list)  # the most confident ones, the worst first
    # metrics.difference of the fusion over the best plain baseline; None where there is none, or the fusion is it
    over_baseline: dict[str, dict[str, float]] | None = None


def analyse(found: Fusion, bootstrap: int = 1000, seed: int = 0) -> Findings:
    """Take apart the headline split of a fusion.

    Args:
        bootstrap, seed: of the comparisons that ``fuse`` did not make.
    """
    rows = found.units.splits == found.headline
    units = found.units.where(rows)
    p = {name: np.exp(values[rows]) for name, values in found.log_p.items()}
    best = f"{HEAD}{found.best_head}"
    comparisons = against(
        p[best],
        {name: values for name, values in p.items() if name != best},
        units.labels,
        units.classes,
        units.groups.tolist(),
        bootstrap,
        seed,
        known={} if found.chosen == best else {found.chosen: found.gains[found.best_head]},
    )
    subgroups, pooled = _subgroups(found, units, p)
    baseline = f"{BASELINE}{found.best_baseline}"
    return Findings(
        comparisons=comparisons,
        calibration={head: _head_calibration(units, h, p[f"{HEAD}{head}"]) for h, head in enumerate(units.heads)},
        fused_calibration={
            "before": reliability(
                units.label_names, _uncalibrated(found.chosen, units, p[found.chosen]), units.classes
            ),
            "after": reliability(units.label_names, p[found.chosen], units.classes),
        },
        classes=_classes(found, units),
        subgroups=subgroups,
        pooled=pooled,
        gate=_gate(found, rows),
        doubt=measured(found, bootstrap, seed),
        mistakes=_mistakes(units, p[found.chosen]),
        over_baseline=difference(
            units.label_names,
            p[found.chosen],
            p[baseline],
            units.classes,
            units.groups.tolist(),
            bootstrap,
            seed,
        )
        if baseline in p and baseline != found.chosen
        else None,
    )


def _head_calibration(units: Predictions, h: int, calibrated: np.ndarray) -> dict[str, dict[str, Any]]:
    """Where the head has a prediction; empty where it has none in this split."""
    has = units.present[:, h]
    if not has.any():
        return {}
    labels = [name for name, present in zip(units.label_names, has, strict=True) if present]
    return {
        "before": reliability(labels, np.exp(units.logits[has, h]), units.classes),
        "after": reliability(labels, calibrated[has], units.classes),
    }


def _uncalibrated(chosen: str, units: Predictions, answered: np.ndarray) -> np.ndarray:
    """The plain mean of the heads' probabilities as they came, (n, c); of one head or baseline where it is chosen.

    Where no head says anything it is what was ``answered``.
    """
    probabilities = np.exp(units.logits)
    if chosen.startswith(HEAD):
        only = units.heads.index(chosen.removeprefix(HEAD))
        probabilities = np.where(units.present[:, only, None, None], probabilities[:, [only]], probabilities)
    if chosen.startswith(BASELINE):
        own = np.exp(units.baselines[chosen.removeprefix(BASELINE)])[:, None]  # (n, 1, c)
        probabilities = np.where(np.isnan(own), probabilities, own)
    unheard = ~units.present.any(axis=1)
    probabilities[unheard] = answered[unheard, None]
    return np.nanmean(probabilities, axis=1)


def _classes(found: Fusion, units: Predictions) -> dict[str, Row]:
    def of(name: str, label: str) -> float:
        return float(found.scores[name][found.headline]["per_class"][label]["f1"])

    counts = np.bincount(units.labels, minlength=len(units.classes))
    result = {}
    for label, count in zip(units.classes, counts.tolist(), strict=True):
        heads = {head: of(f"{HEAD}{head}", label) for head in units.heads}
        result[label] = Row(count, of(found.chosen, label), heads, _leaders(heads))
    return result


def _subgroups(
    found: Fusion, units: Predictions, p: dict[str, np.ndarray]
) -> tuple[dict[str, dict[str, Row]], dict[str, str]]:
    """Rows of each field, and why a field has none."""
    result: dict[str, dict[str, Row]] = {}
    pooled: dict[str, str] = {}
    shown: dict[str, dict[str, np.ndarray]] = {}
    spoken = {} if units.speakers is None else {"speaker": units.speakers}
    for name, values in (spoken | units.metadata).items():
        groups = _values(values)
        if sum(len(rows) >= FEWEST_UNITS for rows in groups.values()) < 2:
            known = {value for value in values.tolist() if value is not None}
            pooled[name] = f"{len(known)} values, fewer than two of them on {FEWEST_UNITS} units"
            continue
        same = next((other for other, seen in shown.items() if _same(groups, seen)), None)
        if same is not None:
            pooled[name] = f"divides the units as {same} does"
            continue
        shown[name] = groups
        result[name] = {
            value: _row(found, units.where(rows), {n: q[rows] for n, q in p.items()}) for value, rows in groups.items()
        }
    return result, pooled


def _values(values: np.ndarray) -> dict[str, np.ndarray]:
    """Value: indices of its units. Frequent values first, then those that are pooled, then units without one."""
    unknown = np.array([value is None for value in values], dtype=bool)
    texts = np.array(["" if value is None else str(value) for value in values])
    names, counts = np.unique(texts[~unknown], return_counts=True)
    order = sorted(zip(-counts, names.tolist(), strict=True))
    own = [name for count, name in order if -count >= FEWEST_UNITS][:MOST_VALUES]
    own_rows = {name: np.flatnonzero((texts == name) & ~unknown) for name in own}
    rest = np.flatnonzero(~np.isin(texts, own) & ~unknown)
    pooled = {OTHER.format(len(names) - len(own)): rest, UNKNOWN: np.flatnonzero(unknown)}
    return own_rows | {name: rows for name, rows in pooled.items() if len(rows)}


def _same(groups: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> bool:
    """Whether two fields divide the units alike, whatever they call the parts."""
    return sorted(rows.tolist() for rows in groups.values()) == sorted(rows.tolist() for rows in others.values())


def _row(found: Fusion, units: Predictions, p: dict[str, np.ndarray]) -> Row:
    def score(name: str, bootstrap: int = 0) -> dict[str, float]:
        groups = units.groups.tolist()
        macro_f1: dict[str, float] = evaluate(units.label_names, p[name], units.classes, groups, bootstrap)["macro_f1"]
        return macro_f1

    heads = {head: score(f"{HEAD}{head}")["value"] for head in units.heads}
    fused = score(found.chosen, SUBGROUP_RESAMPLES)
    return Row(len(units.labels), fused["value"], heads, _leaders(heads), fused["low"], fused["high"])


def _leaders(heads: dict[str, float]) -> tuple[str, ...]:
    """None where no head scores at all."""
    best = max(heads.values())
    return tuple(head for head, score in heads.items() if score >= best - SAME) if best > 0 else ()


def _gate(found: Fusion, rows: np.ndarray) -> Gate | None:
    if found.gate_weights is None:
        return None
    weights = found.gate_weights[rows]  # (units, heads)
    answers = found.log_p["attention"][rows].argmax(axis=1)

    def of(chosen: np.ndarray) -> dict[str, Weight]:
        part = weights[chosen]
        return {h: Weight(float(part[:, i].mean()), float(part[:, i].std())) for i, h in enumerate(found.units.heads)}

    by_class = {
        name: (int((answers == i).sum()), of(answers == i))
        for i, name in enumerate(found.units.classes)
        if (answers == i).any()
    }
    return Gate(of(np.ones(len(weights), dtype=bool)), by_class)


def _mistakes(units: Predictions, p: np.ndarray) -> list[Mistake]:
    predicted = p.argmax(axis=1)
    wrong = np.flatnonzero(predicted != units.labels)
    worst = wrong[np.argsort(-p[wrong, predicted[wrong]], kind="stable")][:MOST_MISTAKES]

    def answer(i: int, h: int) -> tuple[str, float] | None:
        if not units.present[i, h]:
            return None
        best = int(units.logits[i, h].argmax())
        return units.classes[best], float(np.exp(units.logits[i, h, best]))

    return [
        Mistake(
            unit_id=str(units.unit_ids[i]),
            label=units.classes[units.labels[i]],
            predicted=units.classes[predicted[i]],
            confidence=float(p[i, predicted[i]]),
            of_label=float(p[i, units.labels[i]]),
            heads={head: answer(i, h) for h, head in enumerate(units.heads)},
        )
        for i in worst.tolist()
    ]
