"""Any CSV or Parquet table with a row per clip -> manifest."""

import os
from pathlib import Path
from typing import Any

import polars as pl

from configs import UserError, some
from configs.schema import TableDataset
from configs.tables import LONGEST, Cells, filled, lookalikes, read_cells, shortened, suspicious
from extract.corpora.manifest import (
    SPLITS,
    Manifest,
    make_manifest,
    not_here,
    straddling,
)
from extract.corpora.media_paths import Missing, misplaced
from extract.corpora.splits import connected, make_splits
from extract.media.sources import remote_files

__all__ = ["read_table"]

ALIASES = {**{split: split for split in SPLITS}, "dev": "val", "valid": "val", "validation": "val"}
KEYS = ("clip_id", "conversation_id", "speaker", "group", "label")  # what tells rows apart, or joins them


def read_table(dataset: TableDataset, seed: int) -> Manifest:
    """Read a table whose columns the profile names.

    Everything is read as text, without the white space around it (``text`` itself is kept as it is written), and a cell
    with nothing else in it is null. Without a ``clip_id`` column the row is the id: ``row1``, below the header. A
    clip without ``conversation_id`` is its own conversation; without ``index`` a
    conversation's clips are in the order of the rows. ``group`` is the group column, else the speaker, else the
    conversation; conversations that share one are one group.

    Args:
        dataset: the table, its columns, and how to split it if it does not say.
        seed: for drawn splits.

    Raises:
        UserError: a column is missing, an id occurs twice, a cell is not allowed, a media file is not there (unless
            ``missing_media`` allows it) or not below root, or there are too few groups to split. The message names the
            table and the row (from 1, the header not counted), or the column.
    """
    path = dataset.root / dataset.table
    if not os.path.exists(path):  # noqa: PTH110 (a Path raises where the name is too long)
        raise UserError(f"{not_here(path, 'table')} (dataset.root and dataset.table)")
    cells = read_cells(path)
    clips = _clips(cells, dataset)
    _refuse_strange(clips, path)
    warnings = [line for name in _keys(clips) for line in lookalikes(name, clips[name], clips["row"])]
    checked = [name for name in (*KEYS, "text") if name in clips.columns]
    warnings += [line for name in checked for line in suspicious(name, clips[name], clips["row"])]
    clips = _with_ids(clips, path)
    classes = _classes(clips, dataset, path)
    clips, missing = _with_media(clips, dataset.media, path)
    clips = _with_groups(clips)
    clips, counts = _with_splits(clips, dataset, seed, path)
    counts |= {"notes": list(cells.notes), "warnings": warnings}
    allow = dataset.missing_media == "allow"
    return make_manifest(clips.drop("row"), dataset.media, classes, counts, str(path), missing, allow)


def _clips(cells: Cells, dataset: TableDataset) -> pl.DataFrame:
    """The columns that the profile names, under our names, all of them text; and ``row``."""
    ours: dict[str, str] = {ours: theirs.strip() for ours, theirs in dataset.columns.items()}
    ours |= {f"meta_{name.strip()}": name.strip() for name in dataset.metadata}
    ours |= {f"privileged_{name.strip()}": name.strip() for name in dataset.privileged}
    absent = [name for name in dict.fromkeys(ours.values()) if name not in cells.frame.columns]
    if absent:
        listed = some(absent, len(absent))
        raise UserError(f"{cells.path}: lacks the column {listed}; it has {some(cells.frame.columns, 20)}")
    columns = {name: cells.text(theirs) for name, theirs in ours.items()}
    if "text" in ours and cells.frame.schema[ours["text"]] == pl.String:
        written = cells.frame[ours["text"]]
        columns["text"] = written.set(columns["text"].is_null(), None)
    for name in {"role", "split"} & ours.keys():
        columns[name] = columns[name].str.to_lowercase()
    return pl.DataFrame({"row": cells.rows, **columns})


def _keys(clips: pl.DataFrame) -> list[str]:
    return [name for name in clips.columns if name in KEYS or name.startswith("meta_")]


def _refuse(path: Path, broken: pl.DataFrame, column: str, what: str) -> None:
    """End with the first rows of ``broken``, unless there are none."""
    if broken.height:
        found = broken.select("row", column).iter_rows()
        shown = some("row {} ({})".format(row, "empty" if cell is None else shortened(cell)) for row, cell in found)
        raise UserError(f"{path}: {column} {what}: {shown}")


def _refuse_strange(clips: pl.DataFrame, path: Path) -> None:
    for name in clips.columns:
        if name in ("index", "role", "split", "audio", "video", *KEYS):
            broken = clips.filter(pl.col(name).str.contains(r"[\p{Cc}\u2028\u2029]"))
            _refuse(path, broken, name, "holds a line break or another control character")
            long = clips.filter(pl.col(name).str.len_chars() > LONGEST)
            _refuse(path, long, name, f"is longer than {LONGEST:,} characters")


def _with_ids(clips: pl.DataFrame, path: Path) -> pl.DataFrame:
    if "clip_id" not in clips.columns:
        clips = clips.with_columns(clip_id=pl.format("row{}", "row"))
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
    if dataset.classes is None:
        return sorted(clips.get_column("label").drop_nulls().unique())
    classes = [filled(name) or "" for name in dataset.classes]
    strange = clips.filter(~pl.col("label").is_in(classes))
    _refuse(path, strange, "label", f"is not among dataset.classes ({some(classes, 20)})")
    return classes


def _with_media(clips: pl.DataFrame, root: Path | str, path: Path) -> tuple[pl.DataFrame, list[Missing]]:
    """Write separators as /, and take out what is not there, which is returned as well."""
    kinds = [kind for kind in ("audio", "video") if kind in clips.columns]
    objects = remote_files(root) if kinds and isinstance(root, str) else set()
    rows = clips.get_column("row").to_list()
    missing = []
    for kind in kinds:
        tidy = pl.col(kind).str.replace_all(r"\\", "/").str.replace_all(r"/(\./|/)*", "/").str.replace(r"^(\./)+", "")
        if isinstance(root, Path):  # absolute paths below it are meant from there
            tidy = tidy.str.strip_prefix(f"{root.absolute().as_posix().rstrip('/')}/")
        files = clips.select(tidy).to_series().to_list()
        problems = [f"row {rows[at]}: {why}" for at, why in misplaced(files, root)]
        if problems:
            raise UserError(f"{path}: {kind}: {some(problems)}")
        there = {
            file: os.path.isfile(root / file) if isinstance(root, Path) else file in objects  # noqa: PTH113
            for file in dict.fromkeys(files)
            if file is not None
        }
        missing += [
            Missing(kind, file, f"row {row}") for file, row in zip(files, rows, strict=True) if file and not there[file]
        ]
        found = [file if file and there[file] else None for file in files]
        clips = clips.with_columns(pl.Series(kind, found, dtype=pl.String))
    return clips, missing


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
        split = pl.col("split").replace_strict(ALIASES, default=None)
        _refuse(path, clips.filter(split.is_null()), "split", f"must be one of {', '.join(ALIASES)}")
        clips = clips.with_columns(split=split)
        _refuse_straddling(clips, dataset, path)
        return clips, {}
    units = clips.filter(pl.col("label").is_not_null())
    wanted = 1 + (dataset.splits.val > 0) + (dataset.splits.test > 0)
    homes = make_splits(
        units.get_column("label").to_list(),
        units.get_column("group").to_list(),
        val=dataset.splits.val,
        test=dataset.splits.test,
        seed=seed,
        finer=_finer(dataset) if wanted <= units.get_column("conversation_id").n_unique() else None,
    )
    # Groups without any label hold no unit: where they lie does not matter to anyone.
    split = pl.col("group").replace_strict(homes, default="train", return_dtype=pl.String)
    return clips.with_columns(split=split), {"splits_drawn": {"seed": seed, "groups": len(homes)}}


def _refuse_straddling(clips: pl.DataFrame, dataset: TableDataset, path: Path) -> None:
    """Where the table's splits share groups that nobody chose, name the choice."""
    groups = straddling(clips)
    together = clips.group_by("conversation_id").agg(pl.col("split").n_unique() > 1).get_column("split").any()
    if groups and not together and "group" not in dataset.columns and "speaker" in dataset.columns:
        raise UserError(
            f"{path}: more than one split has clips of group: {some(groups)}: groups are speakers, joined where they "
            f"share a conversation, unless dataset.columns says otherwise; to keep the table's splits, write "
            f"{_finer(dataset)}"
        )


def _finer(dataset: TableDataset) -> str:
    """What a group can be instead of a speaker."""
    name = dataset.columns.get("conversation_id", dataset.columns.get("clip_id", "a column that differs in each row"))
    return f"columns.group: {name} (speakers are then shared between splits and folds, as report and audit will say)"
