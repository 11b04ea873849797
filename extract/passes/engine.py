"""The pass: from a list of clips to a finished store, computing only what is not there yet."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
from tqdm import tqdm

from cache import StoreWriter, attach
from configs.schema import StoreSettings
from extract.encoders.encoder import LoadedEncoder
from extract.media.sources import Clip, Sources
from extract.passes.blocks import Block, Failure, Job, Mark, Result

T = TypeVar("T")
ERRORS_SCHEMA = {"clip_id": pl.String, "stage": pl.String, "reason": pl.String}


@dataclass(frozen=True)
class Plan:
    """What a pass would do: the ``blocks`` to compute, in order, and the clips to ``drop`` from the store."""

    blocks: list[Block]
    n_reused: int
    n_changed: int
    drop: list[str]
    failures: list[Failure]

    @property
    def n_compute(self) -> int:
        return sum(len(block.jobs) for block in self.blocks)


def open_writer(path: Path, encoder: LoadedEncoder, settings: StoreSettings) -> StoreWriter:
    return StoreWriter(path, encoder.fields, encoder.dim, settings.dtype, settings.backend, settings.chunk_mb)


def plan_pass(clips: list[Clip], stored: dict[str, str], sources: Sources, block_clips: int, workers: int) -> Plan:
    """Compare the clips' content with what the store holds under the same fingerprint (clip id -> content hash)."""
    compute: list[Job] = []
    failures: list[Failure] = []
    n_reused = n_changed = 0
    drop = set(stored)
    hashes = sources.content_hashes(clips, workers)
    progress = tqdm(zip(clips, hashes, strict=True), "hashing", len(clips), unit="clip", disable=None, delay=2)
    for place, (clip, (content_hash, reason)) in enumerate(progress):
        if content_hash is None:
            failures.append(Failure(clip.clip_id, "read", reason))
            continue
        drop.discard(clip.clip_id)
        if stored.get(clip.clip_id) == content_hash:
            n_reused += 1
        else:
            n_changed += clip.clip_id in stored
            compute.append(Job(clip, content_hash, place))
    blocks = [Block(list(jobs)) for _, jobs in groupby(compute, key=lambda job: job.place // block_clips)]
    return Plan(blocks, n_reused, n_changed, sorted(drop), failures)


def run_pass(
    plan: Plan,
    results: Iterable[Result | Mark],
    writer: StoreWriter,
    commit_seconds: float,
    committed: Callable[[], object] = lambda: None,
) -> list[Failure]:
    """Carry the plan out: store the ``results`` of its blocks, in order.

    What is committed survives whatever happens next; a commit follows the first block that ends ``commit_seconds``
    after the one before, and ``committed`` is called after it. Ctrl-C commits the blocks that are complete.

    Returns:
        Every clip that failed, with the stage and the reason; none of them is in the store.
    """
    failures = list(plan.failures)
    for clip_id in plan.drop:
        writer.drop(clip_id)
    last_commit = time.monotonic()
    ahead = max((len(block.jobs) for block in plan.blocks), default=1)
    with (
        closing(in_background(results, ahead)) as items,
        tqdm(total=plan.n_compute, desc="encoding", unit="clip", disable=None) as progress,
    ):
        for block in plan.blocks:
            mark = writer.mark()
            try:
                while (failed := _store_block(block, items, writer)) is None:
                    writer.rollback(mark)
            except KeyboardInterrupt:
                writer.rollback(mark)
                writer.commit()
                raise
            failures += failed
            progress.update(len(block.jobs))
            if time.monotonic() - last_commit >= commit_seconds:
                writer.commit()
                committed()
                last_commit = time.monotonic()
    writer.commit()
    return failures


class _RestartError(Exception):
    """The results of a block so far do not count."""


class _FailedError(Exception):
    """A clip that has no features, or no more of them."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def _store_block(block: Block, items: Iterator[Result | Mark], writer: StoreWriter) -> list[Failure] | None:
    """Append the block's clips; None where it has to begin anew."""
    jobs = {job.place: job for job in block.jobs}
    failures: list[Failure] = []
    item = next(items)

    def features(place: int) -> Iterator[np.ndarray]:
        nonlocal item
        while not isinstance(item, Mark) and item[0] == place:
            _, values = item
            item = next(items)
            if isinstance(values, Failure):
                raise _FailedError(values)
            yield values
        if item is Mark.RESTART:
            raise _RestartError

    while not isinstance(item, Mark):
        job = jobs[item[0]]
        try:
            writer.append(job.clip.clip_id, features(job.place), job.content_hash)
            continue
        except _RestartError:
            return None
        except _FailedError as error:
            failures.append(error.failure)
        except ValueError as error:
            failures.append(Failure(job.clip.clip_id, "store", str(error)))
            while not isinstance(item, Mark) and item[0] == job.place:  # the rest of the clip
                item = next(items)
        if job.clip.clip_id in writer:  # its content changed: features of the former must not stay
            writer.drop(job.clip.clip_id)
    return failures if item is Mark.END else None


def in_background(items: Iterable[T], ahead: int) -> Generator[T, None, None]:
    """Take items in a thread of their own, up to ``ahead`` of them before they are wanted: storing features must not
    keep the encoder waiting."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put((item, error), timeout=0.1)
            except queue.Full:
                pass

    def take() -> None:
        try:
            for item in items:
                put(item, None)
                if stopped.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:  # raised again where the items are wanted
            put(None, error)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join(timeout=10)  # it may be in the middle of a batch


def write_errors(store_path: Path, failures: list[Failure]) -> None:
    """``errors.parquet`` in the store: clip_id, stage, reason; a file without rows where nothing failed."""
    table = pl.DataFrame([vars(failure) for failure in failures], schema=ERRORS_SCHEMA, orient="row")
    attach(store_path, "errors.parquet", table.write_parquet)
