"""The two ways in which a flat ``values[total_rows, dim]`` lies on disk: the same interface, the same bytes.

Rows are cut into chunks of ``chunk_rows``; a chunk is a file of its own, uncompressed (features shrink by 7-10 % only,
and raw bytes can be memory-mapped). In both backends a chunk file is a head of fixed size, the rows, and the CRC-32C of
all bytes before it, 4 bytes, little-endian.

Zarr: ``values.zarr/c/<i>/0``: no head; always ``chunk_rows`` rows, NaN after the last: the ``bytes`` and ``crc32c``
codecs of Zarr v3. HDF5: ``values/<i>.h5``: 2048 bytes that describe one contiguous dataset ``values``, then its rows;
the virtual dataset in ``values.h5`` joins them. HDF5 readers take no notice of what follows the end of a file.
"""

import functools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import google_crc32c
import h5py
import numpy as np
import pyarrow as pa

from cache.disk.writing import StoreError, readable, sync, write_atomically

_CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class Chunks(ABC):
    """The chunk files of one store. Chunk ``i`` holds the rows ``i * chunk_rows`` and on."""

    folder: Path
    dim: int
    dtype: np.dtype
    chunk_rows: int
    head_bytes: ClassVar[int]

    @abstractmethod
    def path(self, i: int) -> Path: ...

    @abstractmethod
    def present(self) -> list[int]:
        """Numbers of the chunk files that are there."""

    @abstractmethod
    def remove(self, i: int) -> None: ...

    @abstractmethod
    def _content(self, rows: np.ndarray) -> list[Any]:
        """A chunk file without its checksum, as read-only bytes-like parts."""

    @abstractmethod
    def shape_file(self, total_rows: int) -> tuple[str, bytes]:
        """Name and content of the file that tells foreign readers how many rows there are."""

    @property
    def row_bytes(self) -> int:
        return self.dim * self.dtype.itemsize

    def write(self, i: int, rows: np.ndarray, durable: bool = True) -> None:
        """Publish ``rows`` (1..chunk_rows, dim) as chunk ``i``, replacing a shorter version of it."""
        path = self.path(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, *self._file_parts(rows), durable=durable)

    def sync(self, numbers: Iterable[int]) -> None:
        """Wait until these chunks, and the folders that lead to them, are on the disk."""
        paths = [self.path(i) for i in numbers]
        for path in paths:
            sync(path)
        for folder in {parent for path in paths for parent in path.parents if parent.is_relative_to(self.folder)}:
            sync(folder)

    def is_exactly(self, i: int, rows: np.ndarray) -> bool:
        """Whether chunk ``i`` is what :meth:`write` would make of these rows."""
        return self.path(i).read_bytes() == b"".join(self._file_parts(rows))

    def map(self, i: int, n_rows: int) -> np.ndarray:
        """Memory-map the first ``n_rows`` of chunk ``i``: (n_rows, dim), read-only.

        Raises StoreError where the file is missing or too short.
        """
        self.check_size(i, n_rows)
        path = self.path(i)
        with readable(path, "restore it with: python extract/run.py"), pa.memory_map(os.fsencode(path)) as file:
            content = file.read_buffer()  # outlives the file's descriptor, of which there are few: np.memmap holds it
        n_values = n_rows * self.dim
        return np.frombuffer(content, self.dtype, n_values, self.head_bytes).reshape(n_rows, self.dim)

    def check_size(self, i: int, n_rows: int) -> None:
        """Raises StoreError where chunk ``i`` is missing or cannot hold ``n_rows``."""
        path = self.path(i)
        if not path.is_file():
            if os.path.lexists(path):
                raise StoreError(f"{path}: stands where a chunk file is to be: move it away")
            raise StoreError(f"{path}: a chunk file is missing; restore it with: python extract/run.py")
        size = path.stat().st_size
        if size < self._size(n_rows):
            expected = self._size(n_rows)
            raise StoreError(f"{path}: {size} bytes, expected {expected}; restore it with: python extract/run.py")

    def crc_is_right(self, i: int) -> bool:
        """Whether the bytes of chunk ``i``, which is there, are those that were written."""
        if self.path(i).stat().st_size <= _CHECKSUM_BYTES:
            return False
        content = np.memmap(self.path(i), dtype=np.uint8, mode="r")
        stored = int.from_bytes(content[-_CHECKSUM_BYTES:].tobytes(), "little")
        return google_crc32c.value(content[:-_CHECKSUM_BYTES]) == stored

    def _size(self, n_rows: int) -> int:
        return self.head_bytes + n_rows * self.row_bytes + _CHECKSUM_BYTES

    def _file_parts(self, rows: np.ndarray) -> list[Any]:
        parts, checksum = self._content(rows), 0
        for part in parts:
            checksum = google_crc32c.extend(checksum, part)
        return [*parts, checksum.to_bytes(_CHECKSUM_BYTES, "little")]


class ZarrChunks(Chunks):
    head_bytes = 0

    def path(self, i: int) -> Path:
        return self.folder / "values.zarr" / "c" / str(i) / "0"

    def present(self) -> list[int]:
        return sorted(int(path.parent.name) for path in self.folder.glob("values.zarr/c/*/0"))

    def remove(self, i: int) -> None:
        self.path(i).unlink(missing_ok=True)
        with suppress(OSError):
            self.path(i).parent.rmdir()

    def check_size(self, i: int, n_rows: int) -> None:
        super().check_size(i, self.chunk_rows)  # a Zarr chunk has its full size, the last one too

    def _content(self, rows: np.ndarray) -> list[Any]:
        padding = np.full((self.chunk_rows - len(rows), self.dim), np.nan, dtype=self.dtype)
        return [_read_only(part) for part in (rows, padding) if len(part)]

    def shape_file(self, total_rows: int) -> tuple[str, bytes]:
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
        return "values.zarr/zarr.json", json.dumps(array, indent=2).encode()


class Hdf5Chunks(Chunks):
    head_bytes = 2048

    def path(self, i: int) -> Path:
        return self.folder / "values" / f"{i:06d}.h5"

    def present(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("values/*.h5"))

    def remove(self, i: int) -> None:
        self.path(i).unlink(missing_ok=True)

    def _content(self, rows: np.ndarray) -> list[Any]:
        return [_hdf5_head(len(rows), self.dim, self.dtype, self.head_bytes), _read_only(rows)]

    def shape_file(self, total_rows: int) -> tuple[str, bytes]:
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
        with h5py.File("in memory", "w", driver="core", backing_store=False) as file:
            dtype = h5py.h5t.py_create(self.dtype)
            h5py.h5d.create(file.id, b"values", dtype, h5py.h5s.create_simple((total_rows, self.dim)), settings)
            file.flush()
            return "values.h5", file.id.get_file_image()


@functools.lru_cache(maxsize=2)  # chunks are alike but for the last one
def _hdf5_head(n_rows: int, dim: int, dtype: np.dtype, expected_bytes: int) -> bytes:
    """What comes before the values in an HDF5 file that holds nothing else."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_obj_track_times(False)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File("in memory", "w", driver="core", backing_store=False) as file:
        space = h5py.h5s.create_simple((n_rows, dim))
        dataset = h5py.h5d.create(file.id, b"values", h5py.h5t.py_create(dtype), space, settings)
        file.flush()
        image, offset = file.id.get_file_image(), dataset.get_offset()
    if offset != expected_bytes or len(image) != offset + n_rows * dim * dtype.itemsize:
        raise StoreError(f"HDF5 {h5py.version.hdf5_version} puts values at byte {offset}, not {expected_bytes}")
    return image[:offset]


def open_chunks(backend: str, folder: Path, dim: int, dtype: str, chunk_rows: int) -> Chunks:
    kinds: dict[str, type[Chunks]] = {"zarr": ZarrChunks, "hdf5": Hdf5Chunks}
    if backend not in kinds:
        raise StoreError(f"{folder}: unknown backend {backend!r}; one of {', '.join(kinds)}")
    return kinds[backend](folder, dim, np.dtype(dtype), chunk_rows)


def _read_only(rows: np.ndarray) -> np.ndarray:
    """A view that the checksum library takes without a copy."""
    view = np.ascontiguousarray(rows).view()
    view.flags.writeable = False
    return view
