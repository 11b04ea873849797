"""Media files whose paths say what they are: a folder for each class, or names made by a rule."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import polars as pl

from configs import UserError
from configs.sections.datasets import FilesDataset, FolderDataset, NamedFiles
from configs.tables import filled, said, shortened
from extract.corpora.manifest import COLUMNS
from extract.corpora.readers.walk import Found, kind_of, media_below, text_of
from extract.corpora.rows import Rows

Describe = Callable[[str], dict[str, Any] | None]  # a path: what is told of its clip, None if it is none


def read_folder(dataset: FolderDataset) -> Rows:
    """A clip for each file, or for several of one path but for the suffix: sound, film, and in ``.txt`` what is said.

    The class is the folder that ``label_folder`` says. Where there are no media at all, each ``.txt`` is a clip.

    Raises:
        UserError: there is no such folder or nothing in it, no file lies in a folder, two files are the same clip's.
    """
    found = media_below(dataset.media)
    unmatched = 0

    def describe(path: str) -> dict[str, Any] | None:
        nonlocal unmatched
        folders, at = path.split("/")[:-1], dataset.label_folder
        if not -len(folders) <= at < len(folders):
            return None
        match = re.search(dataset.pattern, path) if dataset.pattern else None
        unmatched += dataset.pattern is not None and match is None
        return {"clip_id": _stem(path), "label": filled(folders[at])} | told(match, dataset.codes, path)

    clips, outside = _clips(found, dataset, describe)
    if not clips:
        raise UserError(
            f"{dataset.media}: no file lies in a folder that label_folder = {dataset.label_folder} could mean, such as "
            f"{shortened(outside[0])}: a class is a folder that holds its files"
        )
    counts = {"files_outside_of_classes": len(outside), "files_outside_of_classes_first": outside[:3]}
    counts["clips_that_pattern_does_not_match"] = unmatched
    return Rows(pl.DataFrame(clips, infer_schema_length=None), str(dataset.media), found.counts | counts)


def read_files(dataset: FilesDataset) -> Rows:
    """A clip for each file, or for several with the same values of the groups ``clip``.

    Raises:
        UserError: there is no such folder or nothing in it, no file matches, a value has no code, two files are the
            same clip's.
    """
    found = media_below(dataset.media)
    pattern = whole_names(dataset.pattern)

    def describe(path: str) -> dict[str, Any] | None:
        if (match := pattern.fullmatch(path)) is None:
            return None
        clip = "-".join(match[name] or "" for name in dataset.clip) or _stem(path)
        return {"clip_id": filled(clip)} | told(match, dataset.codes, path)

    clips, strangers = _clips(found, dataset, describe)
    if not clips:
        raise UserError(
            f"{dataset.media}: none of {len(strangers)} files has a name as dataset.pattern says: "
            f"{shortened(strangers[0])}, for one, is not {dataset.pattern}"
        )
    counts = {"files_that_do_not_match": len(strangers), "files_that_do_not_match_first": strangers[:3]}
    return Rows(pl.DataFrame(clips, infer_schema_length=None), str(dataset.media), found.counts | counts)


def whole_names(pattern: str) -> re.Pattern[str]:
    """What matches all of a path below the root, or its end from some folder on, as ``pattern`` says."""
    return re.compile(rf"(?:.*/)?(?:{pattern})")


def told(match: re.Match[str] | None, codes: dict[str, dict[str, str]], where: str) -> dict[str, Any]:
    """What the named groups of a match say, under the manifest's names; others are metadata."""
    row: dict[str, Any] = {}
    for name, value in (match.groupdict() if match else {}).items():
        if value is not None and name in codes:
            if value not in codes[name]:
                raise UserError(f"{where}: {name} is {shortened(value)}, which is not among dataset.codes.{name}")
            value = codes[name][value]
        row[name if name in COLUMNS else f"meta_{name}"] = said(value) if name == "text" else filled(value)
    return row


def _clips(found: Found, dataset: NamedFiles, describe: Describe) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each clip, and the files that are none's."""
    texts = {_stem(path): path for path in found.texts}
    clips, others = dict[str, dict[str, Any]](), list[str]()
    for path in found.media or found.texts:
        if (row := describe(path)) is None:
            others.append(path)
            continue
        clip = clips.setdefault(str(row["clip_id"]), {"row": path} | row)
        if found.media:
            kind = kind_of(path)
            if kind in clip:
                raise UserError(
                    f"{dataset.media}: {clip[kind]} and {path} are both the {kind} of clip "
                    f"{shortened(row['clip_id'])}: leave one out by dataset.pattern, or take a root further down"
                )
            clip[kind] = path
        if "text" not in clip and (beside := texts.get(_stem(path))):
            clip["text"] = said(text_of(dataset.media, beside))
    if dataset.film_sound:
        for clip in clips.values():
            if "video" in clip:
                clip.setdefault("audio", clip["video"])
    return list(clips.values()), others


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))
