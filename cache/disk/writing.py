"""Replacing a file as a whole."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs import UserError

if TYPE_CHECKING:
    import polars as pl


class StoreError(UserError):
    """Something below ``runs/`` that cannot be read or written. The message is one line that names the file."""


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """The operating system's refusals (full disk, quota, permissions) as a StoreError about ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError) and error.filename:
            reason += f" ({error.filename}): move it away"
        raise StoreError(f"{path}: cannot be written: {reason}; what was committed is kept") from error


@contextmanager
def readable(path: Path, remedy: str) -> Iterator[None]:
    """The operating system's refusals to read ``path`` as a StoreError that ends in a ``remedy``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise StoreError(f"{path}: cannot be read: {reason}: {remedy}") from error


def parquet_bytes(table: "pl.DataFrame", metadata: dict[str, str] | None = None) -> bytes:
    """A table as the content of a Parquet file, for a writer of ours: polars' own errors do not say that a disk is
    full."""
    content = BytesIO()
    table.write_parquet(content, metadata=metadata)
    return content.getvalue()


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
    """Let ``write`` make a file beside ``path``, then rename it into place.

    Raises OSError, or StoreError where a folder stands in its place; leaves nothing behind. Two processes must not do
    so at once: see :func:`cache.claimed`.
    """
    temporary = path.with_name(f".{path.name}.partial")
    for place in (path, temporary):
        if place.is_dir():
            raise StoreError(f"{place}: a folder, where a file is to be: move it away")
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


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folder, and keeps names by itself
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
