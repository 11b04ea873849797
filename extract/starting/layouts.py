"""What somebody's folder or table is: which reader reads it, and with what settings."""

import re
import tarfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs import UserError, first_line, some
from configs.outside import parse_json, read_yaml
from configs.tables import TABLES, shortened
from extract.corpora.media_paths import AUDIO, VIDEO
from extract.corpora.readers.named import whole_names
from extract.corpora.readers.walk import media_below
from extract.media.damage import ClipError, MediaError
from extract.media.decoding import Decoders
from extract.media.tasks import AudioTask
from extract.starting.columns import called, look_at

CORPORA = Path(__file__).parents[2] / "configs" / "corpora"
MOST = 0.9  # of the media files, by whose names a corpus is recognised
UNDECIDED = "CHOOSE"


@dataclass(frozen=True)
class Layout:
    """``what``: in words. ``dataset``: the profile's section, with ``UNDECIDED`` where ``open`` lists the choices (key:
    choices). ``maybe``: what could be added (key: value: what it would say). ``notes``: what was seen beside it.
    ``folds``: as the corpus is usually cut."""

    what: str
    dataset: dict[str, Any]
    open: dict[str, list[str]] = field(default_factory=dict)
    maybe: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    folds: int | None = None


def recognise(path: Path, root: Path, media: Path | None = None) -> Layout:
    """What lies at ``path``; ``root`` is how the profile shall call it (its folder, of a table).

    Args:
        media: where the media lie, if not below ``path``.

    Raises:
        UserError: there is nothing, or nothing that a reader knows; the line says what is there, and what would do.
    """
    if path.is_file() and path.suffix.lower() not in TABLES:
        raise UserError(f"{path}: neither a folder nor a table ({', '.join(TABLES)})")
    if not path.exists():
        raise UserError(f"{path}: no such folder or table")
    found = _of_table(path, root) if path.is_file() else _of_folder(path, root)
    if found is not None:
        return found if media is None else replace(found, dataset=found.dataset | {"media_root": str(media)})
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir() if not entry.name.startswith("."))
    raise UserError(
        f"{path}: not known ({some(names) or 'empty'}): give a table with a row per clip, a folder of media for each "
        "class, or a corpus of docs/corpora.md as it is published"
    )


def _of_folder(path: Path, root: Path) -> Layout | None:
    if known := _of_a_known_layout(path, root):
        return known
    media = _media(path)
    named = _of_names(path, root, media) or _of_records(path, root)
    return named or _of_one_table(path, root) or _of_classes(path, root, media)


def _of_a_known_layout(path: Path, root: Path) -> Layout | None:
    """By files that only one corpus or format has."""
    dataset: dict[str, Any] = {"root": str(root)}
    if any(path.glob("json/mapped_train_data*.json")):
        return Layout("AvaMERG, in its mapped layout", {"adapter": "avamerg", **dataset, "group": "conversation"})
    if next(path.rglob("train_sent_emo.csv"), None):
        return Layout("MELD", {"adapter": "meld", **dataset})
    if any(path.glob("Session*/dialog/EmoEvaluation/*.txt")):
        return Layout("IEMOCAP", {"adapter": "iemocap", **dataset, "merge": "four"}, folds=5)
    if any(path.glob("fold_1/*_train_fold*.jsonl")):  # one of EmoBox's corpora
        return Layout("EmoBox's partition", {"adapter": "emobox", "root": str(root.parent), "corpus": path.name})
    if corpora := sorted({file.parts[-3] for file in path.glob("*/fold_1/*_train_fold*.jsonl")}):
        choices = {} if len(corpora) == 1 else {"dataset.corpus": corpora}
        corpus = UNDECIDED if choices else corpora[0]
        return Layout("EmoBox's partitions", {"adapter": "emobox", "root": str(root), "corpus": corpus}, choices)
    if (path / "db.yaml").is_file():
        return Layout("an audformat database", {"adapter": "audformat", **dataset})
    return None


def _of_names(path: Path, root: Path, media: list[str]) -> Layout | None:
    """By the names of media files, as ``configs/corpora`` describes them."""
    matched: list[tuple[int, str, dict[str, Any]]] = []
    for file in sorted(CORPORA.glob("*.yaml")):
        corpus = read_yaml(file)
        if corpus["dataset"]["adapter"] != "files":
            continue
        pattern = whole_names(corpus["dataset"]["pattern"])
        matched.append((sum(bool(pattern.fullmatch(name)) for name in media), file.stem, corpus))
    n, name, corpus = max(matched, key=lambda each: each[0], default=(0, "", {}))
    # Parts of a corpus that its reader leaves out may be there, too: other cameras, songs.
    if not media or n < max(2, MOST * len(media) / 2):
        return None
    dataset = {"adapter": corpus["dataset"]["adapter"], "root": str(root)} | _film_sound(path, media)
    rest = {key: value for key, value in corpus["dataset"].items() if key != "adapter"}
    others = (f"{len(media) - n} of {len(media)} media files are called otherwise, and left out",) * (n < len(media))
    return Layout(f"{name.upper()}, by its files' names", dataset | rest, notes=others, folds=corpus.get("folds"))


def _of_one_table(path: Path, root: Path) -> Layout | None:
    tables = sorted(file for file in path.iterdir() if file.suffix.lower() in TABLES and file.is_file())
    if len(tables) > 1:
        raise UserError(
            f"{path}: several tables ({some([file.name for file in tables])}): name the one with the labels"
        )
    return _of_table(tables[0], root) if tables else None


def _of_table(path: Path, root: Path) -> Layout:
    columns = look_at(path)
    named = columns.named | dict.fromkeys(columns.unsure, UNDECIDED)
    # The pipeline watches all of root: where the table names no media, it is the table alone.
    place = (
        {"root": str(root), "table": path.name}
        if {"audio", "video"} & named.keys()
        else {"root": str(root / path.name)}
    )
    dataset: dict[str, Any] = {"adapter": "table", **place, "columns": named}
    notes = []
    if columns.free:
        notes.append(f"not read: {some(columns.free, 20)} (heads may read what dataset.metadata names)")
    if not {"audio", "video", "text"} & named.keys():
        raise UserError(
            f"{path}: no column names media files, and none holds texts: there is nothing to read of a clip"
        )
    if not {"split", "fold"} & named.keys():
        dataset["splits"] = {"val": 0.0, "test": 0.0}
    choices = {f"dataset.columns.{ours}": theirs for ours, theirs in columns.unsure.items()}
    return Layout(f"a table of {columns.n_rows} rows", dataset, choices, notes=tuple(notes))


def _of_classes(path: Path, root: Path, media: list[str]) -> Layout | None:
    """Media in folders: each is a class."""
    paths = [PurePosixPath(name) for name in media]
    classes = sorted({name.parent.name for name in paths})
    if not paths or any(len(name.parts) < 2 for name in paths) or not 2 <= len(classes) <= 50:
        return None
    what = f"a folder of media for each of {len(classes)} classes ({some(map(shortened, classes), 8)})"
    maybe = {"pattern": patterns} if (patterns := _speaker_patterns(paths)) else {}
    dataset = {"adapter": "folder", "root": str(root)} | _film_sound(path, media)
    return Layout(what, dataset, maybe=maybe)


def _speaker_patterns(media: list[PurePosixPath]) -> dict[str, str]:
    """Patterns for folders above the classes, and for parts of names, that recur as speakers do: what they find."""
    found = {}
    for at in range(min(len(name.parts) for name in media) - 2):
        values = Counter(name.parts[at] for name in media)
        if len(values) > 1:
            found[f"^{'[^/]+/' * at}(?P<speaker>[^/]+)/"] = some(sorted(values), 4)
    parts = [re.split(r"[_\-. ]", name.stem) for name in media]
    for at in range(min(map(len, parts))):
        values = Counter(each[at] for each in parts)
        if 2 <= len(values) <= len(media) // 4 and min(values.values()) > 1:
            before = r"[^_\-. /]+[_\-. ]" * at
            found[rf"/{before}(?P<speaker>[^_\-. /]+)[^/]*$"] = some(sorted(values), 4)
    return found


def _film_sound(path: Path, media: list[str]) -> dict[str, bool]:
    """The setting that says that films are not heard, where the first of them has no sound."""
    films = [name for name in media if name.lower().endswith(VIDEO)]
    if not films or len(films) < len(media):
        return {}
    with closing(Decoders(AudioTask(short_samples=1, silence=False), 1, timeout=20)) as decoders:
        try:
            decoders.decode(path / films[0])
        except (ClipError, MediaError):  # silent, or broken: extraction will say so
            return {"film_sound": False}
    return {}


def _of_records(path: Path, root: Path) -> Layout | None:
    """Media inside of records: Arrow and Parquet files as the hub has them, WebDataset's tars."""
    tars = sorted(path.glob("**/*.tar"))
    if tars:
        adapter, what, names = "webdataset", "WebDataset's tar files", _members(tars[0])
    elif schema := _arrow_schema(path):
        adapter, what, names = "huggingface", "a dataset of the library datasets, or of the hub", schema
    else:
        return None
    columns = {ours: hit for ours in ("label", "text", "speaker", "audio", "video") if (hit := called(ours, names))}
    if adapter == "webdataset":  # its media are found by their suffixes
        columns = {ours: theirs for ours, theirs in columns.items() if ours not in ("audio", "video")}
    choices = {} if "label" in columns else {"dataset.columns.label": names}
    columns = {"label": UNDECIDED} | columns
    return Layout(what, {"adapter": adapter, "root": str(root), "columns": columns}, choices)


def _members(tar: Path) -> list[str]:
    """The suffixes of what a tar's first records hold, and the keys of their JSON."""
    names: dict[str, None] = {}
    try:
        with tarfile.open(tar) as archive:
            for _, member in zip(range(20), archive, strict=False):
                suffix = member.name.rpartition("/")[2].partition(".")[2]
                names[suffix] = None
                content = archive.extractfile(member) if suffix == "json" and member.size < 2**20 else None
                record = parse_json(content.read(), f"{tar}: {member.name}") if content is not None else None
                names |= dict.fromkeys(record) if isinstance(record, dict) else {}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{tar}: cannot be read as a tar file ({first_line(error)})") from error
    return [name for name in names if name]


def _arrow_schema(path: Path) -> list[str]:
    """The columns of the first Arrow or Parquet file, if one of them holds media."""
    for file in sorted([*path.glob("**/*.parquet"), *path.glob("**/*.arrow")])[:1]:
        try:
            if file.suffix == ".parquet":
                schema = pq.read_schema(file)
            else:
                with pa.memory_map(str(file)) as source:
                    schema = pa.ipc.open_stream(source).schema
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: cannot be read ({first_line(error)})") from error
        is_media = [pa.types.is_struct(each.type) and each.type.get_field_index("bytes") >= 0 for each in schema]
        return list(schema.names) if any(is_media) else []
    return []


def _media(path: Path) -> list[str]:
    if not any(file.suffix.lower() in (*AUDIO, *VIDEO) for file in path.rglob("*")):
        return []
    return media_below(path).media
