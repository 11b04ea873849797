"""Tables from outside, CSV or Parquet: one reader of files, and one notion of what a cell says."""

import csv
import io
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from configs import UserError, one_line
from configs.outside import read_outside

# What is stripped: white space of any script, and characters without width that copying leaves behind.
SPACE = "".join(char for char in map(chr, range(0x3001)) if char.isspace()) + "\u200b\u2060\ufeff"
# Words that programs write where there is nothing. They may be real, so they are warned of and kept.
NOTHING = ("nan", "na", "n/a", "#n/a", "#na", "<na>", "nat", "null", "none", "nil", "-", "--", "?")
ENDINGS = (".csv", ".tsv", ".tab", ".txt")
TABLES = (".csv", ".tsv", ".parquet")  # endings that nothing but tables has
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
LONGEST = 1000  # characters of a cell that names something
CHUNK = 65_536  # rows held as Python's strings at a time
SIGNATURES = {  # how files begin that are called a table and are none
    b"PAR1": "a Parquet file: call it .parquet",
    b"PK\x03\x04": "a workbook or another zip archive: save the sheet as 'CSV UTF-8'",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as 'CSV UTF-8'",
    b"\x1f\x8b": "compressed with gzip: unpack it",
    b"version https://git-lfs": "a Git LFS pointer: fetch the file with 'git lfs pull'",
    b"<!": "a web page, not a table: download the file itself",
    b"<html": "a web page, not a table: download the file itself",
}
MARKS = {  # byte order marks, the longer ones first
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\0\0": "utf-32-le",
    b"\0\0\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}

csv.field_size_limit(2**31 - 1)  # a transcript of an hour is one cell


# --- what a cell says ---


def filled(cell: object) -> str | None:
    """What a cell says, without the white space around it; None where it says nothing: no value, NaN, blank.

    A whole number is written whole, whatever carried it: ``23.0`` is ``"23"``, as a number and as text.
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    text = str(cell).strip(SPACE)
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", text) or None


def said(text: str | None) -> str | None:
    """What somebody says, as it is written; None where that is nothing but white space."""
    return text if text and text.strip(SPACE) else None


def tidy(column: pl.Series) -> pl.Series:
    """:func:`filled` of a whole column, as strings.

    Raises:
        polars.exceptions.PolarsError: its cells are lists or other things that are no plain text or number.
    """
    column = column.fill_nan(None) if column.dtype.is_float() else column
    text = column.cast(pl.String).str.strip_chars(SPACE).str.replace(r"^([+-]?\d+)\.0+$", "${1}")
    return text.set(text == "", None)


def shortened(text: object, longest: int = 80) -> str:
    """A cell for an error of one line."""
    shown = repr(text)
    return shown if len(shown) <= longest else f"{shown[:longest]}... ({len(str(text)):,} characters)"


def plain(cell: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula: with an apostrophe before ``=``, ``+``, ``@``."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) and not _is_number(cell) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def lookalikes(name: str, column: pl.Series, rows: pl.Series, place: str = "row") -> Iterator[str]:
    """A warning where values of a column are the same once case, white space and spelling of characters are ignored.

    Args:
        name: of the column, for the warning.
        column: strings, as :func:`tidy` gives them; nulls are fine.
        rows: what tells where each stands, and ``place``, what that is.
    """
    first = pl.DataFrame({"value": column, "row": rows}).drop_nulls().unique("value", keep="first", maintain_order=True)
    alike: dict[str, list[tuple[str, object]]] = {}
    for value, row in first.iter_rows():
        key = value
        if not value.isascii():
            key = "".join(char for char in unicodedata.normalize("NFKC", value) if unicodedata.category(char) != "Cf")
        alike.setdefault(" ".join(key.casefold().split()), []).append((value, row))
    found = [values for values in alike.values() if len(values) > 1]
    if found:
        pairs = [
            " and ".join(f"{shortened(value)} ({place} {row})" for value, row in values[:3]) for values in found[:3]
        ]
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        yield f"{name}: differ in case or white space only, and count as different: {', '.join(pairs)}{more}"


def suspicious(name: str, column: pl.Series, rows: pl.Series) -> Iterator[str]:
    """A warning where values of a column (see :func:`lookalikes`) are words that usually stand for an empty cell."""
    words = pl.DataFrame({"value": column, "row": rows}).filter(pl.col("value").str.to_lowercase().is_in(NOTHING))
    counted = words.group_by("value", maintain_order=True).agg(pl.len(), pl.col("row").first())
    for value, count, row in counted.iter_rows():
        yield f"{name}: {value!r} counts as a value ({count} rows, the first {row}): empty them if it means nothing"


# --- files ---


@dataclass(frozen=True)
class Cells:
    """What a file holds."""

    path: Path
    frame: pl.DataFrame  # of a CSV strings, as they are written
    rows: pl.Series  # where each row stands in the file: from 1, the header not counted
    notes: tuple[str, ...] = ()  # what had to be guessed to read it
    decimal_commas: bool = False  # whether 0,5 is a number

    def numbers(self, name: str) -> pl.Series:
        """A column as float64, null where there is nothing.

        Raises:
            UserError: a cell is no number; the line names its row.
        """
        column = self.frame[name]
        if column.dtype.is_numeric() or column.dtype.is_decimal():
            return column.cast(pl.Float64).fill_nan(None)
        text = self.text(name)
        if self.decimal_commas:
            text = text.str.replace(r"^([+-]?\d+),(\d+([eE][+-]?\d+)?)$", "${1}.${2}")
        found = text.cast(pl.Float64, strict=False)
        strange = pl.DataFrame({"row": self.rows, "cell": text}).filter(found.is_null() & text.is_not_null())
        for row, cell in strange.head(1).iter_rows():
            comma = ": write a decimal point, not a comma" if re.fullmatch(r"[+-]?\d+,\d+", cell) else ""
            raise UserError(
                f"{self.path}: row {row}: column {name!r} holds something that is not a number, "
                f"{shortened(cell)}{comma}"
            )
        return found.fill_nan(None)

    def text(self, name: str) -> pl.Series:
        """A column as :func:`tidy` strings. Raises UserError if it cannot be."""
        try:
            if self.frame.schema[name].is_nested():
                raise pl.exceptions.InvalidOperationError("a struct would pass for text")
            return tidy(self.frame[name])
        except pl.exceptions.PolarsError as error:
            raise UserError(f"{self.path}: column {name!r} is not plain text or numbers") from error


def read_cells(path: Path, what: str = "table") -> Cells:
    """Read a table: Parquet, or CSV with commas, semicolons, tabs or bars, in UTF-8, or in UTF-16 or UTF-32.

    Rows without anything in them are left out, and so are columns without a name.

    Raises:
        UserError: it is not there, no regular file, no table, in another encoding, broken (the line names the row and
            what to do), without rows, or two of its columns have one name.
    """
    if path.suffix.lower() not in (".parquet", *ENDINGS):
        raise UserError(f"{path}: a {what} is a .parquet or a .csv file (from a spreadsheet: save as 'CSV UTF-8')")
    if not os.path.exists(path):  # noqa: PTH110 (a Path raises where the name is too long)
        raise UserError(f"{path}: no such {what}"[:500])
    cells = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    there = pl.Series([False] * len(cells.frame), dtype=pl.Boolean)
    for column in cells.frame.get_columns():
        is_text = column.dtype == pl.String
        there |= column.str.strip_chars(SPACE).fill_null("") != "" if is_text else column.is_not_null()
    if not there.any():
        raise UserError(f"{path}: the table has no rows")
    return cells if there.all() else replace(cells, frame=cells.frame.filter(there), rows=cells.rows.filter(there))


def _parquet(path: Path) -> Cells:
    if not path.is_file():
        read_outside(path)  # says what it is
    try:
        frame = pl.read_parquet(path, glob=False, hive_partitioning=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {one_line(error, 200)}") from error
    frame = _named(path, list(frame.columns), frame)
    return Cells(path, frame, pl.int_range(1, len(frame) + 1, eager=True))


def _csv(path: Path) -> Cells:
    text, notes = _decoded(read_outside(path), path)
    stated = re.match(r"sep=(.)(\r\n|\r|\n)", text)  # Excel's own first line
    text = text[stated.end() :] if stated else text
    header = re.match(r'\s*((?:"[^"]*"|[^"\r\n])*)', text)
    unquoted = re.sub(r'"[^"]*"', "", header[1] if header else "")
    separator = stated[1] if stated else max(SEPARATORS, key=unquoted.count)  # of as many, the first
    if separator != ",":
        notes.append(f"read with {SEPARATORS.get(separator, repr(separator))} between its cells")
    records = _records(text, separator, path)
    names = next(records, (0, []))[1]
    if not names:
        raise UserError(f"{path}: the file is empty: it needs a row with the names of its columns")
    parts, rows, held = [], list[int](), list[list[str]]()
    for row, cells in records:
        if len(cells) != len(names):
            if not any(cell.strip(SPACE) for cell in cells):
                continue
            raise UserError(_miscounted(path, row, cells, names, separator))
        if cells == names:
            raise UserError(f"{path}: row {row} is the header once more: were files joined? Take it out")
        rows.append(row)
        held.append(cells)
        if len(held) == CHUNK:
            parts.append(_columns(held, len(names)))
            held = []
    frame = pl.concat([*parts, _columns(held, len(names))])
    frame = _named(path, names, frame)
    semicolons = separator == ";"
    return Cells(path, frame, pl.Series(rows, dtype=pl.Int64), tuple(notes[:10]), semicolons)


def _decoded(content: bytes, path: Path) -> tuple[str, list[str]]:
    for start, what in SIGNATURES.items():
        if content[:100].lstrip().lower().startswith(start.lower()):
            raise UserError(f"{path}: is {what}")
    mark = next((mark for mark in MARKS if content.startswith(mark)), b"")
    encoding = MARKS.get(mark, "utf-8")
    for name, half in (("utf-16-le", content[1:100:2]), ("utf-16-be", content[0:100:2])):
        if not mark and len(half) > 1 and not half.strip(b"\0"):  # a header in Latin letters
            encoding = name
    body = content[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(body[: error.start + 1].splitlines()) if encoding == "utf-8" else 1
        place = f"row {line - 1}" if line > 1 else "the header"
        raise UserError(
            f"{path}: {place} (line {line}) is not {encoding.upper()} (byte 0x{body[error.start]:02x}): "
            "save the table as 'CSV UTF-8'"
        ) from error
    if "\0" in text:
        line = len(text[: text.index("\0") + 1].splitlines())
        raise UserError(f"{path}: line {line} holds a character of code 0: save the table as 'CSV UTF-8'")
    return text, [] if encoding == "utf-8" else [f"read as {encoding.upper()}"]


def _records(text: str, separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number (0 is the header) and cells of each record, those of blank lines, too."""
    lines = list[str]()  # of the record that is being read

    def read_lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            lines.append(line)
            yield line

    reader = csv.reader(read_lines(), delimiter=separator, strict=True, skipinitialspace=separator != " ")
    number = width = 0
    while True:
        lines.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            place = f"row {number}" if number else "the header"
            why = (
                "a quote opens a cell and none closes it" if "end of data" in str(error) else "a quote stands in a cell"
            )
            escaped = '; a quote is escaped by a second one (""), not by a backslash' if '\\"' in lines[0] else ""
            raise UserError(
                f"{path}: {place}: {why}: {shortened(lines[0].strip())}: put a cell that holds quotes in quotes, and "
                f"write those within twice{escaped}"
            ) from error
        if cells is None:
            return
        if len(lines) > 1 and any(_swallows_rows(cell, separator, width) for cell in cells):
            raise UserError(
                f"{path}: row {number}: a cell in quotes runs over whole rows: a quote is missing, or one too many: "
                f"{shortened(separator.join(cells))} (if it is meant: save the table as Parquet)"
            )
        if number or any(cell.strip(SPACE) for cell in cells):  # blank lines above the header do not count
            width = width or len(cells)
            yield number, cells
            number += 1


def _miscounted(path: Path, row: int, cells: Sequence[str], names: Sequence[str], separator: str) -> str:
    if len(cells) > len(names):
        remedy = f"put a cell that holds {separator!r} in quotes"
        remedy += ", and write numbers with a decimal point" if separator == "," else ""
    else:
        remedy = f"write the {SEPARATORS.get(separator, repr(separator))} of empty cells, too"
    shown = shortened(separator.join(cells))
    return f"{path}: row {row} has {len(cells)} cells, the header {len(names)}: {remedy}: {shown}"


def _swallows_rows(cell: str, separator: str, width: int) -> bool:
    """Whether all lines in the middle of a cell have as many separators as rows: a quote left open swallows them."""
    inner = [line for line in cell.splitlines()[1:-1] if line.strip(SPACE)]
    return bool(inner) and width > 2 and all(line.count(separator) == width - 1 for line in inner)


def _columns(records: list[list[str]], width: int) -> pl.DataFrame:
    columns = [list(column) for column in zip(*records, strict=True)] or [list[str]()] * width
    return pl.DataFrame([pl.Series(str(i), column, dtype=pl.String) for i, column in enumerate(columns)])


def _named(path: Path, names: list[str], frame: pl.DataFrame) -> pl.DataFrame:
    """The columns under their names without white space around them; those without a name are left out."""
    tidied = [name.strip(SPACE) for name in names]
    twice = [name for name, count in Counter(tidied).items() if name and count > 1]
    if twice:
        listed = ", ".join(twice[:3])
        raise UserError(f"{path}: more than one column is called {listed}: rename or remove one")
    if not any(tidied):
        raise UserError(f"{path}: no column has a name")
    return pl.DataFrame([column.alias(name) for column, name in zip(frame.get_columns(), tidied, strict=True) if name])
