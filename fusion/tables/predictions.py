"""Predictions of several heads: aligned by unit, class and fold; and written. ``reading.py`` reads one table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import log_softmax

from cache import is_published, parquet_bytes, read_sealed_parquet
from configs import UserError, some
from configs.tables import shortened
from fusion.tables.foreign import grouped, proposal
from fusion.tables.reading import META, SPLITS, Table, read_table

NO_FOLD = -1  # the fold of val and test units
DRAWN_FOLDS = 5  # where tables name none
FEW = 0.5  # a table that shares a smaller part of the units it could share is warned of


@dataclass(frozen=True)
class HeadOutputs:
    """What h heads say of n units, and what else is known of the units: all that a strategy sees."""

    logits: np.ndarray  # (n, h, c) log-probabilities: rows of exp(logits) sum to 1; NaN where a head is absent
    present: np.ndarray  # (n, h) bool
    metadata: dict[str, np.ndarray] = field(default_factory=dict)  # field: (n,) str or None
    baselines: dict[str, np.ndarray] = field(default_factory=dict)  # as in Predictions

    def where(self, rows: np.ndarray) -> "HeadOutputs":
        """The units of a boolean mask or of indices."""
        by_name = [{name: values[rows] for name, values in each.items()} for each in (self.metadata, self.baselines)]
        return HeadOutputs(self.logits[rows], self.present[rows], *by_name)


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
    logits: np.ndarray  # (n, h, c), as in HeadOutputs
    present: np.ndarray  # (n, h) bool
    metadata: dict[str, np.ndarray] = field(default_factory=dict)  # field: (n,) str or None
    notes: tuple[str, ...] = ()  # what is odd about the tables, a line each
    warnings: tuple[str, ...] = ()  # what makes scores flatter, a line each
    # head: log-probabilities (n, c) of its plain baseline, NaN where that has none; heads without one are left out.
    # No strategy pools them: each is a candidate by itself.
    baselines: dict[str, np.ndarray] = field(default_factory=dict)
    speakers: np.ndarray | None = None  # (n,) str or None; None where no table names any

    def where(self, rows: np.ndarray) -> "Predictions":
        """The units of a boolean mask or of indices."""
        per_unit = ["unit_ids", "splits", "folds", "labels", "groups", "logits", "present"]
        per_unit += ["speakers"] if self.speakers is not None else []
        metadata, baselines = (
            {name: values[rows] for name, values in each.items()} for each in (self.metadata, self.baselines)
        )
        parts = {name: getattr(self, name)[rows] for name in per_unit}
        return replace(self, **parts, metadata=metadata, baselines=baselines)

    @property
    def outputs(self) -> HeadOutputs:
        return HeadOutputs(self.logits, self.present, self.metadata, self.baselines)

    @property
    def distinct_baselines(self) -> dict[str, str]:
        """Head: the first head that has the same baseline, as heads that read the same do."""
        first: dict[str, str] = {}
        for head, own in self.baselines.items():
            same = (other for other in first.values() if np.array_equal(own, self.baselines[other], equal_nan=True))
            first[head] = next(same, head)
        return first

    @property
    def label_names(self) -> list[str]:
        return [self.classes[i] for i in self.labels]


def baselines_beside(files: dict[str, Path]) -> dict[str, Path]:
    """The tables of the heads' plain baselines, which lie beside a head's own where its folder was published."""
    beside = {head: path.parent / "baseline" / "predictions.parquet" for head, path in files.items()}
    return {
        head: path
        for head, path in beside.items()
        if files[head].name == path.name and path.is_file() and is_published(path)
    }


def read(
    files: dict[str, Path], baselines: dict[str, Path] | None = None, group_from: str | None = None
) -> Predictions:
    """Read and align the tables of several heads, ``{head: file}``, and of their baselines.

    A unit needs to be in one table only: where a head has no row for it, that head is absent there. Classes are
    matched by name. Where no table names folds, grouped ones are drawn here, the same ones every time.

    Args:
        baselines: head: file. Units that no head has are left out.
        group_from: a regular expression; what its first group matches in a unit's id is the unit's group.

    Raises:
        UserError: a file is missing or breaks the contract, or the files contradict each other: other classes,
            or another label, fold or group for the same unit. Folds must agree because the fusion that predicts
            fold k may not have seen fold k through any head. So does a table that shares no unit with the others: there
            is nothing to fuse. Where it shares few, the result's ``notes`` say so.
    """
    tables: dict[str, Table] = {}
    for head, path in files.items():
        tables[head] = read_table(path, next(iter(tables.values()), None))
    first = next(iter(tables.values()))
    if group_from is not None:
        tables = grouped(tables, group_from)
    told = {note: table.path for table in reversed(tables.values()) for note in table.notes}  # once for all heads
    notes = [*(f"{path}: {note}" for note, path in reversed(told.items())), *_meetings(list(tables.values()))]
    units = _aligned_units(list(tables.values()))
    notes += _in_several_splits(units)

    logits = np.stack([_aligned(table, units, first.classes) for table in tables.values()], axis=1)
    present = ~np.isnan(logits).any(axis=2)
    if not present[(units["split"] == "oof").to_numpy()].any():
        raise UserError(f"{first.path}: no head has a prediction for any oof unit: there is nothing to fit a fusion on")
    numbers = {name: i for i, name in enumerate(first.classes)}
    labels = np.array([numbers[name] for name in units["label"]])
    groups = np.array(units.select(pl.coalesce("group", "unit_id")).to_series().to_list(), dtype=str)
    return Predictions(
        heads=tuple(tables),
        classes=first.classes,
        unit_ids=np.array(units["unit_id"].to_list(), dtype=str),
        splits=np.array(units["split"].to_list(), dtype=str),
        folds=_folds(units, labels, groups),
        labels=labels,
        groups=groups,
        logits=logits,
        present=present,
        metadata={
            name.removeprefix(META): units[name].to_numpy().astype(object)
            for name in units.columns
            if name.startswith(META)
        },
        notes=tuple(notes),
        warnings=tuple(_not_apart(units, labels)),
        baselines={
            head: _aligned(read_table(path, first), units, first.classes) for head, path in (baselines or {}).items()
        },
        speakers=units["speaker"].to_numpy().astype(object) if units["speaker"].count() else None,
    )


def _aligned(table: Table, units: pl.DataFrame, classes: tuple[str, ...]) -> np.ndarray:
    """A table's log-probabilities in the order of units and classes, (n, c); NaN where it says nothing."""
    key = ["split", "unit_id"]
    said = table.rows.filter("has_input").select(*key, "row")
    rows = units.select(key).join(said, on=key, how="left", maintain_order="left")["row"]
    result = np.full((len(units), len(classes)), np.nan)
    columns = [table.classes.index(name) for name in classes]
    result[rows.is_not_null().to_numpy()] = table.logits[rows.drop_nulls().to_numpy()][:, columns]
    return result


def _not_apart(units: pl.DataFrame, labels: np.ndarray) -> Iterator[str]:
    """Where no table names groups: what that does to scores and intervals, and where groups may be hidden."""
    if units["group"].null_count() < len(units):
        return
    if units["fold"].null_count() == len(units):
        yield (
            "No table has a column fold or group: folds are drawn at random over units. If people or conversations "
            "recur, the fusion is judged on those that it was fitted on: scores are too good, and intervals too narrow."
        )
    else:
        yield (
            "No table has a column group: every unit counts as a group of its own. If people or conversations recur, "
            "intervals are too narrow."
        )
    proposed = proposal(units["unit_id"].to_list(), labels.tolist())
    if proposed:
        yield f"{proposed}."


def _meetings(tables: Sequence[Table]) -> Iterator[str]:
    """A line for each table that shares few units with the others.

    Raises:
        UserError: in one of the splits, a table shares no unit with the tables before it.
    """
    for split in SPLITS:
        own = [(table.path, set(table.rows.filter(pl.col("split") == split)["unit_id"])) for table in tables]
        own = [(path, ids) for path, ids in own if ids]
        joined: list[tuple[Path, set[str]]] = own[:1]
        apart = own[1:]
        while met := [each for each in apart if any(each[1] & ids for _, ids in joined)]:
            joined, apart = joined + met, [each for each in apart if each not in met]
        if apart:
            (here, ours), (there, theirs) = joined[0], apart[0]
            raise UserError(
                f"{there}: shares no {split} unit with {here}: there is nothing to fuse ({_only(theirs, ours)} there, "
                f"{_only(ours, theirs)} here): give the same units the same unit_id"
            )
        for path, ids in own if len(own) > 1 else []:
            others = set().union(*(others for other, others in own if other != path))
            if len(ids & others) < FEW * min(len(ids), len(others)):
                yield (
                    f"{path}: shares only {len(ids & others)} of its {len(ids)} {split} units with the other tables: "
                    f"{_only(ids, others)} here, {_only(others, ids)} there"
                )


def _in_several_splits(units: pl.DataFrame) -> Iterator[str]:
    """Lines on ids and groups that stand both in oof and in val or test: fusion may be judged on what it learned."""
    fitted = pl.col("split") == "oof"
    for column, consequence in (
        ("unit_id", "if they are the same units, the fusion is judged on what it was fitted on"),
        ("group", "the fusion is judged on groups that it was fitted on"),
    ):
        shared = units.group_by(column, maintain_order=True).agg(fitted.any() & ~fitted.all()).filter("split")
        names = shared[column].drop_nulls().to_list()
        if names:
            yield (
                f"{len(names)} {column} value{'s' * (len(names) > 1)} stand{'s' * (len(names) == 1)} in oof and in val "
                f"or test, too ({some(map(shortened, names))}): {consequence}"
            )


def _only(these: set[str], others: set[str]) -> str:
    return ", ".join(shortened(unit) for unit in sorted(these - others)[:2])


def manifest_metadata(path: Path, unit_ids: np.ndarray) -> dict[str, np.ndarray]:
    """The ``meta_`` columns of a manifest for some units, (n,) str or None each; privileged columns are not read."""
    content = read_sealed_parquet(path, "make it again with python extract/manifest.py")
    clips = pl.read_parquet(content)
    columns = [name for name in clips.columns if name.startswith(META)]
    units = pl.DataFrame({"clip_id": unit_ids.tolist()}, schema={"clip_id": pl.String})
    rows = units.join(clips, on="clip_id", how="left", maintain_order="left")
    return {name.removeprefix(META): rows[name].to_numpy().astype(object) for name in columns}


def _folds(units: pl.DataFrame, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The fold of each unit, (n,) int; drawn by group and label where none is named."""
    oof = (units["split"] == "oof").to_numpy()
    named = units["fold"].is_not_null().to_numpy()
    folds = units["fold"].fill_null(NO_FOLD).to_numpy().copy()
    if not named[oof].any():
        n_groups, largest = len(np.unique(groups[oof])), int(np.bincount(labels[oof]).max())
        n_folds = min(DRAWN_FOLDS, n_groups, largest)
        if n_folds < 2:
            few = f"only {n_groups} group" if n_groups < 2 else "no class with two units"
            raise UserError(f"no table names folds, and none can be drawn: the oof units have {few}")
        from sklearn.model_selection import StratifiedGroupKFold  # seconds to import

        splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=0)
        for fold, (_, held) in enumerate(splitter.split(labels[oof], labels[oof], groups[oof])):
            folds[np.flatnonzero(oof)[held]] = fold
    elif not named[oof].all():
        unit = units["unit_id"].filter(pl.Series(oof & ~named))[0]
        raise UserError(f"oof unit {unit!r} has no fold in any table, others have one")
    return folds


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
    path.write_bytes(parquet_bytes(pl.DataFrame(columns)))


def _aligned_units(tables: Sequence[Table]) -> pl.DataFrame:
    """One row per (split, unit_id), ordered by split and then as first met: fold, label, group."""
    order = {split: i for i, split in enumerate(SPLITS)}
    with_file = [table.rows.with_columns(file=pl.lit(str(table.path))) for table in tables]
    stacked = pl.concat(with_file, how="diagonal")
    units = stacked.group_by("split", "unit_id", maintain_order=True).agg(
        pl.col("label", "fold", "group", "speaker", f"^{META}.*$").drop_nulls().first(),
        *(pl.col(c).drop_nulls().n_unique().alias(f"{c}_count") for c in ("label", "fold", "group", "speaker")),
    )
    for column in ("label", "fold", "group", "speaker"):
        for split, unit in units.filter(pl.col(f"{column}_count") > 1).select("split", "unit_id").head(1).iter_rows():
            said = stacked.filter(
                (pl.col("split") == split) & (pl.col("unit_id") == unit) & pl.col(column).is_not_null()
            )
            by_value = said.unique(column, keep="first", maintain_order=True)
            listed = ", ".join(f"{value!r} in {file}" for value, file in by_value.select(column, "file").iter_rows())
            raise UserError(f"{by_value['file'][1]}: unit {unit!r} ({split}) has another {column}: {listed}")
    straddling = (
        units.filter((pl.col("split") == "oof") & pl.col("group").is_not_null() & pl.col("fold").is_not_null())
        .group_by("group", maintain_order=True)
        .agg(pl.col("fold").unique().sort())
        .filter(pl.col("fold").list.len() > 1)
    )
    for group, folds in straddling.head(1).iter_rows():
        listed = " and ".join(map(str, folds))
        raise UserError(f"{tables[0].path}: group {group!r} lies in folds {listed}: a group must stay in one fold")
    return units.sort(pl.col("split").replace_strict(order, return_dtype=pl.Int8), maintain_order=True)
