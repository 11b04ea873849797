"""Prediction tables: reading, checking, aligning and writing them. The contract is in docs/design.md.

A table may come from anywhere. It needs ``unit_id``, ``label``, ``fold`` (and ``split``, unless every row is
out-of-fold) and one ``p_<class>`` or ``logit_<class>`` column per class; columns are matched by class name.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import log_softmax, softmax

from configs import UserError

SPLITS = ("oof", "val", "test")
NO_FOLD = -1  # the fold of val and test units
ROUNDING = 0.02  # tables rounded to two decimals pass; a row that sums to 0.9 does not
SMALLEST_PROBABILITY = 1e-7  # a probability written as 0 becomes a finite logit


@dataclass(frozen=True)
class Predictions:
    """Several heads' predictions of the same units, aligned by split and unit id; n units, h heads, c classes."""

    heads: tuple[str, ...]
    classes: tuple[str, ...]
    unit_ids: np.ndarray  # (n,) str; unique within a split
    splits: np.ndarray  # (n,) str, one of SPLITS, in that order
    folds: np.ndarray  # (n,) int; NO_FOLD outside oof
    labels: np.ndarray  # (n,) int, index into classes
    groups: np.ndarray  # (n,) str; the unit's id where no table names a group
    logits: np.ndarray  # (n, h, c) log-probabilities: rows of exp(logits) sum to 1; NaN where a head is absent
    present: np.ndarray  # (n, h) bool

    def where(self, rows: np.ndarray) -> "Predictions":
        """The units of a boolean mask or of indices."""
        per_unit = ("unit_ids", "splits", "folds", "labels", "groups", "logits", "present")
        return Predictions(self.heads, self.classes, **{name: getattr(self, name)[rows] for name in per_unit})

    @property
    def label_names(self) -> list[str]:
        return [self.classes[i] for i in self.labels]


@dataclass(frozen=True)
class Table:
    """One head's checked table."""

    path: Path
    classes: tuple[str, ...]
    rows: pl.DataFrame  # unit_id, split, fold, label, group (null when the file has none), row
    logits: np.ndarray  # (n, c) log-probabilities


def read(files: dict[str, Path]) -> Predictions:
    """Read and align the tables of several heads, ``{head: file}``.

    A unit needs to be in one table only: where a head has no row for it, that head is absent there.

    Raises:
        UserError: a file is missing or breaks the contract, or the files contradict each other: other classes,
            or another label, fold or group for the same unit. Folds must agree because the fusion that predicts
            fold k may not have seen fold k through any head.
    """
    tables = {head: read_table(path) for head, path in files.items()}
    first = next(iter(tables.values()))
    for table in tables.values():
        _same_classes(first, table)
    units = _aligned_units(list(tables.values()))

    shape = (len(units), len(tables), len(first.classes))
    logits, present = np.full(shape, np.nan), np.zeros(shape[:2], dtype=bool)
    key = ["split", "unit_id"]
    for h, table in enumerate(tables.values()):
        columns = [table.classes.index(name) for name in first.classes]
        rows = units.select(key).join(table.rows.select(*key, "row"), on=key, how="left", maintain_order="left")["row"]
        has = rows.is_not_null().to_numpy()
        logits[has, h] = table.logits[rows.drop_nulls().to_numpy()][:, columns]
        present[:, h] = has
    numbers = {name: i for i, name in enumerate(first.classes)}
    return Predictions(
        heads=tuple(tables),
        classes=first.classes,
        unit_ids=np.array(units["unit_id"].to_list(), dtype=str),
        splits=np.array(units["split"].to_list(), dtype=str),
        folds=units["fold"].fill_null(NO_FOLD).to_numpy(),
        labels=np.array([numbers[name] for name in units["label"]]),
        groups=np.array(units.select(pl.coalesce("group", "unit_id")).to_series().to_list(), dtype=str),
        logits=logits,
        present=present,
    )


def write(path: Path, units: Predictions, log_probabilities: np.ndarray) -> None:
    """Write one prediction per unit, (n, c), as a table of the same contract (Parquet)."""
    log_p = log_softmax(log_probabilities, axis=1)
    columns: dict[str, object] = {
        "unit_id": units.unit_ids,
        "split": units.splits,
        "fold": pl.Series([None if fold == NO_FOLD else int(fold) for fold in units.folds], dtype=pl.Int32),
        "label": units.label_names,
        "group": units.groups,
    }
    columns |= {f"p_{name}": np.exp(log_p[:, i]) for i, name in enumerate(units.classes)}
    columns |= {f"logit_{name}": log_p[:, i] for i, name in enumerate(units.classes)}
    pl.DataFrame(columns).write_parquet(path)


def read_table(path: Path) -> Table:
    """Read and check one head's table, Parquet or CSV.

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
    classes, logits = _class_columns(path, frame, rows["unit_id"].to_list())
    for label, unit in rows.select("label", "unit_id").iter_rows():
        if label not in classes:
            raise UserError(f"{path}: unit {unit!r} has label {label!r}, which no column p_{label} predicts")
    training = rows.filter(pl.col("split") == "oof")
    if training.is_empty():
        raise UserError(f"{path}: no rows with split 'oof': fusion is fitted on out-of-fold predictions")
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
        raise UserError(f"{path}: cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())[:200]}") from error
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
        pl.col("unit_id", "split", "label", "group").cast(pl.String),
        fold=folds.cast(pl.Int64),
    ).with_columns(fold=pl.when(pl.col("split") == "oof").then("fold"))

    for column in ("unit_id", "split", "label", *(["group"] if has_groups else [])):
        for number in rows[column].is_null().arg_true().head(1):
            raise UserError(f"{path}: row {number + 1} has no {column}")
    for split, unit in rows.filter(~pl.col("split").is_in(SPLITS)).select("split", "unit_id").head(1).iter_rows():
        hint = "; training units carry out-of-fold predictions (oof)" if split == "train" else ""
        raise UserError(f"{path}: unit {unit!r} has split {split!r}, expected one of {', '.join(SPLITS)}{hint}")
    for unit in rows.filter((pl.col("split") == "oof") & pl.col("fold").is_null())["unit_id"].head(1):
        raise UserError(f"{path}: oof unit {unit!r} has no fold")
    repeated = rows.filter(pl.struct("split", "unit_id").is_duplicated())
    for split, unit in repeated.select("split", "unit_id").head(1).iter_rows():
        raise UserError(f"{path}: unit {unit!r} occurs more than once in split {split!r}")
    return rows.select("unit_id", "split", "fold", "label", "group")


def _numbers(path: Path, frame: pl.DataFrame, column: str) -> pl.Series:
    """A column as float64 without NaN (null instead); CSV columns arrive as text."""
    try:
        return frame[column].cast(pl.Float64).fill_nan(None)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: column {column!r} holds something that is not a number") from error


def _class_columns(path: Path, frame: pl.DataFrame, unit_ids: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
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
        return classes, log_softmax(np.log(np.maximum(p, SMALLEST_PROBABILITY)), axis=1)
    logits = matrix("logit_")
    for row in np.flatnonzero(np.abs(softmax(logits, axis=1) - p).max(axis=1) > ROUNDING)[:1]:
        raise UserError(
            f"{path}: p_ and logit_ of unit {unit_ids[row]!r} disagree: p must be the softmax of the logits"
        )
    return classes, log_softmax(logits, axis=1)


def _same_classes(first: Table, table: Table) -> None:
    missing, extra = set(first.classes) - set(table.classes), set(table.classes) - set(first.classes)
    if missing or extra:
        parts = [f"lacks {', '.join(sorted(missing))}"] if missing else []
        parts += [f"has {', '.join(sorted(extra))} besides"] if extra else []
        raise UserError(f"{table.path}: other classes than {first.path}: {' and '.join(parts)}")


def _aligned_units(tables: Sequence[Table]) -> pl.DataFrame:
    """One row per (split, unit_id), ordered by split and then as first met: fold, label, group."""
    order = {split: i for i, split in enumerate(SPLITS)}
    stacked = pl.concat(table.rows.with_columns(file=pl.lit(str(table.path))) for table in tables)
    units = stacked.group_by("split", "unit_id", maintain_order=True).agg(
        pl.col("label", "fold", "group").drop_nulls().first(),
        *(pl.col(c).drop_nulls().n_unique().alias(f"{c}_count") for c in ("label", "fold", "group")),
    )
    for column in ("label", "fold", "group"):
        for split, unit in units.filter(pl.col(f"{column}_count") > 1).select("split", "unit_id").head(1).iter_rows():
            said = stacked.filter(
                (pl.col("split") == split) & (pl.col("unit_id") == unit) & pl.col(column).is_not_null()
            )
            by_value = said.unique(column, keep="first", maintain_order=True)
            listed = ", ".join(f"{value!r} in {file}" for value, file in by_value.select(column, "file").iter_rows())
            raise UserError(f"{by_value['file'][1]}: unit {unit!r} ({split}) has another {column}: {listed}")
    straddling = (
        units.filter((pl.col("split") == "oof") & pl.col("group").is_not_null())
        .group_by("group", maintain_order=True)
        .agg(pl.col("fold").unique().sort())
        .filter(pl.col("fold").list.len() > 1)
    )
    for group, folds in straddling.head(1).iter_rows():
        listed = " and ".join(map(str, folds))
        raise UserError(f"{tables[0].path}: group {group!r} lies in folds {listed}: a group must stay in one fold")
    return units.sort(pl.col("split").replace_strict(order, return_dtype=pl.Int8), maintain_order=True)
