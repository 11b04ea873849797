"""The two ways in which a flat ``values[total_rows, dim]`` lies on disk: the same interface, the same bytes.

Rows are cut into chunks of ``chunk_rows``; a chunk is a file of its own, uncompressed (features shrink by 7-10 % only,
and raw bytes can be memory-mapped).

Zarr: ``values.zarr/c/<i>/0`` is the raw chunk followed by its 4-byte CRC-32C, as the ``bytes`` and ``crc32c`` codecs
of Zarr v3 define. HDF5: ``values/<i>.h5`` holds a contiguous dataset ``values``; the virtual dataset in ``values.h5``
joins them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import google_crc32c
import h5py
import numpy as np

from cache.layout import StoreError, replace_atomically, write_atomically

_CHECKSUM_BYTES = 4


class Chunks(Protocol):
    """What a backend does with chunk ``i``, whose rows are ``i * chunk_rows`` and on."""

    def path(self, i: int) -> Path: ...

    def write(self, i: int, rows: np.ndarray) -> None:
        """Publish ``rows`` (1..chunk_rows, dim) as chunk ``i``, replacing a shorter version of it."""

    def publish_shape(self, total_rows: int) -> None:
        """Tell foreign readers how many rows there are."""

    def map(self, i: int, n_rows: int) -> np.ndarray:
        """Memory-map the first ``n_rows`` of chunk ``i``: (n_rows, dim), read-only.

        Raises StoreError where the file is missing or too short.
        """


@dataclass(frozen=True)
class ZarrChunks:
    folder: Path
    dim: int
    dtype: np.dtype
    chunk_rows: int

    def path(self, i: int) -> Path:
        return self.folder / "values.zarr" / "c" / str(i) / "0"

    def write(self, i: int, rows: np.ndarray) -> None:
        chunk = rows
        if len(rows) < self.chunk_rows:  # a Zarr chunk has its full size, the last one too
            chunk = np.full((self.chunk_rows, self.dim), np.nan, dtype=self.dtype)
            chunk[: len(rows)] = rows
        raw = np.ascontiguousarray(chunk).tobytes()
        path = self.path(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, raw + google_crc32c.value(raw).to_bytes(_CHECKSUM_BYTES, "little"))

    def publish_shape(self, total_rows: int) -> None:
        # fill_value NaN: a chunk file that gets lost reads as NaN in any reader, and not silently as zeros.
        array = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [total_rows, self.dim],
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.chunk_rows, self.dim]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN",
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "attributes": {},
            "dimension_names": ["time", "feature"],
        }
        path = self.folder / "values.zarr" / "zarr.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(array, indent=2).encode())

    def map(self, i: int, n_rows: int) -> np.ndarray:
        expected = self.chunk_rows * self.dim * self.dtype.itemsize + _CHECKSUM_BYTES
        _check_size(self.path(i), expected, exactly=True)
        return np.memmap(self.path(i), dtype=self.dtype, mode="r", shape=(n_rows, self.dim))


@dataclass(frozen=True)
class Hdf5Chunks:
    folder: Path
    dim: int
    dtype: np.dtype
    chunk_rows: int

    def path(self, i: int) -> Path:
        return self.folder / "values" / f"{i:06d}.h5"

    def write(self, i: int, rows: np.ndarray) -> None:
        def write_file(path: Path) -> None:
            with h5py.File(path, "w") as file:
                file.create_dataset("values", data=rows)

        self.path(i).parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(self.path(i), write_file)

    def publish_shape(self, total_rows: int) -> None:
        # h5py's own create_virtual_dataset stamps the time into the file; the same store must be the same bytes.
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_obj_track_times(False)
        settings.set_fill_value(np.array(np.nan, dtype=self.dtype))
        joined = h5py.h5s.create_simple((total_rows, self.dim))
        for i, start in enumerate(range(0, total_rows, self.chunk_rows)):
            rows = min(self.chunk_rows, total_rows - start)
            joined.select_hyperslab((start, 0), (rows, self.dim))
            part = h5py.h5s.create_simple((rows, self.dim))
            name = self.path(i).relative_to(self.folder).as_posix()
            settings.set_virtual(joined, name.encode(), b"values", part)
        joined.select_all()

        def write_file(path: Path) -> None:
            with h5py.File(path, "w") as file:
                dtype = h5py.h5t.py_create(self.dtype)
                h5py.h5d.create(file.id, b"values", dtype, h5py.h5s.create_simple((total_rows, self.dim)), settings)

        replace_atomically(self.folder / "values.h5", write_file)

    def map(self, i: int, n_rows: int) -> np.ndarray:
        path = self.path(i)
        _check_size(path, n_rows * self.dim * self.dtype.itemsize, exactly=False)
        try:
            with h5py.File(path, "r") as file:
                dataset = file["values"]
                offset, shape, dtype = dataset.id.get_offset(), dataset.shape, dataset.dtype
        except (OSError, KeyError) as error:
            raise StoreError(f"{path}: not readable as HDF5 ({error}); extract again to restore it") from error
        if offset is None or shape[0] < n_rows or shape[1:] != (self.dim,) or dtype != self.dtype:
            raise StoreError(f"{path}: holds {dtype} {shape}, not {n_rows} rows of {self.dtype} x {self.dim}")
        return np.memmap(path, dtype=self.dtype, mode="r", offset=offset, shape=(n_rows, self.dim))


def _check_size(path: Path, expected: int, exactly: bool) -> None:
    if not path.is_file():
        raise StoreError(f"{path}: a chunk file is missing; run the extraction again to restore it")
    size = path.stat().st_size
    if size < expected or (exactly and size != expected):
        raise StoreError(f"{path}: {size} bytes, expected {expected}; run the extraction again to restore it")


def open_chunks(backend: str, folder: Path, dim: int, dtype: str, chunk_rows: int) -> Chunks:
    kinds: dict[str, type[ZarrChunks] | type[Hdf5Chunks]] = {"zarr": ZarrChunks, "hdf5": Hdf5Chunks}
    if backend not in kinds:
        raise StoreError(f"{folder}: unknown backend {backend!r}; one of {', '.join(kinds)}")
    return kinds[backend](folder, dim, np.dtype(dtype), chunk_rows)
