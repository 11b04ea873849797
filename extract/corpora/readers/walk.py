"""The media files below a folder, and what else lies there."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from configs import UserError, some
from configs.outside import read_outside
from extract.corpora.manifest import not_here
from extract.corpora.media_paths import AUDIO, VIDEO
from extract.media.sources import remote_files


@dataclass
class Found:
    """Paths below the root, with ``/``, sorted."""

    media: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)  # of no bytes
    counts: dict[str, Any] = field(default_factory=dict)  # of what is left aside


def kind_of(path: str) -> str:
    """``audio`` or ``video``, by the suffix."""
    return "video" if PurePosixPath(path).suffix.lower() in VIDEO else "audio"


def media_below(root: Path | str, needed: bool = True) -> Found:
    """All media and ``.txt`` files below a folder, or of object storage; hidden files and folders are left aside.

    Raises:
        UserError: there is no such folder, or no media and no text in it, and some are ``needed``.
    """
    found, others, hidden, unreadable = Found(), Counter[str](), 0, 0
    files: list[tuple[str, int]]
    links: list[str] = []
    if isinstance(root, str):
        files = [(path, 1) for path in remote_files(root)]
    elif root.is_dir():
        files, links = _walk(root)
    else:
        raise UserError(f"{not_here(root, 'folder')} (dataset.root, or media_root)")
    for path, size in sorted(files):
        suffix = PurePosixPath(path).suffix.lower()
        if any(part.startswith(".") for part in path.split("/")):
            hidden += 1
        elif not _is_text(path):
            unreadable += 1
        elif suffix not in (*AUDIO, *VIDEO, ".txt"):
            others[suffix or "without suffix"] += 1
        elif not size:
            found.empty.append(path)
        else:
            (found.texts if suffix == ".txt" else found.media).append(path)
    found.counts = {
        "hidden_files": hidden,
        "files_without_content": len(found.empty),
        "files_without_content_first": found.empty[:3],
        "folders_behind_links_not_entered": sorted(links)[:10],
        "files_of_other_kinds": dict(others.most_common(10)),
        "files_whose_names_are_not_utf8": unreadable,
    }
    if needed and not found.media and not found.texts:
        what = ", ".join(f"{count} {kind}" for kind, count in others.most_common(3)) or "nothing"
        what += f", and links to folders, which are not entered: {some(sorted(links))}" if links else ""
        raise UserError(
            f"{root}: no sound, film or text below it (there: {what}); which format a file has its "
            f"suffix says, one of {' '.join((*AUDIO, *VIDEO))}"
        )
    return found


def text_of(root: Path | str, path: str) -> str:
    """What a small file says. Raises UserError: it is too large, or not UTF-8."""
    if isinstance(root, str):
        raise UserError(f"{root}/{path}: texts are read from a local folder only: copy them, or name them in a table")
    try:
        return read_outside(root / path, largest=2**24).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{root / path}: not UTF-8 (byte {error.start}): save it as UTF-8") from error


def _walk(root: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """Files with their sizes, and folders that are links."""
    found: list[tuple[str, int]] = []
    links: list[str] = []

    def refused(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for folder, folders, names in os.walk(root, onerror=refused, followlinks=False):
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        links += [os.path.join(folder, name) for name in folders if os.path.islink(os.path.join(folder, name))]  # noqa: PTH114, PTH118
        for name in names:
            path = name if below == "." else f"{below}/{name}"
            try:
                found.append((path, os.stat(os.path.join(folder, name)).st_size))  # noqa: PTH116, PTH118
            except OSError:
                found.append((path, 0))  # a link that leads nowhere
    return found, links


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
