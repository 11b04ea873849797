"""Tables of the library ``datasets``, as it saves them to disk and as the hub has them in Parquet; media lie inside.

Both are Arrow, which is read here as it lies: the features' names and classes stand in JSON beside or in the files.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from configs import UserError, first_line, some
from configs.outside import parse_json, read_json
from configs.sections.datasets import HuggingFaceDataset
from configs.tables import filled, said, shortened
from extract.corpora.manifest import not_here
from extract.corpora.media_paths import misplaced
from extract.corpora.readers.unpacking import suffix_of, unpack
from extract.corpora.readers.walk import kind_of
from extract.corpora.rows import ALIASES, Rows

MEDIA = ("audio", "video")


@dataclass
class _Shard:
    path: Path
    split: str | None
    classes: dict[str, list[str]] = field(default_factory=dict)  # column of class numbers: their names


def read_hugging_face(dataset: HuggingFaceDataset) -> Rows:
    """A clip for each row; columns of ``Audio`` and ``Video`` hold bytes, or the path of a file below root.

    Raises:
        UserError: there is nothing of the kind below root, a file is broken, a column is not there, media are of no
            kind that is known, or a column holds decoded numbers.
        StoreError: media cannot be written.
    """
    shards = list(_saved(dataset.root)) or list(_parquet(dataset.root))
    if not shards:
        raise UserError(f"{not_here(dataset.root, 'dataset')} (what save_to_disk wrote, or .parquet files below it)")
    wanted: dict[str, str] = dict(dataset.columns.items())
    wanted |= {f"meta_{name}": name for name in dataset.metadata}
    rows: list[dict[str, Any]] = []
    unpacked = 0
    for shard in shards:
        for number, record in _records(shard, list(dict.fromkeys(wanted.values()))):
            place = f"{shard.path.name} row {number}"
            row: dict[str, Any] = {"row": place, "clip_id": f"{shard.split or shard.path.stem}-{len(rows):06}"}
            if shard.split and "split" not in wanted:
                row["split"] = shard.split
            for ours, theirs in wanted.items():
                value = record[theirs]
                if ours in MEDIA:
                    paths = _media(value, dataset, f"{shard.path}: row {number}: {theirs}")
                    unpacked += bool(paths)
                    row |= {kind: path for kind, path in paths.items() if kind == ours or kind not in wanted}
                elif theirs in shard.classes and value is not None:
                    row[ours] = _class_name(int(value), shard.classes[theirs])
                else:
                    row[ours] = said(str(value)) if ours == "text" and value is not None else filled(value)
            rows.append(row)
    return Rows(
        pl.DataFrame(rows, infer_schema_length=None), str(dataset.root), {"media_inside": unpacked}, published=True
    )


def _class_name(number: int, names: list[str]) -> str | None:
    return names[number] if 0 <= number < len(names) else None  # -1: not known


def _saved(root: Path) -> Iterator[_Shard]:
    """The files that ``save_to_disk`` wrote, of one dataset or of several under the names of their splits."""
    about = root / "dataset_dict.json"
    folders = {None: root} if (root / "state.json").is_file() else {}
    if about.is_file():
        content = read_json(about)
        names = content.get("splits") if isinstance(content, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) and name.isidentifier() for name in names):
            raise UserError(f"{about}: must name splits")
        folders = {name: root / name for name in names}
    for split, folder in folders.items():
        state, info = read_json(folder / "state.json"), read_json(folder / "dataset_info.json")
        files = state.get("_data_files") if isinstance(state, dict) else None
        if not isinstance(files, list) or not isinstance(info, dict):
            raise UserError(f"{folder / 'state.json'}: names no data files")
        if state.get("_indices_data_files"):
            raise UserError(f"{folder / 'state.json'}: rows are chosen by indices: save it once more, flattened")
        for each in files:
            yield _Shard(folder / Path(str(each.get("filename"))).name, split, _classes(info.get("features")))


def _parquet(root: Path) -> Iterator[_Shard]:
    """Parquet files, whose names begin with their split: ``train-00000-of-00001.parquet``."""
    for path in sorted(root.rglob("*.parquet")) if root.is_dir() else [root] if root.suffix == ".parquet" else []:
        begin = re.split(r"[-._]", path.stem)[0].lower()
        about = (_open(path).schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        info = parse_json(about, f"{path}: its metadata").get("info", {})
        yield _Shard(path, begin if begin in ALIASES else None, _classes(info.get("features")))


def _classes(features: Any) -> dict[str, list[str]]:
    features = features if isinstance(features, dict) else {}
    return {
        name: [str(each) for each in about.get("names", [])]
        for name, about in features.items()
        if isinstance(about, dict) and about.get("_type") == "ClassLabel"
    }


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {first_line(error)}") from error


def _records(shard: _Shard, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row numbers from 1 and what stands in some columns, a few rows in memory at a time."""
    number = 0
    try:
        if shard.path.suffix == ".parquet":
            file = pq.ParquetFile(shard.path)
            _check_columns(shard.path, file.schema_arrow.names, columns)
            batches: Any = file.iter_batches(batch_size=16, columns=columns)
        else:
            batches = pa.ipc.open_stream(pa.memory_map(str(shard.path)))
            _check_columns(shard.path, batches.schema.names, columns)
        for batch in batches:
            for start in range(0, batch.num_rows, 16):
                for record in batch.slice(start, 16).select(columns).to_pylist():
                    number += 1
                    yield number, record
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{shard.path}: cannot be read as Arrow, after {number} rows: {first_line(error)}") from error


def _check_columns(path: Path, there: list[str], wanted: list[str]) -> None:
    lacking = [name for name in wanted if name not in there]
    if lacking:
        raise UserError(f"{path}: lacks the column {some(lacking)} of dataset.columns; it has {some(there, 20)}")


def _media(value: Any, dataset: HuggingFaceDataset, place: str) -> dict[str, str]:
    """The files of an ``Audio`` or ``Video`` cell: of a film both sound and film."""
    if value is None:
        return {}
    content, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(content, str) or (content is None and name):
        file = dataset.root / str(content or name)
        if any(misplaced([str(content or name)], dataset.root)) or not file.is_file():
            raise UserError(f"{place}: no bytes inside, and no file {shortened(content or name)} below {dataset.root}")
        content, name = file.read_bytes(), file.name
    if not isinstance(content, bytes):
        raise UserError(f"{place}: holds {type(content).__name__}, and no file's bytes: save it undecoded")
    suffix = suffix_of(content, PurePosixPath(str(name)).name if name else None)
    if suffix is None:
        raise UserError(f"{place}: bytes of no known kind of sound or film, called {shortened(name)}")
    path = unpack(content, suffix, Path(dataset.unpacked))
    return {"audio": path, "video": path} if kind_of(path) == "video" else {"audio": path}
