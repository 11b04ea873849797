"""Reading a store: memory-mapped, by clip."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from cache.chunks import open_chunks
from cache.layout import Header, StoreError, read_index

_OPEN_CHUNKS = 256  # each open map holds a file descriptor, and a process often may have 1024


class Store:
    """The features of one encoder over one manifest.

    Clips that are not in it are *missing*: absent media, or media that could not be read (``errors.parquet``).

    Raises:
        StoreError: on opening, where the folder is no store, is damaged, or lacks chunk files that its index names.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._header = Header.read(self.path)
        self._entries, self._total_rows = read_index(self.path)
        self._chunks = open_chunks(
            self._header.backend, self.path, self.dim, self._header.dtype, self._header.chunk_rows
        )
        self._maps: OrderedDict[int, np.ndarray] = OrderedDict()
        for i in self._chunks_in_use():
            if not self._chunks.path(i).is_file():
                raise StoreError(f"{self._chunks.path(i)}: a chunk file is missing; run the extraction again")

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
        return list(self._entries)

    @property
    def lengths(self) -> dict[str, int]:
        """Time steps of each clip."""
        return {clip_id: entry.length for clip_id, entry in self._entries.items()}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._entries

    def __getitem__(self, clip_id: str) -> np.ndarray:
        """A clip's values, (time, dim), read-only. A view of the mapped file unless the rows cross a chunk's end."""
        try:
            entry = self._entries[clip_id]
        except KeyError:
            raise KeyError(f"{self.path}: no clip {clip_id!r}; it is missing, see errors.parquet") from None
        rows, parts = self._header.chunk_rows, []
        start, stop = entry.start, entry.start + entry.length
        while start < stop:
            i, offset = divmod(start, rows)
            n = min(stop - start, rows - offset)
            parts.append(self._chunk(i)[offset : offset + n])
            start += n
        if len(parts) == 1:
            return parts[0]
        joined = np.concatenate(parts)
        joined.flags.writeable = False
        return joined

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return Store, (self.path,)  # a worker process opens its own maps

    def _chunks_in_use(self) -> list[int]:
        rows = self._header.chunk_rows
        used: set[int] = set()
        for entry in self._entries.values():
            used.update(range(entry.start // rows, (entry.start + entry.length - 1) // rows + 1))
        return sorted(used)

    def _chunk(self, i: int) -> np.ndarray:
        if i in self._maps:
            self._maps.move_to_end(i)
            return self._maps[i]
        n_rows = min(self._header.chunk_rows, self._total_rows - i * self._header.chunk_rows)
        mapped = self._maps[i] = self._chunks.map(i, n_rows)
        if len(self._maps) > _OPEN_CHUNKS:
            self._maps.popitem(last=False)
        return mapped
