"""Writing a store: whole chunks published by rename, the index committed last, one writer at a time."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from cache.checksums import publish, settle_checksums
from cache.chunks import open_chunks
from cache.disk.locks import take_lock
from cache.disk.writing import StoreError, sync, writable
from cache.layout import (
    INDEX,
    Entry,
    Header,
    all_finite,
    differing_fields,
    index_bytes,
    new_values_hash,
    read_index,
    settings_header,
)


class WriterMark(NamedTuple):
    """A moment between two commits, to which a writer can go back."""

    commits: int
    n_changes: int
    next_row: int


class StoreWriter:
    """Creates a store, or goes on with the one that is there.

    Args:
        path: the store's folder; its parent is created.
        fields: everything the values are computed from, JSON-serialisable (see :func:`cache.fingerprint`).
        dim: features per time step.
        dtype: ``float16`` or ``float32``.
        backend: ``zarr`` or ``hdf5``.
        chunk_mb: megabytes (2**20 bytes) of one chunk file.

    Raises:
        StoreError: a store of other settings is there, another process writes it, it is damaged, or the system refuses
            to write (full disk, quota, permissions): from here, from :meth:`append` and from :meth:`commit`.
    """

    _tail: np.ndarray  # (chunk_rows, dim), the chunk being filled
    _tail_chunk: int  # its number
    _n_tail: int  # its rows so far

    def __init__(
        self,
        path: str | Path,
        fields: dict[str, Any],
        dim: int,
        dtype: str = "float16",
        backend: str = "zarr",
        chunk_mb: float = 16,
    ) -> None:
        self.path = Path(path)
        chunk_rows = max(1, int(chunk_mb * 2**20) // (dim * np.dtype(dtype).itemsize))
        self._header = settings_header(fields, dim, dtype, backend, chunk_rows)
        self._commits = 0
        self._changes: list[tuple[str, Entry | None]] = []  # since the last commit: clip id, its former entry
        with writable(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.path)
            try:
                self._open()
            except BaseException:
                os.close(self._lock)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commits on a clean exit only; the lock goes in any case."""
        try:
            if kind is None:
                self.commit()
        finally:
            os.close(self._lock)

    @property
    def fingerprint(self) -> str:
        return self._header.fingerprint

    @property
    def content_hashes(self) -> dict[str, str]:
        """Content hash of every clip that the store holds under this fingerprint."""
        return {clip_id: entry.content_hash for clip_id, entry in self._entries.items()}

    @property
    def dead_rows(self) -> int:
        """Rows of clips that were replaced or dropped."""
        return self._next_row - sum(entry.length for entry in self._entries.values())

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._entries

    def append(self, clip_id: str, values: np.ndarray | Iterable[np.ndarray], content_hash: str) -> None:
        """Add or replace a clip, whole or not at all. It counts from the next :meth:`commit`.

        Args:
            values: (time, dim), at least one time step, finite; or an iterable of such parts in their order, of which
                one at a time is held in memory.

        Raises:
            ValueError: wrong shape, NaN or infinity, or too large for the store's dtype.
            StoreError: the system refuses to write.

        Whatever is raised, by the iterable too: the writer is as before the call.
        """
        before = self.mark()
        try:
            values_hash = new_values_hash()
            for part in [values] if isinstance(values, np.ndarray) else values:
                self._add_rows(part, values_hash)
            length = self._next_row - before.next_row
            if length == 0:
                raise ValueError(f"features of shape (0, {self._header.dim}), expected (time >= 1, {self._header.dim})")
            self._changes.append((clip_id, self._entries.get(clip_id)))
            self._entries[clip_id] = Entry(before.next_row, length, content_hash, values_hash.hexdigest())
            self._changed = True
        except BaseException:
            self.rollback(before)
            raise

    def drop(self, clip_id: str) -> None:
        """Forget a clip: it is missing from the next :meth:`commit` on."""
        self._changes.append((clip_id, self._entries.pop(clip_id)))
        self._changed = True

    def mark(self) -> WriterMark:
        """The present moment, for :meth:`rollback`. Costs nothing; good until the next :meth:`commit`."""
        return WriterMark(self._commits, len(self._changes), self._next_row)

    def rollback(self, mark: WriterMark) -> None:
        """Undo everything that was appended or dropped since ``mark``.

        Raises:
            ValueError: there was a commit since, which cannot be undone.
        """
        if mark.commits != self._commits:
            raise ValueError("a commit came after the mark; what is committed cannot be undone")
        if self.mark() == mark:
            return
        for clip_id, former in reversed(self._changes[mark.n_changes :]):
            if former is None:
                del self._entries[clip_id]
            else:
                self._entries[clip_id] = former
        del self._changes[mark.n_changes :]
        self._rewind(mark.next_row)
        self._changed = True  # chunk files on disk may hold rows that were undone: the next commit replaces them

    def commit(self, beside: Mapping[str, bytes] | None = None) -> None:
        """Publish everything appended so far; a crash after it costs nothing that came before it.

        Args:
            beside: files of one's own, by name, that say something of these clips: they are in place before the index
                is. Where nothing was appended or dropped, they are left as they were.
        Raises:
            StoreError: the system refuses to write. What was committed before is whole, and calling it again goes on.
        """
        if not self._changed:
            return
        with writable(self.path):
            if self._n_tail:
                self._publish_tail()
            self._chunks.sync(self._unsynced)
            shape_name, shape = self._chunks.shape_file(self._next_row)
            index = index_bytes(self._entries, self._next_row, self.fingerprint)
            # Even if it fails from here on, the new index may be in place: these rows can no longer be undone.
            self._commits += 1
            self._changes.clear()
            self._committed_rows = self._next_row
            publish(self.path, {**(beside or {}), shape_name: shape, INDEX: index})
        self._changed = False
        self._unsynced.clear()

    def _add_rows(self, part: np.ndarray, values_hash: Any) -> None:
        if part.ndim != 2 or part.shape[1] != self._header.dim:
            raise ValueError(f"features of shape {part.shape}, expected (time >= 1, {self._header.dim})")
        while len(part):
            stored = self._tail[self._n_tail : self._n_tail + len(part)]
            taken = part[: len(stored)]
            with np.errstate(over="ignore"):
                stored[...] = taken
            if not all_finite(stored):
                if not np.isfinite(taken).all():
                    raise ValueError("features hold NaN or infinity")
                raise ValueError(f"features exceed {self._header.dtype} (largest {np.abs(taken).max():.3g})")
            values_hash.update(stored)
            self._n_tail += len(stored)
            self._next_row += len(stored)
            part = part[len(stored) :]
            if self._n_tail == len(self._tail):
                with writable(self.path):
                    self._publish_tail()
                self._n_tail, self._tail_chunk = 0, self._tail_chunk + 1

    def _publish_tail(self) -> None:
        # A chunk that replaces committed rows must be on the disk before it does; the others have time until a commit.
        replaces = self._tail_chunk * self._header.chunk_rows < self._committed_rows
        self._chunks.write(self._tail_chunk, self._tail[: self._n_tail], durable=replaces)
        self._unsynced.add(self._tail_chunk)

    def _rewind(self, next_row: int) -> None:
        """Make ``next_row``, which lies before the present one, the next to be written."""
        chunk, n_tail = divmod(next_row, self._header.chunk_rows)
        if chunk < self._tail_chunk and n_tail:  # the chunk was published when it was full: take its first rows back
            self._tail[:n_tail] = self._chunks.map(chunk, n_tail)
        for i in range(chunk + (n_tail > 0), self._tail_chunk + 1):
            with suppress(OSError):  # a chunk that the index does not name harms nobody
                self._chunks.remove(i)
            self._unsynced.discard(i)
        self._next_row, self._tail_chunk, self._n_tail = next_row, chunk, n_tail

    def _open(self) -> None:
        self.path.mkdir(exist_ok=True)
        sync(self.path.parent)
        settle_checksums(self.path)
        if (self.path / "store.json").is_file():
            present = Header.read(self.path)
            if not present.same_kind(self._header):
                differing = differing_fields(present.fields, self._header.fields) or ["backend"]
                raise StoreError(f"{self.path}: holds a store of other settings ({', '.join(differing)})")
            self._header = present  # chunk_rows is the store's own, whatever the setting says now
        else:
            self._header.write(self.path)
        rows = self._header.chunk_rows
        self._chunks = open_chunks(self._header.backend, self.path, self._header.dim, self._header.dtype, rows)
        self._entries, self._next_row = read_index(self.path)
        self._changed = not (self.path / INDEX).is_file()  # an empty store is a store, too
        self._forget_clips_of_lost_chunks()
        self._committed_rows = self._next_row
        self._unsynced: set[int] = set()  # chunks that a power cut could still take
        self._tail_chunk, self._n_tail = divmod(self._next_row, rows)
        self._tail = np.empty((rows, self._header.dim), dtype=self._header.dtype)
        if self._n_tail:  # the last chunk grows by being replaced: its committed rows go along
            if not self._chunks.crc_is_right(self._tail_chunk):
                raise StoreError(
                    f"{self._chunks.path(self._tail_chunk)}: damaged; python cache/verify.py {self.path} --repair"
                )
            committed = self._chunks.map(self._tail_chunk, self._n_tail)
            self._tail[: self._n_tail] = committed
            self._changed |= not self._chunks.is_exactly(self._tail_chunk, committed)
        self._clear_up()

    def _clear_up(self) -> None:
        """Remove what an interrupted writer left behind: rows that no index names, and half-written files."""
        n_chunks = -(-self._next_row // self._header.chunk_rows)
        for i in self._chunks.present():
            if i >= n_chunks:
                self._chunks.remove(i)
        for leftover in self.path.rglob(".*.partial"):
            leftover.unlink()

    def _forget_clips_of_lost_chunks(self) -> None:
        """Clips whose chunk file is gone or cut are no longer in the store: the pass redoes them."""
        rows = self._header.chunk_rows
        lost: set[int] = set()
        for i in range(-(-self._next_row // rows)):
            try:
                self._chunks.check_size(i, min(rows, self._next_row - i * rows))
            except StoreError:
                lost.add(i)
        if not lost:
            return
        for clip_id, entry in list(self._entries.items()):
            first, last = entry.start // rows, (entry.start + entry.length - 1) // rows
            if lost.intersection(range(first, last + 1)):
                self.drop(clip_id)
        for i in lost:
            self._chunks.remove(i)
        if self._next_row // rows in lost:
            # The lost rows of the tail belong to nobody now: what follows them is written from the chunk's start.
            self._next_row -= self._next_row % rows
