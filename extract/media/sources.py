"""Where clips come from: the hash of each one's content, remembered between passes, and objects brought to disk."""

import hashlib
import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from os.path import commonpath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import polars as pl

from cache import StoreError, read_sealed_parquet, write_sealed_parquet
from cache.remote.objects import Found, ObjectError, Objects, UnansweredError
from configs import UserError, first_line
from extract.media.hashing import ChangedError, new_content_hash

__all__ = ["Clip", "Elsewhere", "Held", "RemoteFile", "Sources", "local_copy", "remote_files"]

GRAIN_NS = 2 * 10**9  # the coarsest clock of a file system: two changes within a tick leave the same time
MOST_UNANSWERED = 20  # objects in a row that are not given, although the server answers
_unanswered: Counter[str] = Counter()  # by URL: objects in a row that were not given to this process
SLICE = 1024  # files given to the threads at a time, so that memory does not grow with their number
REMEMBERED = {
    "path": pl.String,
    "size": pl.Int64,
    "mtime_ns": pl.Int64,
    "ctime_ns": pl.Int64,
    "hashed_ns": pl.Int64,  # when reading it began
    "content_hash": pl.String,
}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An object of object storage: ``path`` below ``root``, a URL such as ``s3://bucket/avamerg``."""

    root: str
    path: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What was computed elsewhere: an array that the encoder's source has under the clip's id.

    ``expected``: the manifest says that the clip has what the features are of.
    """

    clip_id: str
    expected: bool = True


class Held(Protocol):
    """Media that was decoded before it came here: a window of a stream."""

    def decode(self, task: Any) -> Any:
        """What an encoder's task makes of it, ``Decoded``. Raises MediaError and ClipError."""


@dataclass(frozen=True, slots=True)
class Clip:
    clip_id: str
    source: Path | RemoteFile | Elsewhere | Held | str  # a file, an object, an array, what is decoded, the text itself


class _Stat(NamedTuple):
    path: str
    size: int  # -1: cannot be read
    mtime_ns: int
    ctime_ns: int
    reason: str


class Sources:
    """Content hashes of clips. A file is read again only where its size or times differ from those remembered.

    Made for one pass: files that the pass does not name are forgotten.

    Args:
        remembered: the Parquet file that :meth:`save` writes; it may be deleted at any time. None: remember nothing.
        trust: False reads every file again, whatever is remembered.
    """

    def __init__(self, remembered: Path | None, trust: bool = True) -> None:
        self._path = remembered
        self._known = _read_remembered(remembered)
        self._trust = trust
        self._fresh: list[tuple[Any, ...]] = []  # rows of REMEMBERED
        self._changed = False

    def content_hashes(self, clips: list[Clip], workers: int) -> Iterator[tuple[str | None, str]]:
        """Of each clip, in order: (hash, "") or (None, why it cannot be read). ``workers`` threads read files.

        The hash is BLAKE2b (16 bytes) over the file's bytes or the text. An object's is over its size and its ETag,
        which change with its content: listing the objects is enough, and none is transferred to be compared.

        Raises:
            UserError: the objects cannot be listed: no such bucket, bad credentials, no network.
        """
        objects = _listing([clip.source for clip in clips if isinstance(clip.source, RemoteFile)])
        with ThreadPoolExecutor(workers) as pool:
            files = self._file_hashes([str(clip.source) for clip in clips if isinstance(clip.source, Path)], pool)
            for clip in clips:
                if isinstance(clip.source, Path):
                    yield next(files)
                elif isinstance(clip.source, str):
                    yield _hash(clip.source), ""
                elif isinstance(clip.source, RemoteFile) and clip.source in objects:
                    yield _hash(objects[clip.source]), ""
                else:
                    yield None, "no such object"

    def save(self) -> None:
        """Remember what was hashed, also after a pass that was cut short."""
        if self._path is None or not (self._fresh or self._changed):
            return
        fresh = pl.DataFrame(self._fresh, schema=REMEMBERED, orient="row")
        table = pl.concat([self._known, fresh]).unique("path", keep="last", maintain_order=True)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_sealed_parquet(self._path, table)

    def _file_hashes(self, paths: list[str], pool: ThreadPoolExecutor) -> Iterator[tuple[str | None, str]]:
        stats = [found for part in pool.map(_stats, _slices(paths)) for found in part]
        known = self._recall(stats)
        unknown = (found for found, hash_ in zip(stats, known, strict=True) if hash_ is None and found.size >= 0)
        read = (done for part in _slices(unknown) for done in pool.map(_read, part))
        for found, known_hash in zip(stats, known, strict=True):
            if known_hash is not None:
                yield known_hash, ""
            elif found.size < 0:
                yield None, found.reason
            else:
                hashed_ns, content_hash, reason = next(read)
                if content_hash is not None:
                    self._fresh.append((*found[:4], hashed_ns, content_hash))
                yield content_hash, reason

    def _recall(self, stats: list[_Stat]) -> list[str | None]:
        """The remembered hash of each file that is as it was; what is remembered of others is forgotten."""
        before = self._known.height
        as_found = {name: REMEMBERED[name] for name in ("path", "size", "mtime_ns", "ctime_ns")}
        now = pl.DataFrame([found[:4] for found in stats], schema=as_found, orient="row")
        same = now.join(self._known, on=list(as_found), how="left", maintain_order="left").with_columns(
            pl.when(
                pl.lit(self._trust),
                *((pl.col("hashed_ns") - pl.col(at)).abs() > GRAIN_NS for at in ("mtime_ns", "ctime_ns")),
            ).then("content_hash")
        )
        self._known = same.filter(pl.col("content_hash").is_not_null()).unique("path", maintain_order=True)
        self._changed = self._known.height != before
        return same.get_column("content_hash").to_list()


@contextmanager
def local_copy(source: Path | RemoteFile, content_hash: str | None = None) -> Iterator[Path]:
    """A file to read: a local one itself, or an object's copy in the folder for temporary files, removed afterwards.

    Args:
        content_hash: that the object had when it was listed; None: any will do.
    Raises:
        ChangedError: the object is another one by now.
        OSError: this object cannot be had, even after retries; in one line.
        UserError: no object can be had: no such bucket, bad credentials, a server that answers no more or has not
            given ``MOST_UNANSWERED`` objects in a row. To wait for each of the rest would take days.
    """
    if isinstance(source, Path):
        yield source
        return
    with TemporaryDirectory(prefix="emocache-") as folder:
        copy = Path(folder) / f"object{Path(source.path).suffix}"
        with _for_users():
            about = _download(source, copy)
        if content_hash is not None and _hash(_identity(about)) != content_hash:
            raise ChangedError("changed while it was read")
        yield copy


def _download(source: RemoteFile, to: Path) -> Found:
    objects = Objects(source.root)
    try:
        about = objects.download(source.path, to)
    except UnansweredError as error:
        _unanswered[source.root] += 1
        if _unanswered[source.root] >= MOST_UNANSWERED:
            raise StoreError(f"{error} ({MOST_UNANSWERED} objects in a row; what was committed is kept)") from error
        objects.ask()  # is it this object's fault, or are all others as vain?
        raise
    except ObjectError:
        _unanswered[source.root] = 0  # not there, says a server that is
        raise
    _unanswered[source.root] = 0
    return about


def remote_files(root: str) -> set[str]:
    """The paths of all objects below a URL. Raises UserError where it cannot be listed."""
    with _for_users():
        return set(Objects(root).list())


def _listing(files: list[RemoteFile]) -> dict[RemoteFile, str]:
    """What tells the content of each object that is there; one listing for all that lie below a root."""
    found: dict[RemoteFile, str] = {}
    for root in dict.fromkeys(file.root for file in files):
        folders = [file.path.rpartition("/")[0] for file in files if file.root == root]
        with _for_users():
            listed = Objects(root).list(commonpath(folders))
        found |= {RemoteFile(root, path): _identity(about) for path, about in listed.items()}
    return found


def _identity(about: Found) -> str:
    return f"{about.size} {about.version}"


@contextmanager
def _for_users() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise UserError(str(error)) from error


def _read_remembered(path: Path | None) -> pl.DataFrame:
    empty = pl.DataFrame(schema=REMEMBERED)
    if path is None or not path.is_file():
        return empty
    try:
        table = pl.read_parquet(read_sealed_parquet(path, "every file is read again"))
    except (pl.exceptions.PolarsError, StoreError, OSError) as error:
        print(f"{path}: unreadable ({first_line(error)}): every file is read again, and this one made anew")
        return empty
    if table.schema != REMEMBERED:
        print(f"{path}: its columns are not those of this program: every file is read again, and this one made anew")
        return empty
    return table


def _stats(paths: list[str]) -> list[_Stat]:
    return [_stat(path) for path in paths]


def _stat(path: str) -> _Stat:
    try:
        found = os.stat(path)  # noqa: PTH116 (hundreds of thousands of them)
    except OSError as error:
        return _Stat(path, -1, 0, 0, _reason(error))
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
        return _Stat(path, -1, 0, 0, "not a regular file")
    return _Stat(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, "")


def _read(found: _Stat) -> tuple[int, str | None, str]:
    """When reading began, and the hash or why there is none."""
    now = time.time_ns()
    try:
        with open(found.path, "rb") as file:  # noqa: PTH123
            return now, hashlib.file_digest(file, new_content_hash).hexdigest(), ""
    except OSError as error:
        return now, None, _reason(error)


def _hash(text: str) -> str:
    digest = new_content_hash()
    digest.update(text.encode())
    return str(digest.hexdigest())


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _slices(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while part := list(islice(rest, SLICE)):
        yield part
