"""Where stores stand: on one shelf, found by what they are, whichever profile asks.

``runs/stores/LABEL-FINGERPRINT-BACKEND``   a store; ``-2``, ``-3`` behind it where clips of other content have the ids
``runs/PROFILE/stores/NAME``                a link to the store that a profile uses under this name
"""

import errno
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from cache.disk.locks import locked
from cache.disk.writing import writable
from cache.files.layout import Header, read_index_table
from configs.schema import OF_VIEW, SHELF


@dataclass(frozen=True)
class Found:
    """A store that holds clips of a pass, or the place of one that is to be begun.

    ``stored``: content hash by clip id. ``others``: links of others that use it.
    """

    path: Path
    stored: dict[str, str]
    others: list[Path]


def find(link: Path, label: str, wanted: Header, contents: Mapping[str, str], strict: bool = False) -> Found:
    """The store for some clips, without changing anything.

    Of all stores with this fingerprint and backend it is the one that agrees on most of the clips that both name; one
    that contradicts as many of them as it agrees on holds other clips under the same ids, and stays out. Where none is
    left, it is the store that ``link`` leads to, unless others use it, too; else a new place.

    Args:
        link: ``runs/PROFILE/stores/NAME``; a folder there, from before there was a shelf, counts as a store, too.
        label: of a new store's name, for people.
        wanted: :func:`cache.settings_header` of the pass; its width and the size of chunks do not matter.
        contents: content hash by clip id, of all clips of the pass.
        strict: a store that others use stays out where it contradicts a single clip: what is under one fingerprint need
            not be of one origin.
    """
    shelf = _shelf(link)
    candidates = [path for path in [*_stores_below(link.parent), *_stores_below(shelf)] if _is(path, wanted)]
    agreeing: list[tuple[int, bool, Path, dict[str, str]]] = []
    for path in dict.fromkeys(path.resolve() for path in candidates):
        stored = content_hashes(path)
        same = sum(contents.get(clip_id) == content for clip_id, content in stored.items())
        other = sum(clip_id in contents for clip_id in stored) - same
        if same > other and not (strict and other and _others(path, link)):
            agreeing.append((same - other, path == link.resolve(), path, stored))
    if agreeing:
        _, _, path, stored = max(agreeing, key=lambda each: each[:2])
        return Found(path, stored, _others(path, link))
    if _is(link, wanted) and not _others(link.resolve(), link):
        return Found(link.resolve(), content_hashes(link), [])
    return Found(_free(shelf, _name(label, wanted)).absolute(), {}, [])


def settle(link: Path, label: str, wanted: Header, contents: Mapping[str, str], strict: bool = False) -> Found:
    """:func:`find`, and let ``link`` lead there; stores beside it from before there was a shelf move to the shelf.

    Raises:
        StoreError: such a store is being written, or the system refuses to move or to link.
    """
    link.parent.mkdir(parents=True, exist_ok=True)
    shelf = _shelf(link)
    shelf.mkdir(exist_ok=True)
    for path in _stores_below(link.parent):
        if path == link or path.name.startswith(f"{link.name}.") or _is(path, wanted):
            _take_over(path, shelf, label)
    found = find(link, label, wanted, contents, strict)
    with writable(link):
        point(link, found.path)
    return found


def point(link: Path, store: Path) -> None:
    """Let ``link`` lead to a store, in place of wherever it led before."""
    target = os.path.relpath(store, link.parent.resolve())
    if link.is_symlink() and os.readlink(link) == target:  # noqa: PTH115 (as a string)
        return
    beside = link.with_name(f".{link.name}.link")
    with suppress(FileNotFoundError):
        beside.unlink()
    beside.symlink_to(target, target_is_directory=True)
    if os.name == "nt":  # which renames nothing over a folder, nor over a link to one
        link.unlink(missing_ok=True)
    beside.replace(link)


def content_hashes(store: Path) -> dict[str, str]:
    """Of every clip of a store."""
    index, _ = read_index_table(store)
    return dict(zip(index.column("clip_id").to_pylist(), index.column("content_hash").to_pylist(), strict=True))


def stores_of(runs: Path) -> dict[Path, list[Path]]:
    """Every store below a folder of runs, and the links that lead to it; a store in its old place has none."""
    old = [path for folder in sorted(runs.glob("*/stores")) for path in _stores_below(folder)]
    every = [*_stores_below(runs / SHELF), *(path for path in old if not path.is_symlink())]
    leads = {link: link.resolve() for link in _links(runs)}
    return {path: [link for link, store in leads.items() if store == path.resolve()] for path in every}


def extraction_of(store: Path) -> str:
    """The command that brings a store up to date: that of a profile that uses it, where one is known."""
    links = [store.absolute(), *(link.absolute() for link in _links(store.resolve().parent.parent))]
    for link in links:
        known = len(link.parts) >= 4 and link.parts[-4] == "runs" and link.parts[-2] == "stores"
        if known and link.resolve() == store.resolve():
            named = (Path("configs") / f"{link.parts[-3]}.yaml").is_file()
            encoder = link.name.partition(OF_VIEW)[0]
            return f"python extract/run.py --config {link.parts[-3] if named else 'PROFILE.yaml'} --encoder {encoder}"
    return "python extract/run.py --config PROFILE.yaml --encoder NAME"


def _shelf(link: Path) -> Path:
    return link.parents[2] / SHELF


def _links(runs: Path) -> list[Path]:
    return sorted(path for path in runs.glob("*/stores/[!.]*") if path.is_symlink())


def _others(store: Path, link: Path) -> list[Path]:
    others = (other for other in _links(link.parents[2]) if other.absolute() != link.absolute())
    return [other for other in others if other.resolve() == store]


def _stores_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if (path / "store.json").is_file())


def _move(path: Path, new: Path) -> None:
    """Rename a folder; from one disk to another, copy it beside its place first."""
    try:
        path.rename(new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = new.with_name(f".{new.name}.moving")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(path, beside)
        beside.rename(new)
        shutil.rmtree(path)


def _is(store: Path, wanted: Header) -> bool:
    return (store / "store.json").is_file() and Header.read(store).same_kind(wanted)


def _free(shelf: Path, name: str) -> Path:
    places = (shelf / (name if k == 1 else f"{name}-{k}") for k in count(1))
    return next(path for path in places if not os.path.lexists(path))


def _name(label: str, header: Header) -> str:
    return f"{label}-{header.fingerprint}-{header.backend}"


def _take_over(path: Path, shelf: Path, label: str) -> None:
    """Move a store that stands where a link belongs, or was set aside there, onto the shelf."""
    if path.is_symlink():
        return
    header = Header.read(path)
    new = _free(shelf, _name(header.fields.get("family", label), header))
    with locked(path), writable(path):
        _move(path, new)
        path.with_name(f".{path.name}.lock").unlink()
        if "." not in path.name:  # what was set aside has its fingerprint behind a dot
            point(path, new)
