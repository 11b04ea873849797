"""Folders that are published whole, with the digests of all that is in them.

``SHA256SUMS`` names every file below the folder (``sha256sum -c SHA256SUMS`` checks them, too). Whoever reads one of
them reads it through :func:`read_published`: it is what was written, or the reader ends in one line.
"""

import ctypes
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from cache.disk.writing import StoreError, readable, writable

SUMS = "SHA256SUMS"
DEPTH = 4  # how far above a file its folder's sums may lie
RENAME_EXCHANGE, AT_FDCWD = 2, -100  # <linux/fs.h>, <fcntl.h>


def publish_folder(folder: Path, write: Callable[[Path], object], own: str | None = None) -> None:
    """Let ``write`` fill a new folder beside ``folder``, add its sums, and put it in place; what was there goes.

    A reader sees the former folder or the new one, and whoever is killed in it leaves one of them (where the system
    cannot exchange two folders there is none for a moment; the former then stands beside it as ``.NAME.old``). Two
    processes must not do so at once: see :func:`cache.claimed`.

    Args:
        folder: of a link to a folder, that folder is meant.
        own: a file that every folder of this kind has. What else is in the former folder and not in its sums is then
            somebody else's, and stays.

    Raises:
        StoreError: the disk is full, or the system refuses, or something there is somebody else's and would go; the
            former folder is whole.
    """
    if folder.is_symlink() or folder.name in ("", ".."):
        folder = Path(os.path.realpath(folder))  # a Path raises where links go round
    if os.path.lexists(folder) and not folder.is_dir():
        raise StoreError(f"{folder}: is there and is no folder: move it away")
    if Path.cwd().is_relative_to(folder.absolute()):
        raise StoreError(f"{folder}: the folder that this runs in cannot be replaced: name one of its own")
    fresh, old = (folder.with_name(f".{folder.name}.{which}") for which in ("new", "old"))
    try:
        with writable(folder):
            if old.is_dir() and not folder.exists():
                old.rename(folder)
            for leftover in (fresh, old):
                shutil.rmtree(leftover, ignore_errors=True)
            fresh.mkdir(parents=True)
            write(fresh)
            write_sums(fresh)
            if own and folder.is_dir():
                _take_along(folder, fresh, own)
            _put_in_place(fresh, folder, old)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def write_sums(folder: Path) -> None:
    """Write ``SHA256SUMS`` over all files below a folder. Raises OSError."""
    sums = "".join(f"{digest}  {path}\n" for path, digest in digests_below(folder).items())
    (folder / SUMS).write_text(sums, encoding="utf-8")


def digests_below(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder but its own sums, by path.

    Raises:
        StoreError: something in it is neither a file nor a folder (a pipe, a link to a folder): it is named.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        if not path.is_file():  # opening a pipe would wait for ever
            what = "a link that leads to no file" if path.is_symlink() else "no regular file"
            raise StoreError(f"{path}: {what}, which does not belong here: remove it")
        if path != folder / SUMS:
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def read_published(path: Path, remedy: str) -> bytes:
    """A file of a published folder, as it was written.

    Args:
        remedy: ends the error's line; such as ``train it again with python heads/train.py --head audio``.

    Raises:
        StoreError: it is missing, is no part of a published folder, or is not what was written.
    """
    for _ in range(3):  # the folder may be replaced between reading the file and reading its sums
        if not path.is_file():
            raise StoreError(f"{path}: not there: {remedy}")
        root = _root_of(path.parent)
        if root is None:
            raise StoreError(f"{path}: no {SUMS} beside it, so nothing says that it is whole: {remedy}")
        with readable(path, remedy):
            content = path.read_bytes()
            stated = stated_digests(root)
        if stated.get(path.relative_to(root).as_posix()) == hashlib.sha256(content).hexdigest():
            return content
    raise StoreError(f"{path}: not what was written, by {SUMS} in {root}: {remedy}")


def verify_published(folder: Path, remedy: str) -> None:
    """Check all files below ``folder`` that its sums, or those of a folder above, name.

    Raises:
        StoreError: a file is missing or is not what was written, or there are no sums.
    """
    for name in _stated_below(folder, remedy):
        read_published(folder / name, remedy)


def copy_published(source: Path, target: Path, remedy: str) -> None:
    """Copy a part of a published folder, of one and the same state of it.

    Raises:
        StoreError: a file is missing or is not what was written, or there are no sums.
    """
    for _ in range(3):  # the folder may be replaced meanwhile
        stated = _stated_below(source, remedy)
        with readable(source, remedy):
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        if digests_below(target) == stated:
            return
    verify_published(source, remedy)  # names the file, if it is one
    raise StoreError(f"{source}: changes while it is copied: {remedy}")


def verify_whole(folder: Path, remedy: str) -> str:
    """Check that a published folder holds the files that its sums name, and no others.

    Returns:
        SHA-256 of ``SHA256SUMS``, and so of everything.
    Raises:
        StoreError: there are no sums; a file is missing, changed, or not among those that were published; named.
    """
    for _ in range(3):  # the folder may be replaced meanwhile
        if not (folder / SUMS).is_file():
            raise StoreError(f"{folder / SUMS}: not there, so nothing says that the folder is whole: {remedy}")
        with readable(folder, remedy):
            stated, found = stated_digests(folder), digests_below(folder)
            if stated == stated_digests(folder):
                break
    for problem, paths in (
        ("missing", stated.keys() - found.keys()),
        ("is none of this folder's files", found.keys() - stated.keys()),
        ("changed since it was written", {path for path in stated if found.get(path) != stated[path]}),
    ):
        for path in sorted(paths)[:1]:
            more = f" (and {len(paths) - 1} more files)" if len(paths) > 1 else ""
            raise StoreError(f"{folder / path}: {problem}{more}, by {SUMS}: {remedy}")
    return hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()


def is_published(path: Path) -> bool:
    """Whether a file lies in a published folder and is one of those that were published."""
    root = _root_of(path.parent)
    return root is not None and path.relative_to(root).as_posix() in stated_digests(root)


def stated_digests(folder: Path) -> dict[str, str]:
    """What a folder's sums say, by path."""
    lines = (folder / SUMS).read_bytes().decode("utf-8", errors="replace").splitlines()
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}


def _root_of(folder: Path) -> Path | None:
    """The published folder that a folder is, or is a part of."""
    return next((above for above in (folder, *folder.parents[:DEPTH]) if (above / SUMS).is_file()), None)


def _stated_below(folder: Path, remedy: str) -> dict[str, str]:
    """What the sums of a published folder say of what lies below one of its folders, by path from there.

    Raises:
        StoreError: no sums name anything there.
    """
    root = _root_of(folder)
    named = {} if root is None else {root / name: digest for name, digest in stated_digests(root).items()}
    below = {path: digest for path, digest in named.items() if path.is_relative_to(folder)}
    if not below:
        raise StoreError(f"{folder}: no {SUMS} names its files, so nothing says that it is whole: {remedy}")
    return {path.relative_to(folder).as_posix(): digest for path, digest in below.items()}


def _take_along(folder: Path, fresh: Path, own: str) -> None:
    """Link what is somebody else's in a folder into the one that takes its place.

    Raises:
        StoreError: it has the name of something new, or others publish below the folder.
    """
    stated = stated_digests(folder).keys() if (folder / SUMS).is_file() else set()
    ours = own in stated or (folder / own).is_file()  # folders of before had no sums
    for path in sorted(folder.rglob("*")):
        place = fresh / path.relative_to(folder)
        is_folder = path.is_dir() and not path.is_symlink()
        if ours and not is_folder and (path == folder / SUMS or path.relative_to(folder).as_posix() in stated):
            continue
        taken = os.path.lexists(place) and place.is_dir() != is_folder
        if path.name in (SUMS, "checksums.json") or taken or (not ours and not is_folder and os.path.lexists(place)):
            raise StoreError(f"{path}: not of this kind of results, and would be lost: move it, or name another folder")
        if is_folder:
            place.mkdir(exist_ok=True)
        elif not os.path.lexists(place):
            os.link(path, place, follow_symlinks=os.link not in os.supports_follow_symlinks)


def _put_in_place(fresh: Path, folder: Path, old: Path) -> None:
    """Let ``fresh`` be ``folder``; what was there is then at ``fresh`` or ``old``."""
    if not folder.exists():
        fresh.rename(folder)
        return
    if _exchange(fresh, folder):
        return
    folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        old.rename(folder)
        raise


def _exchange(a: Path, b: Path) -> bool:
    """Let two folders change places in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None  # glibc's
    return renameat2 is not None and not renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE)
