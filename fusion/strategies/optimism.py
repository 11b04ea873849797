"""Whether out-of-fold scores flatter: they are compared with those of val and test, which nothing was fitted on.

Models of folds learn from fewer units than all together, and answer alone: out of fold they score a little lower than
on new units of the same kind, not higher. Where they score clearly higher, what they read has met the training labels
(features from a network that was fitted on them, texts written with them in view), or the new units are of another
kind. Either way a choice that is made out of fold is blind.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import rankdata, t

from configs import some
from fusion.tables.reading import SPLITS

COMPARED = ("accuracy", "macro_f1")  # both must say so: class shares that differ between splits move one of them alone
LIKELY, NOTABLE = 0.01, 0.05  # a p-value, adjusted for all comparisons, and a difference, from which on it is told
SURE, MUCH = 0.001, 0.1  # from which on it counts as shown
WIDTH = 2 * 1.959964  # of a 95 % interval, in standard errors
FEW_GROUPS = 10  # up to which their ranks are looked at, too
DEALINGS = 9999  # behind the p-value of the ranks
Accuracies = Mapping[str, Mapping[str, np.ndarray]]  # candidate: split: of each group


@dataclass(frozen=True)
class Gap:
    """How much higher one candidate scores out of fold than on a split that nothing was fitted on."""

    name: str  # of the candidate
    split: str  # val or test
    oof: dict[str, float]  # score of COMPARED: value
    held: dict[str, float]  # the same on the split
    p: float  # one-sided, of the less clear score, adjusted for all comparisons (Holm); NaN where nothing can be said

    @property
    def difference(self) -> float:
        """Of the score that differs less."""
        return min(self.oof[score] - self.held[score] for score in COMPARED)

    @property
    def verdict(self) -> Literal["pass", "warn", "fail"]:
        if self.p <= SURE and self.difference > MUCH:
            return "fail"
        return "warn" if self.p <= LIKELY and self.difference > NOTABLE else "pass"


def gaps(scores: Mapping[str, Mapping[str, Mapping[str, Any]]], by_group: Accuracies) -> list[Gap]:
    """A gap for each candidate and each of val and test, the clearest first.

    Two independent samples are compared in two ways, and the clearer one counts, its p doubled. Welch's t of both
    scores: standard errors are those behind the intervals, which resample whole groups, and degrees of freedom count
    groups. And where these are few, the ranks of the groups' accuracies (Mann and Whitney 1947): how often would
    dealing the same groups out anew leave them as far apart?

    Args:
        scores: candidate: split: :func:`heads.metrics.scores.evaluate`.
        by_group: candidate: split: :func:`group_accuracies`.
    """
    found = [
        (name, split, by_split["oof"], by_split[split])
        for name, by_split in scores.items()
        for split in SPLITS
        if split != "oof" and split in by_split
    ]
    p_values = []
    for name, split, oof, held in found:
        welch = max((_p(oof, held, score) for score in COMPARED), key=_nan_last)
        p = welch if math.isnan(welch) else min(1.0, 2 * welch)
        far = Gap(name, split, _values(oof), _values(held), p).difference > NOTABLE
        if far and not p <= SURE / len(found):
            ranked = 2 * _rank_p(by_group[name]["oof"], by_group[name][split])
            p = float(np.minimum(np.fmin(p, ranked), 1.0))
        p_values.append(p)
    adjusted = holm(p_values)
    result = [
        Gap(name, split, _values(oof), _values(held), p)
        for (name, split, oof, held), p in zip(found, adjusted, strict=True)
    ]
    return sorted(result, key=lambda gap: (_nan_last(gap.p), -gap.difference))


def group_accuracies(right: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The share of each group's units (n,) that are right."""
    _, numbers = np.unique(groups, return_inverse=True)
    return np.bincount(numbers, weights=right) / np.bincount(numbers)


def told(found: Sequence[Gap]) -> str:
    """What the gaps that are no chance say, in a sentence; nothing where there are none."""
    clear = [gap for gap in found if gap.verdict != "pass"]
    if not clear:
        return ""
    chance = "p < .001" if clear[0].p < 0.001 else f"p = {clear[0].p:.3f}"
    first, names = clear[0], list(dict.fromkeys(gap.name for gap in clear))
    others = f" (so {'does' if len(names) == 2 else 'do'} {some(map(_name, names[1:]))})" if names[1:] else ""
    return (
        f"{_name(first.name)} scores accuracy {first.oof['accuracy']:.3f} and macro-F1 {first.oof['macro_f1']:.3f} out "
        f"of fold, {first.held['accuracy']:.3f} and {first.held['macro_f1']:.3f} on {first.split}, which is more than "
        f"chance explains ({chance}){others}: what it reads has met the training labels, or the splits differ"
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979) of one family of p-values; NaN stays NaN and does not count."""
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = highest
    return adjusted


def _values(split: Mapping[str, Any]) -> dict[str, float]:
    return {score: float(split[score]["value"]) for score in COMPARED}


def _p(oof: Mapping[str, Any], held: Mapping[str, Any], score: str) -> float:
    """That the first is not higher; NaN where one group gives no interval."""
    variances = [_variance(each, score) for each in (oof, held)]
    total, difference = sum(variances), oof[score]["value"] - held[score]["value"]
    if math.isnan(total):
        return math.nan
    groups = [each["n_groups"] for each in (oof, held)]
    if total == 0:  # all right on one side and none on the other, or both alike
        return 2.0 ** -min(groups) if difference > 0 else 1.0
    freedom = total**2 / sum(variance**2 / (n - 1) for variance, n in zip(variances, groups, strict=True))
    return float(t.sf(difference / math.sqrt(total), freedom))


def _rank_p(oof: np.ndarray, held: np.ndarray) -> float:
    """That groups of the first are not better; NaN where they are many, or one, and this has nothing to add."""
    if not 1 < min(len(oof), len(held)) <= FEW_GROUPS:
        return math.nan
    ranks = rankdata(np.concatenate([held, oof]))
    dealt = np.random.default_rng(0).permuted(np.tile(ranks, (DEALINGS, 1)), axis=1)[:, : len(held)].sum(axis=1)
    return float((1 + (dealt <= ranks[: len(held)].sum()).sum()) / (1 + DEALINGS))


def _variance(split: Mapping[str, Any], score: str) -> float:
    """Of a score: that of the interval, and at least that of independent units: few groups may be alike by chance."""
    value, n_groups = split[score]["value"], split["n_groups"]
    resampled = ((split[score]["high"] - split[score]["low"]) / WIDTH) ** 2
    if math.isnan(resampled):
        return math.nan
    least = value * (1 - value) / split["n_units"]
    return float(max(resampled, least) * n_groups / (n_groups - 1))  # resampling sees too little of it


def _nan_last(p: float) -> float:
    return math.inf if math.isnan(p) else p


def _name(candidate: str) -> str:
    return candidate.replace(":", " ")
