"""Which candidate is taken: by one metric, on predictions of units that no candidate's fit has seen."""

from collections.abc import Mapping

import numpy as np

from fusion.strategies.predictions import Predictions
from heads.metrics import goodness, goodness_without_each

HEAD = "head:"  # before the name of a candidate that is one head alone
BASELINE = "baseline:"  # the same of a head's plain baseline
CLOSE = 0.001  # scores that differ by less count as equal
NAMES = {"macro_f1": "macro-F1", "accuracy": "accuracy", "weighted_f1": "weighted F1", "log_loss": "log-loss"}


def choose(units: Predictions, log_p: Mapping[str, np.ndarray], metric: str, choice: str) -> str:
    """The name of the candidate to take.

    Args:
        units: what was predicted; n units.
        log_p: log-probabilities (n, c) of each candidate, from simple to complex; ``head:NAME`` for single heads,
            ``baseline:NAME`` for their baselines.
        metric: one of ``NAMES``.
        choice: ``best`` takes the simplest of the best and of what is equal to it; ``one_se`` the simplest of the best
            and of what cannot be told from it: what is not a standard error behind, paired and clustered by group.
    """
    good = goodness_of(units, log_p, metric)
    best = max(good, key=lambda name: good[name])
    # No head is simpler than another: of heads, the best comes first.
    for name in sorted(log_p, key=lambda name: -good[name] if name.startswith((HEAD, BASELINE)) else np.inf):
        allowed = standard_error(units, log_p[name], log_p[best], metric) if choice == "one_se" else 0.0
        if good[best] - good[name] <= max(CLOSE, allowed):
            return name
    raise AssertionError("the best is as good as itself")


def goodness_of(units: Predictions, log_p: Mapping[str, np.ndarray], metric: str) -> dict[str, float]:
    return {name: goodness(metric, units.label_names, values, units.classes) for name, values in log_p.items()}


def standard_error(units: Predictions, log_p: np.ndarray, other: np.ndarray, metric: str) -> float:
    """Of the difference of two candidates' scores on the same units: the jackknife over groups."""
    groups = units.groups.tolist()
    n_groups = len(set(groups))
    if n_groups < 2:
        return 0.0
    left, right = (
        goodness_without_each(metric, units.label_names, each, units.classes, groups) for each in (log_p, other)
    )
    return float(np.sqrt((n_groups - 1) * (left - right).var()))


def rule(metric: str, choice: str, judged_on: str = "oof") -> str:
    """How :func:`choose` chooses, in words that complete "chosen by", and on which split."""
    low = "lowest" if metric == "log_loss" else "highest"
    what = f"the {low} cross-fitted {NAMES[metric]} on oof"
    if judged_on == "val":
        what = f"the {low} {NAMES[metric]} on val, as out-of-fold scores flatter"
    near = f"of those within {CLOSE} of it"
    if choice == "one_se":
        near = "of those that it cannot be told from (one standard error, paired, by group)"
    return f"{what}, {near} the simplest, every single head and plain baseline among the candidates"
