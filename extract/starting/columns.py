"""Which column of a table is what, by its name and by what stands in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from configs import UserError, some
from configs.tables import Cells, read_cells
from extract.corpora.media_paths import AUDIO, VIDEO
from extract.corpora.rows import ALIASES

NAMES = {  # our name: what tables call it, compared without case and what is no letter
    "label": "label emotion emo class category mood feeling sentiment target affect emotionlabel cls labels",
    "clip_id": "clipid id clip utteranceid uttid utt sampleid segmentid segment key uid fileid videoid name filename",
    "conversation_id": "conversationid dialogueid dialogid conversation dialogue dialog convid diaid",
    "index": "index turn turnid utteranceindex utterancenumber position",
    "text": "text utterance sentence transcript transcription content caption said words txt",
    "audio": "audio wav sound audiopath audiofile wavpath wavfile speech",
    "video": "video mp4 film videopath videofile movie clippath",
    "split": "split partition subset set datasplit part",
    "fold": "fold foldid cvfold",
    "speaker": "speaker speakerid actor actorid subject subjectid participant person who",
    "group": "group session sessionid",
    "role": "role",
}
TOO_MANY = 50  # labels; what has more is text


@dataclass(frozen=True)
class Columns:
    """``named``: our name -> the table's. ``unsure``: our name -> columns of which one may be it. ``free``: the others
    that hold a few values, which may be metadata."""

    named: dict[str, str]
    unsure: dict[str, list[str]]
    free: list[str] = field(default_factory=list)
    n_rows: int = 0


def look_at(path: Path) -> Columns:
    """What the columns of a table are.

    Raises:
        UserError: it is no table, see :func:`configs.tables.read_cells`; nothing in it can be a label.
    """
    cells = read_cells(path)
    columns = {name: cells.text(name) for name in cells.frame.columns if _is_plain(cells, name)}
    named: dict[str, str] = {}
    unsure: dict[str, list[str]] = {}
    for ours in NAMES:
        free = [name for name in columns if name not in named.values() and _fits(ours, columns[name])]
        if hit := called(ours, free):
            named[ours] = hit
    for kind, suffixes in (("audio", AUDIO), ("video", VIDEO)):
        if kind not in named:
            of_files = [name for name, values in columns.items() if _names_files(values, suffixes)]
            if of_files and of_files[0] not in named.values():
                named[kind] = of_files[0]
    left = [name for name in columns if name not in named.values()]
    if "label" not in named:
        guesses = [name for name in left if _fits("label", columns[name])]
        if not guesses:
            raise UserError(
                f"{path}: no column can be a label (2 to {TOO_MANY} words that recur); it has {some(columns, 20)}"
            )
        if len(guesses) == 1:
            named["label"] = guesses[0]
        else:
            unsure["label"] = guesses
        left = [name for name in left if name != named.get("label")]
    if "text" not in named and (texts := [name for name in left if _is_prose(columns[name])]):
        named["text"] = texts[0]
    if "index" in named and "conversation_id" not in named:
        del named["index"]
    free = [name for name in left if name not in named.values() and _is_few(columns[name]) and _bare(name)]
    return Columns(named, unsure, [name for name in free if name not in unsure.get("label", ())], len(cells.frame))


def called(ours: str, names: Sequence[str]) -> str | None:
    """Which of the names says that it is ``ours``."""
    known = NAMES[ours].split()
    return min(
        (name for name in names if _bare(name) in known), key=lambda name: known.index(_bare(name)), default=None
    )


def _bare(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _is_plain(cells: Cells, name: str) -> bool:
    return not cells.frame.schema[name].is_nested()


def _fits(ours: str, cells: pl.Series) -> bool:
    """Whether a column that is called so can be it."""
    there = cells.drop_nulls()
    if there.is_empty():
        return False
    if ours == "label":
        return 2 <= there.n_unique() <= min(TOO_MANY, len(there) - 1) and not _names_files(cells, AUDIO + VIDEO)
    if ours in ("audio", "video"):
        return _names_files(cells, (*AUDIO, *VIDEO) if ours == "audio" else VIDEO)  # a film has a sound track
    if ours == "text":
        return 10 * int((there.str.count_matches(r"\s") >= 1).sum()) > 3 * len(there)
    if ours == "split":
        return bool(there.str.to_lowercase().is_in(list(ALIASES)).all()) and not cells.has_nulls()
    if ours == "clip_id":
        return not cells.has_nulls() and not there.is_duplicated().any()
    if ours == "index":
        return bool(there.cast(pl.Int32, strict=False).is_not_null().all()) and not cells.has_nulls()
    return True


def _names_files(cells: pl.Series, suffixes: tuple[str, ...]) -> bool:
    there = cells.drop_nulls().str.to_lowercase()
    return not there.is_empty() and bool(there.str.contains(rf"\.(?:{'|'.join(s[1:] for s in suffixes)})$").all())


def _is_prose(cells: pl.Series) -> bool:
    there = cells.drop_nulls()
    return 2 * int((there.str.count_matches(r"\s") >= 2).sum()) > len(there)


def _is_few(cells: pl.Series) -> bool:
    there = cells.drop_nulls()
    return not there.is_empty() and 2 <= there.n_unique() <= max(2, min(TOO_MANY, len(there) // 5))
