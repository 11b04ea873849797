"""The manifest: the one table of clips and units that everything downstream reads.

The other rooms read one through ``read_manifest(path).units()``; the script ``extract/manifest.py`` writes one. The
columns are described in docs/design.md.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from cache import read_sealed_parquet, writable, write_sealed_parquet
from configs import UserError, first_line, some
from configs.outside import parse_json
from configs.tables import shortened, tidy
from extract.corpora.media_paths import UNCLEAN, Missing, MissingMedia, confine
from extract.media.sources import RemoteFile

__all__ = [
    "TO_PREDICT",
    "Manifest",
    "Unit",
    "make_manifest",
    "not_here",
    "read_manifest",
    "straddling",
    "write_manifest",
]

SPLITS = ("train", "val", "test")
ROLES = ("speaker", "listener", "listener_response", "context")
COLUMNS: dict[str, Any] = {
    "clip_id": pl.String,
    "conversation_id": pl.String,
    "turn_id": pl.String,
    "index": pl.Int32,
    "role": pl.String,
    "text": pl.String,
    "audio": pl.String,
    "video": pl.String,
    "split": pl.String,
    "label": pl.String,
    "group": pl.String,
    "speaker": pl.String,
    "fold": pl.Int32,
}
NEVER_NULL = ("clip_id", "conversation_id", "index", "split", "group")
FREE = ("meta_", "privileged_")  # prefixes of the columns that a dataset adds, all of them strings
TO_PREDICT = "to predict"  # the only class, and every unit's label, in a manifest of clips that are new


@dataclass(frozen=True, slots=True)
class Unit:
    """What carries a label. ``clip_ids`` are the clips it may see, in order; the last one is ``unit_id``."""

    unit_id: str
    clip_ids: tuple[str, ...]
    label: str
    split: str
    group: str
    fold: int | None = None  # that predicts it, where the dataset says so


@dataclass(frozen=True)
class Manifest:
    """Clips (a row each), the root that their media paths are relative to, the classes in order, and the counts.

    The root is a folder, or as a string the URL of object storage. What is ``missing`` an adapter knows; it is not
    written.
    """

    clips: pl.DataFrame
    root: Path | str
    classes: tuple[str, ...]
    counts: dict[str, Any]
    missing: Sequence[Missing] = ()

    def media(self, path: str) -> Path | RemoteFile:
        """The file or the object behind one of the manifest's paths."""
        return RemoteFile(self.root, path) if isinstance(self.root, str) else self.root / path

    def units(self) -> list[Unit]:
        """One unit per labelled clip, in the order of the manifest; clips after the labelled one are left out."""
        members: dict[str, list[tuple[int, str]]] = {}
        for conversation, index, clip in self.clips.select("conversation_id", "index", "clip_id").iter_rows():
            members.setdefault(conversation, []).append((index, clip))
        for clips in members.values():
            clips.sort()
        labelled = self.clips.filter(pl.col("label").is_not_null())
        return [
            Unit(unit, tuple(clip for at, clip in members[conversation] if at <= index), *said)
            for unit, conversation, index, *said in labelled.select(
                "clip_id", "conversation_id", "index", "label", "split", "group", "fold"
            ).iter_rows()
        ]


def make_manifest(
    clips: pl.DataFrame,
    root: Path | str,
    classes: Sequence[str],
    counts: dict[str, Any],
    where: str,
    missing: Sequence[Missing] = (),
    allow_missing: bool = True,
) -> Manifest:
    """Bring an adapter's table into the contract: columns, types, order, and the counts that every dataset has.

    Args:
        clips: any of the columns of the contract (those left out become null) and ``meta_``/``privileged_`` columns.
        root: what media paths are relative to, kept as it is written.
        counts: what the adapter met, added to the common counts.
        where: names the dataset in errors.
        missing: media files that are named and not there; in ``clips`` they are null.

    Raises:
        UserError: the table breaks the contract.
        MissingMedia: media files are missing, and that is not allowed.
    """
    free = [name for name in clips.columns if name.startswith(FREE)]
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in COLUMNS.items() if name not in clips.columns]
    rank = pl.col("split").replace_strict(SPLITS, range(len(SPLITS)), default=len(SPLITS), return_dtype=pl.Int32)
    try:
        clips = clips.with_columns(absent).select(
            *(pl.col(name).cast(dtype) for name, dtype in COLUMNS.items()),
            *(pl.col(name).cast(pl.String) for name in free),
        )
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{where}: a column is not of its type: {first_line(error)}") from error
    clips = clips.sort(rank, "conversation_id", "index", maintain_order=True)
    unlabelled = clips.group_by("conversation_id").agg(pl.col("label").is_null().all()).get_column("label").sum()
    common = {
        "clips": _per_split(clips),
        "conversations": _per_split(clips.unique("conversation_id")),
        "units": {
            split: _per_class(clips.filter(pl.col("split") == split), classes) for split in _splits_present(clips)
        },
        "clips_with": {name: clips.height - clips.get_column(name).null_count() for name in ("text", "audio", "video")},
        "conversations_without_unit": unlabelled,
    }
    numbers = Counter(each.kind for each in missing)
    counts = {
        "missing_files": dict(numbers),
        "missing_files_first": [each.file for kind in numbers for each in missing if each.kind == kind][:3],
        **_shared_speakers(clips),
        **counts,
    }
    told = {name: value for name, value in counts.items() if value or name not in ("notes", "warnings")}
    manifest = Manifest(clips, root, tuple(classes), common | told, missing)
    _check(manifest, where)
    if missing and not allow_missing:
        first = some(f"{each.kind}: {each.place}: no file {shortened(each.file)}" for each in missing)
        raise MissingMedia(
            f"{where}: {first} below {root}; 'missing_media: allow' under dataset counts them as missing", missing
        )
    return manifest


def _shared_speakers(clips: pl.DataFrame) -> dict[str, int]:
    """How many of those who are labelled are met in several splits or, being in several groups, perhaps folds."""
    known = clips.filter(pl.col("speaker").is_not_null() & pl.col("label").is_not_null())
    known = known.group_by("speaker").agg(pl.col("split", "group").n_unique())
    return {
        f"speakers_in_several_{name}s": shared
        for name in ("split", "group")
        if (shared := int((known[name] > 1).sum()))
    }


def not_here(path: Path, what: str) -> str:
    """That something of the dataset is not there, and what to do where it could not be."""
    shown = str(path)[:300]
    if not path.is_absolute() and ".dvc/tmp/exps" in Path.cwd().as_posix():
        return (
            f"{shown}: no such {what}: 'dvc exp run --temp' works in a copy of the repository that lacks what git "
            "ignores: make dataset.root (and media_root) an absolute path, or add --copy-paths"
        )
    return f"{shown}: no such {what}"


def _splits_present(clips: pl.DataFrame) -> list[str]:
    present = set(clips.get_column("split"))
    return [split for split in SPLITS if split in present]


def _per_split(clips: pl.DataFrame) -> dict[str, int]:
    return {split: clips.filter(pl.col("split") == split).height for split in _splits_present(clips)}


def _per_class(clips: pl.DataFrame, classes: Sequence[str]) -> dict[str, int]:
    found = dict(clips.get_column("label").drop_nulls().value_counts().iter_rows())
    return {label: found.get(label, 0) for label in classes}


def straddling(clips: pl.DataFrame, parts: str = "split") -> list[str]:
    """The groups that lie in more than one split, or more than one ``fold``, sorted."""
    known = clips.filter(pl.col(parts).is_not_null())
    spread = known.group_by("group").agg(pl.col(parts).n_unique()).filter(pl.col(parts) > 1)
    return sorted(spread.get_column("group"))


def _check(manifest: Manifest, where: str) -> None:
    """Raise UserError, with the first offenders, unless the manifest keeps every promise of docs/design.md."""
    clips = manifest.clips
    _check_columns(clips, where)

    def refuse(broken: pl.DataFrame, what: str, name: str = "clip_id") -> None:
        if broken.height:
            raise UserError(f"{where}: {what}: {some(broken.get_column(name).unique(maintain_order=True))}")

    if len(set(manifest.classes)) != len(manifest.classes):
        raise UserError(f"{where}: a class is named twice in {list(manifest.classes)}")
    for name in NEVER_NULL:
        if clips.get_column(name).null_count():
            refuse(clips.filter(pl.col(name).is_null()), f"{name} is missing for clip")
    refuse(clips.filter(pl.col("clip_id").is_duplicated()), "clip_id is not unique")
    refuse(clips.filter(~pl.col("split").is_in(SPLITS)), f"split is none of {', '.join(SPLITS)} for clip")
    refuse(clips.filter(~pl.col("role").is_in(ROLES)), f"role is none of {', '.join(ROLES)} for clip")
    refuse(clips.filter(~pl.col("label").is_in(manifest.classes)), "label is not among the classes for clip")
    place = pl.struct("conversation_id", "index")
    refuse(clips.filter(place.is_duplicated()), "two clips have the same index in conversation", "conversation_id")
    spread = pl.col("split").n_unique().over("conversation_id") > 1
    refuse(clips.filter(spread), "more than one split has clips of conversation", "conversation_id")
    if clips.get_column("label").null_count() == clips.height:
        raise UserError(f"{where}: no clip carries a label, so there is nothing to learn")
    # An adapter that keeps published splits may say that they share groups; nobody else may let it happen.
    groups = straddling(clips)
    if len(groups) != manifest.counts.get("groups_across_splits", 0):
        raise UserError(f"{where}: more than one split has clips of group: {some(groups)}; choose another group")
    _check_folds(manifest, where)
    for name in ("audio", "video"):
        confine(clips, name, manifest.root, where)


def _check_folds(manifest: Manifest, where: str) -> None:
    given = manifest.clips.filter(pl.col("fold").is_not_null())
    if given.is_empty():
        return
    for clip in given.filter(pl.col("split") != "train")["clip_id"].head(1):
        raise UserError(f"{where}: clip {shortened(clip)} has a fold, and is not in train: folds are of training units")
    units = manifest.clips.filter((pl.col("split") == "train") & pl.col("label").is_not_null())
    lacking = units.filter(pl.col("fold").is_null())["clip_id"]
    if len(lacking):
        raise UserError(
            f"{where}: {len(lacking)} training units have no fold and others have one (the first without is "
            f"{shortened(lacking[0])}): give all of them one, or none"
        )
    spread = given.filter(pl.col("fold").n_unique().over("conversation_id") > 1)["conversation_id"]
    if len(spread):
        raise UserError(
            f"{where}: more than one fold has clips of conversation: {some(spread.unique(maintain_order=True))}"
        )
    numbers = sorted(units["fold"].unique())
    if len(numbers) < 2 or numbers != list(range(len(numbers))):
        raise UserError(f"{where}: folds of training units are {some(numbers)}: there must be two or more, from 0 on")
    groups = straddling(given, "fold")
    if len(groups) != manifest.counts.get("groups_across_folds", 0):
        raise UserError(f"{where}: more than one fold has clips of group: {some(groups)}; choose another group")


def _check_columns(clips: pl.DataFrame, where: str) -> None:
    for name, dtype in COLUMNS.items():
        if name not in clips.columns:
            raise UserError(f"{where}: lacks the column {name!r}: make it again with python extract/manifest.py")
        if clips.schema[name] != dtype:
            raise UserError(f"{where}: column {name!r} is {clips.schema[name]}, and must be {dtype.__name__}")
    for name in clips.columns:
        if name not in COLUMNS and not (name.startswith(FREE) and clips.schema[name] == pl.String):
            raise UserError(
                f"{where}: column {name!r} is unknown: free columns are strings named meta_* or privileged_*"
            )
    loose = clips.get_column("clip_id").filter(
        clips.get_column("clip_id").ne_missing(tidy(clips.get_column("clip_id")))
    )
    for clip in loose.drop_nulls().head(1):  # predictions are read without them, and would meet no clip
        raise UserError(f"{where}: clip_id {shortened(clip)}: an id has no white space around it, and no .0 at its end")


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Check the manifest and write it as Parquet, whole or not at all. Same input, same bytes.

    Raises:
        UserError: the manifest breaks its contract; nothing is written.
    """
    _check(manifest, str(path))
    root = manifest.root.as_posix() if isinstance(manifest.root, Path) else manifest.root
    about = {"root": root, "classes": list(manifest.classes), "counts": manifest.counts}
    metadata = {"emocache": json.dumps(about, ensure_ascii=False)}
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sealed_parquet(path, manifest.clips, metadata)


def read_manifest(path: Path | str) -> Manifest:
    """Read a manifest, ours or one that follows docs/design.md.

    Raises:
        UserError: the file is missing or broken, lacks a column, a type or the ``emocache`` metadata, or names media
            outside of its root.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such manifest: make it with 'python extract/manifest.py'")
    again = "make it again with python extract/manifest.py"
    try:
        content = read_sealed_parquet(path, again)
        metadata, clips = pl.read_parquet_metadata(BytesIO(content)), pl.read_parquet(content)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {first_line(error)}: {again}") from error
    if "fold" not in clips.columns:  # it may be left out
        clips = clips.with_columns(fold=pl.lit(None, pl.Int32))
    _check_columns(clips, str(path))
    try:
        about = parse_json(metadata["emocache"], f"{path}: its metadata 'emocache'")
        root = about["root"] if "://" in about["root"] else Path(about["root"])
        classes, counts = tuple(about["classes"]), dict(about["counts"])
        if not all(isinstance(name, str) for name in classes):
            raise TypeError("classes are names")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its metadata 'emocache' must be JSON with root, classes and counts") from error
    for name in ("audio", "video"):  # it may come from elsewhere; links are looked at by whoever opens files
        confine(clips.filter(pl.col(name).str.contains(UNCLEAN)), name, str(root), str(path))
    return Manifest(clips, root, classes, counts)
