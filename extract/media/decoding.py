"""Decoding in child processes: a file that crashes, hangs or bloats the decoder costs that clip and nothing else.

with closing(Decoders(AudioTask(short_samples=480_000), workers=2, timeout=60)) as decoders:
    clip = decoders.decode(path)                # from several threads at once
    if clip.data is None:
        summary, *pieces = decoders.stream(path)

A child (``child.py``) imports neither torch nor transformers, limits its own memory, and works on one file at a time.
"""

import math
import queue
import resource
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from configs import UserError
from configs.schema import FaceCrop
from extract.media.child import Child, LostError, parent, receive, send
from extract.media.reading import (
    SAMPLE_RATE,
    Beat,
    ClipError,
    MediaError,
    audio_blocks,
    frames_at,
    middles,
    resize_and_crop,
    time_span,
)

MEMORY_BYTES = 4 << 30  # address space of a child; it starts with 0.4 GiB
START_SECONDS = 120  # in which a child must have imported what it needs, on a busy machine
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
BLOCK_SAMPLES = 10 * SAMPLE_RATE  # of long audio, sent at a time


@dataclass(frozen=True)
class Decoded:
    """A clip. ``seconds``: duration covered; ``n``: samples (audio) or segments (video) in all.

    ``data``: audio (n,) float32, video (n, n_frames, size, size, 3) uint8, or None: the clip is long, stream it.
    Decoding long audio stops when that is known: ``seconds`` and ``n`` are then a lower bound.
    """

    seconds: float
    n: int
    data: np.ndarray | None


@dataclass(frozen=True)
class Streamed:
    """What is known of a long clip before its pieces come; ``mean`` and ``variance`` are of audio's samples."""

    seconds: float
    n: int
    mean: float | None = None
    variance: float | None = None


class Task(Protocol):
    """What a child does with a file. ``beat`` is called while it gets on."""

    def decode(self, path: Path, beat: Beat) -> Decoded: ...

    def stream(self, path: Path, beat: Beat) -> Iterator[Any]: ...


@dataclass(frozen=True)
class AudioTask:
    """Mono audio; a clip of at most ``short_samples`` at 16 kHz comes in one piece."""

    short_samples: int

    def decode(self, path: Path, beat: Beat) -> Decoded:
        blocks, n = [], 0
        for block in audio_blocks(path, beat):
            blocks.append(block)
            n += len(block)
            if n > self.short_samples:
                return Decoded(n / SAMPLE_RATE, n, None)
        return Decoded(n / SAMPLE_RATE, n, np.concatenate(blocks))

    def stream(self, path: Path, beat: Beat) -> Iterator[Streamed | np.ndarray]:
        """``Streamed``, from a first pass over the whole file, then blocks (samples,) float32 of ten seconds."""
        n, mean, squares = 0, 0.0, 0.0  # squares: summed squared deviations (Chan et al. 1983, updating formulae)
        for block in audio_blocks(path, beat):
            share = len(block) / (n + len(block))
            shift = float(block.mean(dtype=np.float64)) - mean
            squares += float(block.var(dtype=np.float64)) * len(block) + shift**2 * n * share
            mean += shift * share
            n += len(block)
        yield Streamed(n / SAMPLE_RATE, n, mean, squares / n)
        held: list[np.ndarray] = []
        n_held = n_sent = 0
        for block in audio_blocks(path, beat):
            held.append(block)
            n_held += len(block)
            if n_held >= BLOCK_SAMPLES:
                yield np.concatenate(held)
                n_sent += n_held
                held, n_held = [], 0
        if n_held:
            yield np.concatenate(held)
        if n_sent + n_held != n:
            raise MediaError("it changed while it was read")


@dataclass(frozen=True)
class VideoTask:
    """``n_frames`` a segment, ``size`` pixels square, around the face where ``face_crop`` says so.

    A clip longer than ``segment_seconds`` is cut into ceil(seconds / segment_seconds) equal segments; one of at most
    ``short_segments`` comes in one piece.
    """

    n_frames: int
    size: int
    segment_seconds: float
    short_segments: int
    face_crop: FaceCrop | None

    def decode(self, path: Path, beat: Beat) -> Decoded:
        first, seconds = time_span(path, beat)
        n = self._segments(seconds)
        if n > self.short_segments:
            return Decoded(seconds, n, None)
        return Decoded(seconds, n, np.stack(list(self._images(path, first, seconds, beat))))

    def stream(self, path: Path, beat: Beat) -> Iterator[Streamed | np.ndarray]:
        """``Streamed``, then segment after segment: (n_frames, size, size, 3) uint8."""
        first, seconds = time_span(path, beat)
        yield Streamed(seconds, self._segments(seconds))
        yield from self._images(path, first, seconds, beat)

    def _segments(self, seconds: float) -> int:
        return max(1, math.ceil(seconds / self.segment_seconds - 1e-9))

    def _images(self, path: Path, first: float, seconds: float, beat: Beat) -> Iterator[np.ndarray]:
        n = self._segments(seconds)
        frames = frames_at(path, middles(first, seconds, n * self.n_frames), beat)
        for _ in range(n):
            images: Any = islice(frames, self.n_frames)
            if self.face_crop:
                from extract.media.faces import crop_face

                images = crop_face(images, self.face_crop)
            yield resize_and_crop(images, self.size)


class Decoders:
    """Children that decode, one for each of ``workers`` calls at a time; further callers wait.

    Children start at the first call, and again after one was lost: it died, or gave no sign of life for ``timeout``
    seconds while it was waited for and could run. A clip that loses two is refused; a long one that loses one.
    """

    def __init__(self, task: Task, workers: int, timeout: float) -> None:
        self._task, self._timeout = task, timeout
        self._closed = False
        self._lock = threading.Lock()  # around _children and _closed
        self._children: set[Child] = set()
        self._free: queue.LifoQueue[Child | None] = queue.LifoQueue()
        for _ in range(workers):
            self._free.put(None)

    def decode(self, path: Path) -> Decoded:
        """A clip in one piece, or the news that it is long.

        Raises:
            MediaError: it cannot be decoded, or took two decoders down.
            ClipError: no face in it.
            UserError: no decoder can be started.
        """
        try:
            (decoded,) = self._answers("decode", path)
        except MediaError as error:
            if not isinstance(error.__cause__, LostError):
                raise
            (decoded,) = self._answers(
                "decode", path
            )  # the machine may be to blame: it is low on memory, or stood still
        return decoded

    def stream(self, path: Path) -> Iterator[Any]:
        """``Streamed``, then pieces in order: audio (samples,) float32, video (n_frames, size, size, 3) uint8.

        Raises MediaError and ClipError as :meth:`decode`: for audio before the first item, unless the file changes or
        the decoder dies; for video also in the middle, where a frame is damaged.
        """
        return self._answers("stream", path)

    def close(self) -> None:
        """End all children. Calls under way or waiting raise RuntimeError."""
        with self._lock:
            self._closed = True
            for child in self._children:
                child.process.kill()
        with suppress(queue.Empty):
            while True:
                self._lose(self._free.get_nowait())
        self._free.put(None)  # wakes who waits, one after the other

    def _answers(self, wish: str, path: Path) -> Iterator[Any]:
        child = self._take()
        answered = False
        try:
            child.send((wish, path))
            while True:
                kind, content = child.receive(self._timeout)
                if kind == "item":
                    yield content
                elif kind != "alive":
                    answered = True
                    if kind == "failed":
                        raise content
                    return
        except LostError as error:
            self._refuse_closed()
            raise MediaError(str(error)) from error
        finally:
            if not answered:
                self._lose(child)
            self._free.put(child if answered else None)

    def _take(self) -> Child:
        child = self._free.get()
        try:
            self._refuse_closed()
            if child is not None and not self._is_awake(child):  # lost in its sleep: no clip is to blame
                self._lose(child)
                child = None
            if child is None:
                child = Child("extract.media.decoding", "the decoder", ONE_THREAD)
                with self._lock:
                    self._refuse_closed()
                    self._children.add(child)
                child.send(self._task)
                child.receive(START_SECONDS)
        except BaseException as error:
            self._lose(child)
            self._free.put(None)
            if isinstance(error, LostError | OSError):  # no clip is to blame, and none must be missing for it
                self._refuse_closed()
                reason = (
                    f"{error} before it began; what it says stands above" if isinstance(error, LostError) else error
                )
                raise UserError(f"no decoder can be started: {reason}; run the same command to go on") from error
            raise
        return child

    def _is_awake(self, child: Child) -> bool:
        try:
            child.send(("ping", None))
            child.receive(self._timeout)
        except LostError:
            return False
        return True

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the decoders are closed")

    def _lose(self, child: Child | None) -> None:
        if child is not None:
            child.end()
            with self._lock:
                self._children.discard(child)


def serve(connected: socket.socket) -> None:
    """A child's life: a task, then wishes ``(ping | decode | stream, path)`` until the parent hangs up.

    A ping is answered with ``("alive", None)``. The others are answered with ``("item", ...)`` any number of times,
    ``("alive", None)`` in between, and ``("done", None)`` or ``("failed", exception)`` at the end.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    task: Task = receive(connected)
    beat = _beat(connected)
    send(connected, ("alive", None))
    while True:
        wish, path = receive(connected)
        if wish == "ping":
            send(connected, ("alive", None))
            continue
        answer: tuple[str, Any] = ("done", None)
        try:
            items = task.stream(path, beat) if wish == "stream" else iter([task.decode(path, beat)])
            for item in items:
                send(connected, ("item", item))
        except MemoryError:
            answer = ("failed", MediaError(f"decoding it takes more than {MEMORY_BYTES >> 30} GiB of memory"))
        except (MediaError, ClipError, UserError) as error:
            answer = ("failed", error)
        except Exception as error:  # a fault of this program: it goes to the parent, where it ends the pass
            error.add_note(f"in a decoder, at {path}:\n{traceback.format_exc()}")
            answer = ("failed", error)
        send(connected, answer)


def _beat(connected: socket.socket) -> Beat:
    """A sign of life once a second at most."""
    last = time.monotonic()

    def beat() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 1:
            last = now
            send(connected, ("alive", None))

    return beat


if __name__ == "__main__":
    with parent() as connected:
        serve(connected)
