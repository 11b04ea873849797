"""The pass: from a list of clips to a finished store, computing only what is not there yet."""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
from tqdm import tqdm

from cache import StoreWriter, WriterMark, attach, parquet_bytes, read_small
from configs.schema import StoreSettings
from extract.arrays.names import Arrays
from extract.encoders.encoder import LoadedEncoder
from extract.media.sources import Clip, Elsewhere, Sources
from extract.passes.blocks import Block, Damaged, Failure, Job, Mark, Result

T = TypeVar("T")
ERRORS_SCHEMA = {"clip_id": pl.String, "stage": pl.String, "reason": pl.String}
DAMAGED = "damaged.parquet"  # in a store, published with its index: clips that lack a share of their media
DAMAGED_SCHEMA = {"clip_id": pl.String, "share": pl.Float64, "reason": pl.String}


@dataclass(frozen=True)
class Part:
    """What a pass would do to the store of one encoder: ``drop`` are clips to leave it, ``failures`` what it cannot
    read."""

    n_new: int
    n_changed: int
    n_reused: int
    drop: list[str]
    failures: list[Failure]

    @property
    def n_compute(self) -> int:
        return self.n_new + self.n_changed


@dataclass(frozen=True)
class Plan:
    """What a pass would do: the ``blocks`` to compute, in order, and for each encoder its part."""

    blocks: list[Block]
    parts: list[Part]


def open_writer(path: Path, encoder: LoadedEncoder, settings: StoreSettings) -> StoreWriter:
    return StoreWriter(path, encoder.fields, encoder.dim, settings.dtype, settings.backend, settings.chunk_mb)


def hash_clips(clips: list[Clip], sources: Sources, workers: int) -> tuple[dict[str, str], list[Failure]]:
    """The content hash of each clip that can be read, by its id, and why others cannot."""
    contents: dict[str, str] = {}
    failures: list[Failure] = []
    hashes = sources.content_hashes(clips, workers)
    for clip, (content_hash, reason) in zip(
        clips, tqdm(hashes, "hashing", len(clips), unit="clip", disable=None, delay=2), strict=True
    ):
        if content_hash is None:
            failures.append(Failure(clip.clip_id, "read", reason))
        else:
            contents[clip.clip_id] = content_hash
    return contents, failures


def hash_arrays(clips: list[Clip], arrays: Arrays, modality: str) -> tuple[dict[str, str], list[Failure]]:
    """:func:`hash_clips` of an encoder of features; what was found in its source is printed.

    Raises UserError where no clip has an array.
    """
    contents: dict[str, str] = {}
    failures: list[Failure] = []
    ids = [clip.clip_id for clip in clips]
    survey = arrays.survey(ids)
    print("\n".join(survey.notes))
    each = tqdm(survey.each(ids), "reading", len(clips), unit="clip", disable=None, delay=2)
    for clip, (content_hash, reason) in zip(clips, each, strict=True):
        if content_hash is not None:
            contents[clip.clip_id] = content_hash
        elif reason or (isinstance(clip.source, Elsewhere) and clip.source.expected):
            failures.append(Failure(clip.clip_id, "read", reason or "the source has no array of it"))
        else:
            failures.append(Failure(clip.clip_id, "absent", f"neither the source nor the manifest has its {modality}"))
    return contents, failures


def plan_pass(
    clips: list[Clip],
    contents: Mapping[str, str],
    failures: list[Failure],
    stored: Sequence[Mapping[str, str]],
    block_clips: int,
    wanted: Sequence[Collection[str]] | None = None,
) -> Plan:
    """Compare the clips' content with what each encoder's store holds under the same fingerprint.

    Args:
        contents, failures: what :func:`hash_clips` gave.
        stored: for each encoder, content hashes by clip id.
        block_clips: places of the list of clips in a block.
        wanted: for each encoder, the clips that it reads; default: all of them.
    """
    jobs: list[Job] = []
    counts = [Counter[str]() for _ in stored]
    own = wanted or [{clip.clip_id for clip in clips}] * len(stored)
    for place, clip in enumerate(clips):
        content_hash = contents.get(clip.clip_id)
        if content_hash is None:
            continue
        lacking: list[int] = []
        for number, held in enumerate(stored):
            if clip.clip_id not in own[number]:
                continue
            former = held.get(clip.clip_id)
            counts[number]["reused" if former == content_hash else "new" if former is None else "changed"] += 1
            if former != content_hash:
                lacking.append(number)
        if lacking:
            jobs.append(Job(clip, content_hash, place, tuple(lacking)))
    blocks = [Block(list(some)) for _, some in groupby(jobs, key=lambda job: job.place // block_clips)]
    parts = []
    for count, held, reads in zip(counts, stored, own, strict=True):
        drop = sorted(held.keys() - (contents.keys() & set(reads)))
        unreadable = [failure for failure in failures if failure.clip_id in reads]
        parts.append(Part(count["new"], count["changed"], count["reused"], drop, unreadable))
    return Plan(blocks, parts)


def run_pass(
    plan: Plan,
    results: Iterable[Result | Mark],
    writers: Sequence[StoreWriter],
    commit_seconds: float,
    committed: Callable[[], object] = lambda: None,
) -> list[list[Failure]]:
    """Carry the plan out: store the ``results`` of its blocks, in order, each encoder's by its writer.

    What is committed survives whatever happens next; a commit follows the first block that ends ``commit_seconds``
    after the one before, and ``committed`` is called after it. Ctrl-C commits the blocks that are complete.

    Returns:
        For each encoder every clip that failed, with the stage and the reason; none of them is in its store.
    """
    failures = [list(part.failures) for part in plan.parts]
    damaged = [read_damaged(writer.path) for writer in writers]
    for writer, part in zip(writers, plan.parts, strict=True):
        for clip_id in part.drop:
            writer.drop(clip_id)
    last_commit = time.monotonic()
    ahead = max((len(block.jobs) for block in plan.blocks), default=1)
    total = sum(part.n_compute for part in plan.parts)
    with (
        closing(in_background(results, ahead)) as items,
        tqdm(total=total, desc="encoding", unit="clip", disable=None) as progress,
    ):
        for block in plan.blocks:
            marks = [writer.mark() for writer in writers]
            try:
                while (stored := _store_block(block, items, writers)) is None:
                    _rollback(writers, marks)
            except KeyboardInterrupt:
                _rollback(writers, marks)
                _commit(writers, damaged)
                raise
            for number, (failed, found) in enumerate(stored):
                failures[number] += failed
                for job in block.jobs:
                    if number in job.encoders:
                        damaged[number].pop(job.clip.clip_id, None)
                damaged[number] |= {each.clip_id: each for each in found}
            progress.update(sum(len(job.encoders) for job in block.jobs))
            if time.monotonic() - last_commit >= commit_seconds:
                _commit(writers, damaged)
                committed()
                last_commit = time.monotonic()
    _commit(writers, damaged)
    return failures


def _commit(writers: Sequence[StoreWriter], damaged: Sequence[Mapping[str, Damaged]]) -> None:
    """With what is known of the clips' damage: a clip that is stored is not decoded again, so it is now or never."""
    for writer, known in zip(writers, damaged, strict=True):
        rows = [vars(known[clip_id]) for clip_id in sorted(known) if clip_id in writer]
        beside = {}
        if rows or (writer.path / DAMAGED).is_file():
            beside[DAMAGED] = parquet_bytes(pl.DataFrame(rows, schema=DAMAGED_SCHEMA, orient="row"))
        writer.commit(beside)


def read_damaged(store: Path) -> dict[str, Damaged]:
    """Of each clip of a store that is damaged, and was taken all the same. Raises StoreError."""
    if not (store / DAMAGED).is_file():
        return {}
    rows = pl.read_parquet(read_small(store, DAMAGED), columns=list(DAMAGED_SCHEMA)).iter_rows(named=True)
    return {row["clip_id"]: Damaged(**row) for row in rows}


def _rollback(writers: Sequence[StoreWriter], marks: Sequence[WriterMark]) -> None:
    for writer, mark in zip(writers, marks, strict=True):
        writer.rollback(mark)


class _RestartError(Exception):
    """The results of a block so far do not count."""


class _FailedError(Exception):
    """A clip that has no features, or no more of them."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def _store_block(
    block: Block, items: Iterator[Result | Mark], writers: Sequence[StoreWriter]
) -> list[tuple[list[Failure], list[Damaged]]] | None:
    """Append the block's clips to each store, with what was said of them; None where it has to begin anew."""
    jobs = {job.place: job for job in block.jobs}
    told: list[tuple[list[Failure], list[Damaged]]] = []
    for number, writer in enumerate(writers):
        failed, damaged, mark = _store_part(jobs, items, writer)
        if mark is Mark.RESTART:
            return None
        assert mark is (Mark.END if number == len(writers) - 1 else Mark.NEXT)
        told.append((failed, damaged))
    return told


def _store_part(
    jobs: Mapping[int, Job], items: Iterator[Result | Mark], writer: StoreWriter
) -> tuple[list[Failure], list[Damaged], Mark]:
    """Append the clips that follow, up to the next mark, which is given, too."""
    failures: list[Failure] = []
    damaged: list[Damaged] = []
    item = next(items)

    def features(place: int) -> Iterator[np.ndarray]:
        nonlocal item
        while not isinstance(item, Mark) and item[0] == place:
            _, values = item
            item = next(items)
            if isinstance(values, Failure):
                raise _FailedError(values)
            if isinstance(values, Damaged):
                damaged.append(values)
            else:
                yield values
        if item is Mark.RESTART:
            raise _RestartError

    while not isinstance(item, Mark):
        job = jobs[item[0]]
        try:
            writer.append(job.clip.clip_id, features(job.place), job.content_hash)
            continue
        except _RestartError:
            return failures, damaged, Mark.RESTART
        except _FailedError as error:
            failures.append(error.failure)
        except ValueError as error:
            failures.append(Failure(job.clip.clip_id, "store", str(error)))
            while not isinstance(item, Mark) and item[0] == job.place:  # the rest of the clip
                item = next(items)
        if job.clip.clip_id in writer:  # its content changed: features of the former must not stay
            writer.drop(job.clip.clip_id)
    return failures, damaged, item


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


def write_errors(store_path: Path, failures: list[Failure], ours: Collection[str] | None = None) -> None:
    """``errors.parquet`` in the store: clip_id, stage, reason; a file without rows where nothing failed.

    Args:
        ours: the clips of this pass, where others use the store, too: what is known of other clips stays.
    """
    table = pl.DataFrame([vars(failure) for failure in failures], schema=ERRORS_SCHEMA, orient="row")
    former = store_path / "errors.parquet"
    if ours is not None and former.is_file():
        theirs = pl.read_parquet(read_small(store_path, former.name)).filter(~pl.col("clip_id").is_in(list(ours)))
        table = pl.concat([theirs, table])
    content = parquet_bytes(table)
    if not former.is_file() or former.read_bytes() != content:  # a pass that finds nothing new writes nothing
        attach(store_path, former.name, lambda file: file.write(content))
