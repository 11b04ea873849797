"""The pass: from a list of clips to a finished store, computing only what is not there yet."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from tqdm import tqdm

from cache import StoreWriter, replace_atomically
from configs.schema import StoreSettings
from extract.encoder import ClipError, LoadedEncoder, Prepared
from extract.media import MediaError

T = TypeVar("T")
ERRORS_SCHEMA = {"clip_id": pl.String, "stage": pl.String, "reason": pl.String}


@dataclass(frozen=True)
class Clip:
    clip_id: str
    source: Path | str  # a media file, or the text itself

    def content_hash(self) -> str:
        """Hash of the media's bytes or of the text. Raises OSError where the file cannot be read."""
        if isinstance(self.source, str):
            return hashlib.blake2b(self.source.encode(), digest_size=16).hexdigest()
        with self.source.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@dataclass(frozen=True)
class Failure:
    clip_id: str
    stage: str  # read, decode, encode or store
    reason: str


@dataclass(frozen=True)
class Job:
    """A clip to compute. ``place`` is its position among all clips of the pass, computed or not."""

    clip: Clip
    content_hash: str
    place: int


@dataclass(frozen=True)
class Plan:
    """What a pass would do: the clips to ``compute``, in order, and those to ``drop`` from the store."""

    compute: list[Job]
    n_reused: int
    n_changed: int
    drop: list[str]
    failures: list[Failure]


def open_writer(path: Path, encoder: LoadedEncoder, settings: StoreSettings) -> StoreWriter:
    return StoreWriter(path, encoder.fields, encoder.dim, settings.dtype, settings.backend, settings.chunk_mb)


def plan_pass(clips: list[Clip], stored: dict[str, str], workers: int) -> Plan:
    """Compare the clips' content with what the store holds under the same fingerprint (clip id -> content hash)."""
    compute: list[Job] = []
    failures: list[Failure] = []
    n_reused = n_changed = 0
    drop = set(stored)
    with ThreadPoolExecutor(workers) as pool:
        hashes = pool.map(_hash_or_reason, clips)
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
    return Plan(compute, n_reused, n_changed, sorted(drop), failures)


def run_pass(
    plan: Plan, encoder: LoadedEncoder, writer: StoreWriter, commit_clips: int, batch_size: int, workers: int
) -> list[Failure]:
    """Carry the plan out. What is committed survives whatever happens next; a commit comes every
    ``commit_clips`` clips.

    Decoding runs in ``workers`` threads up to two blocks ahead of the encoder. Blocks are cut at fixed places of the
    list of all clips, and a block is committed as a whole, so a pass that was interrupted and resumed puts the same
    clips into the same batches and writes the same store, even where clips of a finished block failed.

    Returns:
        Every clip that failed, with the stage and the reason; none of them is in the store.
    """
    failures = list(plan.failures)
    for clip_id in plan.drop:
        writer.drop(clip_id)
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(plan.compute), desc="encoding", unit="clip", disable=None) as progress,
    ):
        try:
            for block in _decoded_ahead(plan.compute, encoder, pool, commit_clips):
                ready: list[tuple[Job, Prepared]] = []
                for job, future in block:
                    try:
                        ready.append((job, future.result()))
                    except (MediaError, ClipError) as error:
                        stage = "decode" if isinstance(error, MediaError) else "encode"
                        failures.append(Failure(job.clip.clip_id, stage, str(error)))
                features = _encode_block([prepared for _, prepared in ready], encoder, batch_size)
                for (job, _), values in zip(ready, features, strict=True):
                    try:
                        writer.append(job.clip.clip_id, values, job.content_hash)
                    except ValueError as error:
                        failures.append(Failure(job.clip.clip_id, "store", str(error)))
                _drop_failed(failures, writer)
                writer.commit()
                progress.update(len(block))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    writer.commit()
    return failures


def _drop_failed(failures: list[Failure], writer: StoreWriter) -> None:
    """A clip whose media changed and can no longer be read must not keep the features of its former content."""
    held = writer.content_hashes
    for failure in failures:
        if failure.clip_id in held:
            writer.drop(failure.clip_id)


def write_errors(path: Path, failures: list[Failure]) -> None:
    """``errors.parquet``: clip_id, stage, reason; a file without rows where nothing failed."""
    table = pl.DataFrame([vars(failure) for failure in failures], schema=ERRORS_SCHEMA, orient="row")
    replace_atomically(path, table.write_parquet)


def _hash_or_reason(clip: Clip) -> tuple[str | None, str]:
    try:
        return clip.content_hash(), ""
    except OSError as error:
        return None, error.strerror or type(error).__name__


def _decoded_ahead(
    compute: list[Job], encoder: LoadedEncoder, pool: ThreadPoolExecutor, block_size: int
) -> Iterator[list[tuple[Job, Future[Prepared]]]]:
    """Blocks in order, with the next block's decoding already under way."""
    ahead: list[tuple[Job, Future[Prepared]]] | None = None
    for _, block in groupby(compute, key=lambda job: job.place // block_size):
        submitted = [(job, pool.submit(encoder.prepare, job.clip.source)) for job in block]
        if ahead is not None:
            yield ahead
        ahead = submitted
    if ahead is not None:
        yield ahead


def _encode_block(clips: list[Prepared], encoder: LoadedEncoder, batch_size: int) -> list[np.ndarray]:
    """Features in the order of ``clips``; a batch holds clips of one shape, so nothing is padded."""
    by_shape: dict[Any, list[int]] = {}
    for position, clip in enumerate(clips):
        by_shape.setdefault(clip.shapes, []).append(position)
    features: list[np.ndarray | None] = [None] * len(clips)
    for positions in by_shape.values():
        for batch in _cut(positions, batch_size):
            for position, values in zip(batch, encoder.encode([clips[p] for p in batch]), strict=True):
                features[position] = values
    return [values for values in features if values is not None]


def _cut(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
