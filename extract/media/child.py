"""A child process to send messages to: ``python -m MODULE FD``, with a pair of sockets between it and its parent.

Messages are pickled, each behind its length in 8 bytes; both ends are this program. A child ends when its parent does,
which it learns from its standard input, and leaves Ctrl-C to it.
"""

import multiprocessing.connection
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_LENGTH_BYTES = 8
_SHARED_BYTES = 628  # of Windows' WSAPROTOCOL_INFOW, by which a process takes over a socket
_GLANCE = 1.0  # seconds of silence between two looks at how a child gets on


class LostError(Exception):
    """A child, or a worker elsewhere, that died or hangs. The message says which."""


class Child:
    """The parent's end. ``what`` names the child in messages: "the decoder"."""

    def __init__(self, module: str, what: str, environment: dict[str, str] | None = None) -> None:
        self._what = what
        self._socket, theirs = socket.socketpair()
        paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        # In a group of its own: Ctrl-C reaches the parent, which decides. Windows (not tried) hands sockets on by name.
        alone: dict[str, Any] = {"pass_fds": [theirs.fileno()], "process_group": 0}
        if sys.platform == "win32":
            alone = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **(environment or {}), "PYTHONPATH": paths},
                **alone,
            )
            if sys.platform == "win32":
                assert self.process.stdin is not None
                self.process.stdin.write(theirs.share(self.process.pid))
                self.process.stdin.flush()

    def send(self, message: Any) -> None:
        """Raises LostError."""
        try:
            send(self._socket, message)
        except ConnectionError as error:
            raise LostError(self._how_it_ended()) from error

    def receive(self, timeout: float | None) -> Any:
        """The next message. Any byte is a sign of life; silence counts only while it is waited for here, and while the
        child could have run: a machine that is busy, or was stopped as a whole, loses none. Raises LostError."""
        try:
            return receive(self._socket, None if timeout is None else lambda: self._hear(timeout))
        except (EOFError, ConnectionError) as error:
            raise LostError(self._how_it_ended()) from error

    def _hear(self, timeout: float) -> None:
        """Return when a byte has come, or the child's end. Raises LostError."""
        silent, queued = 0.0, self.queued_seconds()
        while silent < timeout:
            glance = min(_GLANCE, timeout - silent)
            if multiprocessing.connection.wait([self._socket], glance):
                return
            before, queued = queued, self.queued_seconds()
            silent += max(0.01, glance - (queued - before))  # never the clock: this process may have been stopped
        raise LostError(f"no sign of life from {self._what} for {timeout:g} s")

    def queued_seconds(self) -> float:
        """For how long the child has wanted a processor and got none; 0 where the system does not say."""
        try:
            return int(Path(f"/proc/{self.process.pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._socket.close()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _how_it_ended(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(10)
            return (
                f"{self._what} crashed ({signal.Signals(-code).name})" if code < 0 else f"{self._what} ended ({code})"
            )
        return f"{self._what} hung up"


@contextmanager
def parent() -> Iterator[socket.socket]:
    """In a child: the socket to the parent. Leaving, or the parent's end, ends the child quietly."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        inherited = socket.fromshare(sys.stdin.buffer.read(_SHARED_BYTES))
    else:
        inherited = socket.socket(fileno=int(sys.argv[1]))
    with inherited, suppress(EOFError, ConnectionError):
        threading.Thread(target=_end_with_parent, daemon=True).start()
        yield inherited


def _end_with_parent() -> None:
    """End this process with its parent, whatever it is doing: nobody else holds the other end of its input."""
    os.read(0, 1)
    os._exit(0)


def send(to: socket.socket, message: Any) -> None:
    content = pickle.dumps(message, protocol=5)
    to.sendall(len(content).to_bytes(_LENGTH_BYTES, "little"))
    to.sendall(content)


def receive(source: socket.socket, wait: Callable[[], object] | None = None) -> Any:
    """The next message; ``wait`` is called before each read, and may give up by raising."""
    return pickle.loads(_read(source, int.from_bytes(_read(source, _LENGTH_BYTES, wait), "little"), wait))


def _read(source: socket.socket, n_bytes: int, wait: Callable[[], object] | None) -> bytearray:
    content = bytearray(n_bytes)
    rest = memoryview(content)
    while rest:
        if wait:
            wait()
        n = source.recv_into(rest)
        if n == 0:
            raise EOFError
        rest = rest[n:]
    return content
