"""Where uploads lie while they are answered: one private folder, which goes with the process.

A process that is killed cannot clear up; whoever starts next does it for him: a folder whose lock nobody holds is left
over. What is spooled on the way here are files without names, which the system removes by itself.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

PREFIX = "emocache-uploads-"
LOCK = ".lock"


class Uploads:
    """Folders for requests, below one that only this user may enter."""

    def __init__(self) -> None:
        _clear_left_over()
        self._root, self._lock = _locked_folder()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        self._lock.release()

    def folder(self) -> Path:
        """A new one, for one request."""
        return Path(tempfile.mkdtemp(dir=self._root))


def _locked_folder() -> tuple[Path, FileLock]:
    while True:
        root = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = FileLock(root / LOCK)
        try:
            lock.acquire()
        except OSError:  # somebody who was just starting took the folder for one that is left over
            continue
        if (root / LOCK).is_file():
            return root, lock
        lock.release()


def _clear_left_over() -> None:
    own = os.getuid() if hasattr(os, "getuid") else 0  # 0 is what all files have elsewhere
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != own:
            continue
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):  # in use, or cleared by another
            continue
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
