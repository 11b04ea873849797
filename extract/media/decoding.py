"""Decoding in child processes: a file that crashes, hangs or bloats the decoder costs that clip and nothing else.

with closing(Decoders(AudioTask(short_samples=480_000), workers=2, timeout=60)) as decoders:
    clip = decoders.decode(path)                # from several threads at once
    if clip.data is None:
        summary, *pieces = decoders.stream(path)

A child (``child.py``) imports neither torch nor transformers, limits its own memory, and works on one file at a time.
"""

import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs import UserError
from extract.media.child import Child, LostError, parent, receive, send
from extract.media.damage import ClipError, Damage, MediaError, said
from extract.media.hashing import ChangedError, held
from extract.media.reading import Beat
from extract.media.tasks import Decoded, Look, Streams

MEMORY_BYTES = 4 << 30  # address space of a child; it starts with 0.4 GiB
START_SECONDS = 120  # in which a child must have imported what it needs, on a busy machine
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def usable_cores() -> int:
    """How many cores this process may use: in a container or a job of a cluster fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_device() -> str:
    """Where networks run when nobody says: on a CUDA GPU where there is one. Apple's (``mps``) has to be named: it was
    not tried, and results of another device are others."""
    import torch  # a decoder does without

    return "cuda" if torch.cuda.is_available() else "cpu"


class Decoders:
    """Children that decode, one for each of ``workers`` calls at a time; further callers wait.

    Children start at the first call, and again after one was lost: it died, or gave no sign of life for ``timeout``
    seconds while it was waited for and could run. A clip that loses two is refused; a long one that loses one.
    """

    def __init__(self, task: Look | Streams, workers: int, timeout: float) -> None:
        self._task, self._timeout = task, timeout
        self._closed = False
        self._lock = threading.Lock()  # around _children and _closed
        self._children: set[Child] = set()
        self._free: queue.LifoQueue[Child | None] = queue.LifoQueue()
        if not limits_memory():
            print("warning: decoders run without a limit on memory: this system has none", file=sys.stderr)
        for _ in range(workers):
            self._free.put(None)

    def decode(self, path: Path, content_hash: str | None = None) -> Decoded:
        """A clip in one piece, or the news that it is long.

        Args:
            content_hash: of the file's bytes, as :mod:`extract.media.sources` gives it.
        Raises:
            MediaError: it cannot be decoded, too much of it is damaged, or it took two decoders down.
            ClipError: no face in it, no sound, no such channel.
            ChangedError: what was decoded does not have that hash.
            UserError: no decoder can be started.
        """
        try:
            (decoded,) = self._answers("decode", path, content_hash)
        except MediaError as error:
            if not isinstance(error.__cause__, LostError):
                raise
            # the machine may be to blame: it is low on memory, or stood still
            (decoded,) = self._answers("decode", path, content_hash)
        return decoded

    def stream(
        self, path: Path, content_hash: str | None = None, note: Callable[[Damage], object] = lambda damage: None
    ) -> Iterator[Any]:
        """``Streamed``, then pieces in order: audio (samples,) float32, video (n_frames, size, size, 3) uint8.

        Args:
            note: is told, behind the last piece, what is damaged in a clip that is taken all the same.

        Only of a ``Task``. Raises as :meth:`decode`: for audio before the first item, unless the file changes or the
        decoder dies; for video after the last one, where too much is damaged.
        """
        for item in self._answers("stream", path, content_hash):
            if isinstance(item, Damage):
                note(item)
            else:
                yield item

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

    def _answers(self, wish: str, path: Path, content_hash: str | None) -> Iterator[Any]:
        child = self._take()
        answered = False
        try:
            child.send((wish, path, content_hash))
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
            child.send(("ping", None, None))
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


def limits_memory() -> bool:
    """Whether this system limits a process's memory: Windows has no such call, macOS one that does nothing."""
    return sys.platform not in ("win32", "darwin")


def _limit_memory() -> None:
    if limits_memory():
        import resource  # of Unix alone

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def serve(connected: socket.socket) -> None:
    """A child's life: a task, then wishes ``(ping | decode | stream, path, hash)`` until the parent hangs up.

    A ping is answered with ``("alive", None)``. The others are answered with ``("item", ...)`` any number of times,
    ``("alive", None)`` in between, and ``("done", None)`` or ``("failed", exception)`` at the end.
    """
    _limit_memory()
    task: Any = receive(connected)  # a Look, or a Task where streams are wished
    beat = _beat(connected)
    send(connected, ("alive", None))
    while True:
        wish, path, content_hash = receive(connected)
        if wish == "ping":
            send(connected, ("alive", None))
            continue
        answer: tuple[str, Any] = ("done", None)
        try:
            with held(path, content_hash) as file:
                items = task.stream(file, beat) if wish == "stream" else iter([task.decode(file, beat)])
                for item in items:
                    send(connected, ("item", item))
        except MemoryError:
            answer = ("failed", MediaError(f"decoding it takes more than {MEMORY_BYTES >> 30} GiB of memory"))
        except (MediaError, ClipError, ChangedError, UserError) as error:
            answer = ("failed", error)
        except OSError as error:  # of opening or hashing it; decoders' own are MediaErrors
            answer = ("failed", MediaError(said(error)))
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
