"""What somebody wants predicted - media files, folders, a text, conversations - as manifests like those of training."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import NamedTuple

import polars as pl

from configs import UserError, some
from configs.schema import Profile
from configs.sections.datasets import AvamergDataset
from configs.tables import TABLES, filled, said
from extract.corpora.avamerg import read_avamerg
from extract.corpora.manifest import COLUMNS, TO_PREDICT, Manifest
from extract.corpora.media_paths import AUDIO, VIDEO
from extract.corpora.table import read_table_to_predict


def manifests(
    inputs: Sequence[Path],
    text: str | None,
    audio: Path | None,
    metadata: dict[str, str],
    media: Path | None,
    profile: Profile,
    fields: Sequence[str],
) -> list[Manifest]:
    """One for all single clips, and one for each conversation file.

    Args:
        inputs: media files, folders of them, AvaMERG JSON files, tables with a row per clip.
        text, audio: of the one clip there is.
        metadata: of every single clip; ``speaker`` is who speaks.
        media: where conversations' media lie; default: beside the JSON file, or one up where it lies in ``json/``.
        profile: that the heads were trained with: units and roles are like those of its dataset.
        fields: metadata that heads read; what nobody says is unknown.
    Raises:
        UserError: a file is not there or is broken, a folder holds no media, options that do not go together.
    """
    jsons = [path for path in inputs if path.suffix.lower() == ".json"]
    tables = [path for path in inputs if path.suffix.lower() in TABLES]
    files = [file for path in inputs if path not in (*jsons, *tables) for file in _media(path)]
    if (text is not None or audio) and (jsons or tables or len(files) > 1 or any(path.is_dir() for path in inputs)):
        raise UserError("--text and --audio belong to one clip: give one media file with them, or none")
    if text is not None and not said(text):
        raise UserError("--text: there is nothing in it")
    for given in (text or "", str(audio), *map(str, files)):
        refuse_undecodable(given)
    if audio and not os.path.isfile(audio):  # noqa: PTH113
        raise UserError(f"--audio {str(audio)[:300]}: no such file")
    if (jsons or tables) and metadata:
        raise UserError("--metadata: a conversation file, or a table, says its own")
    metadata = known_metadata(metadata, fields)
    found = [_conversations(path, media, profile, fields) for path in dict.fromkeys(jsons)]
    found += [_table(path, media, profile, fields) for path in dict.fromkeys(tables)]
    if files or audio or text is not None or metadata:
        found.append(_single_clips(list(dict.fromkeys(files)), text, audio, metadata, profile, fields))
    if not found:
        raise UserError("nothing to predict: name a media file, a folder or a conversation file, or give --text")
    return found


def _media(path: Path) -> list[Path]:
    """A file itself; of a folder, every media file in it and in those within, by their paths."""
    if not os.path.isdir(path):  # noqa: PTH112 (a Path raises where the name is too long)
        if not os.path.exists(path):  # noqa: PTH110
            raise UserError(f"{str(path)[:300]}: no such file")
        return [path]
    found = _media_in(path)
    if not found:
        raise UserError(f"{path}: no media file in this folder (it has {some(left_out(path)) or 'nothing'})")
    return found


def _media_in(folder: Path) -> list[Path]:
    return [file for file in _shown(folder) if file.suffix.lower() in (*AUDIO, *VIDEO)]


def _shown(folder: Path) -> list[Path]:
    """The files below a folder, by their paths; hidden ones, and those in hidden folders, nobody would miss."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in files if not name.startswith(".")]
    return sorted(file for file in found if file.is_file())


def left_out(folder: Path) -> list[str]:
    """What below a folder is no media file, by its path from there."""
    taken = {*_media_in(folder)}
    return [file.relative_to(folder).as_posix() for file in _shown(folder) if file not in taken]


def _single_clips(
    files: list[Path],
    text: str | None,
    audio: Path | None,
    metadata: dict[str, str],
    profile: Profile,
    fields: Sequence[str],
) -> Manifest:
    """Each file a conversation of one clip. A file that is not known to be sound alone is asked for pictures, too."""
    clips = []
    given: list[Path | None] = [*files] or [audio]
    for file in given:
        name = str(file or ("metadata" if text is None else "text"))
        heard, seen = audio or file, None if file is None or file.suffix.lower() in AUDIO else file
        clips.append(Single(name, text, *(str(each.absolute()) if each else None for each in (heard, seen))))
    return manifest_of(clips, metadata, profile, fields)


class Single(NamedTuple):
    """A clip that is a conversation of its own; ``audio`` and ``video`` below ``/``, None where there is none."""

    name: str
    text: str | None
    audio: str | None
    video: str | None


def manifest_of(
    clips: Sequence[Single], metadata: Mapping[str, str], profile: Profile, fields: Sequence[str]
) -> Manifest:
    """Clips to predict, each by itself, all with the same metadata (:func:`known_metadata`)."""
    role = "speaker" if profile.dataset.has_roles else None
    rows = [
        dict.fromkeys(COLUMNS)
        | {"clip_id": clip.name, "conversation_id": clip.name, "group": clip.name, "index": 0, "split": "test"}
        | {"role": role, "text": clip.text, "label": TO_PREDICT, "audio": clip.audio, "video": clip.video}
        | {"speaker": metadata.get("speaker")}
        | {f"meta_{field}": metadata.get(field) for field in fields}
        for clip in clips
    ]
    schema = COLUMNS | {f"meta_{field}": pl.String for field in fields}
    return Manifest(pl.DataFrame(rows, schema=schema), Path("/"), (TO_PREDICT,), {})


def known_metadata(metadata: Mapping[str, str], fields: Sequence[str]) -> dict[str, str]:
    """What is said of clips, as tables say it. Raises UserError where that is nothing, or nothing reads it."""
    metadata = {name: filled(value) or "" for name, value in metadata.items()}
    blank = next((name for name, value in metadata.items() if not value), None)
    if blank is not None:
        raise UserError(f"--metadata {blank}: there is nothing in it")
    for value in metadata.values():
        refuse_undecodable(value)
    unknown = [name for name in metadata if name not in {*fields, "speaker"}]
    if unknown:
        raise UserError(f"--metadata {unknown[0]}: nothing reads it; what is read: {', '.join(fields) or 'none'}")
    return metadata


def refuse_undecodable(given: str) -> None:
    """Raises UserError for bytes in a name or an argument that are no text."""
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{given!r}: not valid UTF-8: name or write it otherwise") from error


def _conversations(path: Path, media: Path | None, profile: Profile, fields: Sequence[str]) -> Manifest:
    if not os.path.isfile(path):  # noqa: PTH113
        raise UserError(f"{str(path)[:300]}: no such file")
    trained = profile.dataset if isinstance(profile.dataset, AvamergDataset) else None
    folder = path.absolute().parent
    manifest = read_avamerg(
        AvamergDataset(
            adapter="avamerg",
            root=folder,
            media_root=media or (folder.parent if folder.name == "json" else folder),
            files={"test": escape(path.name)},
            units=trained.units if trained else "last",
            context=trained.context if trained else False,
        ),
        to_predict=True,
    )
    return _with_all_fields(manifest, fields)


def _table(path: Path, media: Path | None, profile: Profile, fields: Sequence[str]) -> Manifest:
    """Columns are called as in training, or else by our own names."""
    columns = {name: name for name in COLUMNS} | getattr(profile.dataset, "columns", {})
    manifest = read_table_to_predict(path, columns, fields, media)
    if (
        profile.dataset.has_roles and manifest.clips["role"].is_null().all()
    ):  # whose emotion is asked for is the speaker
        role = pl.when(pl.col("label").is_not_null()).then(pl.lit("speaker"))
        manifest = replace(manifest, clips=manifest.clips.with_columns(role=role))
    return _with_all_fields(manifest, fields)


def _with_all_fields(manifest: Manifest, fields: Sequence[str]) -> Manifest:
    """What nobody says is unknown."""
    known = {name.partition("_")[2] for name in manifest.clips.columns if name.startswith(("meta_", "privileged_"))}
    unknown = [pl.lit(None, pl.String).alias(f"meta_{field}") for field in fields if field not in known]
    return Manifest(manifest.clips.with_columns(unknown), manifest.root, manifest.classes, manifest.counts)
