"""Folds that never share a group, the same ones for every head of a profile; what a fold is fitted on, and gives."""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from configs import UserError
from configs.schema import Encoder, Head, Metric
from extract.corpora.manifest import Unit

INNER_PARTS = 7  # an inner validation set is one part of seven, about 15 %
INNER_FOLDS = 4  # where units are few, each of them is held out in turn: one part of them would say little
FEW_UNITS = 1500
MANY_HELD = 200  # units of a val split, from which on it alone is looked at; one of seven units would choose by chance
Record = dict[str, Any]  # of an epoch, or of a value that was tried


@dataclass(frozen=True)
class FoldTask:
    """All that one model of a fold is made from."""

    head: Head
    data: Any  # of all units: what the kind's ``read`` gave
    labels: np.ndarray  # (units,) class numbers
    train: np.ndarray  # indices of the fold's training part
    # What choices and early stopping look at: (fitted, held out) units, several times where units are few. The val
    # split where it is large enough, else parts of ``train``; empty where nothing may be chosen.
    inner: tuple[tuple[np.ndarray, np.ndarray], ...]
    n_classes: int
    seed: int
    groups: np.ndarray  # (units,) ints: what is never parted
    metric: Metric = "macro_f1"  # that choices are made by
    encoders: Mapping[str, Encoder] = field(default_factory=dict)  # of the profile, for layers that are trained on
    stored: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # encoder: what its store was computed from
    start: Mapping[str, Any] = field(default_factory=dict)  # pre-trained weights, by name, that a network begins with
    on_epoch: Callable[[Record], object] = lambda record: None
    progress_file: Path | None = None  # where a killed training goes on from; whoever keeps the model removes it

    @property
    def fit(self) -> np.ndarray:
        """What is fitted while something is chosen, the first time."""
        return self.inner[0][0] if self.inner else self.train

    @property
    def watch(self) -> np.ndarray:
        """What is held out from it; may be empty."""
        return self.inner[0][1] if self.inner else self.train[:0]

    @property
    def steps(self) -> int:
        """How often ``on_epoch`` is called at most."""
        if not self.head.is_network:
            return 0
        return self.head.epochs_for(len(self.train)) * (1 + len(self.inner) if len(self.inner) > 1 else 1)


class FoldModel(Protocol):
    """A fitted model of one fold."""

    def log_probabilities(self, data: Any, indices: np.ndarray) -> np.ndarray:
        """Of some units of what the kind's ``read`` gave: (units, classes) float64."""

    def save(self, folder: Path, stem: str) -> dict[str, Any]:
        """Write files whose names begin with ``stem``; the result, as JSON, goes to the kind's ``load``."""


def assign_folds(units: Sequence[Unit], n_folds: int, seed: int) -> np.ndarray:
    """The fold of each unit: as the units say, or grouped, stratified by label, decided by the units, their order and
    the seed alone.

    Args:
        units: all training units in the manifest's order.
        n_folds: how many are drawn; of no meaning where the units say in which fold they are.
    Returns:
        int array, shape (units,), values from 0 on, each of which occurs.
    Raises:
        UserError: the units cannot fill that many folds.
    """
    given = [unit.fold for unit in units if unit.fold is not None]
    if given:
        numbers = sorted(set(given))
        if len(given) < len(units) or len(numbers) < 2 or numbers != list(range(len(numbers))):
            raise UserError(
                "the manifest's folds: each training unit needs one, and there must be two or more, from 0 on: "
                "make it again with python extract/manifest.py"
            )
        return np.array(given)
    limit, reason = _most_parts(units)
    if limit < n_folds:
        raise UserError(f"folds = {n_folds}: the training units have {reason}: {_remedy(units, limit)}")
    folds = np.full(len(units), -1)
    for fold, (_, part) in enumerate(_split(units, n_folds, seed)):
        folds[part] = fold
    if len(set(folds.tolist())) < n_folds:  # a few large groups can leave a fold empty
        remedy = _remedy(units, n_folds - 1)
        raise UserError(f"folds = {n_folds}: the groups are too few and too large to fill them: {remedy}")
    return folds


def unit_folds(units: Sequence[Unit], n_folds: int, seed: int, where: Path) -> np.ndarray:
    """The fold of each unit of any split, shape (units,), -1 outside train: those that all heads are trained in.

    Args:
        where: the manifest, for errors.
    Raises:
        UserError: there are no training units, or they cannot fill that many folds.
    """
    in_training = np.array([unit.split == "train" for unit in units], dtype=bool)
    if not in_training.any():
        raise UserError(f"{where}: no labelled clip in the train split")
    folds = np.full(len(units), -1)
    folds[in_training] = assign_folds([unit for unit in units if unit.split == "train"], n_folds, seed)
    return folds


def inner_parts(
    units: Sequence[Unit], train: np.ndarray, seed: int, needed: bool
) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """What choices within a fold look at: pairs of index arrays, (to fit, held out), see :class:`FoldTask`.

    A val split that is large, or no smaller than the training part, is held out, and all of the training part is
    fitted. Else the training part is split by group and label: few units into ``INNER_FOLDS`` parts, each of which is
    held out in turn; many into ``INNER_PARTS``, of which one is.

    Args:
        units: the units that ``train`` indexes.
        train: indices of the fold's training part; the fold that will be predicted is not among them.
        needed: whether something must be chosen; else there may be no pairs.
    Raises:
        UserError: it is needed, and the training part cannot be divided.
    """
    val = np.array([i for i, unit in enumerate(units) if unit.split == "val"], dtype=int)
    if len(val) >= min(len(train), MANY_HELD):
        return ((train, val),)
    part = [units[i] for i in train]
    limit, reason = _most_parts(part)
    few = len(part) <= FEW_UNITS
    if limit < 2:
        splits = []
    else:
        splits = _split(part, min(INNER_FOLDS if few else INNER_PARTS, limit), seed)[: None if few else 1]
        splits = [(fit, held) for fit, held in splits if len(fit) and len(held)]
        reason = "groups that are too large"
    if needed and not splits:
        raise UserError(
            f"a fold's training part has {reason}, too little for an inner validation set: set the head's patience "
            "to 0 (a linear head's c to a number), or give a val split"
        )
    return tuple((train[fit], train[held]) for fit, held in splits)


def _most_parts(units: Sequence[Unit]) -> tuple[int, str]:
    """How many parts the units can be split into, and what limits it."""
    groups = len({unit.group for unit in units})
    largest = max(Counter(unit.label for unit in units).values(), default=0)
    if groups <= largest:
        return groups, f"only {groups} group(s), which no two folds may share"
    return largest, f"no class with more than {largest} unit(s)"


def _remedy(units: Sequence[Unit], limit: int) -> str:
    """What makes enough parts; never what the profile would be refused for."""
    remedies = [f"set 'folds' to {limit} or fewer"] if limit > 1 else []
    groups, conversations = len({unit.group for unit in units}), len({unit.clip_ids[0] for unit in units})
    if limit <= groups < conversations and max(Counter(unit.label for unit in units).values()) > 1:
        remedies.append(
            f"make conversations the groups, of which there are {conversations} (dataset.columns.group: the column "
            "that names them, or in AvaMERG dataset.group: conversation; speakers are then shared between folds, as "
            "report and audit say)"
        )
    return ", or ".join(remedies or ["label more clips: two folds need two groups, and two units of a class"])


def _split(units: Sequence[Unit], n_parts: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold  # seconds to import, and who predicts makes no folds

    splitter = StratifiedGroupKFold(n_parts, shuffle=True, random_state=seed)
    labels = [unit.label for unit in units]
    with warnings.catch_warnings():  # a class rarer than the parts is spread as far as it goes
        warnings.filterwarnings("ignore", message="The least populated class")
        return list(splitter.split(np.zeros(len(units)), labels, [unit.group for unit in units]))
