"""WebDataset's tar files: members of the same name but for the suffix are a sample."""

import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from configs import UserError, first_line, some
from configs.outside import parse_json
from configs.sections.datasets import WebDataset
from configs.tables import filled, said
from extract.corpora.manifest import not_here
from extract.corpora.media_paths import AUDIO, VIDEO
from extract.corpora.readers.unpacking import unpack
from extract.corpora.readers.walk import kind_of
from extract.corpora.rows import ALIASES, Rows

TEXTS = ("txt", "text", "transcript", "cls", "cls2", "index", "json")  # members that are read as text
LARGEST = 2**24  # bytes of such a member


def read_webdataset(dataset: WebDataset) -> Rows:
    """A clip for each sample: its ``__key__`` is the id, its media become files, its texts and JSON are named columns.

    A shard's name begins with its split (``train-000000.tar``), or the folder that holds it is called so; else there
    is none. Members of other kinds, and above all pickled ones, are not opened, but counted by suffix.

    Raises:
        UserError: there are no tar files, one is broken, a column is in no sample, a text is not UTF-8 or no JSON.
        StoreError: media cannot be written.
    """
    shards = sorted(dataset.root.rglob("*.tar")) if dataset.root.is_dir() else []
    if not shards:
        what = f"{dataset.root}: no .tar below it" if dataset.root.is_dir() else not_here(dataset.root, "folder")
        raise UserError(f"{what} (dataset.root)")
    others: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    wanted: dict[str, str] = dict(dataset.columns.items()) | {f"meta_{name}": name for name in dataset.metadata}
    for shard in shards:
        split = _split_of(shard, dataset.root)
        for key, members in _samples(shard, Path(dataset.unpacked), others):
            fields.update(members.keys())
            row: dict[str, Any] = {"row": f"{shard.name} {key}", "clip_id": filled(key)}
            row |= {"split": split} if split and "split" not in wanted else {}
            for kind in ("audio", "video"):
                if path := members.get(wanted.get(kind, kind)):
                    row[kind] = path
            if "video" in row:
                row.setdefault("audio", row["video"])
            for ours, theirs in wanted.items():
                if ours not in ("audio", "video"):
                    value = members.get(theirs)
                    row[ours] = said(str(value)) if ours == "text" and value is not None else filled(value)
            rows.append(row)
    lacking = [theirs for theirs in wanted.values() if not fields[theirs]]
    if lacking:
        raise UserError(
            f"{dataset.root}: no sample has {some(lacking)} (dataset.columns); they have {some(fields, 30)}"
        )
    counts = {"shards": len(shards), "members_not_opened": dict(others)}
    return Rows(pl.DataFrame(rows, infer_schema_length=None), str(dataset.root), counts, published=True)


def _split_of(shard: Path, root: Path) -> str | None:
    names = [re.split(r"[-._]", shard.stem)[0], *reversed(shard.relative_to(root).parts[:-1])]
    return next((name.lower() for name in names if name.lower() in ALIASES), None)


def _samples(shard: Path, folder: Path, others: Counter[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys, and of each sample its members by suffix, those of its JSON by key, and its media as files, by kind."""
    key, sample = "", dict[str, Any]()
    try:
        with tarfile.open(shard, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                head, _, name = member.name.removeprefix("./").rpartition("/")
                stem, _, suffix = name.partition(".")
                if not stem or not suffix:
                    continue
                here = f"{head}/{stem}" if head else stem
                if here != key:
                    if sample:
                        yield key, sample
                    key, sample = here, {}
                last = f".{suffix.rpartition('.')[2].lower()}"
                if last in (*AUDIO, *VIDEO):
                    path = unpack(_content(archive, member), last, folder)
                    sample |= {suffix: path, kind_of(path): path}
                elif suffix.lower() in TEXTS and member.size <= LARGEST:
                    sample |= _said(_content(archive, member), suffix, f"{shard}: {member.name}")
                else:
                    others[suffix] += 1
            if sample:
                yield key, sample
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{shard}: cannot be read as an uncompressed tar file: {first_line(error)}") from error


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    content = file.read() if file else b""
    if len(content) != member.size:
        raise tarfile.ReadError(f"{member.name} is cut short")
    return content


def _said(content: bytes, suffix: str, place: str) -> dict[str, Any]:
    if suffix.lower() == "json":
        found = parse_json(content, place)
        if not isinstance(found, dict):
            raise UserError(f"{place}: must hold an object of names and values")
        return {name: value for name, value in found.items() if isinstance(value, str | int | float)}
    try:
        return {suffix: content.decode("utf-8-sig")}
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 (byte {error.start})") from error
