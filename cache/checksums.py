"""The checksums of a store's small files.

``checksums.json`` names for each small file of a store the SHA-256 digests that it may have: one, or, while files are
being replaced, the former one and the new one (null: it may be absent). It is written before the files for which it
vouches and once more after them, so that a crash between two renames is never taken for damage. Chunk files are not in
it: each of them ends with a CRC-32C of its own.
"""

import hashlib
import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from cache.disk.locks import locked
from cache.disk.writing import StoreError, readable, writable, write_atomically

CHECKSUMS = "checksums.json"
REMOTE_NOTES = ".remote.jsonl"  # of cache/remote/copies.py
ESSENTIAL = ("store.json", "index.parquet")  # nothing else in a store's folder says what stands in them
Digests = dict[str, list[str | None]]


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
        raise StoreError(f"{path}: damaged: {_repair(folder)}")
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


def read_small(folder: Path, name: str) -> bytes:
    """A small file of a store, as it was written.

    Raises:
        StoreError: it is missing, or it or the list of checksums is damaged.
    """
    path = folder / name
    for _ in range(3):  # a writer may replace it between reading the file and reading its checksum
        with readable(path, anew(folder)):
            content = path.read_bytes()
            accepted = read_checksums(folder).get(name)
        if accepted is None:
            raise StoreError(f"{folder / CHECKSUMS}: does not name {name}: {_repair(folder)}")
        if digest(content) in accepted:
            return content
    raise StoreError(f"{path}: damaged (its SHA-256 is not that of {CHECKSUMS}): {_repair(folder)}")


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
    with locked(folder), writable(folder / name):
        publish(folder, {name: content.getvalue()})


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file, None where there is none."""
    return digest(path.read_bytes()) if path.is_file() else None


def anew(folder: Path) -> str:
    """What to do about a store of which nothing can be saved. A link's own removal would leave it where it is."""
    return f"remove the folder {os.path.realpath(folder)} and extract again: python extract/run.py"


def _repair(folder: Path) -> str:
    return f"save what can be saved with: python cache/verify.py {folder} --repair"


def _render(files: Digests) -> bytes:
    listed = json.dumps(files, sort_keys=True)
    return (json.dumps({"files": files, "sha256": digest(listed.encode())}, indent=2, sort_keys=True) + "\n").encode()
