"""Which candidate is taken, by one metric, on predictions of units that no candidate's fit has seen; and what its
probabilities decide where the most probable class is not what the metric asks for.

Macro-F1 counts every class the same, however rare: what is gained by naming a rare class more often is not seen by
``argmax p``. :func:`decide` names ``argmax (log p - tau log prior)``, prior being the frequencies of classes among oof
units: tau 0 is the plain decision, tau 1 that for classes that are equally frequent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from fusion.tables.predictions import Predictions
from fusion.tables.reading import SPLITS
from heads.metrics.choosing import goodness, goodness_without_each
from heads.metrics.confusions import SCORES
from heads.metrics.scores import evaluate

HEAD = "head:"  # before the name of a candidate that is one head alone
BASELINE = "baseline:"  # the same of a head's plain baseline
CLOSE = 0.001  # scores that differ by less count as equal
TAUS = (0.0, 0.25, 0.5, 0.75, 1.0)
NAMES = {"macro_f1": "macro-F1", "accuracy": "accuracy", "weighted_f1": "weighted F1", "log_loss": "log-loss"}


def choose(units: Predictions, log_p: Mapping[str, np.ndarray], metric: str, choice: str) -> str:
    """The name of the candidate to take.

    Args:
        units: what was predicted; n units.
        log_p: log-probabilities (n, c) of each candidate, from simple to complex; ``head:NAME`` for single heads,
            ``baseline:NAME`` for their baselines.
        metric: one of ``NAMES``.
        choice: ``best`` takes the simplest of the best and of what is equal to it. Of the best and of what cannot be
            told from it - what is not a standard error behind, paired and clustered by group - ``one_se`` takes the
            simplest, ``likeliest`` that of the lowest log-loss.
    """
    good = goodness_of(units, log_p, metric)
    best = max(good, key=lambda name: good[name])
    of_best = np.empty(0) if choice == "best" else jackknifed(units, log_p[best], metric)

    def is_near(name: str) -> bool:
        behind = good[best] - good[name]
        is_close = behind <= CLOSE
        if is_close or choice == "best":
            return is_close
        return behind <= standard_error(jackknifed(units, log_p[name], metric), of_best)

    if choice == "likeliest":
        return choose(units, {name: log_p[name] for name in log_p if is_near(name)}, "log_loss", "best")
    # No head is simpler than another: of heads, the best comes first.
    ranked = sorted(log_p, key=lambda name: -good[name] if name.startswith((HEAD, BASELINE)) else np.inf)
    return next(name for name in ranked if is_near(name))


def goodness_of(units: Predictions, log_p: Mapping[str, np.ndarray], metric: str) -> dict[str, float]:
    return {name: goodness(metric, units.label_names, values, units.classes) for name, values in log_p.items()}


def jackknifed(units: Predictions, log_p: np.ndarray, metric: str) -> np.ndarray:
    """A candidate's score with each group left out in turn, (groups,); of a single group: none."""
    groups = units.groups.tolist()
    if len(set(groups)) < 2:
        return np.empty(0)
    return goodness_without_each(metric, units.label_names, log_p, units.classes, groups)


def standard_error(left: np.ndarray, right: np.ndarray) -> float:
    """Of the difference of two candidates' scores on the same units, each :func:`jackknifed`."""
    return float(np.sqrt((len(left) - 1) * (left - right).var())) if len(left) else 0.0


def rule(metric: str, choice: str, judged_on: str = "oof") -> str:
    """How :func:`choose` chooses, in words that complete "chosen by", and on which split."""
    low = "lowest" if metric == "log_loss" else "highest"
    what = f"the {low} cross-fitted {NAMES[metric]} on oof"
    if judged_on == "val":
        what = f"the {low} {NAMES[metric]} on val, as out-of-fold scores flatter"
    near = f"within {CLOSE} of it" if choice == "best" else "not one standard error behind it (paired, by group)"
    taken = "the one of the lowest log-loss" if choice == "likeliest" else "the simplest"
    return f"{what}; of what is {near}, {taken}; every single head and plain baseline is a candidate"


# --- from probabilities to classes ---


@dataclass(frozen=True)
class Decision:
    """The prior-corrected decision beside the plain one; predictions.parquet and the headline keep the plain one."""

    tau: float  # chosen on all oof units, for val and test
    metric: str  # what it was chosen by
    scores: dict[str, dict[str, Any]]  # split: of metrics.evaluate the SCORES; on oof, tau comes from the other folds


def decide(units: Predictions, log_p: np.ndarray, metric: str, bootstrap: int = 1000, seed: int = 0) -> Decision:
    """Choose tau for a fusion's cross-fitted log-probabilities (n, c), and score what it decides.

    By macro-F1 where the metric is the log-loss, which no decision changes.
    """
    metric = "macro_f1" if metric == "log_loss" else metric
    oof = units.splits == "oof"
    corrected = np.empty_like(log_p)
    for fold in np.unique(units.folds[oof]):
        held = oof & (units.folds == fold)
        corrected[held] = _corrected(units, log_p, oof & ~held, held, metric)[1]
    tau, corrected[~oof] = _corrected(units, log_p, oof, ~oof, metric)
    scores = {}
    for split in (s for s in SPLITS if (units.splits == s).any()):
        rows = units.where(units.splits == split)
        p = np.exp(log_softmax(corrected[units.splits == split], axis=1))
        whole = evaluate(rows.label_names, p, units.classes, rows.groups.tolist(), bootstrap, seed)
        scores[split] = {name: whole[name] for name in SCORES}
    return Decision(tau, metric, scores)


def _corrected(
    units: Predictions, log_p: np.ndarray, known: np.ndarray, asked: np.ndarray, metric: str
) -> tuple[float, np.ndarray]:
    """The smallest tau that is as good as the best on the known units, and the scores of the asked ones by it."""
    counts = np.bincount(units.labels[known], minlength=len(units.classes)) + 1.0
    prior = np.log(counts / counts.sum())
    labels = units.where(known).label_names
    good = [goodness(metric, labels, log_p[known] - tau * prior, units.classes) for tau in TAUS]
    tau = next(tau for tau, each in zip(TAUS, good, strict=True) if each >= max(good) - CLOSE)
    return tau, log_p[asked] - tau * prior
