"""Where AvaMERG's media files lie: one walk below their root, or one listing of object storage, then look-ups."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from configs import UserError, some
from extract.corpora.media_paths import Missing
from extract.media.sources import remote_files

__all__ = ["MediaIndex", "padded"]

ENDINGS = {
    "audio": (".wav", ".mp3", ".flac", ".ogg", ".m4a"),
    "video": (".mp4", ".avi", ".mkv", ".mov", ".webm"),
}


def padded(conversation: str) -> str:
    """A conversation's id as AvaMERG's file names spell it: numbers have at least five digits."""
    return f"{int(conversation):05d}" if conversation.isdecimal() else conversation


class MediaIndex:
    """Where the media files lie below root: one walk, then look-ups by path, by name, and by who says what."""

    def __init__(self, root: Path | str | None) -> None:
        self.root = root
        self.paths: set[str] = set()
        self.by_name: dict[str, list[str]] = {}
        self.by_utterance: dict[tuple[str, str, int], list[tuple[str, str]]] = {}  # -> (profile ID, path)
        self.missing: list[Missing] = []
        self.links: list[str] = []  # linked folders: not followed, for they may leave root or loop
        for path in _walk(root, self.links) if root else ():
            self.paths.add(path)
            name = path.rpartition("/")[2]
            self.by_name.setdefault(name, []).append(path)
            match = re.fullmatch(r"dia(.+?)utt(\d+)_(.+)(\.[^.]+)", name)
            for kind, endings in ENDINGS.items():
                if match and match[4].lower() in endings:
                    key = (kind, padded(match[1]), int(match[2]))
                    self.by_utterance.setdefault(key, []).append((match[3], path))
        self.present = {kind for kind, _, _ in self.by_utterance}

    def named(self, kind: str, path: str | None, name: str | None, place: str) -> str | None:
        """The file that a record names, at the path it gives or anywhere below root under its name."""
        path, name = ((text or "").replace("\\", "/") for text in (path, name))
        clean = PurePosixPath(path).as_posix()
        if clean in self.paths:
            return clean
        name = (name or path).rpartition("/")[2]
        found = self._one(self.by_name.get(name, []), place)
        if found is None:
            self.missing.append(Missing(kind, name, place))
        return found

    def spoken(
        self, kind: str, conversation: str, index: int, profile: str | None, place: str, expected: bool
    ) -> str | None:
        """The file named after conversation, utterance and profile ID; missing files count only if ``expected``."""
        found = self.by_utterance.get((kind, conversation, index), [])
        path = self._one([path for who, path in found if profile in (None, who)], place)
        if path is None and expected and kind in self.present:
            self.missing.append(Missing(kind, f"dia{conversation}utt{index}_{profile or '?'}", place))
        return path

    def _one(self, found: list[str], place: str) -> str | None:
        if len(found) > 1:
            raise UserError(f"{place}: which of {some(sorted(found))} below {self.root}? Keep one, or give its path")
        return found[0] if found else None


def _walk(root: Path | str, links: list[str]) -> Iterator[str]:
    """Every file below root as a path with /; hidden ones (such as macOS's ``._`` doubles) are left out."""
    if isinstance(root, str):
        yield from sorted(path for path in remote_files(root) if not re.search(r"(^|/)\.", path))
        return
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        links += [prefix + name for name in folders if (Path(folder) / name).is_symlink()]
        yield from (prefix + name for name in sorted(files) if not name.startswith("."))
