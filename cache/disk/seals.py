"""Single files that say themselves whether they are what was written.

A sealed JSON file has a last key ``sha256``: the digest of all before it. A sealed Parquet file has a key ``sha256`` in
its metadata: the digest of the whole file with zeros in the place of the digest.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.disk.writing import StoreError, parquet_bytes, readable, write_atomically

if TYPE_CHECKING:
    import polars as pl

KEY = "sha256"
MARK = b"sha256:"  # stands before the digest in a Parquet file, so that it is found without parsing
BLANK = b"0" * 64


def write_sealed_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a file by a JSON object with its seal. Raises OSError."""
    write_atomically(path, _sealed_json(content))


def read_sealed_json(path: Path, remedy: str) -> dict[str, Any]:
    """What :func:`write_sealed_json` wrote, without the seal.

    Raises:
        StoreError: it is missing, or not what was written; the line ends in ``remedy``.
    """
    with readable(path, remedy):
        content = path.read_bytes()
    try:
        value = json.loads(content)
        value.pop(KEY)
        if _sealed_json(value) == content:
            return value
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise StoreError(f"{path}: not what was written (its own SHA-256 says so): {remedy}")


def write_sealed_parquet(path: Path, table: "pl.DataFrame", metadata: dict[str, str] | None = None) -> None:
    """Replace a file by a Parquet table with its seal. Raises OSError."""
    content = parquet_bytes(table, {**(metadata or {}), KEY: (MARK + BLANK).decode()})
    if content.count(MARK + BLANK) != 1:
        raise StoreError(f"{path}: cannot be sealed: a value of it is {(MARK + BLANK).decode()!r}")
    write_atomically(path, content.replace(MARK + BLANK, MARK + hashlib.sha256(content).hexdigest().encode()))


def read_sealed_parquet(path: Path, remedy: str) -> bytes:
    """All bytes of a Parquet file; a sealed one is what was written, one without a seal is somebody else's.

    Raises:
        StoreError: it cannot be read, or was changed since it was sealed; the line ends in ``remedy``.
    """
    with readable(path, remedy):
        content = path.read_bytes()
    place = content.rfind(MARK)  # the metadata is at the end
    if place < 0:
        return content
    start = place + len(MARK)
    blank = content[:start] + BLANK + content[start + len(BLANK) :]
    if hashlib.sha256(blank).hexdigest().encode() != content[start : start + len(BLANK)]:
        raise StoreError(f"{path}: not what was written (its own SHA-256 says so): {remedy}")
    return content


def _sealed_json(content: dict[str, Any]) -> bytes:
    seal = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
    return (json.dumps({**content, KEY: seal}, indent=2, ensure_ascii=False) + "\n").encode()
