"""A fused answer taken apart: heads are masked one by one, inputs are taken away from all heads at once."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from cache import read_published
from configs import UserError
from configs.schema import Profile
from extract.corpora.manifest import Manifest, Unit
from fusion.serving.bundle import fused_units, inputs_of
from fusion.serving.live import categories, contributions
from fusion.strategies.catalogue import Fitted
from fusion.strategies.catalogue import load as load_fitted
from fusion.strategies.nested import candidate, fit_without
from fusion.strategies.speakers import TRANSDUCTIVE, centred, load_centred
from fusion.tables.predictions import Predictions
from heads.explaining.inputs import Said, said_without
from heads.explaining.words import without
from heads.fitting.saved import load_head

SAME = 1e-5  # of a probability; what is written and what is computed anew differ by far less
AGAIN = "python fusion/stack.py"


@dataclass(frozen=True)
class Voice:
    """A head, or the plain baseline of one, and what it brought.

    Attributes:
        p: (classes,) what it says by itself; None where it has nothing to read.
        contribution: nats of the explained class that the fusion loses without it; None where it is all there is, or is
            absent.
    """

    name: str
    p: tuple[float, ...] | None
    contribution: float | None


@dataclass(frozen=True)
class Without:
    """What is left when something is taken away from all that read it.

    Attributes:
        p: (classes,) the fused probabilities then; None where no head has anything left.
        readers: the heads that read it. ``silent``: those of them that have nothing left.
    """

    name: str
    p: tuple[float, ...] | None
    readers: tuple[str, ...]
    silent: tuple[str, ...]


@dataclass(frozen=True)
class FusedAnswer:
    """``difference``: the largest between ``p`` and what predictions.parquet has."""

    profile: str
    unit_id: str
    split: str
    fold: int | None
    label: str
    strategy: str
    classes: tuple[str, ...]
    p: tuple[float, ...]
    explained: str
    difference: float
    voices: tuple[Voice, ...]
    inputs: tuple[Without, ...]
    transductive: str | None
    notes: tuple[str, ...]

    @property
    def predicted(self) -> str:
        return self.classes[int(np.argmax(self.p))]

    def of(self, p: tuple[float, ...]) -> float:
        """The explained class's among some probabilities."""
        return p[self.classes.index(self.explained)]

    @property
    def sentence(self) -> str | None:
        """What the explained class loses most by; None where it loses by nothing."""
        known = [(each.name, each.p) for each in self.inputs if each.p is not None]
        name, left = min(known, key=lambda pair: self.of(pair[1]), default=("", None))
        if left is None or self.of(self.p) - self.of(left) < 0.005:
            return None
        becomes = self.classes[int(np.argmax(left))]
        return without(name, self.of(self.p), self.of(left), self.predicted, becomes)


def explain_fusion(profile: Profile, manifest: Manifest, unit: Unit, explained: str | None = None) -> FusedAnswer:
    """Take apart what the profile's fusion says of a unit, by the fit and the heads that its prediction comes from.

    A training unit was answered by a fit on the other folds, which nobody kept: it is made again, and compared.

    Args:
        explained: the class; default: the one that the fusion names.
    Raises:
        UserError: nothing is fused, a part of it is not what it was, no prediction of the unit, or no such class.
    """
    names, classes, baselines = inputs_of(profile)
    if explained is not None and explained not in classes:
        raise UserError(f"--class {explained}: no such class; the fusion knows {', '.join(classes)}")
    units = fused_units(profile, names, baselines)
    split = "oof" if unit.split == "train" else unit.split
    where = np.flatnonzero((units.unit_ids == unit.unit_id) & (units.splits == split))
    if not len(where) or not units.present[where[0]].any():
        raise UserError(f"{unit.unit_id}: no head says anything of it: there is nothing to explain")
    at = int(where[0])
    fold = int(units.folds[at]) if split == "oof" else None
    strategy = json.loads(read_published(profile.fusion_path / "metrics.json", f"make it with: {AGAIN}"))["choice"]
    chosen = strategy["strategy"]
    people = load_centred(profile.fusion_path / "model")
    fitted: Fitted
    if fold is not None:
        given = centred(units) if people else units
        rows = (units.splits == "oof") & (units.folds == fold)
        fitted = fit_without(given, rows, {chosen: candidate(chosen, names)}, profile.seed)[chosen]
    else:
        fitted = people.fitted if people else load_fitted(profile.fusion_path / "model")
    if not people:
        units, at = units.where(np.array([at])), 0  # who is not centred is answered alone

    def fused(changed: Predictions) -> np.ndarray:
        given = centred(changed) if people else changed
        return fitted.predict_logits(given.outputs.where(np.array([at])))[0]

    base = fused(units)
    recorded, path = _recorded(profile, unit, split, classes)
    difference = float(np.abs(np.exp(base) - recorded).max())
    notes = []
    if difference > SAME:
        notes.append(
            f"{path} has other probabilities (by {difference:.2g}): "
            + ("its cross-fitted answer could not be made again, and " if fold is not None else "")
            + f"what stands here is of the heads as they are now. Fuse again: {AGAIN}"
        )
    said = {
        place: said_without(profile, manifest, unit, load_head(_folder(profile, *place)), fold)
        for place in [*((name, False) for name in names), *((name, True) for name in baselines)]
    }
    notes += _stale(said, units, at)
    target = int(base.argmax()) if explained is None else classes.index(explained)
    row = (centred(units) if people else units).outputs.where(np.array([at]))
    parts = contributions(fitted, row, base[None], np.array([target]))[0]
    return FusedAnswer(
        profile=profile.name,
        unit_id=unit.unit_id,
        split=split,
        fold=fold,
        label=unit.label,
        strategy=chosen,
        classes=classes,
        p=tuple(np.exp(base).tolist()),
        explained=classes[target],
        difference=difference,
        voices=tuple(
            Voice(_titled(*place), _probabilities(log_p), None if np.isnan(part) else float(part))
            for place, part in zip(said, parts.tolist(), strict=True)
            for log_p in [_own(units, at, *place)]
        ),
        inputs=tuple(
            _without(what, title, said, units, at, fused) for what, title in _what(said, fitted, units, at).items()
        ),
        transductive=TRANSDUCTIVE if people else None,
        notes=tuple(notes),
    )


Place = tuple[str, bool]  # a head's name, and whether it is its plain baseline


def _folder(profile: Profile, name: str, is_baseline: bool) -> Path:
    return profile.head_path(name) / ("baseline/model" if is_baseline else "model")


def _titled(name: str, is_baseline: bool) -> str:
    return f"baseline {name}" if is_baseline else name


def _own(units: Predictions, at: int, name: str, is_baseline: bool) -> np.ndarray | None:
    """What a head said of a unit, log-probabilities (classes,); None where it is absent."""
    log_p = units.baselines[name][at] if is_baseline else units.logits[at, units.heads.index(name)]
    return None if np.isnan(log_p).any() else log_p


def _probabilities(log_p: np.ndarray | None) -> tuple[float, ...] | None:
    return None if log_p is None else tuple(np.exp(log_p).tolist())


def _recorded(profile: Profile, unit: Unit, split: str, classes: tuple[str, ...]) -> tuple[np.ndarray, Path]:
    path = profile.fusion_path / "predictions.parquet"
    rows = pl.read_parquet(read_published(path, f"make it with: {AGAIN}")).filter(unit_id=unit.unit_id, split=split)
    if rows.is_empty():
        raise UserError(f"{path}: has no {split} prediction of {unit.unit_id}: fuse again with {AGAIN}")
    return rows.select(f"p_{name}" for name in classes).to_numpy()[0], path


def _stale(said: Mapping[Place, Said], units: Predictions, at: int) -> list[str]:
    """A line for each head whose models do not say what its table says."""
    notes = []
    for place, each in said.items():
        recorded = _own(units, at, *place)
        same = (each.base is None) == (recorded is None)
        if same and each.base is not None and recorded is not None:
            same = bool(np.abs(np.exp(each.base) - np.exp(recorded)).max() < 1e-3)
        if not same:
            notes.append(
                f"{_titled(*place)}: its models no longer say what its predictions.parquet says: train it again: "
                f"python heads/train.py --head {place[0]}"
            )
    return notes


def _what(said: Mapping[Place, Said], fitted: Fitted, units: Predictions, at: int) -> dict[str, str]:
    """What can be taken away: modalities, and fields that heads or the fusion itself read; and how it is called."""
    read = dict.fromkeys(what for each in said.values() for what in each.without)
    values = {field: value for each in said.values() for field, value in each.values.items()}
    for field in categories(fitted):
        if field in units.metadata and units.metadata[field][at] is not None:
            read[field], values[field] = None, str(units.metadata[field][at])
    order = sorted(read, key=lambda what: (what in values, what))
    return {what: f"{what}: {values[what]}" if what in values else what for what in order}


def _without(
    what: str, title: str, said: Mapping[Place, Said], units: Predictions, at: int, fused: Callable[..., np.ndarray]
) -> Without:
    """The fused answer where something is taken from all heads that read it, and from the fusion itself."""
    logits, present = units.logits.copy(), units.present.copy()
    own = {name: values.copy() for name, values in units.baselines.items()}
    metadata = {name: values.copy() for name, values in units.metadata.items()}
    readers = {place: each.without[what] for place, each in said.items() if what in each.without}
    for (name, is_baseline), log_p in readers.items():
        row = np.nan if log_p is None else log_p
        if is_baseline:
            own[name][at] = row
        else:
            h = units.heads.index(name)
            logits[at, h], present[at, h] = row, log_p is not None
    if what in metadata:
        metadata[what][at] = None
    changed = replace(units, logits=logits, present=present, baselines=own, metadata=metadata)
    return Without(
        name=title,
        p=_probabilities(fused(changed)) if present[at].any() else None,
        readers=tuple(_titled(*place) for place in readers),
        silent=tuple(_titled(*place) for place, log_p in readers.items() if log_p is None),
    )
