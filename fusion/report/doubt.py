"""What sets of classes are worth: how often they hold the true one, and how many classes that takes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusion.strategies.conformal import ENOUGH_GROUPS, Sets, calibrate, left_out_sets
from fusion.strategies.nested import Fusion
from fusion.tables.predictions import Predictions
from heads.metrics.intervals import RESAMPLES_AT_ONCE
from heads.metrics.printed import interval

CONFIDENCES = (0.8, 0.9, 0.95)
SHOWN = "0.9"  # of them, where there is room for one


def sets_of(units: Predictions, log_p: np.ndarray) -> Sets:
    """Calibrated on the out-of-fold units, whose log-probabilities (n, c) are cross-fitted."""
    oof = units.where(units.splits == "oof")
    return calibrate(np.exp(log_p[units.splits == "oof"]), oof.labels, oof.present, oof.groups)


def measured(found: Fusion, bootstrap: int, seed: int) -> dict[str, Any]:
    """How the sets of a fusion do on each split, as in metrics.json.

    Returns:
        ``calibration``: ``units, groups, rough`` (fewer groups than 20), ``highest`` (the confidence up to which these
        groups can vouch) and ``patterns`` (present heads that have scores of their own: their groups);
        ``splits``: by split and confidence, :func:`judged`. Units of which no head says anything are left out; oof
        units are judged by the scores of all other groups. ``plain``: null, or the same two of the fit on plain heads.
    """
    result = _measured(found.units, found.log_p[found.chosen], bootstrap, seed)
    plain = _measured(found.units, found.plain.log_p, bootstrap, seed) if found.plain else None
    return result | {"plain": plain}


def _measured(units: Predictions, log_p: np.ndarray, bootstrap: int, seed: int) -> dict[str, Any]:
    sets, heard = sets_of(units, log_p), units.present.any(axis=1)
    splits: dict[str, dict[str, Any]] = {}
    for split in dict.fromkeys(units.splits.tolist()):
        rows = (units.splits == split) & heard
        part, p = units.where(rows), np.exp(log_p[rows])
        if not rows.any():
            continue
        splits[split] = {
            f"{confidence:g}": judged(
                left_out_sets(p, part.labels, part.present, part.groups, confidence)
                if split == "oof"
                else sets.sets(p, part.present, confidence),
                part.labels,
                part.groups,
                units.classes,
                bootstrap,
                seed,
            )
            for confidence in CONFIDENCES
        }
    groups = sets.everyone.groups
    names = {
        ", ".join(h for h, there in zip(units.heads, pattern, strict=True) if there == "1"): scores.groups
        for pattern, scores in sets.patterns.items()
    }
    return {
        "calibration": {
            "units": sets.everyone.units,
            "groups": groups,
            "rough": groups < ENOUGH_GROUPS,
            "highest": sets.everyone.highest,
            "patterns": names,
        },
        "splits": splits,
    }


def judged(
    sets: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], bootstrap: int, seed: int
) -> dict[str, Any]:
    """Count what sets (n, c) bool hold.

    Returns:
        ``coverage``: the share of sets that hold the true class (n,), the mean over groups (n,), for that is what is
        promised; ``unit_coverage``: the same of units; ``size``: classes in a set; ``single``: the share of units that
        are answered by one class; each ``{"value", "low", "high"}``, 95 % bootstrap intervals that resample groups.
        ``per_class``: ``{class: {"units", "coverage", "size"}}``, of units, NaN where there is none;
        ``n_units``, ``n_groups``.
    """
    names, which = np.unique(groups, return_inverse=True)

    def by_group(values: np.ndarray) -> np.ndarray:
        """(groups, ...) sums of (n, ...)."""
        sums = np.zeros((len(names), *values.shape[1:]))
        np.add.at(sums, which, values)
        return sums

    n = np.bincount(which)
    covered, size = sets[np.arange(len(labels)), labels].astype(float), sets.sum(axis=1).astype(float)
    is_class = np.eye(len(classes))[labels]
    above = np.column_stack(
        [by_group(covered) / n, by_group(covered), by_group(size), by_group(size == 1)]
        + [by_group(is_class * each[:, None]) for each in (covered, size)]
    )
    per_class = by_group(is_class)
    below = np.column_stack([np.ones(len(n)), n, n, n, per_class, per_class])
    values = _ratio(above.sum(axis=0), below.sum(axis=0))
    rng, drawn = np.random.default_rng(seed), [np.empty((0, len(values)))]
    for start in range(0, bootstrap if len(n) > 1 else 0, RESAMPLES_AT_ONCE):
        draws = rng.multinomial(len(n), np.full(len(n), 1 / len(n)), size=min(RESAMPLES_AT_ONCE, bootstrap - start))
        drawn.append(_ratio(draws @ above, draws @ below))
    sampled = np.concatenate(drawn)
    scores = [_score(value, sampled[:, i]) for i, value in enumerate(values.tolist())]
    c = len(classes)
    return {
        **dict(zip(("coverage", "unit_coverage", "size", "single"), scores[:4], strict=True)),
        "per_class": {
            name: {"units": int(units), "coverage": coverage, "size": size}
            for name, units, coverage, size in zip(
                classes, per_class.sum(axis=0), scores[4 : 4 + c], scores[4 + c :], strict=True
            )
        },
        "n_units": len(labels),
        "n_groups": len(n),
    }


def said_of_sets(found: dict[str, Any], split: str) -> str:
    """A sentence on the sets of a split, by what :func:`measured` gave."""
    calibration, score = found["calibration"], found["splits"].get(split, {}).get(SHOWN)
    if score is None:
        return f"Sets of classes: no head says anything of a unit of {split}."
    groups = f"{calibration['groups']} group{'s' * (calibration['groups'] != 1)}"
    known = calibration["groups"] - (split == "oof")
    if known / (known + 1) < float(SHOWN) - 1e-9:
        return (
            f"Sets of classes at {float(SHOWN):.0%} confidence hold all classes: {groups} to calibrate on vouch for "
            f"{100 * calibration['highest']:.3g}% at most."
        )
    rough = f"; rough, from {groups}" if calibration["rough"] else ""
    return (
        f"Sets of classes at {float(SHOWN):.0%} confidence hold the true one on {split} in "
        f"{score['coverage']['value']:.1%} {interval(score['coverage'], '.3f')} of cases (every group weighs the "
        f"same), with {score['size']['value']:.2f} classes on average; {score['single']['value']:.0%} of units are "
        f"answered by one{rough}."
    )


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, math.nan), where=below > 0)


def _score(value: float, sampled: np.ndarray) -> dict[str, float]:
    known = sampled[~np.isnan(sampled)]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if len(known) else (math.nan, math.nan)
    return {"value": value, "low": low, "high": high}
