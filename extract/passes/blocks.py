"""Computing blocks: decoding ahead in child processes, batches of like lengths, results in the order of the clips."""

import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from configs import one_line
from extract.encoders.encoder import Begun, LoadedEncoder, Prepared, Window
from extract.media.damage import ClipError, Damage, MediaError, SilentError
from extract.media.decoding import Decoders
from extract.media.hashing import ChangedError
from extract.media.sources import Clip, Elsewhere, RemoteFile, local_copy

FINISHERS = 4  # threads that average features over time beside a GPU
UNREADABLE = (MediaError, ClipError, ChangedError, OSError)  # a clip's own fault


@dataclass(frozen=True, slots=True)
class Job:
    """A clip to compute. ``place`` is its position among all clips of the pass, computed or not.

    ``encoders``: the numbers of those of the pass's encoders that lack it.
    """

    clip: Clip
    content_hash: str
    place: int
    encoders: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Failure:
    clip_id: str
    stage: str  # read, decode, silent (a sound track without sound), absent (nobody says it has one), encode or store
    reason: str


@dataclass(frozen=True)
class Damaged:
    """A clip that is stored without a ``share`` of it (0 to 1), which could not be decoded."""

    clip_id: str
    share: float
    reason: str


@dataclass(frozen=True)
class Block:
    """Clips that are sorted into batches together, and stored together.

    Blocks are cut at fixed places of the list of all clips. Whoever computes a block, and whenever, it holds the same
    batches: so a pass that was interrupted and resumed, or spread over machines, writes the same bytes.
    """

    jobs: list[Job]


class Mark(Enum):
    """What stands between results."""

    NEXT = "next"  # what follows is of the next encoder
    END = "end"  # the block is complete
    RESTART = "restart"  # the block begins anew: its worker was lost, and its results so far do not count


# The place of a clip, and features that follow those before them, (time, dim) float32, or why there are none. A clip
# has one or more such results in a row, and a failure undoes those before it. Damage follows the features.
Result = tuple[int, np.ndarray | Failure | Damaged]
Ready = tuple[Prepared, Damage | None] | Exception | None  # for the network; why there is none; None: it is long


@dataclass(frozen=True)
class _Part:
    """What one encoder does of a block: its jobs with what was prepared of each; their windows' time steps, once."""

    encoder: LoadedEncoder
    clips: list[tuple[Job, Ready]]
    encoded: Callable[[], list[list[np.ndarray]]]


class BlockComputer:
    """Encoders with the decoders that they share: what computes blocks, in this process or in a worker.

    Args:
        encoders: one, or several that want the same of a file (:func:`shares_decoding`): it is decoded once for all.
        workers: decoders, each a child process that may crash or hang without harm to anything but its clip.
    """

    def __init__(self, encoders: Sequence[LoadedEncoder], workers: int) -> None:
        first = encoders[0]
        assert all(shares_decoding(first, encoder) for encoder in encoders[1:])
        self._encoders = encoders
        self._in_queue = any(encoder.device.type == "cuda" for encoder in encoders)  # of a GPU, with none to wait for
        self._pool = ThreadPoolExecutor(workers)
        self._finishers = ThreadPoolExecutor(FINISHERS)
        self._decoders = Decoders(first.task, workers, first.spec.decode_timeout) if first.task else None

    def __enter__(self) -> "BlockComputer":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._finishers.shutdown(wait=False)
        if self._decoders:
            self._decoders.close()
        self._pool.shutdown()

    def compute(self, blocks: Iterable[Block | None]) -> Iterator[Result | Mark]:
        """The results of each block, and ``Mark.END`` after each; the next block is decoded meanwhile.

        On a GPU, a block's results are taken when the next block's batches are in its queue: neither pooling nor
        storing keeps it waiting.

        Results of a block come encoder by encoder, with ``Mark.NEXT`` between them, in the order of its clips, but for
        long clips, which follow the others: they are streamed from file to features, once for each encoder, and never
        held as a whole.

        Args:
            blocks: None among them says that the next one is not known yet.
        """
        decoding: tuple[Block, list[Future[list[Ready]]]] | None = None
        encoding: list[_Part] = []  # of the block before it, where encoders work on their own
        for block in chain(blocks, [None]):
            submitted = None
            if block is not None:
                submitted = block, [self._pool.submit(self._prepare, job) for job in block.jobs]
            begun = [] if decoding is None else self._begin(*decoding)
            if encoding:  # its results are taken while the GPU works on what has just begun
                yield from self._results(encoding)
            encoding, decoding = begun, submitted
            if encoding and (block is None or not self._in_queue):
                yield from self._results(encoding)
                encoding = []

    def _begin(self, block: Block, prepared: list[Future[list[Ready]]]) -> "list[_Part]":
        """For each encoder its part of a block; on a GPU all batches are on their way."""
        found = [(job, future.result()) for job, future in zip(block.jobs, prepared, strict=True)]
        parts = []
        for number, encoder in enumerate(self._encoders):
            own = [(job, ready[job.encoders.index(number)]) for job, ready in found if number in job.encoders]
            windows = [[] if clip is None or isinstance(clip, Exception) else list(clip[0].windows) for _, clip in own]
            parts.append(_Part(encoder, own, _encode(encoder, windows)))
        return parts

    def _results(self, parts: "list[_Part]") -> Iterator[Result | Mark]:
        for number, part in enumerate(parts):
            if number:
                yield Mark.NEXT
            yield from self._results_of(part)
        yield Mark.END

    def _results_of(self, part: "_Part") -> Iterator[Result]:
        def finished(job: Job, clip: Ready, pieces: list[np.ndarray]) -> list[np.ndarray | Failure | Damaged]:
            if clip is None:
                return []
            if isinstance(clip, Exception):
                return [_failure(job, clip)]
            return [*part.encoder.pooled(clip[0], pieces), *_damaged(job, clip[1])]

        jobs, ready = [job for job, _ in part.clips], [clip for _, clip in part.clips]
        each = self._finishers.map if self._in_queue else map
        results = {job.place: done for job, done in zip(jobs, each(finished, jobs, ready, part.encoded()), strict=True)}
        for place in sorted(results):
            for values in results[place]:
                yield place, values
        for job, clip in part.clips:
            if clip is None:
                yield from self._stream(part.encoder, job)

    def _stream(self, encoder: LoadedEncoder, job: Job) -> Iterator[Result]:
        assert self._decoders is not None
        assert encoder.prepare_long is not None
        assert isinstance(job.clip.source, Path | RemoteFile)
        found: list[Damage] = []
        try:
            with local_copy(job.clip.source, job.content_hash or None) as path:
                stream = self._decoders.stream(path, _known_hash(job), found.append)
                seen = encoder.augment.stream(stream, job.content_hash) if encoder.augment else stream
                clip = encoder.prepare_long(seen)
                pieces = (kept for (kept,) in encoder.encode([window] for window in clip.windows))
                for values in encoder.pooled(clip, pieces):
                    yield job.place, values
                for _ in stream:  # up to its end, where it is said whether all was right
                    pass
            for damage in found:
                yield from ((job.place, damaged) for damaged in _damaged(job, damage))
        except UNREADABLE as error:
            yield job.place, _failure(job, error)

    def _prepare(self, job: Job) -> list[Ready]:
        """For each of the job's encoders; what is decoded is decoded once."""
        source = job.clip.source
        damage = None
        try:
            if isinstance(source, str):
                given: Any = source
            elif isinstance(source, Elsewhere):
                given = source.clip_id, job.content_hash
            elif not isinstance(source, Path | RemoteFile):
                given = source.decode(self._encoders[0].task)
                damage = given.damage
            else:
                assert self._decoders is not None
                with local_copy(source, job.content_hash or None) as path:
                    given = self._decoders.decode(path, _known_hash(job))
                if given.data is None:
                    return [None] * len(job.encoders)
                damage = given.damage
        except UNREADABLE as error:
            return [error] * len(job.encoders)
        return [self._prepared(self._encoders[number], job, given, damage) for number in job.encoders]

    @staticmethod
    def _prepared(encoder: LoadedEncoder, job: Job, given: Any, damage: Damage | None) -> Ready:
        try:
            if encoder.augment:
                given = encoder.augment(given, job.content_hash)
            return encoder.prepare(given), damage
        except UNREADABLE as error:
            return error


def shares_decoding(a: LoadedEncoder, b: LoadedEncoder) -> bool:
    """Whether two encoders want the same of a media file; texts are not decoded, but views go with their encoder."""
    if a.task is None:
        return a.hidden is b.hidden
    return (a.task, a.spec.decode_timeout) == (b.task, b.spec.decode_timeout)


def _encode(encoder: LoadedEncoder, clips: list[list[Window]]) -> Callable[[], list[list[np.ndarray]]]:
    """Begin all batches of some clips on a GPU; what has no queue computes them when they are wanted. What is returned
    gives the kept time steps of each window of each clip."""
    places = [(c, w) for c, own in enumerate(clips) for w in range(len(own))]
    batches = batches_of([clips[c][w] for c, w in places], encoder)
    begun: Iterable[Begun] = (encoder.begin([clips[c][w] for c, w in (places[i] for i in batch)]) for batch in batches)
    if encoder.device.type == "cuda":
        begun = list(begun)

    def encoded() -> list[list[np.ndarray]]:
        found: dict[tuple[int, int], np.ndarray] = {}
        for batch, under_way in zip(batches, begun, strict=True):
            found.update(zip((places[i] for i in batch), under_way.kept(), strict=True))
        return [[found[c, w] for w in range(len(own))] for c, own in enumerate(clips)]

    return encoded


class Arriving:
    """The blocks that a worker is sent, for :meth:`BlockComputer.compute`; they may come from another thread."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Block] = queue.Queue()

    def put(self, block: Block) -> None:
        self._queue.put(block)

    def __iter__(self) -> Iterator[Block | None]:
        while True:
            yield self._queue.get()
            while not self._queue.empty():
                yield self._queue.get()
            yield None  # nothing more is known yet: finish what is in hand


def _known_hash(job: Job) -> str | None:
    """Of the file's bytes; an object's is one of its version, and clips that are only predicted have none."""
    return job.content_hash if isinstance(job.clip.source, Path) and job.content_hash else None


def _damaged(job: Job, damage: Damage | None) -> list[Damaged]:
    return [Damaged(job.clip.clip_id, damage.share, one_line(damage.reason))] if damage else []


def _failure(job: Job, error: Exception) -> Failure:
    """The stage of what is no error of the media: reading, as of an object that cannot be fetched."""
    stage = {MediaError: "decode", SilentError: "silent", ClipError: "encode"}.get(type(error), "read")
    return Failure(job.clip.clip_id, stage, one_line(error))


def batches_of(windows: list[Window], encoder: LoadedEncoder) -> list[list[int]]:
    """Positions of the windows that go through the network together, at most ``batch_tokens`` with padding counted.

    On a CPU padding is pure loss: a batch holds windows of equal shape. On a GPU windows are sorted by length, so
    that little is padded. Nothing of this changes a value (beyond the last bits of a sum).
    """
    budget = encoder.spec.batch_tokens
    pads = encoder.device.type == "cuda" and encoder.pad_values is not None
    by_shape: dict[Any, list[int]] = {}
    for position in sorted(range(len(windows)), key=lambda i: windows[i].n_tokens, reverse=True):
        by_shape.setdefault(None if pads else windows[position].shapes, []).append(position)
    batches: list[list[int]] = []
    for positions in by_shape.values():
        longest = 0
        batch: list[int] = []
        for position in positions:  # the longest come first, and a batch too large for memory fails at once
            if not batch or (len(batch) + 1) * longest > budget:
                batch, longest = [], windows[position].n_tokens
                batches.append(batch)
            batch.append(position)
    return batches
