"""A store and its copy at a URL such as ``s3://bucket/run/audio``: what differs travels, the index last.

What a file holds is told by something cheap. Here: a chunk's size and its own checksum (its last four bytes), a small
file's SHA-256. There: the object's ETag. Which of them belong together is noted in ``.remote.jsonl`` in the store's
folder, line by line as files travel, so that what was interrupted goes on; without the notes, all of it travels again.

The notes also say which index this store and the URL last had in common. From there one of the two may go on; where
both did, nothing is overwritten. There is no lock: whoever publishes an index second is refused.
"""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import google_crc32c
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from cache.checksums import CHECKSUMS, REMOTE_NOTES, Digests, digest, publish, read_checksums, write_checksums
from cache.chunks import Chunks, open_chunks
from cache.disk.locks import locked
from cache.disk.writing import StoreError, writable, write_atomically
from cache.layout import INDEX, Header, differing_fields, live_chunks, new_values_hash, read_index_table
from cache.remote.objects import ConflictError, ObjectError, Objects

_AT_ONCE = 4  # files that travel at the same time; each is held in memory


class DivergedError(StoreError):
    """A store and its URL both went on from what they had in common, or had nothing in common."""


@dataclass(frozen=True)
class Transferred:
    files: int
    bytes: int


def push(folder: Path, url: str, show: bool = True) -> Transferred:
    """Bring the copy at ``url`` up to date with the last commit of a store, which may be written meanwhile.

    Whoever reads the URL during a push, or after one that was interrupted, finds a whole store. ``show`` is for the
    progress bar.

    Raises:
        DivergedError: somebody else published an index there since this store was last pushed or fetched.
        StoreError: the URL cannot be written, or a file of the store is missing or damaged.
    """
    with _at(url, folder):
        objects, notes = Objects(url), _Notes(folder, url)
        there = {path: found.version for path, found in objects.list().items()}
        state = _read_state(lambda name: (folder / name).read_bytes(), folder)
        if INDEX in there and not notes.shared_index(there[INDEX]):
            index, there[INDEX] = objects.read(INDEX)
            if digest(index) not in (*notes.sent, digest(state.small[INDEX])):
                raise _diverged(folder, url)
            notes.add(INDEX, digest(index), there[INDEX])

        def send(i: int) -> int:
            state.chunks.check_size(i, state.n_rows(i))
            content, path = state.chunks.path(i).read_bytes(), _relative(state.chunks, i)
            _check_crc(content, state.chunks.path(i), f"python cache/verify.py {folder} --repair")
            notes.add(path, _chunk_id(content, len(content)), objects.write(path, content))
            return len(content)

        differing = [i for i in state.in_use if not _agrees(notes, state.chunks, i, there)]
        done = _travel(send, differing, f"to {url}", show)
        small = {
            name: content
            for name, content in state.small.items()
            if name not in there or not notes.agree(name, digest(content), there[name])
        }
        if (
            small or CHECKSUMS not in there
        ):  # published as cache.checksums.publish does it, so that damage is never suspected after a crash
            former: Digests = {}
            if CHECKSUMS in there:
                with suppress(StoreError), _unpacked({CHECKSUMS: objects.read(CHECKSUMS)[0]}) as unpacked:
                    former = read_checksums(unpacked)
            new: Digests = {name: [digest(content)] for name, content in state.small.items()}
            either = {name: list(dict.fromkeys([*former.get(name, [None]), *new[name]])) for name in new}
            objects.write(CHECKSUMS, _checksums({**former, **either}))
            for name, content in small.items():
                if name == INDEX:  # a process that dies before it can note the answer must know its own work again
                    notes.add(INDEX, digest(content), "")
                replacing = "*" if name != INDEX else there.get(INDEX)
                notes.add(name, digest(content), objects.write(name, content, replacing))
            objects.write(CHECKSUMS, _checksums({**former, **new}))
        return Transferred(done.files + len(small), done.bytes + sum(map(len, small.values())))


def fetch(url: str, folder: Path) -> Transferred:
    """Bring a local store up to date with the copy at ``url``; where that holds none, or is behind, nothing is done.

    Every file that travelled is checked against its checksum, and the values of its clips against the index.

    Raises:
        DivergedError: both went on since they last agreed.
        StoreError: the URL cannot be read, holds a store of other settings, or a damaged one; or somebody writes here.
    """
    with _at(url, folder):
        objects = Objects(url)
        there = {path: found.version for path, found in objects.list().items()}
        if INDEX not in there:
            return Transferred(0, 0)
        folder.resolve().mkdir(parents=True, exist_ok=True)  # also where a link led to a store that was deleted
        with locked(folder):
            return _fetch(objects, there, folder)


class BackgroundPush:
    """Pushes while the writer goes on: call it after each commit, and :meth:`finish` after the last.

    One push runs at a time, and takes the newest commit. A line without network costs nothing but a note: what was
    not pushed goes with the next one. Only :meth:`finish` insists.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self._pool = ThreadPoolExecutor(1)
        self._running: Future[Transferred] | None = None

    def __call__(self) -> None:
        """Raises DivergedError where the push before this one found that somebody else writes there."""
        if self._running is not None:
            if not self._running.done():
                return
            try:
                self._running.result()
            except DivergedError:
                raise
            except StoreError as error:
                print(f"{error}; the store here is kept, and pushed again after the next commit")
        self._running = self._pool.submit(push, self._folder, self._url, show=False)

    def finish(self) -> Transferred:
        """Wait for a push that runs, and push the rest. Raises StoreError, DivergedError."""
        self._pool.shutdown(wait=True)
        return push(self._folder, self._url)


@dataclass(frozen=True)
class _State:
    """A store as one commit left it: its small files, the index last, and the chunks that the index names."""

    small: dict[str, bytes]
    header: Header
    index: pa.Table
    total_rows: int
    chunks: Chunks
    in_use: list[int]

    def n_rows(self, i: int) -> int:
        """Committed rows of chunk ``i``."""
        return min(self.header.chunk_rows, self.total_rows - i * self.header.chunk_rows)


def _read_state(read: Callable[[str], bytes], folder: Path) -> _State:
    """Small files through ``read``, seen in one state although somebody may be replacing them; chunks in ``folder``."""
    for _ in range(10):
        with _unpacked({CHECKSUMS: read(CHECKSUMS)}) as unpacked:
            accepted = read_checksums(unpacked)
            small = {name: read(name) for name in sorted(accepted, key=lambda name: (name == INDEX, name))}
            wrong = [name for name, content in small.items() if digest(content) not in accepted[name]]
            if wrong:
                continue
            for name in ("store.json", INDEX):
                (unpacked / name).write_bytes(small[name])
            header, (index, total_rows) = Header.read(unpacked), read_index_table(unpacked)
            chunks = open_chunks(header.backend, folder, header.dim, header.dtype, header.chunk_rows)
            starts, lengths = (index.column(name).to_numpy() for name in ("start", "length"))
            in_use = live_chunks(starts, lengths, header.chunk_rows).tolist()
            return _State(small, header, index, total_rows, chunks, in_use)
    raise StoreError(f"{wrong[0]} is damaged: its checksum is wrong")


def _fetch(objects: Objects, there: dict[str, str], folder: Path) -> Transferred:
    notes, url = _Notes(folder, objects.url), objects.url
    here = folder / INDEX
    if here.is_file() and notes.shared_index(there[INDEX]):
        return Transferred(0, 0)
    versions: dict[str, str] = {}

    def read(name: str) -> bytes:
        content, versions[name] = objects.read(name)
        return content

    state = _read_state(read, folder)
    if here.is_file() and digest(state.small[INDEX]) in notes.sent:
        notes.add(INDEX, digest(state.small[INDEX]), versions[INDEX])
        return Transferred(0, 0)
    if (folder / "store.json").is_file():
        local = Header.read(folder)
        if (local.fingerprint, local.backend) != (state.header.fingerprint, state.header.backend):
            differing = ", ".join(differing_fields(local.fields, state.header.fields)) or "backend"
            raise StoreError(f"{url}: holds a store of other settings ({differing}): choose another store.url")
        known = (digest(state.small[INDEX]), notes.index_here)
        if read_index_table(folder)[1] and digest(here.read_bytes()) not in known:
            raise _diverged(folder, url)

    def take(i: int) -> int:
        path = _relative(state.chunks, i)
        content, version = objects.read(path)
        _check_crc(content, f"{url}/{path}", "delete it, and run the extraction where the store is whole")
        state.chunks.path(i).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(state.chunks.path(i), content)
        notes.add(path, _chunk_id(content, len(content)), version)
        return len(content)

    taken = [i for i in state.in_use if not _agrees(notes, state.chunks, i, there)]
    done = _travel(take, taken, f"from {url}", show=True)
    wrong = _wrong_values(state, set(taken), _held(folder))
    if wrong:
        for i in {i for numbers in wrong.values() for i in numbers}:  # an old content may have come as the new version
            path = _relative(state.chunks, i)
            notes.add(path, "", there.get(path, "none"))
        raise StoreError(
            f"{url}: the values of {len(wrong)} clips are not those that its index names ({min(wrong)} for one): "
            "fetch it once more; if that does not help, another machine overwrote its files: push it again from where "
            "it is whole, or extract it anew"
        )
    # Without store.json it is no store yet: in a new folder that comes last, in an old one it is what it was.
    names = [name for name in state.small if name != "store.json"] + ["store.json"]
    publish(folder, {name: state.small[name] for name in names})
    for name in names:
        notes.add(name, digest(state.small[name]), versions[name])
    return Transferred(done.files + len(names), done.bytes + sum(map(len, state.small.values())))


class _Notes:
    """Which content here is which version there, by path; for one URL.

    ``sent``: digests of the indexes that this store began to publish.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._path, self._url, self._lock = folder / REMOTE_NOTES, url, threading.Lock()
        self._noted: dict[str, tuple[str, str]] = {}
        self.sent: set[str] = set()
        noted = self._path.read_bytes().decode(errors="replace") if self._path.is_file() else ""
        for line in noted.splitlines():
            with suppress(ValueError, TypeError):  # the last line of a process that was killed: one file travels again
                noted_url, path, here, there = json.loads(line)
                if noted_url == url:
                    self._keep(path, here, there)

    def agree(self, path: str, here: str, there: str) -> bool:
        return self._noted.get(path) == (here, there)

    @property
    def index_here(self) -> str | None:
        """Digest of the index that both sides last had."""
        return self._noted.get(INDEX, (None, None))[0]

    def shared_index(self, there: str) -> bool:
        return self._noted.get(INDEX, (None, None))[1] == there

    def add(self, path: str, here: str, there: str) -> None:
        """Note a file that travelled; an index that is about to be sent has no version yet."""
        self._keep(path, here, there)
        with self._lock, self._path.open("a") as file:
            file.write("\n" + json.dumps([self._url, path, here, there]))

    def _keep(self, path: str, here: str, there: str) -> None:
        if there:
            self._noted[path] = (here, there)
        else:
            self.sent.add(here)


def _travel(move: Callable[[int], int], chunks: list[int], where: str, show: bool) -> Transferred:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        moved = pool.map(move, chunks)
        hidden = None if show else True
        return Transferred(len(chunks), sum(tqdm(moved, where, len(chunks), unit="file", disable=hidden, delay=2)))


def _agrees(notes: _Notes, chunks: Chunks, i: int, there: dict[str, str]) -> bool:
    """Whether chunk ``i`` is known to be the same on both sides."""
    file, path = chunks.path(i), _relative(chunks, i)
    if path not in there or not file.is_file():
        return False
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - 4))
        return notes.agree(path, _chunk_id(opened.read(), size), there[path])


def _chunk_id(end: bytes, size: int) -> str:
    return f"{size}:{end[-4:].hex()}"


def _check_crc(content: bytes, where: Path | str, help_: str) -> None:
    if google_crc32c.value(content[:-4]) != int.from_bytes(content[-4:], "little"):
        raise StoreError(f"{where}: damaged, for its checksum is wrong: {help_}")


def _held(folder: Path) -> set[tuple[object, ...]]:
    """The clips of the store that stands here, with where they lie and the hash of their values."""
    if not (folder / INDEX).is_file():
        return set()
    return set(_rows(read_index_table(folder)[0]))


def _rows(index: pa.Table) -> Iterator[tuple[str, int, int, str]]:
    names = ("clip_id", "start", "length", "values_hash")
    return zip(*(index.column(name).to_pylist() for name in names), strict=True)


def _wrong_values(state: _State, fetched: set[int], held: set[tuple[object, ...]]) -> dict[str, range]:
    """The clips whose values have not their hash in the index, and their chunks. Looked at are those that lie in a
    fetched chunk, and those that are new here: a process that died may have fetched theirs and not looked at them."""
    rows = state.header.chunk_rows
    wrong: dict[str, range] = {}
    for clip_id, start, length, expected in _rows(state.index):
        numbers = range(start // rows, (start + length - 1) // rows + 1)
        if fetched.isdisjoint(numbers) and (clip_id, start, length, expected) in held:
            continue
        found = new_values_hash()
        for i in numbers:
            mapped = state.chunks.map(i, state.n_rows(i))
            found.update(np.ascontiguousarray(mapped[max(0, start - i * rows) : start + length - i * rows]))
        if found.hexdigest() != expected:
            wrong[clip_id] = numbers
    return wrong


def _relative(chunks: Chunks, i: int) -> str:
    return chunks.path(i).relative_to(chunks.folder).as_posix()


def _diverged(folder: Path, url: str) -> DivergedError:
    return DivergedError(
        f"{url}: holds another state than {folder} went on from, so another machine writes it, too: move {folder} "
        "away to go on from what is there, or choose another store.url"
    )


@contextmanager
def _unpacked(files: dict[str, bytes]) -> Iterator[Path]:
    with TemporaryDirectory(prefix="emocache-") as name:
        for path, content in files.items():
            (Path(name) / path).write_bytes(content)
        yield Path(name)


def _checksums(files: Digests) -> bytes:
    with _unpacked({}) as folder:
        write_checksums(folder, files)
        return (folder / CHECKSUMS).read_bytes()


@contextmanager
def _at(url: str, folder: Path) -> Iterator[None]:
    try:
        with writable(folder):
            try:
                yield
            except ConflictError as error:
                raise _diverged(folder, url) from error
            except ObjectError as error:
                raise StoreError(str(error)) from error
    except StoreError as error:
        if url in str(error) or str(folder) in str(error):
            raise
        raise StoreError(f"{url}: {error}") from error
