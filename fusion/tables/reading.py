"""One head's prediction table, Parquet or CSV: reading and checking it. The contract is in docs/design.md.

A table may come from anywhere. It needs ``unit_id``, ``label``, ``split`` or ``fold`` or both, and one ``p_<class>`` or
``logit_<class>`` column per class. ``group``, ``speaker``, ``has_input`` (false: the head had nothing to read and is
absent) and ``meta_...`` columns are used where they are given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import log_softmax

from configs import UserError
from configs.tables import Cells, filled, lookalikes, read_cells, shortened, suspicious

SPLITS = ("oof", "val", "test")
META = "meta_"  # prefix of columns with what else is known of a unit
ROUNDING = 0.02  # tables rounded to two decimals pass; a row that sums to 0.9 does not
MOST_FOLDS = 1_000_000
SMALLEST_PROBABILITY = 1e-7  # a probability written as 0 becomes a finite logit
# A class that a model masks (-1e9, -3.4e38) becomes as good as impossible, and can be computed with.
LOWEST_LOG = -1000.0


@dataclass(frozen=True)
class Table:
    """One head's checked table."""

    path: Path
    classes: tuple[str, ...]
    rows: pl.DataFrame  # unit_id, split, label; fold, group, speaker (null: none is named); has_input; meta_...; row
    logits: np.ndarray  # (n, c) log-probabilities
    notes: tuple[str, ...] = ()  # what somebody should know who trusts it, a line each


def read_table(path: Path, like: Table | None = None) -> Table:
    """Read and check one head's table, Parquet or CSV.

    Args:
        like: a table that must have the same classes, in any order.

    Raises:
        UserError: one line naming the file, the first offending row or column, and what is expected.
    """
    cells = read_cells(path, "prediction table")
    frame = cells.frame
    for column in ("unit_id", "label"):
        if column not in frame.columns:
            raise UserError(f"{path}: no column {column!r} (found: {_listed(frame.columns)})")
    rows = _rows(cells)
    classes, logits = _class_columns(cells, rows["unit_id"].to_list(), like)
    for label, unit, row in rows.select("label", "unit_id", pl.Series("row", cells.rows)).iter_rows():
        if label not in classes:
            raise UserError(
                f"{path}: row {row}: unit {shortened(unit)} has label {shortened(label)}, which no column "
                f"p_{shortened(label)[1:-1]} predicts"
            )
    training = rows.filter(pl.col("split") == "oof")
    if training.is_empty():
        raise UserError(
            f"{path}: no rows with split 'oof': fusion is fitted on predictions of units that the head was not trained "
            "on; if those of another split are such, call it oof"
        )
    if training["label"].n_unique() < 2:
        raise UserError(f"{path}: every oof unit has label {training['label'][0]!r}: there is nothing to tell apart")
    notes = [*cells.notes]
    for column in ("unit_id", "label", "group"):
        notes += lookalikes(column, rows[column], cells.rows)
    notes += suspicious("label", rows["label"], cells.rows)
    return Table(path, classes, rows.with_row_index("row"), logits, tuple(notes))


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns[:20]) + (f" (and {len(columns) - 20} more)" if len(columns) > 20 else "")


def _rows(cells: Cells) -> pl.DataFrame:
    """unit_id, split, fold, label and group with their types, checked."""
    path, frame = cells.path, cells.frame
    known = ("unit_id", "split", "label", "group", "speaker")
    names = [name for name in frame.columns if name in known or name.startswith(META)]
    rows = pl.DataFrame({name: cells.text(name) for name in names})
    if "split" not in names:
        if "fold" not in frame.columns:
            raise UserError(f"{path}: neither a column 'split' nor 'fold': which rows are out-of-fold?")
        rows = rows.with_columns(split=pl.lit("oof"))
    rows = rows.with_columns(pl.lit(None, pl.String).alias(name) for name in ("group", "speaker") if name not in names)
    has_groups = rows["group"].null_count() < len(rows)
    folds = cells.numbers("fold") if "fold" in frame.columns else pl.Series([None] * len(frame), dtype=pl.Float64)
    wrong = ((folds != folds.round()) | (folds.abs() > MOST_FOLDS)).fill_null(False)
    for row, fold in pl.DataFrame({"row": cells.rows, "fold": folds}).filter(wrong).head(1).iter_rows():
        raise UserError(f"{path}: row {row}: fold {fold:g}: a fold is a whole number from 0 to {MOST_FOLDS}")
    rows = rows.with_columns(fold=folds.cast(pl.Int64), has_input=_flags(cells)).with_columns(
        fold=pl.when(pl.col("split") == "oof").then("fold")
    )

    for column in ("unit_id", "split", "label", *(["group"] if has_groups else [])):
        for row in cells.rows.filter(rows[column].is_null()).head(1):
            raise UserError(f"{path}: row {row} has no {column}")
    numbered = rows.with_columns(row=cells.rows)
    strange = numbered.filter(~pl.col("split").is_in(SPLITS))
    for row, split, unit in strange.select("row", "split", "unit_id").head(1).iter_rows():
        hint = "; training units carry out-of-fold predictions (oof)" if split == "train" else ""
        raise UserError(
            f"{path}: row {row}: unit {unit!r} has split {split!r}, expected one of {', '.join(SPLITS)}{hint}"
        )
    training = numbered.filter(pl.col("split") == "oof")
    without = training.filter(pl.col("fold").is_null() & pl.col("fold").is_not_null().any())
    for row, unit in without.select("row", "unit_id").head(1).iter_rows():
        raise UserError(f"{path}: row {row}: oof unit {unit!r} has no fold, others have one")
    repeated = pl.struct("split", "unit_id").is_duplicated()
    again = numbered.filter(repeated).sort("split", "unit_id", maintain_order=True)
    for split, unit, row in again.select("split", "unit_id", "row").rows()[1:2]:
        raise UserError(f"{path}: unit {unit!r} occurs more than once in split {split!r} (row {row})")
    return rows


def _flags(cells: Cells) -> pl.Series:
    """The column has_input, of true and false; true where there is none."""
    if "has_input" not in cells.frame.columns:
        return pl.Series([True] * len(cells.frame), dtype=pl.Boolean)
    words = cells.text("has_input").str.to_lowercase()
    strange = ~words.is_in(["true", "false"]) | words.is_null()
    for row, word in pl.DataFrame({"row": cells.rows, "word": words}).filter(strange.fill_null(True)).head(1).rows():
        said = "empty" if word is None else shortened(word)
        raise UserError(f"{cells.path}: row {row}: has_input is {said}: write true or false")
    return words == "true"


def _class_columns(cells: Cells, unit_ids: list[str], like: Table | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names in the order of the columns, and log-probabilities (n, c)."""
    path, columns = cells.path, cells.frame.columns
    found = {  # prefix: class, as cells of labels are read: column
        prefix: {filled(c.removeprefix(prefix)) or "": c for c in columns if c.startswith(prefix)}
        for prefix in ("p_", "logit_")
    }
    if not found["p_"] and not found["logit_"]:
        raise UserError(f"{path}: no columns p_<class> or logit_<class> (found: {_listed(columns)})")
    for prefix, named in found.items():
        if len(named) < sum(c.startswith(prefix) for c in columns) or "" in named:
            raise UserError(f"{path}: two columns {prefix}<class> mean the same class, or one means none")
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

    def number(row: np.integer) -> int:
        return int(cells.rows[int(row)])

    def matrix(prefix: str) -> np.ndarray:
        values = np.column_stack([cells.numbers(found[prefix][name]).to_numpy() for name in classes])
        for row, column in np.argwhere(~np.isfinite(values))[:1]:
            said = f"unit {unit_ids[row]!r} has {prefix}{classes[column]} = {values[row, column]}"
            raise UserError(
                f"{path}: row {number(row)}: {said}: not a number that can be fused; leave the row out if the "
                "head has no prediction for it"
            )
        return values

    if not found["p_"]:
        return classes, _log_probabilities(matrix("logit_"))
    p = matrix("p_")
    sums = p.sum(axis=1)
    for row in np.flatnonzero(np.abs(sums - 1) > ROUNDING)[:1]:
        percent = ": write 0.25, not 25 for 25 %" if abs(sums[row] - 100) <= 100 * ROUNDING else ""
        raise UserError(
            f"{path}: row {number(row)}: the probabilities of unit {unit_ids[row]!r} sum to {sums[row]:.4g}, not to 1"
            f"{percent}"
        )
    for row, column in np.argwhere((p < 0) | (p > 1 + ROUNDING))[:1]:
        value = p[row, column]
        said = f"unit {unit_ids[row]!r} has p_{classes[column]} = {value:.4g}"
        raise UserError(f"{path}: row {number(row)}: {said}: not a probability")
    if not found["logit_"]:
        # What a table writes as 0 is less than the smallest number that it can write.
        smallest = max(SMALLEST_PROBABILITY, p[p > 0].min() / 2)
        return classes, log_softmax(np.log(np.maximum(p, smallest)), axis=1)
    logits = _log_probabilities(matrix("logit_"))
    for row in np.flatnonzero(np.abs(np.exp(logits) - p).max(axis=1) > ROUNDING)[:1]:
        raise UserError(
            f"{path}: row {number(row)}: p_ and logit_ of unit {unit_ids[row]!r} disagree: "
            "p must be the softmax of the logits"
        )
    return classes, logits


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Of finite logits, however large."""
    log_p = log_softmax(np.clip(logits, -1e300, 1e300), axis=1)
    return log_p if (log_p >= LOWEST_LOG).all() else log_softmax(np.maximum(log_p, LOWEST_LOG), axis=1)
