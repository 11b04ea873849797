"""Folds that never share a group, the same ones for every head of a profile; what a fold is fitted on, and gives."""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from configs import UserError
from configs.schema import Encoder, Head
from extract.corpora.manifest import Unit

INNER_PARTS = 7  # an inner validation set is one part of seven, about 15 %
Record = dict[str, Any]  # of an epoch, or of a value that was tried


@dataclass(frozen=True)
class FoldTask:
    """All that one model of a fold is made from."""

    head: Head
    data: Any  # of all units: what the kind's ``read`` gave
    labels: np.ndarray  # (units,) class numbers
    train: np.ndarray  # indices of the fold's training part
    fit: np.ndarray  # what of it is fitted while something is chosen
    watch: np.ndarray  # what choices and early stopping look at: the val split, or the rest of ``train``; may be empty
    n_classes: int
    seed: int
    encoders: Mapping[str, Encoder] = field(default_factory=dict)  # of the profile, for layers that are trained on
    stored: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # encoder: what its store was computed from
    start: Mapping[str, Any] = field(default_factory=dict)  # pre-trained weights, by name, that a network begins with
    on_epoch: Callable[[Record], object] = lambda record: None
    progress_file: Path | None = None  # where a killed training goes on from; whoever keeps the model removes it


class FoldModel(Protocol):
    """A fitted model of one fold."""

    def log_probabilities(self, data: Any, indices: np.ndarray) -> np.ndarray:
        """Of some units of what the kind's ``read`` gave: (units, classes) float64."""

    def save(self, folder: Path, stem: str) -> dict[str, Any]:
        """Write files whose names begin with ``stem``; the result, as JSON, goes to the kind's ``load``."""


def assign_folds(units: Sequence[Unit], n_folds: int, seed: int) -> np.ndarray:
    """The fold of each unit: grouped, stratified by label, decided by the units, their order and the seed alone.

    Args:
        units: all training units in the manifest's order.
    Returns:
        int array, shape (units,), values 0 .. n_folds - 1.
    Raises:
        UserError: the units cannot fill that many folds.
    """
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


def carve_inner(units: Sequence[Unit], candidates: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split a fold's training part into what is fitted and what early stopping watches, by group and label.

    Args:
        units: the units that ``candidates`` indexes.
        candidates: indices of the fold's training part; the fold that will be predicted is not among them.
    Returns:
        Two disjoint index arrays, (to fit, to watch), whose union is ``candidates``.
    Raises:
        UserError: the training part cannot be divided.
    """
    part = [units[i] for i in candidates]
    limit, reason = _most_parts(part)
    if limit < 2:
        raise UserError(
            f"a fold's training part has {reason}, too little for an inner validation set: set the head's patience "
            "to 0 (a linear head's c to a number), or give a val split"
        )
    fit, watch = _split(part, min(INNER_PARTS, limit), seed)[0]
    if not len(watch):
        raise UserError(
            "the groups are too large for an inner validation set: set the head's patience to 0 (a linear head's c)"
        )
    return candidates[fit], candidates[watch]


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
