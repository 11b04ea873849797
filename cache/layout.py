"""What lies in a store's folder, apart from the values themselves (``docs/store.md`` is the whole description).

``store.json``      header: format version, backend, dtype, dim, chunk_rows, fingerprint and the fields behind it
``index.parquet``   a row per clip, in the order of its rows; the commit point: replaced by one atomic rename
``checksums.json``  digests of these and other small files (``cache/checksums.py``)
``values.zarr/`` or ``values.h5`` + ``values/``  the numbers (``cache/chunks.py``)
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from cache.checksums import CHECKSUMS, anew, publish, read_checksums, read_small
from cache.disk.writing import StoreError
from configs import one_line

FORMAT_VERSION = 2
INDEX = "index.parquet"
OWN_FILES = {"store.json", INDEX, "values.zarr/zarr.json", "values.h5"}  # in checksums.json; others were attached
INDEX_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("start", pa.int64()),  # first row in values
        ("length", pa.int64()),  # rows
        ("content_hash", pa.string()),  # of the clip's media or text
        ("fingerprint", pa.string()),  # of the encoder and its settings
        ("values_hash", pa.string()),  # XXH3-128 of the stored bytes
    ]
)


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
        publish(folder, {"store.json": json.dumps(content, indent=2, sort_keys=True).encode()})

    @classmethod
    def read(cls, folder: Path, checked: bool = True) -> "Header":
        """A store's header; unless ``checked`` is False, only if it is what was written. Raises StoreError."""
        path = folder / "store.json"
        if not path.is_file() and (folder / CHECKSUMS).is_file():
            raise StoreError(f"{path}: missing; {anew(folder)}")
        if not path.is_file():
            raise StoreError(f"{folder}: not a feature store (it has no store.json)")
        try:
            content = json.loads(read_small(folder, path.name) if checked else path.read_bytes())
            version = content.pop("format_version")
            if version != FORMAT_VERSION:
                raise StoreError(
                    f"{path}: format version {version}, this program reads {FORMAT_VERSION}; "
                    "remove the folder, or move it away, and extract again"
                )
            header = cls(**content)
            row_bytes = np.dtype(header.dtype).itemsize * header.dim
            if row_bytes <= 0 or header.chunk_rows <= 0:
                raise ValueError(f"dim = {header.dim}, chunk_rows = {header.chunk_rows}")
            return header
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{path}: damaged header ({error}); {anew(folder)}") from error

    def same_kind(self, other: "Header") -> bool:
        """Whether the values of one and the same clip are the same bytes in the same kind of files."""
        return (self.fingerprint, self.backend) == (other.fingerprint, other.backend)


def settings_header(fields: dict[str, Any], dim: int, dtype: str, backend: str, chunk_rows: int) -> Header:
    """The header of a store with these settings."""
    fields = {**fields, "dtype": dtype}  # dtype changes values; the backend and the size of chunks do not
    return Header(backend, dtype, dim, chunk_rows, fingerprint(fields), fields)


class Entry(NamedTuple):
    """Where a clip's rows lie and what they were computed from."""

    start: int
    length: int
    content_hash: str
    values_hash: str


def index_bytes(entries: dict[str, Entry], total_rows: int, store_fingerprint: str) -> bytes:
    """The content of ``index.parquet``: always in the order of the clips' rows, however ``entries`` came about."""
    ordered = sorted(entries.items(), key=lambda item: item[1].start)
    columns: dict[str, Any] = {
        "clip_id": [clip_id for clip_id, _ in ordered],
        "fingerprint": [store_fingerprint] * len(ordered),
        **{name: [entry[i] for _, entry in ordered] for i, name in enumerate(Entry._fields)},
    }
    table = pa.table(columns, schema=INDEX_SCHEMA.with_metadata({"total_rows": str(total_rows)}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["fingerprint"])
    return sink.getvalue().to_pybytes()


def read_index_table(folder: Path, checked: bool = True) -> tuple[pa.Table, int]:
    """The index as a table, in the order of rows, and how many rows are committed (live or not).

    Raises:
        StoreError: it is lost or damaged; unless ``checked`` is False, also where it can be read but is not what was
            written.
    """
    path = folder / INDEX
    if not path.is_file():
        if checked and None not in read_checksums(folder).get(INDEX, [None]):
            raise StoreError(f"{path}: missing; {anew(folder)}")
        return INDEX_SCHEMA.empty_table(), 0
    try:
        table = pq.read_table(pa.BufferReader(read_small(folder, INDEX) if checked else path.read_bytes()))
        total_rows = int(table.schema.metadata[b"total_rows"])
        if not table.schema.equals(INDEX_SCHEMA):
            raise ValueError("its columns are not those of an index")
    except (OSError, MemoryError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = one_line(error)
        raise StoreError(f"{path}: damaged index ({reason}); {anew(folder)}") from error
    return table, total_rows


def read_index(folder: Path, checked: bool = True) -> tuple[dict[str, Entry], int]:
    """:func:`read_index_table` as entries by clip id, in the order of their rows."""
    table, total_rows = read_index_table(folder, checked)
    clip_ids = table.column("clip_id").to_pylist()
    columns = [table.column(name).to_pylist() for name in Entry._fields]
    return dict(zip(clip_ids, map(Entry._make, zip(*columns, strict=True)), strict=True)), total_rows


def live_chunks(starts: np.ndarray, lengths: np.ndarray, chunk_rows: int) -> np.ndarray:
    """Numbers of the chunks that hold rows of clips, ascending."""
    first, last = starts // chunk_rows, (starts + lengths - 1) // chunk_rows
    inner = [np.arange(a + 1, b) for a, b in zip(first, last, strict=True) if b > a + 1]  # of clips over many chunks
    return np.unique(np.concatenate([first, last, *inner]))


def fingerprint(fields: dict[str, Any]) -> str:
    """Hash of everything a store was computed from, as 16 hexadecimal digits; the order of keys does not matter."""
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differing_fields(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of the fields in which two fingerprints differ, for error messages."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def new_values_hash() -> Any:
    """XXH3 with 128 bits over the stored bytes of a clip: finds damage at the speed of memory. It is no signature."""
    return xxhash.xxh3_128()


def all_finite(values: np.ndarray) -> bool:
    """``np.isfinite(values).all()``, for float16 eight times as fast: an exponent of ones is infinity or NaN."""
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    return int((values.view(np.uint16) & 0x7FFF).max(initial=0)) < 0x7C00
