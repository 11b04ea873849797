"""Where uploads lie while they are answered: one private folder, which goes with the process.

A process that is killed cannot clear up; whoever starts next does it for him: a folder whose lock nobody holds is left
over. What is spooled on the way here are files without names, which the system removes by itself.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

PREFIX = "emocache-uploads-"


class Uploads:
    """Folders for requests, below one that only this user may enter."""

    def __init__(self) -> None:
        _clear_left_over()
        self._root, self._lock = _locked_folder()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        os.close(self._lock)

    def folder(self) -> Path:
        """A new one, for one request."""
        return Path(tempfile.mkdtemp(dir=self._root))


def _locked_folder() -> tuple[Path, int]:
    while True:
        root = Path(tempfile.mkdtemp(prefix=PREFIX))
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if root.is_dir():  # nobody who was just starting took it for one that is left over
            return root, descriptor
        os.close(descriptor)


def _clear_left_over() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
            continue
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:  # in use
            pass
        finally:
            os.close(descriptor)
