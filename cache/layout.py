"""What lies in a store's folder, apart from the values themselves.

``store.json``     header: format version, backend, dtype, dim, chunk_rows, fingerprint and the fields behind it
``index.parquet``  a row per clip, in the order of its rows; the commit point: replaced by one atomic rename
``values.zarr/`` or ``values.h5`` + ``values/``  the numbers (``cache/chunks.py``)
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FORMAT_VERSION = 1
INDEX_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("start", pa.int64()),  # first row in values
        ("length", pa.int64()),  # rows
        ("content_hash", pa.string()),  # of the clip's media or text
        ("fingerprint", pa.string()),  # of the encoder and its settings
        ("values_hash", pa.string()),  # of the stored bytes
    ]
)


class StoreError(Exception):
    """A store that cannot be read or written. The message is one line that names the file."""


@dataclass(frozen=True)
class Header:
    backend: str
    dtype: str
    dim: int
    chunk_rows: int
    fingerprint: str
    fields: dict[str, Any]

    def write(self, folder: Path) -> None:
        content = {"format_version": FORMAT_VERSION, **asdict(self)}
        write_atomically(folder / "store.json", json.dumps(content, indent=2, sort_keys=True).encode())

    @classmethod
    def read(cls, folder: Path) -> "Header":
        path = folder / "store.json"
        if not path.is_file():
            raise StoreError(f"{folder}: not a feature store (it has no store.json)")
        try:
            content = json.loads(path.read_bytes())
            version = content.pop("format_version")
            if version != FORMAT_VERSION:
                raise StoreError(f"{path}: format version {version}, this program reads {FORMAT_VERSION}")
            return cls(**content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{path}: damaged header ({error}); remove the folder and extract again") from error


@dataclass(frozen=True)
class Entry:
    """Where a clip's rows lie and what they were computed from."""

    start: int
    length: int
    content_hash: str
    values_hash: str


def write_index(folder: Path, entries: dict[str, Entry], total_rows: int, store_fingerprint: str) -> None:
    columns: dict[str, Any] = {
        "clip_id": list(entries),
        "fingerprint": [store_fingerprint] * len(entries),
        **{
            name: [getattr(entry, name) for entry in entries.values()]
            for name in ("start", "length", "content_hash", "values_hash")
        },
    }
    table = pa.table(columns, schema=INDEX_SCHEMA.with_metadata({"total_rows": str(total_rows)}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(folder / "index.parquet", sink.getvalue().to_pybytes())


def read_index(folder: Path) -> tuple[dict[str, Entry], int]:
    """Entries by clip id, in the order of their rows, and how many rows are committed (live or not)."""
    path = folder / "index.parquet"
    if not path.is_file():
        return {}, 0
    try:
        table = pq.read_table(path)
        total_rows = int(table.schema.metadata[b"total_rows"])
        names = ("clip_id", "start", "length", "content_hash", "values_hash")
        columns = [table.column(name).to_pylist() for name in names]
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: damaged index ({_one_line(error)}); remove the folder and extract again") from error
    return {clip_id: Entry(*rest) for clip_id, *rest in zip(*columns, strict=True)}, total_rows


def fingerprint(fields: dict[str, Any]) -> str:
    """Hash of everything a store was computed from, as 16 hexadecimal digits; the order of keys does not matter."""
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differing_fields(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of the fields in which two fingerprints differ, for error messages."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def values_hash(values: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=16).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside ``path`` and rename into place: a reader sees the old file or the whole new one."""
    replace_atomically(path, lambda temporary: temporary.write_bytes(content))


def write_text_atomically(path: Path, text: str) -> None:
    write_atomically(path, text.encode())


def replace_atomically(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    write(temporary)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must outlive a power cut
    finally:
        os.close(folder)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
