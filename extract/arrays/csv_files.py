"""CSV files of numbers, read as a stream: which columns they have, and which of them are features."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from configs import UserError, one_line, some
from configs.schema import Source
from configs.tables import MARKS, SEPARATORS, SIGNATURES, SPACE, filled
from extract.arrays.reader import LFS_POINTER

# What tools write beside their features: never taken unless it is named.
BESIDE = {"approx_time", "class", "clip_id", "confidence", "end", "face_id", "file", "filename", "frame", "frameindex"}
BESIDE |= {"frametime", "id", "index", "input", "name", "start", "step", "success", "time", "timestamp"}
LONGEST_HEADER = 2**22  # bytes


@dataclass(frozen=True)
class Layout:
    """How a CSV file is written: its column names, what stands between its cells, the cells of its first row."""

    names: tuple[str, ...]
    separator: str
    first: tuple[str, ...]


def read_layout(path: Path) -> Layout:
    """Raises UserError: no CSV in UTF-8, no header, a name twice. May raise OSError."""
    with path.open("rb") as file:
        head = [file.readline(LONGEST_HEADER) for _ in range(2)]
    if head[0].startswith(LFS_POINTER):
        raise UserError(f"{path}: a Git LFS pointer: fetch the file with 'git lfs pull'")
    for start, what in SIGNATURES.items():
        if head[0].lstrip().lower().startswith(start.lower()):
            raise UserError(f"{path}: is {what}")
    if any(head[0].startswith(mark) for mark, encoding in MARKS.items() if encoding != "utf-8") or b"\0" in head[0]:
        raise UserError(f"{path}: a CSV file of features is read in UTF-8 only")
    try:
        header, first = (line.decode("utf-8-sig").rstrip("\r\n") for line in head)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: its header is not UTF-8") from error
    if not header.strip():
        raise UserError(f"{path}: empty: it needs a row with the names of its columns")
    separator = max(SEPARATORS, key=header.count)
    rows = [next(csv.reader([line], delimiter=separator, skipinitialspace=True), []) for line in (header, first)]
    names = tuple(name.strip(SPACE) for name in rows[0])
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise UserError(f"{path}: more than one column is called {twice[0]!r}")
    return Layout(names, separator, tuple(rows[1]))


def choose(
    names: Sequence[str], numeric: Sequence[str], source: Source, taken: Sequence[str], where: Path
) -> tuple[list[str], str]:
    """The columns that are features, in the file's order (or the profile's), and a note on those left out.

    Args:
        numeric: the columns that can be.
        taken: columns with another use.
    Raises:
        UserError: a column that is named is not there, or none is left.
    """
    if source.columns is None:
        known = {*taken, *source.rows}
        chosen = [name for name in numeric if name not in known and name.lower() not in BESIDE]
        left = [name for name in names if name not in chosen and name not in known]
        if not chosen:
            raise UserError(f"{where}: no column of numbers that could be features: name them: source.columns")
        return chosen, f"left out: {some(left, 8)} (source.columns names what is wanted)" if left else ""
    chosen = []
    for wanted in source.columns:
        found = [name for name in names if name == wanted] or [name for name in names if fnmatchcase(name, wanted)]
        if not found:
            raise UserError(f"{where}: source.columns: no column {wanted!r}; it has {some(names, 8)}")
        chosen += [name for name in found if name not in chosen]
    return chosen, ""


def numeric_columns(layout: Layout) -> list[str]:
    """The columns whose first cell is a number, or nothing."""
    cells = dict(zip(layout.names, layout.first, strict=False))
    return [name for name in layout.names if name and _is_number(cells.get(name, ""))]


def batches(path: Path, layout: Layout, chosen: Sequence[str], texts: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a file: ``chosen`` columns as float64, null where there is nothing, and ``texts`` as strings.

    Raises UserError where it cannot be read, or a cell of a chosen column is no number.
    """
    types = {name: pa.float64() for name in chosen} | {name: pa.string() for name in texts}
    try:
        reader = pa_csv.open_csv(
            path,
            pa_csv.ReadOptions(column_names=list(layout.names), skip_rows=1, use_threads=False),
            pa_csv.ParseOptions(delimiter=layout.separator, newlines_in_values=True),
            pa_csv.ConvertOptions(column_types=types, include_columns=list(dict.fromkeys([*chosen, *texts]))),
        )
        yield from reader
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return
        reason = re.sub(r"^In CSV column #\d+: ", "", one_line(error, 200))
        raise UserError(f"{path}: {reason}") from error


def matrix(batch: pa.RecordBatch, chosen: Sequence[str]) -> np.ndarray:
    """(rows, columns) float64 of the chosen columns, NaN where there is nothing."""
    values = np.empty((len(batch), len(chosen)))
    for k, name in enumerate(chosen):
        values[:, k] = batch.column(name).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values


def kept_rows(batch: pa.RecordBatch, rows: dict[str, str | int | float]) -> np.ndarray | None:
    """Which rows have what is wanted in their columns; None: all."""
    if not rows:
        return None
    kept = np.ones(len(batch), dtype=bool)
    for name, wanted in rows.items():
        kept &= np.array([same(cell, wanted) for cell in batch.column(name).to_pylist()], dtype=bool)
    return kept


def same(cell: object, wanted: object) -> bool:
    """Whether a cell says what is wanted: as a text, or as a number however it is written."""
    a, b = filled(cell), filled(wanted)
    return a == b or (_is_number(a or "x") and _is_number(b or "x") and float(a or 0) == float(b or 0))


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip() or 0)
    except ValueError:
        return False
    return True
