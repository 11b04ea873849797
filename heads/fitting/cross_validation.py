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
from cache.remote.copies import fetch
from configs import Profile, UserError
from configs.schema import Head
from extract.corpora.manifest import Manifest, Unit
from heads.data.batches import UnitData
from heads.data.folds import FoldModel, FoldTask, Record, carve_inner, unit_folds
from heads.fitting.baseline import baseline_log_probabilities
from heads.fitting.coverage import thin_inputs, usable
from heads.fitting.kinds import KINDS
from heads.fitting.outputs import Outcome, Predictions, headline, prediction_table, score, write_outputs
from heads.fitting.progress_file import Progress, training_key
from heads.fitting.saved import TrainedHead, average, model_stem
from heads.models.presence import has_input, inputs_found
from heads.pretraining.folder import TRANSDUCTIVE, header_of, starting_weights

Place = tuple[int, int]  # which fold, and which of the head's seeds
Fitted = Generator[tuple[Place, FoldModel, list[Record]], None, None]


@dataclass(frozen=True)
class Course:
    """What the trainings of a head have in common. ``data`` is what its kind read of the ``units``; ``folds`` (units,)
    is -1 outside the training split."""

    profile: Profile
    manifest: Manifest
    head: Head
    units: list[Unit]
    folds: np.ndarray
    data: Any
    stores: Mapping[str, Store]

    def places(self) -> list[Place]:
        return [(fold, k) for fold in range(self.profile.folds) for k in range(self.head.seeds)]

    def tasks(self, fold: int) -> list[FoldTask]:
        """What the models of a fold are made from, one for each of the head's seeds."""
        profile, head, classes = self.profile, self.head, self.manifest.classes
        seed = profile.seed * 1000 + fold
        train, fit, watch = inner_sets(self.units, self.folds, fold, watches(head), seed % 2**32)
        start = starting_weights(profile, head, self.manifest, self.units, self.folds, self.stores, fold)
        return [
            FoldTask(
                head=head,
                data=self.data,
                labels=np.array([classes.index(unit.label) for unit in self.units]),
                train=train,
                fit=fit,
                watch=watch,
                n_classes=len(classes),
                seed=(seed + 100_000 * k) % 2**32,  # libraries take no larger ones
                encoders=profile.encoders,
                stored={name: self.stores[name].fields for name in head.stores},
                start=start,
            )
            for k in range(head.seeds)
        ]


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
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Slow, and nothing here reads what it did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _cross_validate(profile: Profile, manifest: Manifest, name: str, partial: bool, fit_folds: FitFolds) -> None:
    started = time.monotonic()
    compute_deterministically()
    settings, notes = usable(profile, manifest, name, open_stores(profile, profile.heads[name]), partial)
    stores = open_stores(profile, settings)
    units = manifest.units()
    folds = unit_folds(units, profile.folds, profile.seed, profile.manifest_path)
    trained_labels = {unit.label for unit in units if unit.split == "train"}
    for label in manifest.classes:
        if label not in trained_labels:
            typer.echo(f"warning: class {label!r} has no training unit: no head can learn it", err=True)

    path = profile.head_path(name)
    unfinished = path.with_name(f".{name}.progress")
    trained, data, history = train_folds(name, settings, profile, manifest, units, folds, unfinished, fit_folds)
    predictions = predict_all(trained, data, units, folds)
    simple = _baseline_stores(profile, settings)
    baseline = baseline_log_probabilities(settings, manifest, units, folds, simple, profile.seed)
    found = inputs_found(settings, manifest, units, stores)
    transductive = settings.start_from is not None and header_of(profile, settings.start_from)["transductive"]
    outcome = Outcome(
        profile=profile,
        trained=trained,
        table=prediction_table(
            predictions,
            units,
            folds,
            manifest.classes,
            np.array([bool(each) for each in found]),
        ),
        scores=score(predictions, baseline, units, manifest.classes, profile.seed),
        history=history,
        notes=[*([TRANSDUCTIVE] if transductive else []), *notes, *thin_inputs(settings, units, found)],
        privileged=settings.privileged
        and any(f"privileged_{field}" in manifest.clips.columns for field in settings.metadata),
        transductive=transductive,
        seconds=time.monotonic() - started,
    )
    write_outputs(path, outcome)
    shutil.rmtree(unfinished)
    print(headline(outcome))
    print(f"written to {path} in {time.monotonic() - started:.1f} s")


def _baseline_stores(profile: Profile, head: Head) -> dict[str, Store]:
    """What the baseline reads: the head's stores, and for a bag of words that of its text, where there is one."""
    if head.kind != "bag_of_words":
        return open_stores(profile, head)
    pooled = [name for name in profile.encoders_of("text") if profile.encoders[name].boundary is None]
    there = [name for name in pooled or profile.encoders_of("text") if profile.store_path(name).exists()]
    return {name: Store(profile.store_path(name), profile.store.verify_reads) for name in there[:1]}


def open_stores(profile: Profile, head: Head) -> dict[str, Store]:
    """The stores that a head reads."""
    stores: dict[str, Store] = {}
    for name in head.stores:
        path, url = profile.store_path(name), profile.store_url(name)
        if url and not (path / "store.json").is_file():
            fetch(url, path)
        if not path.exists():
            raise UserError(f"{path}: no such store: make it with 'python extract/run.py --encoder {name}'")
        stores[name] = Store(path, profile.store.verify_reads)
    return stores


def check_contents(data: UnitData, profile: Profile) -> None:
    """Refuse a store that holds nothing of this manifest: the head would learn from missing vectors alone."""
    for name, features in data.features.items():
        if features.dim is None:
            raise UserError(
                f"{profile.store_path(name)}: holds none of this manifest's clips: "
                f"run 'python extract/run.py --encoder {name}'"
            )


def inner_sets(units: list[Unit], folds: np.ndarray, fold: int, needed: bool, seed: int) -> tuple[np.ndarray, ...]:
    """Index arrays for a fold: its training part; what of it is fitted; what early stopping watches.

    The watched units are the val split, or else a part of the training part; never the fold itself, never test.
    ``folds`` is the fold of each unit, -1 outside the training split.
    """
    train = np.flatnonzero((folds >= 0) & (folds != fold))
    val = np.array([i for i, unit in enumerate(units) if unit.split == "val"], dtype=int)
    if not needed:
        return train, train, val[:0]
    if len(val):
        return train, train, val
    return train, *carve_inner(units, train, seed)


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
    data = kind.read(head, manifest, units, stores)
    if isinstance(data, UnitData):
        check_contents(data, profile)
    trained_on = [units[i] for i in np.flatnonzero(folds >= 0)]
    if not has_input(head, manifest, trained_on, stores).any():
        raise UserError(f"head {name}: no training unit has anything that it reads: {', '.join(head.inputs)}")
    progress = Progress(unfinished, training_key(profile, head, stores)) if unfinished else None
    course = Course(profile, manifest, head, units, folds, data, stores)
    models: dict[Place, FoldModel] = {}
    records: dict[Place, list[Record]] = {}
    steps = head.epochs if head.is_network else 1  # of each model
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
    in_order = [[models[fold, k] for k in range(head.seeds)] for fold in range(profile.folds)]
    about = {name: {"fingerprint": store.fingerprint, "fields": store.fields} for name, store in stores.items()}
    return TrainedHead(name, head, manifest.classes, profile.seed, about, in_order), data, history


def watches(head: Head) -> bool:
    """Whether a fold of this head needs units to choose by, apart from those that it is fitted on."""
    return head.kind == "xgboost" or (head.patience > 0 if head.is_network else head.c is None)


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
