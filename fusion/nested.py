"""Nested cross-validation: fitting, comparing and choosing strategies without a unit ever judging its own fit.

For each fold k every candidate is fitted - calibration and inner choices included - on out-of-fold rows of the other
folds and predicts fold k. Candidates are compared on these cross-fitted predictions alone; then each is refitted on
all out-of-fold rows and applied once to val and test.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from configs import UserError
from fusion.metrics import difference, evaluate, majority
from fusion.predictions import SPLITS, Predictions
from fusion.strategies import STRATEGIES, Fitted, Single, Strategy

FEWEST_UNITS = 10  # below this, or below two units per class, nothing is fitted beyond the mean
FEW_GROUPS = 20  # with fewer, a bootstrap interval is rough
DECIMALS = 3  # scores that agree to this many decimals count as equal
RULE = (
    f"the highest cross-fitted macro-F1 on oof (equal to {DECIMALS} decimals: the lower log-loss, then the simpler), "
    "every single head among the candidates"
)


@dataclass(frozen=True)
class Fusion:
    """Everything that a run of fusion found out."""

    units: Predictions
    log_p: dict[str, np.ndarray]  # strategy or "head:NAME": log-probabilities (n, c); on oof cross-fitted
    scores: dict[str, dict[str, dict[str, Any]]]  # strategy or "head:NAME" or "majority": split: metrics.evaluate
    gains: dict[str, dict[str, dict[str, float]]]  # head: metrics.difference of the chosen one over it, on headline
    strategies: tuple[str, ...]  # those that were compared
    chosen: str  # a strategy or "head:NAME"
    forced: bool  # chosen by the user, not by comparison
    best_head: str  # by oof
    headline: str  # the split of the headline: test if there is one, else oof
    fitted: Fitted  # the chosen one, fitted on all oof rows
    notes: tuple[str, ...]  # what a reader of the numbers must know


def fuse(
    units: Predictions, strategies: list[str], *, force: bool = False, bootstrap: int = 1000, seed: int = 0
) -> Fusion:
    """Compare strategies on cross-fitted out-of-fold predictions, choose one, apply it to val and test.

    Args:
        strategies: names in ``STRATEGIES``. With too few oof units the list becomes ``["mean"]``, and a note says so.
        force: take the first of ``strategies``, even where a single head did better on oof.

    Raises:
        UserError: all oof rows are in one fold, or a strategy was forced that so few units cannot fit.
    """
    notes: list[str] = []
    oof = units.splits == "oof"
    folds = np.unique(units.folds[oof])
    if len(folds) < 2:
        raise UserError(
            f"all oof rows are in fold {folds[0]}: fusion is judged on other folds, so it needs two or more"
        )
    needed = max(FEWEST_UNITS, 2 * len(units.classes))
    if oof.sum() < needed and strategies != ["mean"]:
        short = f"{oof.sum()} oof units are too few to fit a fusion on ({len(units.classes)} classes need {needed})"
        if force:
            raise UserError(f"--strategy {strategies[0]}: {short}: use --strategy mean")
        strategies = ["mean"]
        notes.append(f"{short}: only the mean is used.")

    candidates: dict[str, Strategy] = {f"head:{name}": Single(h) for h, name in enumerate(units.heads)}
    candidates |= {name: strategy for name, strategy in STRATEGIES.items() if name in strategies}
    log_p, fitted = {}, {}
    with tqdm(total=len(candidates) * (len(folds) + 1), desc="fusing", unit="fit", disable=None) as progress:
        for name, strategy in candidates.items():
            log_p[name], fitted[name] = cross_fit(units, strategy, seed, progress)

    scores: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in ("majority", *candidates)}
    for split in (s for s in SPLITS if (units.splits == s).any()):
        rows = units.where(units.splits == split)
        for name in candidates:
            p = np.exp(log_p[name][units.splits == split])
            scores[name][split] = evaluate(rows.label_names, p, units.classes, rows.groups.tolist(), bootstrap, seed)
        training = units.where(oof).label_names
        scores["majority"][split] = majority(
            training, rows.label_names, units.classes, rows.groups.tolist(), bootstrap, seed
        )

    order = sorted(candidates, key=lambda name: _rank(scores[name]["oof"]))
    chosen = strategies[0] if force else order[0]
    headline = "test" if "test" in scores[chosen] else "oof"
    is_headline = units.splits == headline
    rows, p = units.where(is_headline), {name: np.exp(log_p[name][is_headline]) for name in candidates}
    gains = {
        head: difference(
            rows.label_names, p[chosen], p[f"head:{head}"], units.classes, rows.groups.tolist(), bootstrap, seed
        )
        for head in units.heads
    }
    notes += _notes(units, scores, chosen, force, headline)
    return Fusion(
        units=units,
        log_p=log_p,
        scores=scores,
        gains=gains,
        strategies=tuple(strategies),
        chosen=chosen,
        forced=force,
        best_head=next(name for name in order if name.startswith("head:")).removeprefix("head:"),
        headline=headline,
        fitted=fitted[chosen],
        notes=tuple(notes),
    )


def cross_fit(
    units: Predictions, strategy: Strategy, seed: int = 0, progress: tqdm | None = None
) -> tuple[np.ndarray, Fitted]:
    """Log-probabilities (n, c) and the strategy fitted on all oof rows.

    The oof rows of fold k are predicted by a fit on the oof rows of all other folds; val and test by the final fit.
    """
    result = np.full((len(units.unit_ids), len(units.classes)), np.nan)
    oof = units.splits == "oof"

    def fit(rows: np.ndarray) -> Fitted:
        part = units.where(rows)
        if progress is not None:
            progress.update()
        return strategy.fit(part.logits, part.present, part.labels, part.groups, seed)

    for fold in np.unique(units.folds[oof]):
        held = oof & (units.folds == fold)
        result[held] = fit(oof & ~held).predict_logits(units.logits[held], units.present[held])
    final = fit(oof)
    if not oof.all():
        result[~oof] = final.predict_logits(units.logits[~oof], units.present[~oof])
    return result, final


def _rank(score: dict[str, Any]) -> tuple[float, float]:
    """Sorting is stable and candidates stand from single heads to trees: among equals the simplest comes first."""
    return -round(score["macro_f1"]["value"], DECIMALS), round(score["log_loss"], DECIMALS)


def _notes(
    units: Predictions, scores: dict[str, dict[str, dict[str, Any]]], chosen: str, force: bool, headline: str
) -> list[str]:
    notes = []
    if headline == "oof":
        notes.append(
            "There is no test split: the headline is measured on cross-fitted out-of-fold predictions of the training "
            "units. The strategy was chosen on the same predictions, which makes it slightly optimistic."
        )
    if force:
        notes.append(f"The strategy {chosen} was asked for; it was not chosen by comparison.")
    elif chosen.startswith("head:"):
        notes.append(
            f"No strategy beat the best single head on cross-fitted oof predictions: the fusion is that head, "
            f"{chosen.removeprefix('head:')}, alone."
        )
    if "val" in scores[chosen]:
        notes.append("Heads may have used val units for early stopping: val scores can be optimistic.")
    if scores[chosen][headline]["n_groups"] < FEW_GROUPS:
        count = scores[chosen][headline]["n_groups"]
        notes.append(f"The {headline} units form only {count} group{'s' * (count != 1)}: intervals are rough.")
    rows = units.where(units.splits == headline)
    never = [name for i, name in enumerate(units.classes) if not (rows.labels == i).any()]
    if never:
        notes.append(f"No {headline} unit is labelled {', '.join(never)}.")
    absent = {name: int((~rows.present[:, h]).sum()) for h, name in enumerate(units.heads)}
    if any(absent.values()):
        listed = ", ".join(f"{name} {count}" for name, count in absent.items() if count)
        notes.append(
            f"{headline} units, of {len(rows.labels)}, for which a head has no prediction: {listed}. Strategies leave "
            "the head out there; its own row answers with the training class frequencies."
        )
    return notes
