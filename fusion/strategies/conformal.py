"""Answers with honest doubt: sets of classes that hold the true one as often as was asked for (conformal prediction).

Units of one person or conversation are alike, so what is exchangeable is groups: a new unit is of a new group. The
threshold is the quantile of scores in which every group weighs the same, whatever its size, and the new group has one
share of infinity (hierarchical conformal prediction, Lee, Barber and Willett 2023, "Distribution-free inference with
hierarchical data", theorem 1; the pooled distributions of Dunn, Wasserman and Ramdas 2022, "Distribution-free
prediction sets for two-layer hierarchical models"). crepes and mapie give every calibration unit the same weight and
know no groups, hence these few lines instead of them.

The score of a class is one minus its probability, which gives the smallest sets on average where probabilities are
right (Sadinle, Lei and Wasserman 2019), but zero for the most probable class: no set is empty. That is part of the
score, so coverage is what was asked for, and not more because of it.

Scores come from cross-fitted predictions of training units: what answers later has learned from all of them, and the
average of several models is a little better than each of them. Sets are then rather too large than too small.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cache import StoreError, read_published
from configs import UserError

SETS_FILE = "sets.json"  # beside the fitted fusion
STEPS = 10_000  # scores are rounded up to a step: sets grow by what has a probability within 1 / STEPS of the limit
ENOUGH_GROUPS = 20  # with fewer, sets are rough, and a pattern of present heads has no threshold of its own
TOLERANCE = 1e-9  # of sums of shares


@dataclass(frozen=True)
class Scores:
    """The distribution of calibration scores in which every group weighs the same."""

    groups: int
    units: int
    steps: tuple[int, ...]  # the scores that occur, in 1 / STEPS, rising
    shares: tuple[float, ...]  # up to each of them: the mean over groups of the share of their units

    @property
    def highest(self) -> float:
        """The confidence up to which so many groups can vouch: above, every class is in the set."""
        return self.groups / (self.groups + 1)

    def limit(self, confidence: float) -> float:
        """The highest score that belongs into a set; infinity where so few groups cannot vouch for that much."""
        reached = np.array(self.shares) * self.highest
        first = int(np.searchsorted(reached, confidence - TOLERANCE))
        return self.steps[first] / STEPS if first < len(self.steps) else math.inf


@dataclass(frozen=True)
class Sets:
    """What sets of a fusion are drawn by: the scores of all units, and of units for which the same heads were there."""

    everyone: Scores
    patterns: dict[str, Scores]  # "101": of three heads the second is absent; where there are groups enough
    met: dict[str, int]  # any pattern: how many groups have a unit of it

    def scores_of(self, present: np.ndarray) -> tuple[Scores, int]:
        """Those that count for a unit by which heads (h,) have something to say of it, and how many groups had such."""
        pattern = _pattern(present)
        return self.patterns.get(pattern, self.everyone), self.met.get(pattern, 0)

    def sets(self, p: np.ndarray, present: np.ndarray, confidence: float) -> np.ndarray:
        """(n, c) bool: the classes in each unit's set, of probabilities (n, c) and present heads (n, h)."""
        limits = {name: scores.limit(confidence) for name, scores in self.patterns.items()}
        everyone = self.everyone.limit(confidence)
        return _within(p, np.array([limits.get(_pattern(row), everyone) for row in present]))


def checked_confidence(confidence: float, name: str = "--confidence") -> float:
    """Raises UserError for what is no share between 0 and 1."""
    if not 0 < confidence < 1:  # NaN, too
        raise UserError(f"{name} {confidence:g}: a share above 0 and below 1, such as 0.9")
    return confidence


def calibrate(p: np.ndarray, labels: np.ndarray, present: np.ndarray, groups: np.ndarray) -> Sets:
    """Learn the scores of units that the models behind ``p`` have not seen.

    Args:
        p: (n, c) probabilities.
        labels: (n,) class numbers.
        present: (n, h) bool, which heads say something of a unit; units of which none does are left out.
        groups: (n,) what is alike.
    """
    heard = present.any(axis=1)
    steps, names, present = _steps(p, labels)[heard], groups[heard], present[heard]
    return Sets(
        everyone=_distribution(steps, names),
        patterns={name: _distribution(steps[rows], names[rows]) for name, rows in _own(present, names).items()},
        met={name: len(np.unique(names[rows])) for name, rows in _patterns(present).items()},
    )


def left_out_sets(
    p: np.ndarray, labels: np.ndarray, present: np.ndarray, groups: np.ndarray, confidence: float
) -> np.ndarray:
    """Sets (n, c) of the calibration units themselves, each group's by the scores of all other groups.

    Arguments are those of :func:`calibrate`. What no head says anything of has every class in its set.
    """
    heard = present.any(axis=1)
    steps = _steps(p, labels)
    limits = np.full(len(p), math.inf)
    limits[heard] = _left_out_limits(steps[heard], groups[heard], confidence)
    for rows in _own(present[heard], groups[heard]).values():
        own = np.flatnonzero(heard)[rows]
        limits[own] = _left_out_limits(steps[own], groups[own], confidence)
    return _within(p, limits)


def save_sets(sets: Sets, folder: Path) -> None:
    """Write ``sets.json`` beside a fitted fusion, into a folder that is to be published."""
    (folder / SETS_FILE).write_text(json.dumps(asdict(sets)) + "\n", encoding="utf-8")


def load_sets(folder: Path) -> Sets | None:
    """What :func:`save_sets` wrote; None where an earlier version fused. Raises StoreError for anything else."""
    path, remedy = folder / SETS_FILE, "fuse the heads again with fusion/stack.py"
    if not path.is_file():
        return None
    content = json.loads(read_published(path, remedy))
    try:
        own = {name: _restored(scores) for name, scores in content["patterns"].items()}
        return Sets(_restored(content["everyone"]), own, dict(content["met"]))
    except (KeyError, TypeError, AttributeError):
        raise StoreError(f"{path}: another version of this program made it: {remedy}") from None


def _restored(content: dict[str, list[float]]) -> Scores:
    known = Scores(**content)  # type: ignore[arg-type]  # which of them are lists is known below
    return Scores(known.groups, known.units, tuple(known.steps), tuple(known.shares))


def _steps(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) int, the scores of the true classes in steps, rounded up."""
    true = np.arange(len(p)), labels
    steps = np.ceil((1 - p[true]) * STEPS - TOLERANCE).astype(int)
    return np.where(p.argmax(axis=1) == labels, 0, steps)


def _within(p: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """(n, c): the most probable class, and those whose score is at most the unit's limit (n,)."""
    sets: np.ndarray = 1 - p <= limits[:, None] + TOLERANCE
    sets[np.arange(len(p)), p.argmax(axis=1)] = True
    return sets


def _pattern(present: np.ndarray) -> str:
    return "".join("1" if there else "0" for there in present)


def _patterns(present: np.ndarray) -> dict[str, np.ndarray]:
    """Pattern: (n,) bool, its units."""
    rows, which = np.unique(present, axis=0, return_inverse=True)
    return {_pattern(row): which.ravel() == i for i, row in enumerate(rows)}


def _own(present: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """The patterns with groups enough, unless there is only one."""
    found = _patterns(present)
    enough = {name: own for name, own in found.items() if len(np.unique(groups[own])) >= ENOUGH_GROUPS}
    return enough if len(found) > 1 else {}


def _distribution(steps: np.ndarray, groups: np.ndarray) -> Scores:
    _, which, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    values, places = np.unique(steps, return_inverse=True)
    mass = np.bincount(places, weights=1 / sizes[which], minlength=len(values)) / max(len(sizes), 1)
    return Scores(len(sizes), len(steps), tuple(values.tolist()), tuple(np.minimum(np.cumsum(mass), 1.0).tolist()))


def _left_out_limits(steps: np.ndarray, groups: np.ndarray, confidence: float) -> np.ndarray:
    """(n,) the limit of each unit, by the scores of the groups that it does not belong to."""
    _, which, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    values, places = np.unique(steps, return_inverse=True)
    total = np.cumsum(np.bincount(places, weights=1 / sizes[which], minlength=len(values)))
    limits = np.full(len(steps), math.inf)
    order = np.argsort(which, kind="stable")
    for own in np.split(order, np.cumsum(sizes)[:-1]):
        without = total - np.searchsorted(np.sort(places[own]), np.arange(len(values)), "right") / len(own)
        # one group less, and the one that is judged has the share of infinity: the two cancel out
        first = int(np.searchsorted(without / len(sizes), confidence - TOLERANCE))
        limits[own] = values[first] / STEPS if first < len(values) else math.inf
    return limits
