"""MELD: dialogues of a sitcom, utterance by utterance.

Poria et al., "MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations", ACL 2019.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

from configs import UserError, some
from configs.outside import read_outside
from configs.sections.datasets import MeldDataset
from configs.tables import filled, said
from extract.corpora.manifest import not_here
from extract.corpora.readers.walk import kind_of, media_below
from extract.corpora.rows import Rows

NEEDED = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
# A split, and what tells it in the name of a folder; and how its films' folder is called in the published archive.
SPLITS = {
    "train": (r"train", "train_splits"),
    "dev": (r"dev|val", "dev_splits_complete"),
    "test": (r"test", "output_repeated_splits_test"),
}
C1 = {code: bytes([code]).decode("cp1252", errors="ignore") for code in range(0x80, 0xA0)}


def read_meld(dataset: MeldDataset) -> Rows:
    """A unit for each utterance, in its dialogue; dialogues are numbered from 0 in each split, and are the groups.

    Films are found below the media's root by the name of a folder that holds ``train``, ``dev`` or ``val``, or
    ``test``. What is not there is missing; where there are no films at all, the text is all there is.

    Raises:
        UserError: a CSV is not there, there twice, or lacks a column; a number of it is none.
    """
    tables = {split: path for split in SPLITS if (path := _table(dataset.root, split))}
    if not tables:
        raise UserError(f"{not_here(dataset.root / 'train_sent_emo.csv', 'table')} (nor dev, test; dataset.root)")
    films, counts = _films(dataset)
    rows: list[dict[str, Any]] = []
    mended = 0
    for split, path in tables.items():
        for number, record in _records(path):
            place = f"{path.name} row {number}"
            try:
                dialogue, utterance = int(record["Dialogue_ID"]), int(record["Utterance_ID"])
            except ValueError as error:
                raise UserError(f"{path}: row {number}: Dialogue_ID and Utterance_ID must be whole numbers") from error
            name = f"dia{dialogue}_utt{utterance}"
            text = mended_text(record["Utterance"])
            mended += text != record["Utterance"]
            emotion, sentiment = filled(record["Emotion"]), filled(record["Sentiment"])
            by_emotion = dataset.label == "emotion"
            rows.append(
                {"row": place, "clip_id": f"{split}_{name}", "conversation_id": f"{split}_dia{dialogue}"}
                | {"index": str(utterance), "split": split, "group": f"{split}_dia{dialogue}"}
                | {"text": said(text), "speaker": filled(record["Speaker"])}
                | {"label": emotion if by_emotion else sentiment}
                | {"privileged_sentiment" if by_emotion else "privileged_emotion": sentiment if by_emotion else emotion}
                | {f"meta_{field.lower()}": filled(record.get(field)) for field in ("Season", "Episode")}
                | _media(films, split, name)
            )
    warnings = [] if films else [f"{dataset.media}: no film or sound of any utterance below it: text alone is read"]
    if lacking := [split for split in SPLITS if split not in tables]:
        warnings.append(f"{dataset.root}: no table {some(f'{split}_sent_emo.csv' for split in lacking)}")
    counts |= {"utterances_with_mended_characters": mended}
    table = pl.DataFrame(rows, infer_schema_length=None)
    return Rows(table, str(dataset.root), counts, warnings=tuple(warnings), published=True)


def mended_text(text: str) -> str:
    """Quotes, dashes and accents that were read with the wrong code page on their way, as they were."""
    if re.search(r"â€|Ã.", text):  # UTF-8 that was read as Windows' code page
        with suppress(UnicodeError):
            text = text.encode("cp1252").decode("utf-8")
    return text.translate(C1)  # Windows' code page that was read as Latin-1


def _table(root: Path, split: str) -> Path | None:
    found = sorted(root.rglob(f"{split}_sent_emo.csv"))
    if len(found) > 1:
        raise UserError(
            f"{some(found)}: the same table twice below dataset.root: take one away, or a root further down"
        )
    return found[0] if found else None


def _records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    content = read_outside(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    lacking = [name for name in NEEDED if name not in (reader.fieldnames or [])]
    if lacking:
        raise UserError(f"{path}: lacks the column {some(lacking, 10)}; it has {some(reader.fieldnames or [], 20)}")
    for number, record in enumerate(reader, start=1):
        if None in record.values() or None in record:
            raise UserError(
                f"{path}: row {number} has other cells than the header: a quote is missing, or one too many"
            )
        yield number, record


def _films(dataset: MeldDataset) -> tuple[dict[str, dict[str, dict[str, str]]], dict[str, Any]]:
    """Split, name without suffix, kind: path; and counts."""
    films: dict[str, dict[str, dict[str, str]]] = {}
    found = media_below(dataset.media, needed=False)
    strangers = []
    for path in sorted([*found.media, *found.empty]):
        *folders, name = path.split("/")
        match, split = re.fullmatch(r"(dia\d+_utt\d+)\.\w+", name), _split_of(folders)
        if match and split:
            films.setdefault(split, {}).setdefault(match[1], {}).setdefault(kind_of(path), path)
        else:
            strangers.append(path)
    counts = {"files_that_are_no_utterance": len(strangers), "files_that_are_no_utterance_first": strangers[:3]}
    return films, found.counts | counts


def _split_of(folders: list[str]) -> str | None:
    """By the innermost folder that tells."""
    told = (
        split for folder in reversed(folders) for split, (sign, _) in SPLITS.items() if re.search(sign, folder.lower())
    )
    return next(told, None)


def _media(films: dict[str, dict[str, dict[str, str]]], split: str, name: str) -> dict[str, str]:
    """Paths of an utterance's sound and film; where there is none, the path at which it would lie."""
    if not films:
        return {}
    here = films.get(split, {})
    kinds = here.get(name)
    if kinds is None:
        places = Counter(str(Path(next(iter(each.values()))).parent) for each in here.values())
        folder = places.most_common(1)[0][0] if places else SPLITS[split][1]
        kinds = {"video": f"{folder}/{name}.mp4"}
    return {"audio": kinds.get("video", "")} | kinds
