"""Folds as tasks of a Ray cluster.

A task's process reads the head's stores itself - under the path that they have here, or from their URL - and keeps what
it read for the next task: through the driver go the manifest, once, and finished models. Stores are made to be
memory-mapped, so that processes of one machine share their pages; in Ray's object store they would be in memory twice.
"""

import os
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# First: it says where Ray is missing, and has configs imported before torch.
from extract.passes.cluster import Manner, connected, needs, places_on_a_machine, raised

# isort: split
import numpy as np
import ray
import torch
from filelock import FileLock
from ray.exceptions import RayError, RayTaskError

from cache import Store
from configs import EngineError, UserError, first_line
from configs.schema import Head, Profile
from extract.corpora.manifest import Manifest, Unit
from heads.data.features import share_memory
from heads.data.folds import FoldModel, Record
from heads.data.views import open_views, with_views
from heads.fitting.cross_validation import (
    Course,
    Equip,
    FitFolds,
    Fitted,
    Place,
    compute_deterministically,
    open_stores,
)
from heads.fitting.kinds import KINDS, what_is_read
from heads.fitting.saved import model_stem

MAX_RETRIES = 2  # of a task whose process or machine dies: it may be the task that kills them


@dataclass(frozen=True)
class _Shared:
    """What all tasks of a driver are given once."""

    manner: Manner
    deterministic: bool
    profile: Profile
    manifest: Manifest
    units: list[Unit]
    folds: np.ndarray


@dataclass(frozen=True)
class _Saved:
    """A model as it travels: its files, what its kind's ``load`` wants, and its history."""

    files: dict[str, bytes]
    about: dict[str, Any]
    history: list[Record]


@contextmanager
def folds_on_ray() -> Iterator[FitFolds]:
    """A stand-in for :func:`heads.fitting.cross_validation.fit_here` whose trainings run on a cluster.

    The cluster is reached when there is something to fit. Models come as they are done. What a training raises is
    raised when those before it are done, as if they had run one after another. Epochs are not reported, nor kept.

    Raises, where it is called:
        EngineError: see :func:`extract.passes.cluster.connected`; a machine lacks the project's folder or a store, or
            has another one; (exit code 1) a task died with its process again and again.
    """
    with ExitStack() as stack:
        former: Manifest | None = None
        shared = None
        key = ""

        def fit(course: Course, wanted: Sequence[Place], equip: Equip | None = None) -> Fitted:
            nonlocal former, shared, key
            if not wanted:
                return
            if shared is None:
                stack.enter_context(connected())
            manner = Manner.own()
            options = needs(manner.threads)
            if former is not course.manifest:  # trials of a search have it in common
                same = manner, torch.are_deterministic_algorithms_enabled()
                shared = ray.put(_Shared(*same, course.profile, course.manifest, course.units, course.folds))
                former, key = course.manifest, uuid.uuid4().hex
            held = _held(course.profile, course.stores, course.head, course.manifest)
            sharers = min(len(wanted), places_on_a_machine(options))
            task = ray.remote(**options, max_retries=MAX_RETRIES, retry_exceptions=False)(_fit)
            begun = course.starts or [{}] * course.profile.folds
            tasks = {
                task.remote(key, [shared], course.head, held, place, sharers, begun[place[0]]): place
                for place in wanted
            }
            yield from _results(tasks, wanted, KINDS[course.head.kind].load)

        yield fit


def _results(
    tasks: dict[Any, Place], wanted: Sequence[Place], load: Callable[[Path, dict[str, Any]], FoldModel]
) -> Fitted:
    waiting, failed = list(tasks), {}
    try:
        while waiting:
            (reference,), waiting = ray.wait(waiting)
            place = tasks[reference]
            try:
                saved = ray.get(reference)
            except RayTaskError as error:
                failed[place] = raised(error)
            except RayError as error:
                failed[place] = EngineError(
                    f"--engine ray: fold {place[0]}: its process died, {1 + MAX_RETRIES} times in all "
                    f"({type(error).__name__}: {first_line(error)}); what was done is kept: run the same command again",
                    exit_code=1,
                )
            else:
                yield place, _loaded(saved, load), saved.history
            left = {tasks[reference] for reference in waiting}
            first = next((place for place in wanted if place in left or place in failed), None)
            if first in failed:
                raise failed[first]
    finally:
        for reference in waiting:
            ray.cancel(reference)


def _loaded(saved: _Saved, load: Callable[[Path, dict[str, Any]], FoldModel]) -> FoldModel:
    with tempfile.TemporaryDirectory(prefix="emocache-fold-") as folder:
        for name, content in saved.files.items():
            (Path(folder) / name).write_bytes(content)
        return load(Path(folder), saved.about)


def _held(profile: Profile, stores: Mapping[str, Store], head: Head, manifest: Manifest) -> dict[str, list[str]]:
    """What tells a store that holds the same of these clips from others, by the names of encoders and their views."""
    clip_ids = manifest.clips["clip_id"].to_list()
    read = {name: stores[name] for name in head.stores} | open_views(profile, head)
    return {name: [store.fingerprint, store.digest(clip_ids)] for name, store in read.items()}


class _Memory:
    """Of a task's process, for the next one."""

    shared: tuple[str, _Shared] | None = None
    read: tuple[Any, Any, dict[str, Store]] | None = None


def _fit(
    key: str,
    reference: list[Any],
    head: Head,
    held: dict[str, list[str]],
    place: Place,
    sharers: int,
    start: Mapping[str, torch.Tensor],
) -> _Saved:
    """On the cluster: the model of one fold and seed."""
    if _Memory.shared is None or _Memory.shared[0] != key:
        _Memory.read = None
        _Memory.shared = key, ray.get(reference[0])
    shared = _Memory.shared[1]
    shared.manner.adopt()
    if shared.deterministic:
        compute_deterministically()
    share_memory(sharers)
    wanted = what_is_read(head), held
    if _Memory.read is None or _Memory.read[0] != wanted:
        _Memory.read = None  # two at once may not fit into memory
        stores = _stores(shared, head, held)
        sources = with_views(shared.profile, shared.manifest, head, stores)
        _Memory.read = wanted, KINDS[head.kind].read(head, shared.manifest, shared.units, sources), stores
    _, data, stores = _Memory.read
    course = Course(shared.profile, shared.manifest, head, shared.units, shared.folds, data, stores)
    fold, k = place
    model, history = KINDS[head.kind].fit(replace(course.tasks(fold)[k], start=start))
    with tempfile.TemporaryDirectory(prefix="emocache-fold-") as folder:
        about = model.save(Path(folder), model_stem(fold, k))
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    return _Saved(files, about, history)


def _stores(shared: _Shared, head: Head, held: dict[str, list[str]]) -> dict[str, Store]:
    """The head's stores as this machine has them, fetched by one process at a time where they have a URL."""
    try:
        whose = os.getuid() if hasattr(os, "getuid") else "one"  # Windows has a folder for each user
        with FileLock(Path(tempfile.gettempdir()) / f"emocache-{whose}.fetching"):
            stores = open_stores(shared.profile, head)
            here = _held(shared.profile, stores, head, shared.manifest)
    except UserError as error:
        raise EngineError(f"--engine ray: on {socket.gethostname()}: {error}") from error
    for name in held:
        if here[name] != held[name]:
            path = shared.profile.store_path(name)
            raise EngineError(
                f"--engine ray: {path} on {socket.gethostname()} is not the store that the driver has: "
                "share the folder between the machines, or copy it anew"
            )
    return stores
