from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from synthetic_heads import CLASSES, frame_of, make_units

from configs import UserError
from fusion.tables.predictions import read, write

Write = Callable[..., Path]


def test_heads_are_aligned_by_unit_and_class_name(table: Write) -> None:
    units = make_units(60, absent=0.3, test_share=0.2)
    shuffled = frame_of(units, 1).sample(fraction=1, shuffle=True, seed=0)
    reordered = shuffled.select(reversed(shuffled.columns))
    got = read({"h0": table(frame_of(units, 0), "a.parquet"), "h1": table(reordered, "b.csv")})
    place = {unit: i for i, unit in enumerate(units.unit_ids)}
    rows = [place[unit] for unit in got.unit_ids]
    assert sorted(rows) == list(range(60))
    assert got.classes == CLASSES
    np.testing.assert_array_equal(got.present, units.present[rows])
    np.testing.assert_allclose(got.logits, units.logits[rows], atol=1e-9)
    for column in ("labels", "splits", "folds", "groups"):
        np.testing.assert_array_equal(getattr(got, column), getattr(units, column)[rows])


def test_a_foreign_csv_with_probabilities_and_folds_is_enough(table: Write) -> None:
    units = make_units(30)
    foreign = frame_of(units).select("unit_id", "fold", "label", pl.col("^p_.*$").round(2))
    got = read({"h": table(foreign, "foreign.csv")})
    assert set(got.splits) == {"oof"}
    np.testing.assert_array_equal(got.groups, got.unit_ids)
    np.testing.assert_allclose(np.exp(got.logits), np.exp(units.logits[:, :1]), atol=0.02)


def test_a_csv_with_a_byte_order_mark_and_quotes_in_its_header_is_read(tmp_path: Path) -> None:
    rows = ['unit_id,fold,label,"p_a""b, c",p_d', 'u0,0,"a""b, c",0.7,0.3', "v0,0,d,0.4,0.6", "v1,1,d,0.4,0.6"]
    (tmp_path / "a.csv").write_text("\ufeff" + "\n".join(rows), encoding="utf-8")
    got = read({"h": tmp_path / "a.csv"})
    assert got.classes == ('a"b, c', "d")
    assert got.labels.tolist() == [0, 1, 1]


def test_pandas_style_folds_are_read(table: Write) -> None:
    frame = frame_of(make_units(30, test_share=0.3)).with_columns(pl.col("fold").cast(pl.Float64).fill_null(np.nan))
    assert set(read({"h": table(frame)}).folds) == {-1, 0, 1, 2, 3, 4}


def test_without_folds_grouped_ones_are_drawn_the_same_every_time(table: Write) -> None:
    units = make_units(90, test_share=0.3)
    files = {f"h{h}": table(frame_of(units, h).drop("fold"), f"{h}.csv") for h in range(2)}
    got, again = read(files), read(files)
    np.testing.assert_array_equal(got.folds, again.folds)
    oof = got.splits == "oof"
    assert set(got.folds[oof]) == {0, 1, 2, 3, 4}
    assert set(got.folds[~oof]) == {-1}
    for group in np.unique(got.groups[oof]):
        assert len(set(got.folds[got.groups == group])) == 1


def test_folds_of_one_table_serve_the_others(table: Write) -> None:
    units = make_units(60)
    files = {"a": table(frame_of(units, 0), "a.csv"), "b": table(frame_of(units, 1).drop("fold"), "b.csv")}
    np.testing.assert_array_equal(read(files).folds, units.folds)
    short = frame_of(units, 0).filter(pl.col("unit_id") != "u7")
    with pytest.raises(UserError, match="oof unit 'u7' has no fold in any table"):
        read({**files, "a": table(short, "a.csv")})


def test_metadata_columns_are_kept_whichever_table_has_them(table: Write) -> None:
    units = make_units(30)
    ages = [None if i % 3 == 0 else "old" for i in range(30)]
    with_age = frame_of(units, 1).with_columns(meta_age=pl.Series(ages, dtype=pl.String))
    got = read({"a": table(frame_of(units, 0), "a.csv"), "b": table(with_age, "b.parquet")})
    assert got.metadata["age"].tolist() == ages
    assert got.where(np.arange(3)).outputs.metadata["age"].tolist() == ages[:3]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_head_without_input_is_absent(table: Write, name: str) -> None:
    units = make_units(30)
    there = np.arange(30) != 4
    frame = frame_of(units, 0).with_columns(has_input=there)
    got = read({"h0": table(frame, name), "h1": table(frame_of(units, 1), "b.csv")})
    np.testing.assert_array_equal(got.present[:, 0], there)
    assert got.present[:, 1].all()
    assert np.isnan(got.logits[4, 0]).all()
    with pytest.raises(UserError, match="has_input is 'maybe': write true or false"):
        read({"h0": table(frame.with_columns(has_input=pl.lit("maybe")), name)})


def test_a_zero_is_as_small_as_the_table_is_exact(table: Write) -> None:
    units = make_units(30, strengths=(1.0,))
    rough = frame_of(units).select("unit_id", "fold", "label", pl.col("^p_.*$").round(2))
    rough = rough.with_columns(at(0, "p_sad", 0.0), at(0, "p_happy", 1.0), at(0, "p_angry", 0.0))
    got = read({"h": table(rough, "rough.csv")})
    smallest = min(value for name in CLASSES for value in rough[f"p_{name}"] if value > 0)
    assert np.exp(got.logits[0, 0]).min() == pytest.approx(smallest / 2, rel=0.02)


def test_the_same_id_may_occur_in_two_splits_and_is_told(table: Write) -> None:
    frame = frame_of(make_units(30)).with_columns(group=pl.format("g{}", pl.int_range(30)))
    test = frame.with_columns(split=pl.lit("test"), fold=pl.lit(None, pl.Int64))
    got = read({"h": table(pl.concat([frame, test]))})
    assert len(got.unit_ids) == 60
    assert "30 unit_id values stand in oof and in val or test, too ('u0', 'u1', 'u2' (and 27 more))" in got.notes[0]
    assert "the fusion is judged on groups that it was fitted on" in got.notes[1]
    elsewhere = test.with_columns(
        pl.format("x{}", "unit_id").alias("unit_id"), pl.format("x{}", "group").alias("group")
    )
    assert not read({"h": table(pl.concat([frame, elsewhere]))}).notes


def test_where_no_head_says_anything_of_training_units_nothing_can_be_fused(table: Write) -> None:
    frame = frame_of(make_units(30, test_share=0.3)).with_columns(has_input=pl.col("split") != "oof")
    with pytest.raises(UserError, match="no head has a prediction for any oof unit"):
        read({"h": table(frame)})


@pytest.mark.parametrize("masked", [-3.4e38, -1e308, -1e9, 1e30, 1.7e308])
def test_masked_classes_are_impossible_and_can_be_computed_with(table: Write, masked: float) -> None:
    logits = pl.DataFrame({f"logit_{name}": [masked if i == 1 else -1.0] * 30 for i, name in enumerate(CLASSES)})
    keys = frame_of(make_units(30)).select("unit_id", "split", "fold", "label")
    got = read({"h": table(pl.concat([keys, logits], how="horizontal"))}).logits
    assert (np.abs(got) <= 1001).all()
    np.testing.assert_allclose(np.exp(got).sum(axis=2), 1)
    assert np.exp(got[0, 0, 1]) == (1 if masked > 0 else 0)


@pytest.mark.parametrize(
    ("column", "value", "line"),
    [
        ("p_sad", 9.0, r"row 3: the probabilities of unit 'u2' sum to "),
        ("split", "tset", r"row 3: unit 'u2' has split 'tset'"),
        ("fold", 1.5, r"row 3: fold 1\.5: a fold is a whole number"),
        ("fold", 1e9, r"row 3: fold 1e\+09: a fold is a whole number"),
        ("fold", None, r"row 3: oof unit 'u2' has no fold"),
    ],
)
def test_what_is_wrong_is_told_with_its_row(table: Write, column: str, value: object, line: str) -> None:
    frame = frame_of(make_units(30)).select("unit_id", "split", "fold", "label", "^p_.*$")
    with pytest.raises(UserError, match=line):
        read({"h": table(frame.with_columns(at(2, column, value)), "a.csv")})


def test_percentages_are_told_how_to_be_written(table: Write) -> None:
    frame = frame_of(make_units(30)).select("unit_id", "split", "fold", "label", pl.col("^p_.*$") * 100)
    with pytest.raises(UserError, match=r"row 1: .* sum to 100, not to 1: write 0\.25, not 25"):
        read({"h": table(frame, "a.csv")})


def test_written_predictions_are_read_back(tmp_path: Path) -> None:
    units = make_units(30, test_share=0.3)
    write(tmp_path / "fused.parquet", units, units.logits[:, 0])
    got = read({"h0": tmp_path / "fused.parquet"})
    np.testing.assert_allclose(got.logits[:, 0], units.logits[:, 0], atol=1e-12)
    np.testing.assert_array_equal(got.folds, units.folds)


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, (12, 3), elements=st.floats(-12, 12)))
def test_probabilities_and_logits_say_the_same(tmp_path_factory: pytest.TempPathFactory, logits: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("tables")
    units = make_units(12, strengths=(1.0,))
    keys = frame_of(units).select("unit_id", "split", "fold", "label")
    p = softmax(logits, axis=1)
    for name, values in (("p_", p), ("logit_", logits)):
        columns = {name + c: values[:, i] for i, c in enumerate(CLASSES)}
        keys.with_columns(**columns).write_parquet(folder / f"{name}.parquet")
    from_p, from_logits = (read({"h": folder / f"{name}.parquet"}).logits for name in ("p_", "logit_"))
    np.testing.assert_allclose(np.exp(from_p), np.exp(from_logits), atol=1e-6)
    np.testing.assert_allclose(np.exp(from_logits).sum(axis=2), 1)


def at(row: int, column: str, value: object) -> pl.Expr:
    return pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)


only_p = pl.exclude("^logit_.*$")
BAD: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "nan": (lambda f: f.select(only_p).with_columns(at(4, "p_sad", float("nan"))), "unit 'u4' has p_sad = nan"),
    "infinite": (lambda f: f.with_columns(at(4, "logit_sad", float("inf"))), "unit 'u4' has logit_sad = inf"),
    "sum": (
        lambda f: f.with_columns(pl.col("^p_.*$") * 0.9),
        "the probabilities of unit 'u0' sum to 0.9, not to 1",
    ),
    "negative": (
        lambda f: f.select(only_p).with_columns(at(0, "p_sad", -0.5), at(0, "p_happy", 1.5), at(0, "p_angry", 0.0)),
        "p_happy = 1.5: not a probability",
    ),
    "disagreeing": (lambda f: f.with_columns(pl.col("logit_sad") + 9), "p_ and logit_ of unit 'u0' disagree"),
    "half of the logits": (lambda f: f.drop("logit_sad"), "only one of them has sad"),
    "duplicate": (lambda f: pl.concat([f, f[:1]]), "unit 'u0' occurs more than once in split 'oof'"),
    "no oof": (lambda f: f.with_columns(split=pl.lit("test")), "no rows with split 'oof'"),
    "one label": (lambda f: f.with_columns(label=pl.lit("sad")), "every oof unit has label 'sad'"),
    "one class": (lambda f: f.drop("^(p|logit)_(sad|angry)$"), "only the class 'happy' has a column"),
    "unknown label": (lambda f: f.with_columns(at(2, "label", "joy")), "row 3: unit 'u2' has label 'joy'"),
    "class twice": (lambda f: f.with_columns(pl.lit(0.0).alias("p_sad ")), "more than one column is called p_sad"),
    "no class": (lambda f: f.with_columns(pl.lit(0.0).alias("p_")), "or one means none"),
    "no label": (lambda f: f.with_columns(at(2, "label", " ")), "row 3 has no label"),
    "no group": (lambda f: f.with_columns(at(2, "group", None)), "row 3 has no group"),
    "no fold": (lambda f: f.with_columns(at(2, "fold", None)), "oof unit 'u2' has no fold"),
    "word for fold": (
        lambda f: f.with_columns(at(2, "fold", "first")),
        "row 3: column 'fold' holds something that is not a number, 'first'",
    ),
    "half a fold": (lambda f: f.with_columns(pl.col("fold") + 0.5), "fold 0.5: a fold is a whole number"),
    "train split": (lambda f: f.with_columns(at(2, "split", "train")), "split 'train', expected one of oof, val, test"),
    "no split, no fold": (lambda f: f.drop("split", "fold"), "neither a column 'split' nor 'fold'"),
    "no unit_id": (lambda f: f.drop("unit_id"), "no column 'unit_id'"),
    "no classes": (lambda f: f.drop("^(p|logit)_.*$"), "no columns p_<class> or logit_<class>"),
    "no rows": (lambda f: f[:0], "has no rows"),
    "group in two folds": (lambda f: f.with_columns(at(0, "fold", 3)), "group 'g0' lies in folds 0 and 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_refused_in_one_line(table: Write, name: str) -> None:
    spoil, message = BAD[name]
    path = table(spoil(frame_of(make_units(30))))
    with pytest.raises(UserError) as caught:
        read({"h": path})
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_lacking_class_is_named_before_its_rows_are_judged(table: Write) -> None:
    units = make_units(30)
    lacking = frame_of(units, 1).drop("p_sad", "logit_sad").filter(pl.col("label") != "sad")
    files = {"a": table(frame_of(units, 0), "a.csv"), "b": table(lacking, "b.csv")}
    with pytest.raises(UserError, match=r"b\.csv: other classes than .*a\.csv: lacks sad$"):
        read(files)


TWO: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "classes": (
        lambda f: f.rename({"p_sad": "p_low", "logit_sad": "logit_low"}).filter(pl.col("label") != "sad"),
        "lacks sad and has low besides",
    ),
    "labels": (
        lambda f: f.with_columns(label=pl.col("label").replace({"sad": "angry"})),
        "has another label: 'sad' in",
    ),
    "folds": (lambda f: f.with_columns(fold=(pl.col("fold") + 1) % 5), "has another fold: 0 in"),
    "groups": (lambda f: f.with_columns(group=pl.col("group") + "x"), "has another group: 'g0' in"),
}


@pytest.mark.parametrize("name", TWO)
def test_tables_that_contradict_each_other_are_refused(table: Write, name: str) -> None:
    spoil, message = TWO[name]
    units = make_units(30)
    a, b = table(frame_of(units, 0), "a.parquet"), table(spoil(frame_of(units, 1)), "b.parquet")
    with pytest.raises(UserError) as caught:
        read({"a": a, "b": b})
    assert message in str(caught.value)
    assert str(a) in str(caught.value)
    assert str(b) in str(caught.value)


@pytest.mark.parametrize(("name", "content"), [("a.csv", b"\xff\xfe\x00"), ("a.parquet", b"no"), ("a.json", b"{}")])
def test_files_that_are_no_tables_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read({"h": tmp_path / name})
    with pytest.raises(UserError, match="no such prediction table"):
        read({"h": tmp_path / "missing.csv"})


def test_white_space_and_decimals_make_no_other_unit(table: Write, tmp_path: Path) -> None:
    units = make_units(30)
    frame = frame_of(units, 0).with_columns(unit_id=pl.col("unit_id").str.slice(1))
    loose = frame.with_columns(
        unit_id=pl.col("unit_id") + "\u00a0", label=" " + pl.col("label"), group=pl.col("group") + " "
    )
    floats = frame.with_columns(unit_id=pl.col("unit_id").cast(pl.Float64))
    got = read({"a": table(frame, "a.csv"), "b": table(loose, "b.csv"), "c": table(floats, "c.parquet")})
    assert got.unit_ids.tolist() == [str(i) for i in range(30)]
    assert got.present.all()
    assert not got.notes


def test_a_spreadsheets_semicolons_and_decimal_commas_are_read(table: Write, tmp_path: Path) -> None:
    frame = frame_of(make_units(30)).select("unit_id", "fold", "label", pl.col("^p_.*$").round(4))
    plain = read({"h": table(frame, "a.csv")})
    frame.write_csv(tmp_path / "b.csv", separator=";", decimal_comma=True)
    got = read({"h": tmp_path / "b.csv"})
    np.testing.assert_array_equal(got.logits, plain.logits)
    assert got.notes == (f"{tmp_path / 'b.csv'}: read with semicolons between its cells",)
    frame.write_csv(tmp_path / "c.csv", separator="\t", decimal_comma=True)
    with pytest.raises(UserError, match=r"c\.csv: row 1: column 'p_happy' .*write a decimal point"):
        read({"h": tmp_path / "c.csv"})


def test_a_row_is_named_where_the_file_has_it(tmp_path: Path) -> None:
    rows = ["unit_id,fold,label,p_a,p_b", "u,0,a,1,0", ",,,,", "v,1,b,0,1", "w,1,b,0,x", ",,,,"]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    with pytest.raises(UserError, match=r"row 4: column 'p_b' holds something that is not a number, 'x'"):
        read({"h": tmp_path / "a.csv"})
    (tmp_path / "a.csv").write_text("\n".join([*rows[:4], "v,1,b,0,1"]))
    with pytest.raises(UserError, match=r"unit 'v' occurs more than once in split 'oof' \(row 4\)"):
        read({"h": tmp_path / "a.csv"})


def renamed(frame: pl.DataFrame, keep: int) -> pl.DataFrame:
    """All ids but those of the first rows are written another way."""
    other = pl.when(pl.int_range(pl.len()) < keep).then("unit_id").otherwise(pl.format("clip {}", "unit_id"))
    return frame.with_columns(unit_id=other)


def test_tables_without_a_unit_in_common_are_refused(table: Write) -> None:
    units = make_units(30, strengths=(1.0, 1.0, 1.0), test_share=0.3)
    a, b = table(frame_of(units, 0).drop("group"), "a.csv"), table(renamed(frame_of(units, 1), 0), "b.csv")
    with pytest.raises(
        UserError, match=r"b\.csv: shares no oof unit with .*a\.csv: .*'clip u0', 'clip u1' there, 'u0'"
    ):
        read({"a": a, "b": b})
    # Two that meet each other do not help two that meet nobody else.
    c = table(renamed(frame_of(units, 2), 0), "c.csv")
    with pytest.raises(UserError, match="shares no oof unit with"):
        read({"a": a, "b": b, "c": c})
    # Those that meet in training only would be fused on test units that no two of them know.
    split = frame_of(units, 1).drop("group")
    test = pl.when(pl.col("split") == "test").then(pl.format("{}x", "unit_id")).otherwise("unit_id")
    with pytest.raises(UserError, match=r"d\.csv: shares no test unit with"):
        read({"a": a, "d": table(split.with_columns(unit_id=test), "d.csv")})


def test_tables_with_few_units_in_common_are_warned_of(table: Write) -> None:
    units = make_units(30)
    a, b = table(frame_of(units, 0), "a.csv"), table(renamed(frame_of(units, 1), 6), "b.csv")
    got = read({"a": a, "b": b})
    assert [note.split(": ", 1)[1] for note in got.notes] == [
        "shares only 6 of its 30 oof units with the other tables: 'u10', 'u11' here, 'clip u10', 'clip u11' there",
        "shares only 6 of its 30 oof units with the other tables: 'clip u10', 'clip u11' here, 'u10', 'u11' there",
    ]
    # A head that answers for a few of the others' units is one that lacks input.
    assert not read({"a": a, "b": table(frame_of(units, 1)[:15], "b.csv")}).notes


def test_what_looks_alike_or_like_nothing_is_noted(table: Write) -> None:
    units = make_units(30)
    frame = frame_of(units).rename({"p_sad": "p_nan", "logit_sad": "logit_nan"})
    frame = frame.with_columns(label=pl.col("label").replace({"sad": "nan"}), unit_id=at(3, "unit_id", "U2"))
    notes = read({"h": table(frame, "a.csv"), "g": table(frame, "b.csv")}).notes
    assert len(notes) == 2  # once for all heads
    assert all(str(note).split(": ")[0].endswith("a.csv") for note in notes)
    assert any("'u2' (row 3) and 'U2' (row 4)" in note for note in notes)
    assert any("label: 'nan' counts as a value" in note for note in notes)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda f: f.with_columns(group=pl.lit("all")), "only 1 group"),
        (lambda f: f.unique("label").with_columns(group=pl.col("unit_id")), "no class with two units"),
    ],
)
def test_folds_that_cannot_be_drawn_are_told(
    table: Write, spoil: Callable[[pl.DataFrame], pl.DataFrame], why: str
) -> None:
    with pytest.raises(UserError, match=f"none can be drawn: the oof units have {why}"):
        read({"h": table(spoil(frame_of(make_units(30)).drop("fold")))})


@pytest.mark.parametrize("fold", ["1e300", "inf", "-1e9"])
def test_a_fold_is_a_small_number(table: Write, fold: str) -> None:
    frame = frame_of(make_units(30)).with_columns(pl.col("fold").cast(pl.String))
    with pytest.raises(UserError, match="a fold is"):
        read({"h": table(frame.with_columns(at(2, "fold", fold)), "a.csv")})
