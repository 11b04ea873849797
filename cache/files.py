"""Replacing files as a whole, the checksums of a store's small files, and the lock of its one writer.

``checksums.json`` names for each small file of a store the SHA-256 digests that it may have: one, or, while files are
being replaced, the former one and the new one (null: it may be absent). It is written before the files for which it
vouches and once more after them, so that a crash between two renames is never taken for damage. Chunk files are not in
it: each of them ends with a CRC-32C of its own.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

CHECKSUMS = "checksums.json"
REMOTE_NOTES = ".remote.jsonl"  # of cache/remote/copies.py
ESSENTIAL = ("store.json", "index.parquet")  # nothing else in a store's folder says what stands in them
Digests = dict[str, list[str | None]]


class StoreError(Exception):
    """A store that cannot be read or written. The message is one line that names the file."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """The operating system's refusals (full disk, quota, permissions) as a StoreError about ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise StoreError(f"{path}: cannot be written: {reason}; what was committed is kept") from error


def write_atomically(path: Path, *parts: Any, durable: bool = True) -> None:
    """Write bytes-like ``parts`` beside ``path`` and rename into place: a reader sees the old file or the new one.

    Where a new file need not outlive a power cut yet, ``durable=False`` leaves it to :func:`sync`.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)

    replace_atomically(path, write, durable)


def write_text_atomically(path: Path, text: str) -> None:
    write_atomically(path, text.encode())


def replace_atomically(path: Path, write: Callable[[Path], object], durable: bool = True) -> None:
    """Let ``write`` make a file beside ``path``, then rename it into place. Raises OSError; leaves nothing behind."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        write(temporary)
        if durable:
            sync(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)  # the rename itself must outlive a power cut


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a new folder beside ``folder``, then rename it into place; what was there goes afterwards.

    Whoever is killed in it leaves the former folder or none, never half of one. Parents are made.
    """
    fresh, old = (folder.with_name(f".{folder.name}.{which}") for which in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    write(fresh)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_checksums(folder: Path) -> Digests:
    """Accepted digests by file name. Raises StoreError where the list itself is damaged."""
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    content = path.read_bytes()
    try:
        files = json.loads(content)["files"]
        whole = content == _render(files)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise StoreError(f"{path}: damaged; python cache/verify.py {folder} --repair makes it again")
    return files


def write_checksums(folder: Path, files: Digests) -> None:
    write_atomically(folder / CHECKSUMS, _render(files))


def publish(folder: Path, contents: dict[str, bytes]) -> None:
    """Replace small files of a store, in this order, together with their checksums."""
    former = read_checksums(folder)
    new: Digests = {name: [digest(content)] for name, content in contents.items()}
    either: Digests = {name: list(dict.fromkeys([*former.get(name, [None]), *new[name]])) for name in new}
    write_checksums(folder, {**former, **either})
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_atomically(folder / name, content)
    write_checksums(folder, {**former, **new})


def settle_checksums(folder: Path) -> None:
    """After a crash two digests may be accepted for a file: keep the one that it has.

    Raises StoreError where ``store.json`` or ``index.parquet`` is damaged: to go on would make the damage official.
    """
    former = read_checksums(folder)
    settled: Digests = {}
    for name, accepted in former.items():
        present = file_digest(folder / name)
        if present not in accepted:
            if name in ESSENTIAL:
                raise StoreError(f"{folder / name}: damaged or missing; python cache/verify.py {folder} says more")
            settled[name] = accepted
        elif present is not None:
            settled[name] = [present]
    if settled != former:
        write_checksums(folder, settled)


def attach(store_path: str | Path, name: str, write: Callable[[BinaryIO], object]) -> None:
    """Put a file of one's own, such as ``errors.parquet``, into a store's folder, so that verification covers it.

    Args:
        store_path: a store that is there, and that nobody is writing (call it after the writer is closed).
        name: the file's name, without folders.
        write: writes the content into an open binary file in memory; ``polars.DataFrame.write_parquet`` does.

    Raises:
        StoreError: somebody writes the store, or the folder cannot be written.
    """
    folder = Path(store_path)
    if not (folder / "store.json").is_file():
        raise StoreError(f"{folder}: not a feature store (it has no store.json)")
    content = BytesIO()
    write(content)
    with locked(folder), explained(folder / name):
        publish(folder, {name: content.getvalue()})


def take_lock(path: Path) -> int:
    """An advisory lock beside the store; the kernel frees it however the process ends. ``os.close`` gives it back."""
    lock = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreError(f"{path}: another extraction is writing this store (process {holder})") from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the writer's lock of a store."""
    with explained(path):
        lock = take_lock(path)
    try:
        yield
    finally:
        os.close(lock)


def writing_process(path: Path) -> str | None:
    """The process that is writing a store now, or None."""
    try:
        lock = os.open(_lock_path(path), os.O_RDONLY)
    except OSError:
        return None  # nobody ever wrote here, or the lock file did not come along
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return os.read(lock, 20).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(lock)


def begin(path: Path, who: str, n_clips: int) -> None:
    """Note beside a store that ``who`` is to bring ``n_clips`` clips into it, until :func:`end`: whenever the writer is
    killed, a half is known as one.

    Raises:
        StoreError: the system refuses to write.
    """
    with explained(path):
        write_text_atomically(_note_path(path, who), f"{n_clips}\n")


def end(path: Path, who: str) -> None:
    """All that ``who`` wanted of a store was tried."""
    with explained(path):
        _note_path(path, who).unlink(missing_ok=True)


def begun(path: Path) -> dict[str, int]:
    """Who has not ended yet, and how many clips the store is then to hold of theirs."""
    prefix = _note_path(path, "").name
    notes = sorted(each for each in path.resolve().parent.glob(".*") if each.name.startswith(prefix))
    found = {note.name.removeprefix(prefix): note.read_text(errors="replace").strip() for note in notes}
    return {who: int(text) for who, text in found.items() if text.isdecimal()}


def _note_path(path: Path, who: str) -> Path:
    folder = path.resolve()
    return folder.with_name(f".{folder.name}.unfinished.{who}")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file, None where there is none."""
    return digest(path.read_bytes()) if path.is_file() else None


def _lock_path(path: Path) -> Path:
    folder = path.resolve()  # whoever comes by a link finds the same lock
    return folder.with_name(f".{folder.name}.lock")


def _render(files: Digests) -> bytes:
    listed = json.dumps(files, sort_keys=True)
    return (json.dumps({"files": files, "sha256": digest(listed.encode())}, indent=2, sort_keys=True) + "\n").encode()
