"""EmoBox's partitions: JSONL files that say which clip of a corpus is in which fold, with its label and its file.

The benchmark of Ma et al., "EmoBox: Multilingual Multi-corpus Speech Emotion Recognition Toolkit and Benchmark",
Interspeech 2024.
"""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, StrictStr, ValidationError

from configs import UserError, one_line, some
from configs.outside import parse_json, read_json, read_outside
from configs.sections.datasets import EmoboxDataset
from configs.tables import filled, shortened
from extract.corpora.manifest import not_here
from extract.corpora.media_paths import AUDIO
from extract.corpora.readers.named import told
from extract.corpora.rows import Rows
from extract.media.sources import remote_files

FILE = r"{corpus}_(?P<part>train|valid|test)_fold(?P<spelling>_?)(?P<fold>\d+)\.jsonl"
MOST_TRIED = 200  # paths by which it is found out how much of them is the place of somebody's downloads
Text = Annotated[StrictStr, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)]


class _Entry(BaseModel):
    key: Text
    file: Text = Field(validation_alias=AliasChoices("wav", "audio"))
    emotion: Text = Field(validation_alias=AliasChoices("emo", "label"))


def read_emobox(dataset: EmoboxDataset) -> Rows:
    """A clip for each entry. Several folds: all is train, and who is tested in a fold is predicted by it. One fold: its
    train, valid and test.

    Raises:
        UserError: there is no such corpus, a file is no JSONL or lacks a key, a clip is tested in two folds, or has two
            labels.
    """
    folder = dataset.root / dataset.corpus
    parts = _parts(folder, dataset)
    folds = sorted({fold for fold, _ in parts})
    entries: dict[str, _Entry] = {}
    homes: dict[str, str] = {}  # key: its fold, or of a single fold its part
    for (fold, part), path in sorted(parts.items()):
        for entry in _entries(path):
            known = entries.setdefault(entry.key, entry)
            if known.emotion != entry.emotion:
                raise UserError(f"{path}: {entry.key} is {entry.emotion!r}, and {known.emotion!r} in another file")
            if part == "test" or len(folds) == 1:
                home = str(fold) if len(folds) > 1 else part
                if homes.setdefault(entry.key, home) != home:
                    raise UserError(f"{path}: {entry.key} is in {homes[entry.key]} and in {home}")
    counts: dict[str, Any] = {"clips_that_no_fold_tests": len(entries) - len(homes)}
    labels, strange = _labels(folder, [entry.emotion for entry in entries.values()], dataset.map_labels)
    files = _files([entry.file for entry in entries.values()], dataset.media, dataset.missing_media == "refuse")
    rows = []
    for (key, entry), (file, _) in zip(entries.items(), files, strict=True):
        if key not in homes or entry.emotion in strange:
            continue
        match = re.search(dataset.pattern, f"{key} {file}") if dataset.pattern else None
        heard = {"audio": file} | ({} if Path(file).suffix.lower() in AUDIO else {"video": file})
        where = {"fold": homes[key]} if len(folds) > 1 else {"split": homes[key]}
        row = {"row": key, "clip_id": filled(key), "label": labels[entry.emotion]}
        rows.append(told(match, {}, key) | row | heard | where)
    notes = [f"paths are taken without their first part, {off}"] if files and (off := files[0][1]) else []
    if strange:
        counts["labels_not_in_label_map"] = strange
    if dataset.pattern:
        counts["clips_that_pattern_does_not_match"] = sum(
            not re.search(dataset.pattern, f"{key} {file}") for key, (file, _) in zip(entries, files, strict=True)
        )
    elif len(folds) > 1:
        notes.append("who speaks is not known: dataset.pattern, such as '(?P<speaker>..)', takes it from keys or paths")
    if len(folds) > 1 and any(part == "valid" for _, part in parts):
        notes.append("the valid parts of folds are not used: heads hold out units of their training part")
    table = pl.DataFrame(rows, infer_schema_length=None)
    return Rows(table, str(folder), counts, tuple(notes), published=True)


def _parts(folder: Path, dataset: EmoboxDataset) -> dict[tuple[int, str], Path]:
    """(fold, part): its file; of two spellings of the same the one with an underscore."""
    if not folder.is_dir():
        there = sorted(path.name for path in dataset.root.iterdir() if path.is_dir()) if dataset.root.is_dir() else []
        raise UserError(f"{not_here(folder, 'corpus')} (dataset.root and dataset.corpus; there: {some(there, 40)})")
    found: dict[tuple[int, str], Path] = {}
    for path in sorted(folder.glob("fold_*/*.jsonl")):
        match = re.fullmatch(FILE.format(corpus=re.escape(dataset.corpus)), path.name)
        if match and (match["spelling"] or (int(match["fold"]), match["part"]) not in found):
            found[int(match["fold"]), match["part"]] = path
    for fold in {fold for fold, _ in found}:
        if (fold, "train") not in found or (fold, "test") not in found:
            raise UserError(f"{folder}: fold {fold} lacks its train or its test file")
    if not found:
        name = f"fold_1/{dataset.corpus}_test_fold_1.jsonl"
        raise UserError(f"{folder}: no partition in it, such as {name}")
    return found


def _entries(path: Path) -> list[_Entry]:
    entries = []
    for number, line in enumerate(read_outside(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entries.append(_Entry.model_validate(parse_json(line, f"{path}: line {number}")))
        except ValidationError as error:
            first = error.errors()[0]
            keys = " or ".join(str(part) for part in first["loc"])
            raise UserError(f"{path}: line {number}: {keys}: {one_line(first['msg'])}") from error
    return entries


def _labels(folder: Path, emotions: list[str], mapped: bool) -> tuple[dict[str, str], dict[str, int]]:
    """Emotion as it is written: class; and how many have one that the map does not know, which are left out."""
    names = Counter(emotions)
    if not mapped:
        return {name: name for name in names}, {}
    path = folder / "label_map.json"
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise UserError(f"{path}: must map labels to classes; or write map_labels: false")
    known = {name.casefold(): value for name, value in content.items()}  # "Neutral" there, "neutral" in the entries
    labels = {name: known[name.casefold()] for name in names if name.casefold() in known}
    if not labels:
        raise UserError(f"{path}: knows none of the labels {some(map(shortened, names))}; or write map_labels: false")
    return labels, {name: count for name, count in names.items() if name not in labels}


def _files(paths: list[str], root: Path | str, needed: bool) -> list[tuple[str, str]]:
    """Paths without as many of their first folders as lets files be found below root; and what was taken off.

    Raises UserError where none is found, and they are ``needed``.

    Entries name ``downloads/emodb/wav/03a01Wa.wav``: what lies above a corpus's own folders is a matter of taste.
    """
    objects = remote_files(root) if isinstance(root, str) else set()

    def there(path: str) -> bool:
        return path in objects if isinstance(root, str) else os.path.isfile(root / path)  # noqa: PTH113

    most = min((path.count("/") for path in paths), default=0)
    for off in range(most + 1):
        if any(there("/".join(path.split("/")[off:])) for path in paths[:MOST_TRIED]):
            break
    else:
        if needed:
            raise UserError(
                f"{root}: no file of the partition below it, with all of its path or its end: {paths[0]}, for one; "
                "dataset.media_root is the folder that holds downloads, or the recordings"
            )
        off = 0
    parts = [path.split("/") for path in paths]
    return [("/".join(each[off:]), "/".join(each[:off])) for each in parts]
