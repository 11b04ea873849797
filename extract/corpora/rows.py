"""From a table with a row per clip, as a reader made it, to a manifest: what all readers of public corpora share."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from configs import UserError, some
from configs.sections.datasets import PublicDataset
from configs.tables import LONGEST, filled, lookalikes, shortened, suspicious
from extract.corpora.manifest import SPLITS, Manifest, make_manifest, straddling
from extract.corpora.media_paths import Missing, misplaced
from extract.corpora.splits import connected, make_splits, natural
from extract.media.sources import remote_files

__all__ = ["ALIASES", "Rows", "finish", "joined_labels", "refuse"]

ALIASES = {
    **{split: split for split in SPLITS},
    **{"dev": "val", "devel": "val", "valid": "val", "validation": "val"},
    **{"training": "train", "testing": "test", "evaluation": "test"},
}
KEYS = ("clip_id", "conversation_id", "speaker", "group", "label", "fold")  # what tells rows apart, or joins them


@dataclass(frozen=True)
class Rows:
    """What a reader found.

    ``clips`` has any of the manifest's columns but turn_id, all of them strings, and ``row``: where each stands, as a
    number of a row or in words. ``clip_id`` and ``label`` are needed. ``split`` may be any of ``ALIASES``, ``fold`` any
    name: that of the fold which predicts a training clip.
    """

    clips: pl.DataFrame
    where: Path | str  # names the dataset in errors
    counts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    published: bool = False  # splits and folds are those of a publication: groups that they share are told, not refused
    finer: str | None = None  # the setting that makes smaller groups than speakers, for errors


def finish(rows: Rows, dataset: PublicDataset, seed: int) -> Manifest:
    """A manifest of a reader's rows.

    A clip without ``conversation_id`` is its own conversation; without ``index`` a conversation's clips are in the
    order of the rows. ``group`` is the group column, else the speaker, else the conversation; conversations that share
    one are one group. ``dataset.labels`` joins and drops classes. Without splits of any kind all is train.

    Raises:
        UserError: an id occurs twice, a cell is not allowed, a media file is not there (unless ``missing_media`` allows
            it) or not below root, or there are too few groups to split.
    """
    clips, where = rows.clips, str(rows.where)
    _refuse_strange(clips, where)
    warnings = [*rows.warnings]
    for name in clips.columns:
        if name in KEYS or name.startswith("meta_"):
            warnings += lookalikes(name, clips[name], clips["row"])
    for name in (*KEYS, "text"):
        if name in clips.columns:
            warnings += suspicious(name, clips[name], clips["row"])
    clips = _with_ids(clips, where)
    clips, counts = joined_labels(clips, dataset.labels, warnings)
    classes = _classes(clips, dataset, where)
    clips, missing = _with_media(clips, dataset.media, where)
    by_speaker = "speaker" in clips.columns and "group" not in clips.columns
    clips = _with_groups(clips)
    clips, drawn = _with_splits(clips, rows, dataset, seed, by_speaker)
    clips, given = _with_folds(clips, rows, warnings, by_speaker)
    counts |= rows.counts | drawn | given | {"notes": list(rows.notes), "warnings": warnings}
    allow = dataset.missing_media == "allow"
    return make_manifest(clips.drop("row"), dataset.media, classes, counts, where, missing, allow)


def refuse(where: Path | str, broken: pl.DataFrame, column: str, what: str) -> None:
    """End with the first rows of ``broken``, unless there are none."""
    if broken.height:
        found = broken.select("row", column).iter_rows()
        shown = some(f"{_at(row)} ({'empty' if cell is None else shortened(cell)})" for row, cell in found)
        raise UserError(f"{where}: {column} {what}: {shown}")


def _at(row: object) -> str:
    return f"row {row}" if isinstance(row, int) else str(row)


def _refuse_strange(clips: pl.DataFrame, where: str) -> None:
    for name in clips.columns:
        if name in ("index", "role", "split", "audio", "video", *KEYS):
            broken = clips.filter(pl.col(name).str.contains(r"[\p{Cc}\u2028\u2029]"))
            refuse(where, broken, name, "holds a line break or another control character")
            long = clips.filter(pl.col(name).str.len_chars() > LONGEST)
            refuse(where, long, name, f"is longer than {LONGEST:,} characters")


def _with_ids(clips: pl.DataFrame, where: str) -> pl.DataFrame:
    if "conversation_id" not in clips.columns:
        clips = clips.with_columns(conversation_id="clip_id", index=pl.lit("0"))
    for name in ("clip_id", "conversation_id"):
        refuse(where, clips.filter(pl.col(name).is_null()), name, "is needed on every row")
    refuse(where, clips.filter(pl.col("clip_id").is_duplicated()), "clip_id", "must be unique")
    if "index" not in clips.columns:
        return clips.with_columns(index=pl.int_range(pl.len(), dtype=pl.Int32).over("conversation_id"))
    whole = pl.col("index").cast(pl.Int32, strict=False)
    refuse(where, clips.filter(whole.is_null()), "index", "must be a whole number")
    return clips.with_columns(index=whole)


def joined_labels(
    clips: pl.DataFrame, labels: Mapping[str, str | None], warnings: list[str]
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Classes joined and dropped, as ``dataset.labels`` says; conversations that lose all labels go. And counts."""
    if not labels:
        return clips, {}
    found = Counter(clips["label"].drop_nulls())
    names = {filled(ours): theirs and filled(theirs) for ours, theirs in labels.items()}
    if unknown := [shortened(name) for name in names if name not in found]:
        warnings.append(f"dataset.labels: no clip is labelled {some(unknown, 20)}; there are {some(sorted(found), 20)}")
    said = [names.get(label, label) for label in clips["label"]]
    dropped = pl.Series([old is not None and new is None for old, new in zip(clips["label"], said, strict=True)])
    clips = clips.with_columns(pl.Series("label", said, dtype=pl.String), dropped=dropped)
    lost = pl.col("dropped").any() & pl.col("label").is_null().all()
    clips = clips.filter(~lost.over("conversation_id")).drop("dropped")
    counts = {
        "labels_joined": {f"{old} -> {new}": found[old] for old, new in names.items() if new and old in found},
        "labels_dropped": {old: found[old] for old, new in names.items() if new is None and old in found},
    }
    return clips, counts


def _classes(clips: pl.DataFrame, dataset: PublicDataset, where: str) -> list[str]:
    if dataset.classes is None:
        return sorted(clips.get_column("label").drop_nulls().unique())
    classes = [filled(name) or "" for name in dataset.classes]
    strange = clips.filter(~pl.col("label").is_in(classes))
    refuse(where, strange, "label", f"is not among dataset.classes ({some(classes, 20)})")
    return classes


def _with_media(clips: pl.DataFrame, root: Path | str, where: str) -> tuple[pl.DataFrame, list[Missing]]:
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
        problems = [f"{_at(rows[at])}: {why}" for at, why in misplaced(files, root)]
        if problems:
            raise UserError(f"{where}: {kind}: {some(problems)}")
        there = {
            file: os.path.isfile(root / file) if isinstance(root, Path) else file in objects  # noqa: PTH113
            for file in dict.fromkeys(files)
            if file is not None
        }
        missing += [
            Missing(kind, file, _at(row)) for file, row in zip(files, rows, strict=True) if file and not there[file]
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
    clips: pl.DataFrame, rows: Rows, dataset: PublicDataset, seed: int, by_speaker: bool
) -> tuple[pl.DataFrame, dict[str, Any]]:
    if dataset.splits is not None:
        return _with_drawn_splits(clips, dataset, seed, rows.finer)
    if "split" not in clips.columns:
        return clips.with_columns(split=pl.lit("train")), {}
    split = pl.col("split").str.to_lowercase().replace_strict(ALIASES, default=None)
    refuse(rows.where, clips.filter(split.is_null()), "split", f"must be one of {', '.join(ALIASES)}")
    clips = clips.with_columns(split=split)
    groups = straddling(clips)
    if groups and rows.published:
        return clips, {"groups_across_splits": len(groups)}
    together = clips.group_by("conversation_id").agg(pl.col("split").n_unique() > 1).get_column("split").any()
    if groups and not together and by_speaker and rows.finer:
        raise UserError(
            f"{rows.where}: more than one split has clips of group: {some(groups)}: groups are speakers, joined where "
            f"they share a conversation, unless dataset.columns says otherwise; to keep the table's splits, write "
            f"{rows.finer}"
        )
    return clips, {}


def _with_drawn_splits(
    clips: pl.DataFrame, dataset: PublicDataset, seed: int, finer: str | None
) -> tuple[pl.DataFrame, dict[str, Any]]:
    assert dataset.splits is not None
    units = clips.filter(pl.col("label").is_not_null())
    wanted = 1 + (dataset.splits.val > 0) + (dataset.splits.test > 0)
    homes = make_splits(
        units.get_column("label").to_list(),
        units.get_column("group").to_list(),
        val=dataset.splits.val,
        test=dataset.splits.test,
        seed=seed,
        finer=finer if wanted <= units.get_column("conversation_id").n_unique() else None,
    )
    # Groups without any label hold no unit: where they lie does not matter to anyone.
    split = pl.col("group").replace_strict(homes, default="train", return_dtype=pl.String)
    return clips.with_columns(split=split), {"splits_drawn": {"seed": seed, "groups": len(homes)}}


def _with_folds(
    clips: pl.DataFrame, rows: Rows, warnings: list[str], by_speaker: bool
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Folds by number from 0, in the order of their names; those of val and test are nobody's."""
    if "fold" not in clips.columns or clips["fold"].is_null().all():
        return clips.drop("fold", strict=False), {}
    units = clips.filter((pl.col("split") == "train") & pl.col("label").is_not_null())
    refuse(rows.where, units.filter(pl.col("fold").is_null()), "fold", "is needed on every training unit, or on none")
    names = sorted(units["fold"].unique(), key=natural)
    if len(names) < 2:
        raise UserError(f"{rows.where}: fold: all training units are in one, {some(names)}: give two or more, or none")
    number = pl.col("fold").replace_strict(names, range(len(names)), default=None, return_dtype=pl.Int32)
    named = Counter(units["fold"])
    # A conversation's clips without a label are in the fold of its units.
    number = pl.when(pl.col("split") == "train").then(number)
    clips = clips.with_columns(fold=number.fill_null(number.max().over("conversation_id")))
    counts: dict[str, Any] = {"folds_given": {name: named[name] for name in names}}
    if groups := straddling(clips, "fold"):
        if not rows.published:
            keep = f"; to keep the folds, write {rows.finer}" if by_speaker and rows.finer else ": choose another group"
            raise UserError(f"{rows.where}: more than one fold has clips of group: {some(groups)}{keep}")
        counts["groups_across_folds"] = len(groups)
        warnings.append(
            f"the published folds share {len(groups)} group(s) ({some(groups)}): scores are of people whom the heads "
            "were trained on, too"
        )
    return clips, counts
