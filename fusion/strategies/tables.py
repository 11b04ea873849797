"""One head's prediction table, Parquet or CSV: reading and checking it. The contract is in docs/design.md.

A table may come from anywhere. It needs ``unit_id``, ``label``, ``split`` or ``fold`` or both, and one ``p_<class>`` or
``logit_<class>`` column per class. ``group``, ``has_input`` (false: the head had nothing to read and is absent) and
``meta_...`` columns are used where they are given.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import log_softmax, softmax

from configs import UserError, one_line

SPLITS = ("oof", "val", "test")
META = "meta_"  # prefix of columns with what else is known of a unit
ROUNDING = 0.02  # tables rounded to two decimals pass; a row that sums to 0.9 does not
SMALLEST_PROBABILITY = 1e-7  # a probability written as 0 becomes a finite logit


@dataclass(frozen=True)
class Table:
    """One head's checked table."""

    path: Path
    classes: tuple[str, ...]
    rows: pl.DataFrame  # unit_id, split, label; fold, group (null when the file has none); has_input; meta_...; row
    logits: np.ndarray  # (n, c) log-probabilities


def read_table(path: Path, like: Table | None = None) -> Table:
    """Read and check one head's table, Parquet or CSV.

    Args:
        like: a table that must have the same classes, in any order.

    Raises:
        UserError: one line naming the file, the first offending row or column, and what is expected.
    """
    frame = _frame(path)
    for column in ("unit_id", "label"):
        if column not in frame.columns:
            raise UserError(f"{path}: no column {column!r} (found: {', '.join(frame.columns)})")
    if frame.is_empty():
        raise UserError(f"{path}: the table has no rows")
    rows = _rows(path, frame)
    classes, logits = _class_columns(path, frame, rows["unit_id"].to_list(), like)
    for label, unit in rows.select("label", "unit_id").iter_rows():
        if label not in classes:
            raise UserError(f"{path}: unit {unit!r} has label {label!r}, which no column p_{label} predicts")
    training = rows.filter(pl.col("split") == "oof")
    if training.is_empty():
        raise UserError(
            f"{path}: no rows with split 'oof': fusion is fitted on predictions of units that the head was not trained "
            "on; if those of another split are such, call it oof"
        )
    if training["label"].n_unique() < 2:
        raise UserError(f"{path}: every oof unit has label {training['label'][0]!r}: there is nothing to tell apart")
    return Table(path, classes, rows.with_row_index("row"), logits)


def _frame(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such prediction table")
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:  # polars leaves quotes in a header escaped
                header = next(csv.reader(file), [])
            return pl.read_csv(path, infer_schema=False, new_columns=header)
        if path.suffix.lower() == ".parquet":
            return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as {path.suffix[1:]}: {one_line(error, 200)}") from error
    raise UserError(f"{path}: a prediction table is a .parquet or a .csv file")


def _rows(path: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """unit_id, split, fold, label and group with their types, checked."""
    if "split" not in frame.columns:
        if "fold" not in frame.columns:
            raise UserError(f"{path}: neither a column 'split' nor 'fold': which rows are out-of-fold?")
        frame = frame.with_columns(split=pl.lit("oof"))
    for column in ("fold", "group"):
        if column not in frame.columns:
            frame = frame.with_columns(pl.lit(None).alias(column))
    folds = _numbers(path, frame, "fold")
    for fold in folds.filter(folds != folds.round()).head(1):
        raise UserError(f"{path}: fold {fold}: a fold is a whole number")
    has_groups = frame["group"].null_count() < len(frame)
    rows = frame.select(
        pl.col("unit_id", "split", "label", "group", f"^{META}.*$").cast(pl.String),
        fold=folds.cast(pl.Int64),
        has_input=_flags(path, frame, "has_input"),
    ).with_columns(fold=pl.when(pl.col("split") == "oof").then("fold"))

    for column in ("unit_id", "split", "label", *(["group"] if has_groups else [])):
        for number in rows[column].is_null().arg_true().head(1):
            raise UserError(f"{path}: row {number + 1} has no {column}")
    for split, unit in rows.filter(~pl.col("split").is_in(SPLITS)).select("split", "unit_id").head(1).iter_rows():
        hint = "; training units carry out-of-fold predictions (oof)" if split == "train" else ""
        raise UserError(f"{path}: unit {unit!r} has split {split!r}, expected one of {', '.join(SPLITS)}{hint}")
    training = rows.filter(pl.col("split") == "oof")
    for unit in training.filter(pl.col("fold").is_null() & pl.col("fold").is_not_null().any())["unit_id"].head(1):
        raise UserError(f"{path}: oof unit {unit!r} has no fold, others have one")
    repeated = rows.filter(pl.struct("split", "unit_id").is_duplicated())
    for split, unit in repeated.select("split", "unit_id").head(1).iter_rows():
        raise UserError(f"{path}: unit {unit!r} occurs more than once in split {split!r}")
    return rows


def _numbers(path: Path, frame: pl.DataFrame, column: str) -> pl.Series:
    """A column as float64 without NaN (null instead); CSV columns arrive as text."""
    try:
        return frame[column].cast(pl.Float64).fill_nan(None)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: column {column!r} holds something that is not a number") from error


def _flags(path: Path, frame: pl.DataFrame, column: str) -> pl.Series:
    """A column of true and false; true where there is none."""
    if column not in frame.columns:
        return pl.Series([True] * len(frame), dtype=pl.Boolean)
    words = frame[column].cast(pl.String).str.to_lowercase()
    for word in words.filter(~words.is_in(["true", "false"]) | words.is_null()).head(1):
        raise UserError(f"{path}: {column} is {word!r}: write true or false")
    return words == "true"


def _class_columns(
    path: Path, frame: pl.DataFrame, unit_ids: list[str], like: Table | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names in the order of the columns, and log-probabilities (n, c)."""
    found = {
        prefix: [c.removeprefix(prefix) for c in frame.columns if c.startswith(prefix)] for prefix in ("p_", "logit_")
    }
    if not found["p_"] and not found["logit_"]:
        raise UserError(f"{path}: no columns p_<class> or logit_<class> (found: {', '.join(frame.columns)})")
    classes = tuple(found["p_"] or found["logit_"])
    if found["p_"] and found["logit_"] and set(found["p_"]) != set(found["logit_"]):
        odd = sorted(set(found["p_"]) ^ set(found["logit_"]))
        raise UserError(f"{path}: p_ and logit_ columns name different classes: only one of them has {', '.join(odd)}")
    if like and set(like.classes) != set(classes):
        missing, extra = sorted(set(like.classes) - set(classes)), sorted(set(classes) - set(like.classes))
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has {', '.join(extra)} besides"] if extra else []
        raise UserError(f"{path}: other classes than {like.path}: {' and '.join(parts)}")
    if len(classes) < 2:
        raise UserError(f"{path}: only the class {classes[0]!r} has a column: fusion needs at least two classes")

    def matrix(prefix: str) -> np.ndarray:
        values = np.column_stack([_numbers(path, frame, prefix + name).to_numpy() for name in classes])
        for row, column in np.argwhere(~np.isfinite(values))[:1]:
            raise UserError(
                f"{path}: unit {unit_ids[row]!r} has {prefix}{classes[column]} = {values[row, column]}: not a number"
                " that can be fused; leave the row out if the head has no prediction for it"
            )
        return values

    if not found["p_"]:
        return classes, log_softmax(matrix("logit_"), axis=1)
    p = matrix("p_")
    sums = p.sum(axis=1)
    for row in np.flatnonzero(np.abs(sums - 1) > ROUNDING)[:1]:
        raise UserError(f"{path}: the probabilities of unit {unit_ids[row]!r} sum to {sums[row]:.4g}, not to 1")
    for row, column in np.argwhere((p < 0) | (p > 1 + ROUNDING))[:1]:
        value = p[row, column]
        raise UserError(f"{path}: unit {unit_ids[row]!r} has p_{classes[column]} = {value:.4g}: not a probability")
    if not found["logit_"]:
        # What a table writes as 0 is less than the smallest number that it can write.
        smallest = max(SMALLEST_PROBABILITY, p[p > 0].min() / 2)
        return classes, log_softmax(np.log(np.maximum(p, smallest)), axis=1)
    logits = matrix("logit_")
    for row in np.flatnonzero(np.abs(softmax(logits, axis=1) - p).max(axis=1) > ROUNDING)[:1]:
        raise UserError(
            f"{path}: p_ and logit_ of unit {unit_ids[row]!r} disagree: p must be the softmax of the logits"
        )
    return classes, log_softmax(logits, axis=1)
