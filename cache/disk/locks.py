"""One writer at a time: an advisory lock beside what is written. The kernel frees it however the process ends.

``filelock`` has no question that two may ask at once ("is it being written?"), so the two calls that it takes are here.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.disk.writing import StoreError, writable

BINARY = getattr(os, "O_BINARY", 0)  # where text and binary files differ
FAR = 2**30  # Windows lets nobody read a byte that is locked: behind whatever the holder says of itself

if sys.platform == "win32":  # not tried
    import msvcrt

    def _lock(descriptor: int, shared: bool = False) -> None:
        """Raises BlockingIOError. There are no shared locks: one that is only to be looked at is given back at once."""
        os.lseek(descriptor, FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(error.errno, error.strerror) from error
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def _lock(descriptor: int, shared: bool = False) -> None:
        """Raises BlockingIOError where another process holds it, and the wish is not ``shared`` by both."""
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def take_lock(path: Path, doing: str = "another extraction is writing this store") -> int:
    """The lock of whoever writes ``path``; ``os.close`` gives it back.

    Raises:
        StoreError: another process holds it; the line says what that is ``doing``, and names it.
        OSError: there can be no lock file beside ``path``.
    """
    while True:
        try:
            lock = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT | BINARY, 0o644)
        except (IsADirectoryError, PermissionError) as error:
            if not _lock_path(path).is_dir():  # of a folder, Windows says no more than that it may not
                raise
            raise StoreError(f"{_lock_path(path)}: a folder, where a lock file is to be: remove it") from error
        try:
            _lock(lock)
        except BlockingIOError as error:
            holder = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise StoreError(f"{path}: {doing} (process {holder})") from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), _lock_path(path).stat()):
                break
        os.close(lock)  # whoever held it has removed the file meanwhile
    with suppress(OSError):  # on a full disk the lock holds, too; it only cannot say whose it is
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
    return lock


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the writer's lock of a store."""
    with writable(path):
        lock = take_lock(path)
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def claimed(path: Path, remedy: str = "wait until it is done, or stop it") -> Iterator[None]:
    """Be the one process that makes ``path``, a file or a folder; parents are made.

    Raises:
        StoreError: another process makes it at this moment, or the system refuses.
    """
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = take_lock(path, f"another process makes it at this moment: {remedy}")
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file: it then stays, and locks nothing
            _lock_path(path).unlink()
        os.close(lock)


def writing_process(path: Path) -> str | None:
    """The process that is writing ``path`` now, or None."""
    try:
        lock = os.open(_lock_path(path), os.O_RDONLY | BINARY)
    except OSError:
        return None  # nobody ever wrote here, or the lock file did not come along
    try:
        _lock(lock, shared=True)
        return None
    except BlockingIOError:
        return os.read(lock, 20).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(lock)


def _lock_path(path: Path) -> Path:
    folder = Path(os.path.realpath(path))  # whoever comes by a link finds the same lock; links may go round
    return folder.parent / f".{folder.name}.lock"
