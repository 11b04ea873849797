"""Is a store what was written? Every byte of every file is looked at, and what is damaged can be cut out.

Small files are held against ``checksums.json``, chunk files against the CRC-32C at their end, each clip's values
against its hash in the index. One chunk at a time is mapped, and nothing grows with the values.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cache.checksums import CHECKSUMS, ESSENTIAL, REMOTE_NOTES, file_digest, read_checksums
from cache.chunks import Chunks, open_chunks
from cache.disk.writing import StoreError
from cache.layout import (
    INDEX,
    Header,
    all_finite,
    fingerprint,
    live_chunks,
    new_values_hash,
    read_index_table,
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or only looks odd: a file of the store or one of its clips."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class Report:
    """What :func:`inspect` found.

    Attributes:
        damaged_files: findings by file, relative to the store's folder.
        damaged_clips: findings by clip.
        suspicious: whole as far as can be told, but perhaps not what was meant.
        strangers: files that do not belong to the store, or not yet: remains of an interrupted pass.
        listed: names of the small files that the store knows.
        n_same: clips that share their features with another clip of the same content.
    """

    damaged_files: dict[str, Finding] = field(default_factory=dict)
    damaged_clips: dict[str, Finding] = field(default_factory=dict)
    suspicious: list[Finding] = field(default_factory=list)
    strangers: list[Finding] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    n_clips: int = 0
    n_bytes: int = 0
    n_same: int = 0

    @property
    def whole(self) -> bool:
        return not (self.damaged_files or self.damaged_clips)

    def file(self, name: str, what: str) -> None:
        self.damaged_files.setdefault(name, Finding(name, what))

    def clip(self, clip_id: str, what: str) -> None:
        self.damaged_clips.setdefault(clip_id, Finding(f"clip {clip_id!r}", what))

    def suspect(self, clip_id: str, what: str) -> None:
        self.suspicious.append(Finding(f"clip {clip_id!r}", what))


def inspect(path: str | Path, progress: Callable[[int], object] = lambda n_bytes: None) -> Report:
    """Look at every byte of a store.

    Args:
        path: the store's folder.
        progress: called with the number of bytes that were looked at since the last call.

    Raises:
        StoreError: the folder is no store at all, or of another format version.
    """
    folder, report = Path(path), Report()
    if not (folder / "store.json").exists() and not (folder / CHECKSUMS).exists():
        raise StoreError(f"{folder}: not a feature store (it has no store.json)")
    _check_small_files(folder, report)
    if report.damaged_files.keys() & set(ESSENTIAL):
        return report  # what they say cannot be used
    try:
        header = Header.read(folder, checked=False)
        index, total_rows = read_index_table(folder, checked=False)
    except StoreError as error:
        if CHECKSUMS not in report.damaged_files:  # the checksums are right: it was written like this
            raise
        report.file(str(error).split(":")[0].rsplit("/", 1)[-1], "damaged: it cannot be read")
        return report
    report.n_clips = len(index)
    if header.fingerprint != fingerprint(header.fields):
        report.file("store.json", "its fingerprint is not that of its fields")
    if _check_ranges(index, total_rows, header, report):
        chunks = open_chunks(header.backend, folder, header.dim, header.dtype, header.chunk_rows)
        _check_values(chunks, index, total_rows, report, progress)
        _find_strangers(folder, chunks, total_rows, report)
    _find_duplicates(index, report)
    return report


def _check_small_files(folder: Path, report: Report) -> None:
    try:
        accepted = read_checksums(folder)
    except StoreError:
        report.file(CHECKSUMS, "damaged: it is not what was written")
        return
    for name in ESSENTIAL[: 2 if (folder / INDEX).exists() else 1]:
        if name not in accepted:
            report.file(CHECKSUMS, f"does not name {name}")
    report.listed = list(accepted)
    for name, digests in accepted.items():
        present = file_digest(folder / name)
        if present not in digests:
            report.file(name, "damaged: its SHA-256 is not that of checksums.json" if present else "missing")


def _check_ranges(index: pa.Table, total_rows: int, header: Header, report: Report) -> bool:
    """Whether starts and lengths can be used at all."""
    starts, lengths = (index.column(name).to_numpy() for name in ("start", "length"))
    stops = starts + lengths
    if (lengths < 1).any() or (starts < 0).any() or (stops > total_rows).any():
        report.file(INDEX, f"names rows outside of 0..{total_rows}")
    elif (starts[1:] < stops[:-1]).any():
        place = int(np.argmax(starts[1:] < stops[:-1]))
        clip_ids = index.column("clip_id").slice(place, 2).to_pylist()
        report.file(INDEX, f"clips {clip_ids[0]!r} and {clip_ids[1]!r} share rows, or are not in order")
    elif pc.count_distinct(index.column("clip_id")).as_py() != len(index):
        report.file(INDEX, "names a clip twice")
    elif len(index) and pc.unique(index.column("fingerprint")).to_pylist() != [header.fingerprint]:
        report.file(INDEX, "its fingerprint is not that of store.json")
    return INDEX not in report.damaged_files


def _check_values(
    chunks: Chunks, index: pa.Table, total_rows: int, report: Report, progress: Callable[[int], object]
) -> None:
    """One walk over the chunk files: each is checked, and then, while it is at hand, the clips that lie in it."""
    clip_ids, hashes = (index.column(name).to_pylist() for name in ("clip_id", "values_hash"))
    starts, lengths = (index.column(name).to_numpy() for name in ("start", "length"))
    needed = live_chunks(starts, lengths, chunks.chunk_rows).tolist()
    spans = zip(clip_ids, starts.tolist(), (starts + lengths).tolist(), hashes, strict=True)
    span, clip = next(spans, None), _ClipCheck()
    for i in sorted({*needed, *chunks.present()}):
        first = i * chunks.chunk_rows
        n_rows = min(chunks.chunk_rows, max(0, total_rows - first))
        rows = _check_chunk(chunks, i, n_rows, report, progress)
        while span is not None and span[1] < first + n_rows:
            clip_id, start, stop, values_hash = span
            clip.take(None if rows is None else rows[max(0, start - first) : stop - first])
            if stop > first + n_rows:
                break  # it goes on in the next chunk
            clip.report(clip_id, values_hash, stop - start, report)
            span, clip = next(spans, None), _ClipCheck()


def _check_chunk(
    chunks: Chunks, i: int, n_rows: int, report: Report, progress: Callable[[int], object]
) -> np.ndarray | None:
    """Its rows that the index may name, None where they are not all there."""
    path = chunks.path(i)
    name = path.relative_to(chunks.folder).as_posix()
    try:
        size = path.stat().st_size
        chunks.check_size(i, n_rows)
    except (OSError, StoreError):
        report.file(name, "cut short" if path.is_file() else "missing")
        return None
    if not chunks.crc_is_right(i):
        report.file(name, "damaged: its CRC-32C is not that of its bytes")
    report.n_bytes += size
    progress(size)
    return chunks.map(i, n_rows) if n_rows else None


class _ClipCheck:
    """What is seen of one clip, part by part."""

    def __init__(self) -> None:
        self._hash = new_values_hash()
        self._first: np.ndarray | None = None  # (dim,)
        self._still = self._finite = self._there = True

    def take(self, part: np.ndarray | None) -> None:
        if part is None:
            self._there = False
            return
        if self._first is None:
            self._first = part[0]
        self._hash.update(part)
        self._finite = self._finite and all_finite(part)
        self._still = self._still and bool((part[-1] == self._first).all() and (part == self._first).all())

    def report(self, clip_id: str, values_hash: str, length: int, report: Report) -> None:
        if not self._there or self._first is None:
            report.clip(clip_id, "its values are lost")
        elif self._hash.hexdigest() != values_hash:
            report.clip(clip_id, "its values are not those that were written")
        elif not self._finite:
            report.clip(clip_id, "its values hold NaN or infinity")
        elif self._still and not self._first.any():
            report.suspect(clip_id, "its values are all zero")
        elif self._still and length > 1:
            report.suspect(clip_id, "its values are the same at every time step")


def _find_duplicates(index: pa.Table, report: Report) -> None:
    """Equal features of equal content are no surprise; of different content they are."""
    groups = index.group_by("values_hash").aggregate(
        [("clip_id", "count"), ("clip_id", "min"), ("clip_id", "max"), ("content_hash", "count_distinct")]
    )
    groups = groups.filter(pc.greater(groups.column("clip_id_count"), 1)).sort_by("clip_id_min")
    for group in groups.to_pylist():
        if group["content_hash_count_distinct"] == 1:
            report.n_same += group["clip_id_count"] - 1
        else:
            others = f" and {group['clip_id_count'] - 2} more" if group["clip_id_count"] > 2 else ""
            report.suspect(
                group["clip_id_min"], f"has the same values as {group['clip_id_max']!r}{others}, from other content"
            )


def _find_strangers(folder: Path, chunks: Chunks, total_rows: int, report: Report) -> None:
    n_chunks = -(-total_rows // chunks.chunk_rows)
    known = {folder / name for name in report.listed} | {chunks.path(i) for i in range(n_chunks)}
    uncommitted = {chunks.path(i) for i in chunks.present()} - known
    for path in sorted(folder.rglob("*")):
        if path in known or path.name in (CHECKSUMS, REMOTE_NOTES) or path.is_dir():
            continue
        what = "rows that no commit names" if path in uncommitted else "does not belong to the store"
        report.strangers.append(Finding(path.relative_to(folder).as_posix(), what))
