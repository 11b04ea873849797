"""Cutting the damage out of a store: what can be made again is, the clips that are lost leave the index."""

from pathlib import Path

import numpy as np

from cache.checks import Report
from cache.checksums import (
    CHECKSUMS,
    ESSENTIAL,
    Digests,
    anew,
    digest,
    file_digest,
    publish,
    read_checksums,
    write_checksums,
)
from cache.chunks import Chunks, open_chunks
from cache.disk.writing import StoreError, write_atomically
from cache.layout import INDEX, Entry, Header, index_bytes, read_index

SEARCHED_BYTES = 2**14  # of a file in which one changed bit is looked for: a second or two


def repair(path: str | Path, report: Report) -> list[str]:
    """Leave a store that is whole, with fewer clips: the next extraction computes the dropped ones again.

    Args:
        path: the store's folder.
        report: what :func:`cache.checks.inspect` has just found in it.

    Returns:
        What was done, a line each.

    Raises:
        StoreError: ``store.json`` or ``index.parquet`` is damaged: nothing else says what stood in them.
    """
    folder = Path(path)
    done = []
    for name in ESSENTIAL:
        if name in report.damaged_files and CHECKSUMS not in report.damaged_files and _flip_back(folder, name):
            done.append(f"{name}: one bit of it had changed, and is put right")
        elif name in report.damaged_files:
            raise StoreError(
                f"{folder / name}: {report.damaged_files[name].what}; nothing else says what stood in it: it cannot be "
                f"repaired: {anew(folder)}"
            )
    header = Header.read(folder, checked=False)  # they are: by the report
    entries, total_rows = read_index(folder, checked=False)
    chunks = open_chunks(header.backend, folder, header.dim, header.dtype, header.chunk_rows)
    shape_name, shape = chunks.shape_file(total_rows)
    if CHECKSUMS in report.damaged_files:
        write_checksums(folder, _checksums_of_what_is_there(folder, shape_name))
        done.append(f"{CHECKSUMS}: made again from the files that are there")
    small = read_checksums(folder)
    for name in report.damaged_files.keys() & small.keys() - {shape_name, *ESSENTIAL}:
        write_checksums(folder, {other: digests for other, digests in read_checksums(folder).items() if other != name})
        (folder / name).unlink(missing_ok=True)
        done.append(f"{name}: removed; the next extraction writes it again")
    if shape_name in report.damaged_files:
        done.append(f"{shape_name}: made again")
    for clip_id in report.damaged_clips:
        del entries[clip_id]
    # The index forgets the clips first: should this be interrupted, no damaged rows are named as whole.
    publish(folder, {shape_name: shape, INDEX: index_bytes(entries, total_rows, header.fingerprint)})
    if report.damaged_clips:
        done.append(f"{INDEX}: {len(report.damaged_clips)} clips dropped, {len(entries)} kept")
    for i in sorted({*range(-(-total_rows // header.chunk_rows)), *chunks.present()}):
        name = chunks.path(i).relative_to(folder).as_posix()
        if name in report.damaged_files:
            done.append(f"{name}: {_mend_chunk(chunks, i, entries, total_rows)}")
    return done


def _flip_back(folder: Path, name: str) -> bool:
    """Find the one changed bit of a small file by trying all of them, and write the file again."""
    path, accepted = folder / name, read_checksums(folder).get(name, [])
    content = bytearray(path.read_bytes()) if path.is_file() else bytearray()
    for place in range(len(content) if len(content) <= SEARCHED_BYTES else 0):
        for bit in range(8):
            content[place] ^= 1 << bit
            if digest(bytes(content)) in accepted:
                write_atomically(path, content)
                return True
            content[place] ^= 1 << bit
    return False


def _mend_chunk(chunks: Chunks, i: int, entries: dict[str, Entry], total_rows: int) -> str:
    first = i * chunks.chunk_rows
    n_rows = min(chunks.chunk_rows, max(0, total_rows - first))
    rows = np.full((n_rows, chunks.dim), np.nan, dtype=chunks.dtype)
    alive = 0
    for entry in entries.values():
        a, b = max(entry.start - first, 0), min(entry.start + entry.length - first, n_rows)
        if a < b:
            rows[a:b] = chunks.map(i, n_rows)[a:b]
            alive += 1
    if alive:
        chunks.write(i, rows)
        return f"written again with the {alive} clips in it that are whole"
    chunks.remove(i)  # a chunk without clips needs no file: readers see NaN in its place
    return "removed: no clip in it is whole"


def _checksums_of_what_is_there(folder: Path, shape_name: str) -> Digests:
    own = [path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    names = sorted({*own, shape_name} - {CHECKSUMS})
    return {name: [file_digest(folder / name)] for name in names if (folder / name).is_file()}
