"""Writing a store: whole chunks published by rename, the index committed last, one writer at a time."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from cache.chunks import open_chunks
from cache.layout import Entry, Header, StoreError, differing_fields, fingerprint, read_index, values_hash, write_index


class StoreWriter:
    """Creates a store, or goes on with the one that is there.

    A store with another fingerprint or backend is set aside as ``<path>.<its fingerprint>.<its backend>`` (nothing
    computed is lost), and one that was set aside before and is what is wanted now is taken back. ``moved_aside`` says
    where the old one is.

    Args:
        path: the store's folder; its parent is created.
        fields: everything the values are computed from, JSON-serialisable (see :func:`cache.fingerprint`).
        dim: features per time step.
        dtype: ``float16`` or ``float32``.
        backend: ``zarr`` or ``hdf5``.
        chunk_mb: megabytes (2**20 bytes) of one chunk file.

    Raises:
        StoreError: another process writes this store, or it is damaged.
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
        self._header = _header(fields, dim, dtype, backend, chunk_rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(self.path)
        try:
            self.moved_aside = self._set_other_store_aside()
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

    def append(self, clip_id: str, values: np.ndarray, content_hash: str) -> None:
        """Add or replace a clip. It counts from the next :meth:`commit`.

        Args:
            values: (time, dim), at least one time step, finite.

        Raises:
            ValueError: wrong shape, NaN or infinity, or too large for the store's dtype.
        """
        if values.ndim != 2 or len(values) == 0 or values.shape[1] != self._header.dim:
            raise ValueError(f"features of shape {values.shape}, expected (time >= 1, {self._header.dim})")
        if not np.isfinite(values).all():
            raise ValueError("features hold NaN or infinity")
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(values, dtype=self._header.dtype)
        if not np.isfinite(stored).all():
            raise ValueError(f"features exceed {self._header.dtype} (largest {np.abs(values).max():.3g})")
        self._entries.pop(clip_id, None)  # a replaced clip moves to the end, with its rows
        self._entries[clip_id] = Entry(self._next_row, len(stored), content_hash, values_hash(stored))
        self._next_row += len(stored)
        self._changed = True
        while len(stored):
            part = stored[: len(self._tail) - self._n_tail]
            self._tail[self._n_tail : self._n_tail + len(part)] = part
            self._n_tail += len(part)
            stored = stored[len(part) :]
            if self._n_tail == len(self._tail):
                self._publish_tail()
                self._n_tail, self._tail_chunk = 0, self._tail_chunk + 1

    def drop(self, clip_id: str) -> None:
        """Forget a clip: it is missing from the next :meth:`commit` on."""
        del self._entries[clip_id]
        self._changed = True

    def commit(self) -> None:
        """Publish everything appended so far; a crash after it costs nothing that came before it."""
        if not self._changed:
            return
        if self._n_tail:
            self._publish_tail()
        self._chunks.publish_shape(self._next_row)
        write_index(self.path, self._entries, self._next_row, self.fingerprint)
        self._changed = False

    def _publish_tail(self) -> None:
        self._chunks.write(self._tail_chunk, self._tail[: self._n_tail])

    def _set_other_store_aside(self) -> Path | None:
        wanted, moved = self._header, None
        if (self.path / "store.json").is_file():
            present = Header.read(self.path)
            if _same_kind(present, wanted):
                return None
            moved = _aside(self.path, present)
            if moved.exists():
                raise StoreError(f"{moved}: is in the way of the former {self.path.name} store; remove one of them")
            self.path.rename(moved)
        former = _aside(self.path, wanted)
        if former.is_dir():
            former.rename(self.path)
        return moved

    def _open(self) -> None:
        self.path.mkdir(exist_ok=True)
        if (self.path / "store.json").is_file():
            self._header = Header.read(self.path)  # chunk_rows is the store's own, whatever the setting says now
        else:
            self._header.write(self.path)
        self._chunks = open_chunks(
            self._header.backend, self.path, self._header.dim, self._header.dtype, self._header.chunk_rows
        )
        self._entries, self._next_row = read_index(self.path)
        self._changed = not (self.path / "index.parquet").is_file()  # an empty store is a store, too
        self._forget_clips_of_lost_chunks()
        rows = self._header.chunk_rows
        self._tail_chunk = self._next_row // rows
        self._n_tail = self._next_row % rows
        self._tail = np.empty((rows, self._header.dim), dtype=self._header.dtype)
        if self._n_tail:  # the last chunk grows by being replaced: its committed rows go along
            self._tail[: self._n_tail] = self._chunks.map(self._tail_chunk, self._n_tail)

    def _forget_clips_of_lost_chunks(self) -> None:
        """Clips whose chunk file is gone or cut are no longer in the store: the pass redoes them."""
        rows = self._header.chunk_rows
        lost: set[int] = set()
        for i in range(-(-self._next_row // rows)):
            try:
                self._chunks.map(i, min(rows, self._next_row - i * rows))
            except StoreError:
                lost.add(i)
        if not lost:
            return
        for clip_id, entry in list(self._entries.items()):
            first, last = entry.start // rows, (entry.start + entry.length - 1) // rows
            if lost.intersection(range(first, last + 1)):
                self.drop(clip_id)
        if self._next_row // rows in lost:
            # The lost rows of the tail belong to nobody now: what follows them is written from the chunk's start.
            self._next_row -= self._next_row % rows


def look_ahead(
    path: Path, fields: dict[str, Any], dtype: str = "float16", backend: str = "zarr"
) -> tuple[dict[str, str], list[str]]:
    """What a :class:`StoreWriter` with these arguments would find, without changing anything.

    Returns:
        Content hashes by clip id, as in ``StoreWriter.content_hashes``, and the names of the settings in which the
        store that is there differs (it would be set aside).
    """
    wanted = _header(fields, 0, dtype, backend, 0)
    differing: list[str] = []
    for folder in (path, _aside(path, wanted)):
        if (folder / "store.json").is_file():
            present = Header.read(folder)
            if _same_kind(present, wanted):
                return {clip_id: entry.content_hash for clip_id, entry in read_index(folder)[0].items()}, differing
            differing = differing_fields(present.fields, wanted.fields) or ["backend"]
    return {}, differing


def _header(fields: dict[str, Any], dim: int, dtype: str, backend: str, chunk_rows: int) -> Header:
    fields = {**fields, "dtype": dtype}  # dtype changes values; the backend and the size of chunks do not
    return Header(backend, dtype, dim, chunk_rows, fingerprint(fields), fields)


def _same_kind(a: Header, b: Header) -> bool:
    return (a.fingerprint, a.backend) == (b.fingerprint, b.backend)


def _aside(path: Path, header: Header) -> Path:
    return path.with_name(f"{path.name}.{header.fingerprint}.{header.backend}")


def _take_lock(path: Path) -> int:
    """An advisory lock beside the store; the kernel frees it however the process ends."""
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreError(f"{path}: another extraction is writing this store (process {holder})") from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock
