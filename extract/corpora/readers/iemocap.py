"""IEMOCAP as it is published: five sessions of two actors each.

Busso et al., "IEMOCAP: Interactive emotional dyadic motion capture database", Language Resources and Evaluation 2008.
"""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from configs import UserError
from configs.outside import read_outside
from configs.sections.datasets import IemocapDataset
from configs.tables import said
from extract.corpora.manifest import not_here
from extract.corpora.rows import Rows

NAMES = {
    **{"ang": "angry", "hap": "happy", "exc": "excited", "sad": "sad", "neu": "neutral", "fru": "frustrated"},
    **{"fea": "fearful", "sur": "surprised", "dis": "disgusted", "oth": "other"},
}
FIVE = ("angry", "happy", "excited", "sad", "neutral")
MERGES = {
    "four": {name: "happy" if name == "excited" else name for name in FIVE},
    "five": {name: name for name in FIVE},
    "six": {name: name for name in (*FIVE, "frustrated")},
    "all": {name: name for name in NAMES.values()},
}
# [6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5000, 2.5000, 2.5000]
LABEL = re.compile(
    r"\[\s*([\d.]+)\s*-\s*([\d.]+)\s*\]\s+(Ses0\d[FM]_\w+_([FM])\d+)\s+([a-z]{3})\s+"
    r"\[\s*([\d.-]+),\s*([\d.-]+),\s*([\d.-]+)\s*\]\s*"
)
WORDS = re.compile(r"(Ses0\d[FM]_\w+_[FM]\d+)\s*\[[^\]]*\]:(.*)")  # Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.


def read_iemocap(dataset: IemocapDataset) -> Rows:
    """A clip for each utterance with a line in ``EmoEvaluation``; a session is a group, and a fold.

    Raises:
        UserError: there is no session below root, or an evaluation holds no line of a label.
    """
    files = sorted(dataset.root.glob("Session?/dialog/EmoEvaluation/Ses*.txt"))
    if not files:
        raise UserError(f"{not_here(dataset.root / 'Session1/dialog/EmoEvaluation', 'folder')} (dataset.root)")
    classes = MERGES[dataset.merge]
    rows: list[dict[str, Any]] = []
    found: Counter[str] = Counter()
    for file in files:
        session, dialogue = file.parents[2].name, file.stem
        texts = _texts(file.parents[1] / "transcriptions" / file.name)
        lines = sorted(_evaluated(file), key=lambda groups: float(groups[0]))
        for index, (_, _, turn, who, code, *ratings) in enumerate(lines):
            name = NAMES.get(code)
            found[code] += 1
            label = classes.get(name or "")
            if label is None and not dataset.dialogues:
                continue
            row = {"row": f"{file.name} {turn}", "clip_id": turn, "label": label, "text": said(texts.get(turn, ""))}
            row |= {"conversation_id": dialogue, "index": str(index)} if dataset.dialogues else {}
            row |= {"speaker": f"{session}_{who}", "group": session, "fold": session}
            row |= {"audio": f"{session}/sentences/wav/{dialogue}/{turn}.wav", "meta_gender": who}
            row |= {"meta_style": "improvised" if "impro" in dialogue else "scripted"}
            row |= {
                f"privileged_{of}": value
                for of, value in zip(("valence", "activation", "dominance"), ratings, strict=True)
            }
            rows.append(row)
    dropped = {
        NAMES.get(code, "no agreement"): count for code, count in found.items() if NAMES.get(code) not in classes
    }
    counts = {"sessions": len({file.parents[2] for file in files}), "labels_outside_of_merge": dropped}
    if counts["sessions"] == 1:
        for row in rows:
            del row["fold"]
    return Rows(pl.DataFrame(rows, infer_schema_length=None), str(dataset.root), counts)


def _evaluated(file: Path) -> list[tuple[str, ...]]:
    found = [match.groups() for line in _lines(file) if (match := LABEL.fullmatch(line))]
    if not found:
        raise UserError(
            f"{file}: no line of a label in it, such as [6.29 - 8.23] Ses01F_impro01_F000 neu [2.5, 2.5, 2.5]"
        )
    return [(start, end, turn, who, code, *ratings) for start, end, turn, who, code, *ratings in found]


def _texts(file: Path) -> dict[str, str]:
    if not os.path.isfile(file):  # noqa: PTH113
        return {}
    return {match[1]: match[2].strip() for line in _lines(file) if (match := WORDS.fullmatch(line))}


def _lines(file: Path) -> list[str]:
    content = read_outside(file)
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace").splitlines()
