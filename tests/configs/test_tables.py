"""Tables from outside: whoever wrote them, they are read as they were meant, or refused with row and remedy."""

import os
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs import UserError
from configs.tables import Cells, filled, lookalikes, plain, read_cells, said, suspicious, tidy

HEADER = "id,emotion,words\n"
BODY = HEADER + "1,sad,hello\n2,happy,yes\n"
ROWS = [("1", "sad", "hello"), ("2", "happy", "yes")]


def read(folder: Path, content: str | bytes, name: str = "a.csv") -> Cells:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_cells(folder / name)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (BODY, None),
        ("\ufeff" + BODY, None),
        (BODY.replace("\n", "\r\n"), None),
        (BODY.replace("\n", "\r"), None),
        (BODY.rstrip("\n"), None),
        ("\n\n" + BODY, None),
        (",,\n" + BODY, None),
        (BODY + ",,\n\n  , ,\n", None),
        (BODY.replace(",", ", "), None),
        ('id, "emotion", words\n"1", "sad", "hello"\n2,happy,yes\n', None),
        (BODY.replace(",", ";"), "semicolons"),
        (BODY.replace(",", "\t"), "tabs"),
        (BODY.replace(",", "|"), "vertical bars"),
        ("sep=;\r\n" + BODY.replace(",", ";"), "semicolons"),
        (BODY.encode("utf-16"), "UTF-16-LE"),
        (BODY.encode("utf-16-le"), "UTF-16-LE"),
        (BODY.encode("utf-16-be"), "UTF-16-BE"),
        (b"\xfe\xff" + BODY.encode("utf-16-be"), "UTF-16-BE"),
        (BODY.encode("utf-32"), "UTF-32-LE"),
        (BODY.replace(",", "\t").encode("utf-16"), "tabs"),
        (HEADER.strip() + ",,\n1,sad,hello,,\n2,happy,yes,,\n", None),
    ],
)
def test_what_programs_write_is_read_and_what_was_guessed_is_said(
    tmp_path: Path, content: str | bytes, note: str | None
) -> None:
    cells = read(tmp_path, content)
    assert (cells.frame.columns, cells.frame.rows()) == (["id", "emotion", "words"], ROWS)
    assert cells.rows.to_list() == [1, 2]
    assert bool(cells.notes) == bool(note)
    assert any((note or "") in line for line in cells.notes) or not note


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.TAB", "a.CSV"])
def test_a_spreadsheets_text_export_is_read(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, BODY.replace(",", "\t").encode("utf-16"), name).frame.rows() == ROWS


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            (BODY + "3,café,x\n").encode("cp1252"),
            r"row 3 \(line 4\) is not UTF-8 \(byte 0xe9\): save the table as 'CSV U",
        ),
        ((BODY + "3,café,x\n").replace("\n", "\r").encode("cp1252"), r"row 3 \(line 4\) is not UTF-8"),
        ("id,émotion\n".encode("cp1252"), r"the header \(line 1\) is not UTF-8"),
        (
            BODY + "3,sad,oh, no\n",
            r"row 3 has 4 cells, the header 3: put a cell that holds ',' in quotes, .*: '3,sad,oh,no'",
        ),
        (BODY + "3,sad\n", r"row 3 has 2 cells, the header 3: write the commas of empty cells, too: '3,sad'"),
        (BODY + "\n4,sad\n", r"row 4 has 2 cells"),
        (BODY + '3,sad,"oh\n4,sad,x\n', r"row 3: a quote opens a cell and none closes it: '3,sad,\"oh'"),
        (BODY + '3,"sad" oh,x\n', r"row 3: a quote stands in a cell: .*write those within twice"),
        (BODY + '3,"sad,x\n4,sad,x\n5,happy",x\n', r"row 3: a cell in quotes runs over whole rows"),
        (BODY + '3,sad,"he \\"said\\" so"\n', r"row 3: .*escaped by a second one \(\"\"\), not by a backslash"),
        (BODY + '3,sad,"he said \\""\n4,sad,x\n', r"row 3: .*not by a backslash"),
        ("id,emotion,id\n1,2,3\n", r"more than one column is called id"),
        ("id, id ,x\n1,2,3\n", r"more than one column is called id"),
        (BODY + HEADER, r"row 3 is the header once more"),
        (HEADER, r"the table has no rows"),
        (HEADER + ",,\n\n", r"the table has no rows"),
        ("", r"the file is empty"),
        ("\n \n,,\n", r"the file is empty"),
        (BODY + "3,a\0b,c\n", r"line 4 holds a character of code 0"),
        (b"PAR1" + bytes(8), r"is a Parquet file"),
        (b"PK\x03\x04" + bytes(8), r"is a workbook or another zip"),
        (b"\x1f\x8b\x08" + bytes(8), r"is compressed with gzip"),
        (b"\n<!DOCTYPE html><html>", r"is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"is a Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n\0\0", r"the header \(line 1\) is not UTF-8"),
        (b"\xff\xfe\x00", r"the header \(line 1\) is not UTF-16-LE"),
    ],
)
def test_what_is_broken_is_one_line_with_row_and_remedy(tmp_path: Path, content: str | bytes, line: str) -> None:
    with pytest.raises(UserError, match=r"a\.csv: " + line) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_what_is_no_file_of_a_table_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("pipe.csv", "pipe.parquet"):
        os.mkfifo(tmp_path / name)
    for name in ("endless.csv", "endless.parquet"):
        (tmp_path / name).symlink_to("/dev/zero")
    for name in ("folder.csv", "folder.parquet"):
        (tmp_path / name).mkdir()
    for path in tmp_path.iterdir():
        with pytest.raises(UserError, match=f"{path.name}: no regular file"):
            read_cells(path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"broken\.parquet: cannot be read as Parquet: [^\n]*$"):
        read_cells(tmp_path / "broken.parquet")
    for name in ("gone.csv", "gone.parquet", "a" * 5000 + ".csv"):
        with pytest.raises(UserError, match=r"no such table|^/"):
            read_cells(tmp_path / name)
    with pytest.raises(UserError, match=r"a\.xlsx: a table is a \.parquet or a \.csv file"):
        read_cells(tmp_path / "a.xlsx")


cell = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=6)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(cell, cell), min_size=1, max_size=5))
def test_what_polars_writes_comes_back(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    frame = pl.DataFrame([("x", *row) for row in rows], schema=["k", "a", "b"], orient="row")
    frame.write_csv(tmp_path / "a.csv", quote_style="always")
    assert read_cells(tmp_path / "a.csv").frame.equals(frame)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.binary(max_size=60) | st.text('ab",;\t\n\r\\ ', max_size=60).map(str.encode))
def test_any_bytes_are_a_table_or_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    try:
        cells = read_cells(tmp_path / "a.csv")
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert len(cells.rows) == len(cells.frame) > 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (float("nan"), None),
        ("", None),
        (" \t\u00a0\u3000\u200b\ufeff", None),
        (" anna\u00a0", "anna"),
        (23.0, "23"),
        ("23.0", "23"),
        (23, "23"),
        (23.5, "23.5"),
        ("-1.00", "-1"),
        ("007.0", "007"),
        ("1.0.0", "1.0.0"),
        ("v1.0", "v1.0"),
        ("NA", "NA"),
    ],
)
def test_one_notion_of_what_a_cell_says(value: object, text: str | None) -> None:
    assert filled(value) == text
    if isinstance(value, str | None):
        assert tidy(pl.Series([value], dtype=pl.String)).to_list() == [text]
        assert said(value) == (None if text is None else value)
    elif isinstance(value, float):
        assert tidy(pl.Series([value, None])).to_list() == [text, None]


@given(st.text(max_size=8) | st.floats(-(10**9), 10**9).map(lambda x: round(x, 2)))
def test_columns_and_cells_are_read_alike(value: str | float) -> None:
    text = value if isinstance(value, str) else str(value)
    assert tidy(pl.Series([text], dtype=pl.String)).to_list() == [filled(value)]


def test_numbers_keep_their_value_and_name_their_row(tmp_path: Path) -> None:
    assert read(tmp_path, "x,y\n 0.5 ,a\n,b\n1e-3,c\n").numbers("x").to_list() == [0.5, None, 1e-3]
    assert read(tmp_path, "x;y\n0,5;a\n-1,25e2;b\n7;c\n").numbers("x").to_list() == [0.5, -125, 7]
    with pytest.raises(UserError, match=r"row 2: column 'x' .*not a number, '0,5': write a decimal point"):
        read(tmp_path, 'x,y\n1,a\n"0,5",b\n').numbers("x")
    with pytest.raises(UserError, match=r"row 1: column 'x' .*not a number, 'NA'"):
        read(tmp_path, "x,y\nNA,a\n").numbers("x")


def test_values_that_look_alike_are_told_with_their_rows() -> None:
    column = pl.Series(["Happy", "sad", None, "happy", "Zoe\u0301", "Zo\u00e9", "a  b", "a b", "Happy"])
    rows = pl.Series(range(1, 10))
    (line,) = lookalikes("label", column, rows)
    assert "'Happy' (row 1) and 'happy' (row 4)" in line
    assert "(row 5) and" in line
    assert "'a  b' (row 7) and 'a b' (row 8)" in line
    assert not list(lookalikes("label", pl.Series(["a", "b", None]), pl.Series([1, 2, 3])))


def test_words_for_nothing_are_told_with_their_rows() -> None:
    column = pl.Series(["sad", "nan", "NA", "nan", None, "N/A", "none", "-", "nano"])
    told = list(suspicious("label", column, pl.Series(range(1, 10))))
    assert [line.split("'")[1] for line in told] == ["nan", "NA", "N/A", "none", "-"]
    assert "(2 rows, the first 2)" in told[0]


def test_no_cell_is_a_formula_to_a_spreadsheet() -> None:
    assert [plain(cell) for cell in ("=1+1", "+cmd", "-x", "@SUM(A1)", "\tx")] == [
        "'=1+1",
        "'+cmd",
        "'-x",
        "'@SUM(A1)",
        "'\tx",
    ]
    assert [plain(cell) for cell in ("happy", "-1", "+0.5", "a=b", "")] == ["happy", "-1", "+0.5", "a=b", ""]


@pytest.mark.parametrize("cells", [[["a"], ["b"]], [{"x": 1}, {"x": 2}]])
def test_what_holds_several_values_is_no_text(tmp_path: Path, cells: list[object]) -> None:
    pl.DataFrame({"id": ["1", "2"], "said": cells}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: column 'said' is not plain text or numbers"):
        read_cells(tmp_path / "a.parquet").text("said")
