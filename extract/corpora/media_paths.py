"""The media files that a manifest names: below its root, and nowhere else; and those that are not there."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import polars as pl

from configs import UserError, some
from configs.tables import shortened

# How files of sound, and of film, are called.
AUDIO = tuple(".aac .ac3 .aif .aiff .amr .ape .au .caf .flac .m4a .mp3 .oga .ogg .opus .sph .voc .wav .wma .wv".split())  # noqa: SIM905
VIDEO = tuple(".3gp .asf .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .webm .wmv".split())  # noqa: SIM905
UNCLEAN = r"^$|^/|^[A-Za-z]:|\\|\x00|(^|/)\.{0,2}(/|$)"  # what a media path must not look like; see misplaced


class Missing(NamedTuple):
    """A media file that is named and not there."""

    kind: str  # audio, video
    file: str
    place: str  # where it is named


class MissingMedia(UserError):
    """Media files are not there, and the profile does not allow that; ``missing`` holds all of them."""

    def __init__(self, message: str, missing: Sequence[Missing]) -> None:
        super().__init__(message)
        self.missing = missing


def misplaced(paths: Iterable[str | None], root: Path | str) -> Iterator[tuple[int, str]]:
    """Yield (position, why) of each media path that is not a clean path below root; nulls are fine.

    A clean path is relative, uses ``/``, holds no ``.``, ``..`` or empty part, and does not leave root through a
    symbolic link (object storage has none). Nothing is read, and a file need not exist.
    """
    real_root = os.path.realpath(root)
    folders: dict[str, bool] = {}  # a folder -> lies inside root; there are far fewer folders than files

    def inside(path: str) -> bool:
        return os.path.commonpath([real_root, os.path.realpath(path)]) == real_root

    for position, path in enumerate(paths):
        if path is None:
            continue
        if not path or "\0" in path or "\\" in path:
            yield position, f"{shortened(path)} is not a path with / between its parts"
        elif path.startswith("/") or PureWindowsPath(path).drive:
            yield position, f"{shortened(path)} is absolute: give it relative to the dataset's root"
        elif ".." in path.split("/"):
            yield position, f"{shortened(path)} goes up with '..'"
        elif not {"", "."}.isdisjoint(path.split("/")):
            yield position, f"{shortened(path)} is not normalised: write {shortened(PurePosixPath(path).as_posix())}"
        elif isinstance(root, Path):
            full = os.path.join(real_root, path)  # noqa: PTH118 (hundreds of thousands of paths)
            folder = os.path.dirname(full)  # noqa: PTH120
            if folder not in folders:
                folders[folder] = inside(folder)
            if not folders[folder] or (os.path.islink(full) and not inside(full)):  # noqa: PTH114
                yield position, f"{shortened(path)} leaves the dataset's root {root} through a symbolic link"


def confine(clips: pl.DataFrame, name: str, root: Path | str, where: str) -> None:
    """Refuse media paths, of the column ``name``, that are not below root; a string looks at their spelling alone."""
    problems = [f"{clips['clip_id'][at]}: {why}" for at, why in misplaced(clips.get_column(name), root)]
    if problems:
        raise UserError(f"{where}: {name} of {some(problems)}")
