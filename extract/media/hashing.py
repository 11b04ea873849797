"""The hash by which a file's content is known, and reading a file that stays the one with that hash."""

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from configs.outside import open_to_read


class ChangedError(Exception):
    """A file that is no longer what it was when it was hashed."""


def new_content_hash() -> Any:
    """BLAKE2b with 16 bytes."""
    return hashlib.blake2b(digest_size=16)


@contextmanager
def held(path: Path, content_hash: str | None) -> Iterator[Path]:
    """A file to decode, held open: whatever happens to its name, it is this one that is read; then it is hashed.

    Args:
        content_hash: None: it is not known, and the file is not looked at.
    Raises:
        ChangedError: at the end, where it is not, or no longer, the one whose hash is known.
        OSError: it cannot be opened, or not be read any more.
    """
    if content_hash is None:
        yield path
        return
    with os.fdopen(open_to_read(path), "rb") as file:
        before = _state(file.fileno())
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ChangedError("changed while it was read: it is no regular file any more")
        linux = sys.platform == "linux"  # opening /dev/fd gives the same place in the file elsewhere, or there is none
        yield Path(f"/dev/fd/{file.fileno()}") if linux else path
        digest = hashlib.file_digest(file, new_content_hash)
        if digest.hexdigest() != content_hash or _state(file.fileno()) != before or (not linux and _other(file, path)):
            raise ChangedError("changed while it was read")


def _other(file: BinaryIO, path: Path) -> bool:
    """Whether the name leads to another file by now."""
    try:
        return not os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return True


def _state(descriptor: int) -> tuple[int, ...]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
