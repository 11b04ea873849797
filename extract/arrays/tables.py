"""Tables: one with the clip's id in each row, or a folder of CSVs, one a clip, with a row a frame."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs import UserError, one_line, some
from configs.schema import Source
from configs.tables import filled
from extract.arrays.csv_files import Layout, batches, choose, kept_rows, matrix, numeric_columns, read_layout
from extract.arrays.reader import ArrayError, opened

ROWS = 4096  # of a Parquet table, held at a time
NOTHING = -1  # the width of a row without values


class Frames:
    """A folder of CSVs, one a clip, with a row a frame. The first file that has one says which columns are taken."""

    def __init__(self, path: Path, files: list[str], source: Source) -> None:
        self._root, self._source = path, source
        self._files = {file[: -len(Path(file).suffix)]: file for file in files}
        if len(self._files) < len(files):
            raise UserError(f"{path}: two files differ in nothing but their endings: keep one")
        first, layout = _first_with_rows(path, files)
        chosen, note = choose(layout.names, numeric_columns(layout), source, [], first)
        self.columns: tuple[str, ...] | None = tuple(chosen)
        self.notes = [note] if note else []
        if lacking := [name for name in source.rows if name not in layout.names]:
            raise UserError(f"{first}: source.rows: no column {lacking[0]!r}; it has {some(layout.names, 8)}")
        if "success" in layout.names and "success" not in source.rows:
            self.notes.append("rows whose success is 0 hold no face: source.rows: {success: 1} leaves them out")

    def names(self) -> list[str]:
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        assert self.columns is not None
        return 0, len(self.columns)

    def read(self, name: str) -> np.ndarray:
        assert self.columns is not None
        path, columns = self._root / self._files[name], self.columns
        try:
            layout = read_layout(path)
            there = set(layout.names)
            if lacking := [each for each in (*columns, *self._source.rows) if each not in there]:
                raise ArrayError(f"has no column {some(map(repr, lacking))}")
            parts = [np.empty((0, len(columns)))]
            n_rows = 0
            for batch in batches(path, layout, columns, list(self._source.rows)):
                n_rows += len(batch)
                kept = kept_rows(batch, self._source.rows)
                parts.append(matrix(batch, columns) if kept is None else matrix(batch, columns)[kept])
        except UserError as error:
            raise ArrayError(one_line(error).removeprefix(f"{path}: ")) from error
        values = np.concatenate(parts)
        if n_rows and not len(values):
            raise ArrayError(f"none of its {n_rows} rows is one of source.rows")
        return values


class Table:
    """A Parquet or CSV table with a clip's id in each row: one row a clip, or its time steps in their order.

    Features are columns of numbers, or one column of lists (of lists). They are copied once into a temporary file, from
    which clips are read: what is held in memory does not grow with the table.
    """

    def __init__(self, path: Path, source: Source) -> None:
        self._source = source
        self._spool = tempfile.TemporaryFile(prefix="emocache-")  # noqa: SIM115 (as long as this is read)
        self._places: dict[str, list[tuple[int, int, int]]] = {}  # offset in bytes, rows, width
        self._size = 0
        self.notes: list[str] = []
        self.columns: tuple[str, ...] | None = None
        (self._take_parquet if path.suffix.lower() == ".parquet" else self._take_csv)(path)
        several = [name for name in self._places if self.shape(name)[0] > 1]
        if several and len(several) < len(self._places) / 2:
            self.notes.append(f"most clips have one row, and {len(several)} have several: {some(several)}")
        if not self._places:
            raise UserError(f"{path}: no row has an id, or none is one of source.rows")

    def names(self) -> list[str]:
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        places = self._places[name]
        return sum(rows for _, rows, _ in places), places[0][2]

    def read(self, name: str) -> np.ndarray:
        places = self._places[name]
        widths = {width for _, _, width in places}
        if NOTHING in widths:
            raise ArrayError("a row of it has no values, or lists of several lengths")
        if len(widths) > 1:
            raise ArrayError(f"its rows have {some(sorted(widths))} numbers")
        (width,) = widths
        parts = []
        for offset, rows, _ in places:
            self._spool.seek(offset)
            parts.append(np.frombuffer(self._spool.read(rows * width * 4), np.float32).reshape(rows, width))
        return np.concatenate(parts)

    def _id_column(self, names: list[str], path: Path) -> str:
        wanted = self._source.id_column or "clip_id"
        if wanted not in names:
            say = "source.id_column names the one with the clips' ids" if self._source.id_column is None else "there is"
            raise UserError(f"{path}: no column {wanted!r}: {say}: {some(names, 8)}")
        for name in self._source.rows:
            if name not in names:
                raise UserError(f"{path}: source.rows: no column {name!r}; it has {some(names, 8)}")
        return wanted

    def _take_csv(self, path: Path) -> None:
        with opened(path, "CSV"):
            pass
        layout = read_layout(path)
        key = self._id_column(list(layout.names), path)
        chosen, note = choose(layout.names, numeric_columns(layout), self._source, [key], path)
        self._about(chosen, note)
        for batch in batches(path, layout, chosen, [key, *self._source.rows]):
            self._put(batch, key, matrix(batch, chosen))

    def _take_parquet(self, path: Path) -> None:
        try:
            with opened(path, "Parquet"):
                pass
            file = pq.ParquetFile(path)
            schema = file.schema_arrow
            key = self._id_column(schema.names, path)
            numbers = [each.name for each in schema if _is_numeric(each.type)]
            lists = [each.name for each in schema if _is_list(each.type)]
            kinds = lists if lists and self._source.columns is None else [*numbers, *lists]
            chosen, note = choose(schema.names, kinds, self._source, [key], path)
            if strange := [each for each in chosen if each not in (*numbers, *lists)]:
                raise UserError(f"{path}: column {strange[0]!r} holds {schema.field(strange[0]).type}, no numbers")
            if any(each in lists for each in chosen) and len(chosen) > 1:
                raise UserError(f"{path}: columns of lists are taken one at a time: source.columns: [{lists[0]}]")
            self._about([] if chosen[0] in lists else chosen, note)
            for batch in file.iter_batches(ROWS, columns=[*chosen, *{key, *self._source.rows}]):
                self._put(batch, key, batch.column(chosen[0]) if chosen[0] in lists else matrix(batch, chosen))
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: cannot be read as Parquet: {one_line(error, 200)}") from error

    def _about(self, columns: list[str], note: str) -> None:
        self.columns = tuple(columns) or None
        self.notes = [note] if note else []

    def _put(self, batch: pa.RecordBatch, key: str, values: Any) -> None:
        """Append rows; ``values``: (rows, columns), or a column of lists."""
        ids = [filled(each) for each in batch.column(key).to_pylist()]
        kept = kept_rows(batch, self._source.rows)
        starts = [i for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1]]
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            name = ids[start]
            if name is None:
                continue
            if len(name) > 2 and name[0] == name[-1] == "'":  # openSMILE puts them in quotes of its own
                name = name[1:-1]
            if isinstance(values, np.ndarray):
                part = values[start:stop] if kept is None else values[start:stop][kept[start:stop]]
                self._append(name, part)
            else:
                for row in range(start, stop):
                    if kept is None or kept[row]:
                        self._append(name, _listed(values, row))

    def _append(self, name: str, rows: np.ndarray | None) -> None:
        if rows is None:
            self._places.setdefault(name, []).append((self._size, 1, NOTHING))
        elif len(rows):
            with np.errstate(over="ignore"):
                content = np.ascontiguousarray(rows, dtype=np.float32).tobytes()
            self._spool.seek(self._size)
            self._spool.write(content)
            places = self._places.setdefault(name, [])
            offset, before, width = places[-1] if places else (0, 0, NOTHING)
            if width == rows.shape[1] and offset + before * width * 4 == self._size:  # they follow those before
                places[-1] = offset, before + len(rows), width
            else:
                places.append((self._size, *rows.shape))
            self._size += len(content)


def _first_with_rows(path: Path, files: list[str]) -> tuple[Path, Layout]:
    """Where a tool found nothing in the first clips, it may have left files that are empty."""
    refused: UserError | None = None
    for file in files:
        try:
            layout = read_layout(path / file)
            if layout.first:
                return path / file, layout
        except UserError as error:
            refused = refused or error
    raise refused or UserError(f"{path}: none of its {len(files)} files has a row below its header")


def _listed(column: Any, row: int) -> np.ndarray | None:
    """(time, dim) of a cell that holds a list of numbers, or a list of such lists; None where a list is not there."""
    cell = column[row]
    if not cell.is_valid:
        return None
    inner = cell.values
    if not _is_list(inner.type):
        return _numbers(inner)[None]
    lengths = {len(each) if each.is_valid else NOTHING for each in inner}
    if len(lengths) != 1 or NOTHING in lengths:
        return None
    return _numbers(inner.flatten()).reshape(len(inner), lengths.pop())


def _numbers(values: Any) -> np.ndarray:
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _is_list(kind: Any) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list) and (_is_numeric(kind.value_type) or _is_list(kind.value_type))


def _is_numeric(kind: Any) -> bool:
    types = pa.types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
