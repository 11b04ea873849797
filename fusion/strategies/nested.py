"""Nested cross-validation: fitting, comparing and choosing strategies without a unit ever judging its own fit.

For each fold k every candidate is fitted - calibration and inner choices included - on out-of-fold rows of the other
folds and predicts fold k. Candidates are compared on these cross-fitted predictions alone; then each is refitted on
all out-of-fold rows and applied once to val and test.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from configs import UserError
from fusion.strategies.calibration import fit_temperatures
from fusion.strategies.catalogue import STRATEGIES, Fitted, Strategy, fit_all
from fusion.strategies.choice import BASELINE, HEAD, Decision, choose, decide, rule
from fusion.strategies.neural import FittedAttention
from fusion.strategies.optimism import Gap, gaps, group_accuracies, told
from fusion.strategies.pools import Baseline, Single
from fusion.tables.predictions import Predictions
from fusion.tables.reading import SPLITS
from heads.metrics.intervals import TESTABLE_GROUPS
from heads.metrics.scores import difference, evaluate, majority

FEWEST_UNITS = 10  # below this, or below two units per class, nothing is fitted beyond the mean
LARGE_SHARE = 0.2  # of a split's units without a head: it is said first
FEW_GROUPS = 20  # with fewer, a bootstrap interval is rough


@dataclass(frozen=True)
class Plain:
    """The strategy that was chosen on heads centred per speaker, on plain ones: what answers for a clip by itself."""

    fitted: Fitted  # on all oof rows
    scores: dict[str, dict[str, Any]]  # split: metrics.evaluate
    everyone: np.ndarray  # (h, c), what speakers were centred on
    log_p: np.ndarray  # (n, c); on oof cross-fitted


@dataclass(frozen=True)
class Fusion:
    """Everything that a run of fusion found out."""

    units: Predictions
    # A candidate is a strategy, "head:NAME" or "baseline:NAME" (of that head; of several with the same, of the first).
    log_p: dict[str, np.ndarray]  # candidate: log-probabilities (n, c); on oof cross-fitted
    scores: dict[str, dict[str, dict[str, Any]]]  # candidate or "majority": split: metrics.evaluate
    gains: dict[str, dict[str, dict[str, float]]]  # head: metrics.difference of the chosen one over it, on headline
    strategies: tuple[str, ...]  # those that were compared
    chosen: str  # a candidate
    rule: str  # how the choice is made, in words
    forced: bool  # chosen by the user, not by comparison
    best_head: str  # on judged_on
    headline: str  # the split of the headline: test if there is one, else judged_on
    fitted: Fitted  # the chosen one, fitted on all oof rows
    temperatures: dict[str, float]  # of each head, fitted on all oof rows
    gate_weights: np.ndarray | None  # (n, h), the attention's weights of heads; on oof cross-fitted; None without it
    decision: Decision  # the chosen one's answers, corrected for the classes' frequencies: beside the plain ones
    notes: tuple[str, ...]  # what a reader of the numbers must know
    warnings: tuple[str, ...] = ()  # what is wrong with what was fused, to be read before them
    judged_on: str = "oof"  # the split that candidates were compared on; val where oof flatters
    best_baseline: str | None = None  # the head whose plain baseline is the best on judged_on; None without any
    gaps: tuple[Gap, ...] = ()  # of every head and baseline, and of what oof chooses: optimism.gaps
    transductive: tuple[str, ...] = ()  # what reads unlabelled units of who is judged: every title says so
    plain: Plain | None = None  # heads were centred per speaker (see speakers.py), and this is the same without


def fuse(
    units: Predictions,
    strategies: list[str],
    *,
    metric: str = "macro_f1",
    choice: str = "likeliest",
    force: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Fusion:
    """Compare strategies on cross-fitted out-of-fold predictions, choose one, apply it to val and test.

    Where out-of-fold scores are better than those on val by more than chance (``optimism.gaps``), the choice is made on
    val: nothing was fitted on it. Test decides nothing; where it is test that shows it, a warning says so.

    Args:
        strategies: names in ``STRATEGIES``. With too few oof units the list becomes ``["mean"]``, and a note says so.
        metric, choice: as in :func:`fusion.strategies.choice.choose`.
        force: take the first of ``strategies``, even where a single head did better on oof.

    Raises:
        UserError: all oof rows are in one fold, or a strategy was forced that so few units cannot fit.
    """
    notes = list(units.notes)
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

    names = [f"{BASELINE}{name}" for name in dict.fromkeys(units.distinct_baselines.values())]
    names += [*(f"{HEAD}{name}" for name in units.heads), *(name for name in STRATEGIES if name in strategies)]
    candidates = {name: candidate(name, units.heads) for name in names}
    log_p, gate_weights, fitted = cross_fit(units, candidates, seed)

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

    def best_of(names: Iterable[str], split: str, how: str) -> str:
        rows = units.splits == split
        return choose(units.where(rows), {name: log_p[name][rows] for name in names}, metric, how)

    alone = [name for name in candidates if name.startswith((HEAD, BASELINE))]
    first = strategies[0] if force else best_of(candidates, "oof", choice)
    compared = list(dict.fromkeys((*alone, first)))
    by_group = {
        name: {
            split: group_accuracies((log_p[name].argmax(axis=1) == units.labels)[rows], units.groups[rows])
            for split in scores["majority"]
            for rows in [units.splits == split]
        }
        for name in compared
    }
    found = gaps({name: scores[name] for name in compared}, by_group)
    without_test = {name: {s: score for s, score in scores[name].items() if s != "test"} for name in compared}
    on_val = told(gaps(without_test, by_group))
    judged_on = "val" if on_val else "oof"
    chosen = first if force or judged_on == "oof" else best_of(candidates, "val", choice)
    best = {
        kind: best_of(those, judged_on, "best").removeprefix(kind)
        for kind in (HEAD, BASELINE)
        if (those := [name for name in alone if name.startswith(kind)])
    }
    headline = "test" if "test" in scores[chosen] else judged_on
    is_headline = units.splits == headline
    rows, p = units.where(is_headline), {name: np.exp(log_p[name][is_headline]) for name in candidates}
    gains = {
        head: difference(
            rows.label_names, p[chosen], p[f"{HEAD}{head}"], units.classes, rows.groups.tolist(), bootstrap, seed
        )
        for head in units.heads
    }
    notes += _notes(units, scores, chosen, force, headline, judged_on)
    return Fusion(
        units=units,
        log_p=log_p,
        scores=scores,
        gains=gains,
        strategies=tuple(strategies),
        chosen=chosen,
        rule=rule(metric, choice, judged_on),
        forced=force,
        best_head=best[HEAD],
        headline=headline,
        fitted=fitted[chosen],
        temperatures=dict(
            zip(units.heads, fit_temperatures(units.logits[oof], units.present[oof], units.labels[oof]), strict=True)
        ),
        gate_weights=gate_weights,
        decision=decide(units, log_p[chosen], metric, bootstrap, seed),
        notes=tuple(notes),
        warnings=(
            *_flattery(told(found) or on_val, judged_on, force, "val" in scores[chosen]),
            *units.warnings,
            *_large_gaps(units),
        ),
        judged_on=judged_on,
        best_baseline=best.get(BASELINE),
        gaps=tuple(found),
    )


def candidate(name: str, heads: Sequence[str]) -> Strategy:
    """What is called so: a strategy, "head:NAME" or "baseline:NAME"."""
    if name.startswith(BASELINE):
        return Baseline(name.removeprefix(BASELINE))
    return Single(heads.index(name.removeprefix(HEAD))) if name.startswith(HEAD) else STRATEGIES[name]


def fit_without(units: Predictions, rows: np.ndarray, strategies: dict[str, Strategy], seed: int) -> dict[str, Fitted]:
    """Strategies, fitted on all oof rows of which a head says something but ``rows``, (n,) bool."""
    part = units.where((units.splits == "oof") & units.present.any(axis=1) & ~rows)
    # Inner choices leave whole folds out, as here: each fold's rows come from models of their own.
    groups = part.folds if len(np.unique(part.folds)) > 1 else part.groups
    return fit_all(strategies, part.outputs, part.labels, groups, seed)


def cross_fit(
    units: Predictions, strategies: dict[str, Strategy], seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray | None, dict[str, Fitted]]:
    """Log-probabilities (n, c) of each strategy, the attention's weights (n, h), and all fitted on all oof rows.

    The oof rows of fold k are predicted by a fit on the oof rows of all other folds; val and test by the final fit.
    Units of which no head says anything take no part; they are answered with the class frequencies of the others.
    """
    oof, heard = units.splits == "oof", units.present.any(axis=1)
    folds = np.unique(units.folds[oof]).tolist()
    held = [oof & (units.folds == fold) for fold in folds] + [~oof]

    work = (delayed(fit_without)(units, rows, strategies, seed) for rows in held)
    fits = Parallel(n_jobs=-1, prefer="threads", return_as="generator")(work)
    counts = np.bincount(units.labels[oof & heard], minlength=len(units.classes)) + 1.0  # every class stays possible
    prior = np.tile(np.log(counts / counts.sum()), (len(oof), 1))
    log_p = {name: prior.copy() for name in strategies}
    weights = None
    for rows, fitted in zip(held, tqdm(fits, desc="fusing", total=len(held), unit="fold", disable=None), strict=True):
        answered = rows & heard
        if not answered.any():
            continue  # there is neither val nor test
        outputs = units.outputs.where(answered)
        for name, strategy in fitted.items():
            log_p[name][answered] = strategy.predict_logits(outputs)
            if isinstance(strategy, FittedAttention):
                weights = np.zeros(units.present.shape) if weights is None else weights
                weights[answered] = strategy.weights(outputs)
    return log_p, weights, fitted


def _flattery(flatters: str, judged_on: str, force: bool, has_val: bool) -> list[str]:
    if not flatters:
        return []
    if force:
        what = "What the fusion learned out of fold is then blind."
    elif judged_on == "val":
        what = "The choice was made on val, on which no fusion was fitted."
    elif has_val:
        what = "On val it does not show, so the choice was made out of fold all the same."
    else:
        what = "What is chosen out of fold is then blind, and there is no val split to choose on instead."
    return [f"Out-of-fold scores flatter: {flatters}. {what}"]


def _notes(
    units: Predictions,
    scores: dict[str, dict[str, dict[str, Any]]],
    chosen: str,
    force: bool,
    headline: str,
    judged_on: str,
) -> list[str]:
    notes = []
    judged = "cross-fitted oof predictions" if judged_on == "oof" else "val"
    if headline == "val":
        notes.append(
            "There is no test split: the headline is measured on val, where the choice was made, and is slightly "
            "optimistic."
        )
    if headline == "oof":
        notes.append(
            "There is no test split: the headline is measured on cross-fitted out-of-fold predictions of the training "
            "units. That is slightly optimistic: the strategy was chosen on the same predictions, and it learned from "
            "heads that had seen the units it is judged on."
        )
    if force:
        notes.append(f"The strategy {chosen} was asked for; it was not chosen by comparison.")
    elif chosen.startswith((HEAD, BASELINE)):
        kind = HEAD if chosen.startswith(HEAD) else BASELINE
        what = {HEAD: "head", BASELINE: "the plain baseline of head"}[kind]
        name = chosen.removeprefix(kind)
        notes.append(f"Nothing was clearly better than {what} {name} on {judged}: the fusion is that alone.")
    elif chosen == "mean" and any(name not in ("majority", "mean") and ":" not in name for name in scores):
        notes.append(f"No trained strategy was clearly better than the mean on {judged}: the fusion is the mean.")
    shared = Counter(units.distinct_baselines.values())
    for first in (name for name, count in shared.items() if count > 1):
        same = [head for head, other in units.distinct_baselines.items() if other == first != head]
        notes.append(
            f"Heads that read the same have the same baseline: that of {first} is that of {', '.join(same)}, too."
        )
    if "val" in scores[chosen]:
        notes.append("Heads may have used val units for early stopping: val scores can be optimistic.")
    count = scores[chosen][headline]["n_groups"]
    if TESTABLE_GROUPS <= count < FEW_GROUPS:  # of fewer, it is said that nothing can be tested
        notes.append(f"The {headline} units form only {count} groups: intervals are rough.")
    rows = units.where(units.splits == headline)
    never = [name for i, name in enumerate(units.classes) if not (rows.labels == i).any()]
    if never:
        notes.append(f"No {headline} unit is labelled {', '.join(never)}.")
    unheard = int((~rows.present.any(axis=1)).sum())
    if unheard:
        notes.append(f"Of {unheard} {headline} units no head says anything: they get the training class frequencies.")
    absent = {name: int((~rows.present[:, h]).sum()) for h, name in enumerate(units.heads)}
    if any(absent.values()):
        listed = ", ".join(f"{name} {count}" for name, count in absent.items() if count)
        notes.append(
            f"{headline} units, of {len(rows.labels)}, for which a head has no prediction: {listed}. Strategies leave "
            "the head out there; in its own row the mean of the others stands in."
        )
    return notes


def _large_gaps(units: Predictions) -> list[str]:
    """Heads that are absent where much of a split is, in a sentence each."""
    said = []
    for h, name in enumerate(units.heads):
        shares = []
        for split in SPLITS:
            there = units.present[units.splits == split, h]
            if len(there) and (~there).mean() > LARGE_SHARE:
                shares.append(f"{(~there).sum()} of {len(there)} {split} units")
        if shares:
            said.append(f"Head {name} has no prediction for {', '.join(shares)}.")
    return said
