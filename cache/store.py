"""Reading a store: memory-mapped, by clip."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cache.disk.writing import StoreError
from cache.files.chunks import open_chunks
from cache.files.layout import Header, live_chunks, new_values_hash, read_index_table

_OPEN_CHUNKS = 256  # maps that a store keeps for the next clip


class Store:
    """The features of one encoder over one manifest.

    Clips that are not in it are *missing*: absent media, or media that could not be read (``errors.parquet``).

    Args:
        verify_reads: whether ``store[clip_id]`` compares the values with the hash that was taken when they were
            written: XXH3, at the speed of memory.

    Raises:
        StoreError: on opening, where the folder is no store, is damaged, or lacks chunk files that its index names; on
            reading a clip whose values are not those that were written.
    """

    def __init__(self, path: str | Path, verify_reads: bool = True) -> None:
        self.path = Path(path)
        self.verify_reads = verify_reads
        self._header = Header.read(self.path)
        index, self._total_rows = read_index_table(self.path)
        self._places = {clip_id: place for place, clip_id in enumerate(index.column("clip_id").to_pylist())}
        starts, lengths = (index.column(name).to_numpy() for name in ("start", "length"))
        self._chunks = open_chunks(
            self._header.backend, self.path, self.dim, self._header.dtype, self._header.chunk_rows
        )
        for i in live_chunks(starts, lengths, self._header.chunk_rows):
            if not self._chunks.path(int(i)).is_file():
                self._chunks.check_size(int(i), 1)  # says what is there instead
        # 16 bytes a clip, and unlike numpy's own indexing a memoryview gives plain integers
        self._starts, self._lengths = memoryview(starts), memoryview(lengths)
        self._hashes = index.column("values_hash")
        self._maps: OrderedDict[int, np.ndarray] = OrderedDict()

    @property
    def dim(self) -> int:
        return self._header.dim

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self._header.dtype)

    @property
    def backend(self) -> str:
        return self._header.backend

    @property
    def fingerprint(self) -> str:
        return self._header.fingerprint

    @property
    def fields(self) -> dict[str, Any]:
        """What the fingerprint was made of."""
        return self._header.fields

    @property
    def clip_ids(self) -> list[str]:
        return list(self._places)

    @property
    def lengths(self) -> dict[str, int]:
        """Time steps of each clip."""
        return dict(zip(self._places, self._lengths, strict=True))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._places

    def __getitem__(self, clip_id: str) -> np.ndarray:
        """A clip's values, (time, dim), read-only. A view of the mapped file unless the rows cross a chunk's end.

        Raises:
            KeyError: the store has no such clip.
            StoreError: its values are not those that were written.
        """
        parts = list(self.parts(clip_id))
        if self.verify_reads:
            self._verify(clip_id, parts)
        if len(parts) == 1:
            return parts[0]
        joined = np.concatenate(parts)
        joined.flags.writeable = False
        return joined

    def digest(self, clip_ids: Iterable[str]) -> str:
        """SHA-256 over what the store holds of some clips, whatever else is in it and wherever it stands."""
        index, _ = read_index_table(self.path)
        held = dict(zip(*(index.column(name).to_pylist() for name in ("clip_id", "values_hash")), strict=True))
        lines = (f"{clip_id}\0{held[clip_id]}\n" for clip_id in sorted(held.keys() & set(clip_ids)))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def parts(self, clip_id: str) -> Iterator[np.ndarray]:
        """A clip's values in order, as views of the mapped files: (time, dim) each, never larger than a chunk."""
        try:
            place = self._places[clip_id]
        except KeyError:
            raise KeyError(f"{self.path}: no clip {clip_id!r}; it is missing, see errors.parquet") from None
        start, rows = self._starts[place], self._header.chunk_rows
        stop = start + self._lengths[place]
        while start < stop:
            i, offset = divmod(start, rows)
            n = min(stop - start, rows - offset)
            yield self._chunk(i)[offset : offset + n]
            start += n

    def __reduce__(self) -> tuple[type["Store"], tuple[Path, bool]]:
        return Store, (self.path, self.verify_reads)  # a worker process opens its own maps

    def _verify(self, clip_id: str, parts: list[np.ndarray]) -> None:
        values_hash = new_values_hash()
        for part in parts:
            values_hash.update(part)
        if values_hash.hexdigest() != self._hashes[self._places[clip_id]].as_py():
            raise StoreError(
                f"{self.path}: the values of clip {clip_id!r} are not those that were written: drop them with "
                f"python cache/verify.py {self.path} --repair, and extract again"
            )

    def _chunk(self, i: int) -> np.ndarray:
        if i in self._maps:
            self._maps.move_to_end(i)
            return self._maps[i]
        n_rows = min(self._header.chunk_rows, self._total_rows - i * self._header.chunk_rows)
        mapped = self._maps[i] = self._chunks.map(i, n_rows)
        if len(self._maps) > _OPEN_CHUNKS:
            self._maps.popitem(last=False)
        return mapped
