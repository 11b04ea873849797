"""A head of a profile, trained in folds: every training unit is predicted by the model that did not see it."""

import os
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from tqdm import tqdm

from cache import Store, claimed
from configs import UserError
from configs.schema import Head, Profile
from extract.corpora.manifest import Manifest, Unit
from heads.data.batches import UnitData
from heads.data.folds import FoldModel, FoldTask, Record, inner_parts, unit_folds
from heads.data.views import open_store, with_views
from heads.fitting.base import baseline_head
from heads.fitting.coverage import thin_inputs, usable, wide_inputs
from heads.fitting.kinds import KINDS
from heads.fitting.outputs import (
    Baseline,
    Outcome,
    Predictions,
    headline,
    prediction_table,
    score,
    transductive_of,
    write_outputs,
)
from heads.fitting.progress_file import Progress, training_key
from heads.fitting.saved import TrainedHead, average, model_stem
from heads.models.pooled import UnitRows
from heads.models.presence import has_input, inputs_found
from heads.pretraining.folder import Start, starts_of

Place = tuple[int, int]  # which fold, and which of the head's seeds
Fitted = Generator[tuple[Place, FoldModel, list[Record]], None, None]


@dataclass(frozen=True)
class Course:
    """What the trainings of a head have in common. ``data`` is what its kind read of the ``units``; ``folds`` (units,)
    is -1 outside the training split; ``starts`` has what each fold's networks begin with, if they are pre-trained."""

    profile: Profile
    manifest: Manifest
    head: Head
    units: list[Unit]
    folds: np.ndarray
    data: Any
    stores: Mapping[str, Store]
    starts: Sequence[Start] = ()

    @property
    def n_folds(self) -> int:
        """Of the data where it says so, else those that the profile wants."""
        return int(self.folds.max()) + 1

    def places(self) -> list[Place]:
        return [(fold, k) for fold in range(self.n_folds) for k in range(self.head.seeds)]

    def tasks(self, fold: int) -> list[FoldTask]:
        """What the models of a fold are made from, one for each of the head's seeds."""
        profile, head, classes = self.profile, self.head, self.manifest.classes
        seed = profile.seed * 1000 + fold
        train = training_part(self.folds, fold)
        inner = inner_parts(self.units, train, seed % 2**32, needed=must_choose(head))
        _, groups = np.unique([unit.group for unit in self.units], return_inverse=True)
        return [
            FoldTask(
                head=head,
                data=self.data,
                labels=np.array([classes.index(unit.label) for unit in self.units]),
                train=train,
                inner=inner,
                n_classes=len(classes),
                seed=(seed + 100_000 * k) % 2**32,  # libraries take no larger ones
                groups=groups,
                metric=profile.fusion.metric,
                encoders=profile.encoders,
                stored={name: self.stores[name].fields for name in head.stores},
                start=self.starts[fold] if self.starts else {},
            )
            for k in range(head.seeds)
        ]


def training_part(folds: np.ndarray, fold: int) -> np.ndarray:
    """Indices of the training units that are not in a fold."""
    return np.flatnonzero((folds >= 0) & (folds != fold))


Equip = Callable[[Place, FoldTask], FoldTask]
FitFolds = Callable[..., Fitted]  # as fit_here, whose results come in any order; closing them stops the rest


def fit_here(course: Course, wanted: Sequence[Place], equip: Equip = lambda place, task: task) -> Fitted:
    """Fit models in this process, one after another, and give each with its history.

    Args:
        equip: adds to a task what follows it in this process: who hears of its epochs, where it keeps its state.
    """
    for fold, places in groupby(wanted, key=lambda place: place[0]):
        tasks = course.tasks(fold)
        for place in places:
            yield place, *KINDS[course.head.kind].fit(equip(place, tasks[place[1]]))


def cross_validate(
    profile: Profile, manifest: Manifest, name: str, partial: bool = False, fit_folds: FitFolds = fit_here
) -> None:
    """Train the head ``name`` in the profile's folds, write its folder and print its scores.

    Args:
        partial: take stores whose extraction has not finished; the summary then says so.
        fit_folds: fits the folds, here or elsewhere.

    Raises:
        UserError: no training units, too few groups for the folds, a store that is missing or empty, a metadata field
            that the manifest lacks, an extraction that has not finished, inputs of which all clips failed.
        StoreError: a store is damaged; another process trains this head.
    """
    with claimed(profile.head_path(name)):
        _cross_validate(profile, manifest, name, partial, fit_folds)


def compute_deterministically() -> None:
    """Let torch, in this process, take what gives the same numbers each time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS may answer differently each time
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms says the same, and imports the compiler
    # Slow, and nothing here reads what it did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _cross_validate(profile: Profile, manifest: Manifest, name: str, partial: bool, fit_folds: FitFolds) -> None:
    started = time.monotonic()
    compute_deterministically()
    settings, notes = usable(profile, manifest, name, open_stores(profile, profile.heads[name]), partial)
    stores = open_stores(profile, settings)
    wide = wide_inputs(settings, stores)
    for note in wide:  # before it takes its time
        typer.echo(f"warning: head {name}: {note}", err=True)
    units = manifest.units()
    folds = unit_folds(units, profile.folds, profile.seed, profile.manifest_path)
    trained_labels = {unit.label for unit in units if unit.split == "train"}
    for label in manifest.classes:
        if label not in trained_labels:
            typer.echo(f"warning: class {label!r} has no training unit: no head can learn it", err=True)

    path = profile.head_path(name)
    unfinished = path.with_name(f".{name}.progress")
    transductive = transductive_of(profile, settings)
    trained, data, history = train_folds(name, settings, profile, manifest, units, folds, unfinished, fit_folds)
    predictions = predict_all(trained, data, units, folds)
    baseline = train_baseline(trained, profile, manifest, units, folds, data)
    simple = None if baseline is None else baseline.predictions
    found = inputs_found(settings, manifest, units, stores)
    has = np.array([bool(each) for each in found])
    outcome = Outcome(
        profile=profile,
        trained=trained,
        table=prediction_table(predictions, units, folds, manifest.classes, has),
        baseline=baseline,
        scores=score(predictions, simple, units, folds, manifest.classes, profile.seed),
        history=history,
        notes=[*notes, *wide, *thin_inputs(settings, units, found)],
        privileged=settings.privileged
        and any(f"privileged_{field}" in manifest.clips.columns for field in settings.metadata),
        transductive=transductive,
        seconds=time.monotonic() - started,
    )
    write_outputs(path, outcome)
    shutil.rmtree(unfinished)
    print(headline(outcome))
    print(f"written to {path} in {time.monotonic() - started:.1f} s")


def train_baseline(
    trained: TrainedHead, profile: Profile, manifest: Manifest, units: list[Unit], folds: np.ndarray, data: Any
) -> Baseline | None:
    """The baseline of a trained head, in the same folds; ``data`` is what that head read.

    Returns:
        None where there is nothing that it could read, or the training units of a fold are of one class.
    """
    head = trained.settings
    if head.kind == "bag_of_words":  # compared with what an encoder makes of the text, where there is one
        pooled = [name for name in profile.encoders_of("text") if profile.encoders[name].boundary is None]
        there = [name for name in pooled or profile.encoders_of("text") if profile.store_path(name).exists()]
        inputs = there[:1]
    else:
        inputs = head.stores
    simple = baseline_head(head, inputs)
    if simple is None:
        return None
    stores = open_stores(profile, simple)
    rows = data.rows if isinstance(data, UnitData) else data
    if not isinstance(rows, UnitRows):
        rows = KINDS["linear"].read(simple, manifest, units, stores)
    course = Course(profile, manifest, simple, units, folds, rows, stores)
    tasks = [course.tasks(fold)[0] for fold in range(course.n_folds)]
    if any(len(set(task.labels[task.train].tolist())) < 2 for task in tasks):
        return None
    models: list[list[FoldModel]] = [[KINDS["linear"].fit(task)[0]] for task in tasks]
    about = {name: {"fingerprint": store.fingerprint, "fields": store.fields} for name, store in stores.items()}
    name = f"{trained.name} baseline"
    model = TrainedHead(name, simple, manifest.classes, profile.seed, about, models)
    predictions = predict_all(model, rows, units, folds)
    has = has_input(simple, manifest, units, stores)
    return Baseline(model, predictions, prediction_table(predictions, units, folds, manifest.classes, has))


def open_stores(profile: Profile, head: Head) -> dict[str, Store]:
    """The stores that a head reads."""
    return {name: open_store(profile, name) for name in head.stores}


def check_contents(data: UnitData, profile: Profile) -> None:
    """Refuse a store that holds nothing of this manifest: the head would learn from missing vectors alone."""
    for name, features in data.features.items():
        if features.dim is None:
            raise UserError(
                f"{profile.store_path(name)}: holds none of this manifest's clips: "
                f"run 'python extract/run.py --encoder {name}'"
            )


def train_folds(
    name: str,
    head: Head,
    profile: Profile,
    manifest: Manifest,
    units: list[Unit],
    folds: np.ndarray,
    unfinished: Path | None = None,
    fit_folds: FitFolds = fit_here,
) -> tuple[TrainedHead, Any, list[Record]]:
    """Models of each fold, what they read, and a record of every epoch.

    Args:
        unfinished: a folder for what a killed training goes on from; it is left when the training ends.
    """
    kind = KINDS[head.kind]
    stores = open_stores(profile, head)
    data = kind.read(head, manifest, units, with_views(profile, manifest, head, stores))
    if isinstance(data, UnitData):
        check_contents(data, profile)
    trained_on = [units[i] for i in np.flatnonzero(folds >= 0)]
    if not has_input(head, manifest, trained_on, stores).any():
        raise UserError(f"head {name}: no training unit has anything that it reads: {', '.join(head.inputs)}")
    progress = Progress(unfinished, training_key(profile, head, stores)) if unfinished else None
    starts = starts_of(profile, head, manifest, units, folds, stores)
    course = Course(profile, manifest, head, units, folds, data, stores, starts)
    models: dict[Place, FoldModel] = {}
    records: dict[Place, list[Record]] = {}
    steps = max(1, course.tasks(0)[0].steps)  # of each model
    with tqdm(total=len(course.places()) * steps, desc=f"head {name}", unit="epoch", disable=None) as bar:

        def done(place: Place, model: FoldModel, history: list[Record]) -> None:
            models[place], records[place] = model, history
            bar.update(len(models) * steps - bar.n)

        def equip(place: Place, task: FoldTask) -> FoldTask:
            file = progress.epoch_file(model_stem(*place)) if progress else None
            return replace(task, on_epoch=lambda _: bar.update(), progress_file=file)

        for place in course.places():
            if progress and (kept := progress.finished(model_stem(*place), kind.load)):
                done(place, *kept)
        with closing(fit_folds(course, [place for place in course.places() if place not in models], equip)) as fitted:
            for place, model, history in fitted:
                if progress:
                    progress.keep(model_stem(*place), model, history)
                done(place, model, history)
    history = [{"fold": fold, "seed": k} | record for fold, k in course.places() for record in records[fold, k]]
    in_order = [[models[fold, k] for k in range(head.seeds)] for fold in range(course.n_folds)]
    about = {name: {"fingerprint": store.fingerprint, "fields": store.fields} for name, store in stores.items()}
    return TrainedHead(name, head, manifest.classes, profile.seed, about, in_order), data, history


def must_choose(head: Head) -> bool:
    """Whether a fold of this head has something to choose that only held out units can decide."""
    return head.kind == "xgboost" or (head.patience > 0 if head.is_network else head.c is None or head.layer == "best")


def predict_all(trained: TrainedHead, data: Any, units: list[Unit], folds: np.ndarray) -> Predictions:
    """For each split present (indices of its units, log-probabilities (units, classes)); training units out of fold."""
    n_folds = len(trained.models)
    oof = np.flatnonzero(folds >= 0)
    log_p = np.empty((len(units), len(trained.classes)))
    for fold in range(n_folds):
        part = np.flatnonzero(folds == fold)
        log_p[part] = trained.log_probabilities(fold, data, part)
    result = {"oof": (oof, log_p[oof])}
    for split in ("val", "test"):
        part = np.array([i for i, unit in enumerate(units) if unit.split == split], dtype=int)
        if len(part):
            result[split] = part, average([trained.log_probabilities(k, data, part) for k in range(n_folds)])
    return result
