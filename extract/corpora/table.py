"""Any CSV or Parquet table with a row per clip -> manifest."""

from pathlib import Path
from typing import Any

import polars as pl

from configs import UserError, first_line
from configs.schema import TableDataset
from extract.corpora.manifest import SPLITS, Manifest, make_manifest, misplaced, some
from extract.corpora.splits import connected, make_splits
from extract.media.sources import remote_files

__all__ = ["read_table"]

ALIASES = {**{split: split for split in SPLITS}, "dev": "val", "valid": "val", "validation": "val"}


def read_table(dataset: TableDataset, seed: int) -> Manifest:
    """Read a table whose columns the profile names.

    Everything is read as text, and an empty cell is null. A clip without ``conversation_id`` is its own conversation;
    without ``index`` a conversation's clips are in the order of the rows. ``group`` is the group column, else the
    speaker, else the conversation; conversations that share one are one group.

    Args:
        dataset: the table, its columns, and how to split it if it does not say.
        seed: for drawn splits.

    Raises:
        UserError: a column is missing, an id occurs twice, a cell is not allowed, a media file is not there or not
            below root, or there are too few groups to split. The message names the table and the row (from 1), or the
            column.
    """
    path = dataset.root / dataset.table
    table = _read(path)
    named = [*dataset.columns.values(), *dataset.metadata, *dataset.privileged]
    absent = [name for name in dict.fromkeys(named) if name not in table.columns]
    if absent:
        raise UserError(f"{path}: lacks the column {some(absent)}; it has {', '.join(table.columns)}")
    columns = [pl.col(theirs).alias(ours) for ours, theirs in dataset.columns.items()]
    columns += [pl.col(name).alias(f"meta_{name}") for name in dataset.metadata]
    columns += [pl.col(name).alias(f"privileged_{name}") for name in dataset.privileged]
    try:
        clips = table.select(columns).cast(pl.String)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: a column is not plain text or numbers: {first_line(error)}") from error
    clips = clips.with_columns(pl.when(pl.all() != "").then(pl.all())).with_row_index("row", offset=1)
    clips = _with_ids(clips, path)
    classes = _classes(clips, dataset, path)
    clips = _with_media(clips, dataset.media, path)
    clips = _with_groups(clips)
    clips, counts = _with_splits(clips, dataset, seed, path)
    return make_manifest(clips.drop("row"), dataset.media, classes, counts, str(path))


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such table (dataset.root and dataset.table)")
    try:
        if path.suffix.lower() == ".parquet":
            return pl.read_parquet(path, glob=False)
        if path.suffix.lower() == ".csv":
            header = pl.read_csv(path, has_header=False, n_rows=1, infer_schema=False, glob=False).row(0)
            twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
            if twice:
                raise UserError(f"{path}: more than one column is called {some(twice)}")
            return pl.read_csv(path, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {first_line(error)}") from error
    raise UserError(f"{path}: dataset.table must end in .csv or .parquet")


def _refuse(path: Path, broken: pl.DataFrame, column: str, what: str) -> None:
    """End with the first rows of ``broken``, unless there are none."""
    if broken.height:
        cells = broken.select("row", column).iter_rows()
        shown = some("row {} ({})".format(row, "empty" if cell is None else repr(cell)) for row, cell in cells)
        raise UserError(f"{path}: {column} {what}: {shown}")


def _with_ids(clips: pl.DataFrame, path: Path) -> pl.DataFrame:
    if "conversation_id" not in clips.columns:
        clips = clips.with_columns(conversation_id="clip_id", index=pl.lit("0"))
    for name in ("clip_id", "conversation_id"):
        _refuse(path, clips.filter(pl.col(name).is_null()), name, "is needed on every row")
    _refuse(path, clips.filter(pl.col("clip_id").is_duplicated()), "clip_id", "must be unique")
    if "index" not in clips.columns:
        return clips.with_columns(index=pl.int_range(pl.len(), dtype=pl.Int32).over("conversation_id"))
    whole = pl.col("index").cast(pl.Int32, strict=False)
    _refuse(path, clips.filter(whole.is_null()), "index", "must be a whole number")
    return clips.with_columns(index=whole)


def _classes(clips: pl.DataFrame, dataset: TableDataset, path: Path) -> list[str]:
    found = sorted(clips.get_column("label").drop_nulls().unique())
    if dataset.classes is None:
        return found
    strange = clips.filter(~pl.col("label").is_in(dataset.classes))
    _refuse(path, strange, "label", f"is not among dataset.classes ({', '.join(dataset.classes)})")
    return dataset.classes


def _with_media(clips: pl.DataFrame, root: Path | str, path: Path) -> pl.DataFrame:
    """Write separators as /, and see that every file that is named is there: a table is explicit."""
    kinds = [kind for kind in ("audio", "video") if kind in clips.columns]
    objects = remote_files(root) if kinds and isinstance(root, str) else set()
    for kind in kinds:
        tidy = pl.col(kind).str.replace_all(r"\\", "/").str.replace_all(r"/(\./|/)*", "/").str.replace(r"^(\./)+", "")
        clips = clips.with_columns(tidy.alias(kind))
        files = clips.get_column(kind).to_list()
        problems = [f"row {at + 1}: {why}" for at, why in misplaced(files, root)]
        if not problems:
            named = dict.fromkeys(file for file in files if file is not None)
            absent = {
                file: not (root / file).is_file() if isinstance(root, Path) else file not in objects for file in named
            }
            problems = [
                f"row {at + 1}: no file {file!r} below {root}" for at, file in enumerate(files) if absent.get(file)
            ]
        if problems:
            raise UserError(f"{path}: {kind}: {some(problems)}")
    return clips


def _with_groups(clips: pl.DataFrame) -> pl.DataFrame:
    source = next((name for name in ("group", "speaker") if name in clips.columns), None)
    if source is None:
        return clips.with_columns(group="conversation_id")
    # A conversation whose clips have several speakers joins them: a conversation never straddles a split or a fold.
    names = connected(clips.select("conversation_id", source).iter_rows())
    return clips.with_columns(group=pl.col("conversation_id").replace_strict(names, return_dtype=pl.String))


def _with_splits(
    clips: pl.DataFrame, dataset: TableDataset, seed: int, path: Path
) -> tuple[pl.DataFrame, dict[str, Any]]:
    if dataset.splits is None:
        split = pl.col("split").str.strip_chars().str.to_lowercase().replace_strict(ALIASES, default=None)
        _refuse(path, clips.filter(split.is_null()), "split", f"must be one of {', '.join(ALIASES)}")
        return clips.with_columns(split=split), {}
    units = clips.filter(pl.col("label").is_not_null())
    homes = make_splits(
        units.get_column("label").to_list(),
        units.get_column("group").to_list(),
        val=dataset.splits.val,
        test=dataset.splits.test,
        seed=seed,
    )
    # Groups without any label hold no unit: where they lie does not matter to anyone.
    split = pl.col("group").replace_strict(homes, default="train", return_dtype=pl.String)
    return clips.with_columns(split=split), {"splits_drawn": {"seed": seed, "groups": len(homes)}}
