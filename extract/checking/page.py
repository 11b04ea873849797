"""What was found, as text and as one HTML file with the worst of each kind to see and hear."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from configs import UserError, one_line, some
from configs.tables import shortened
from extract.checking.findings import found_of
from extract.checking.kinds import KINDS
from extract.checking.looking import Looked
from extract.corpora.manifest import Manifest
from extract.pages.rendering import environment
from extract.pages.tallies import spread
from extract.pages.thumbnails import Picture, pictures

ROWS = 10  # of a kind, that are listed
SHOWN = 3  # of a kind, that are seen and heard
MOST_SHOWN = 45  # in all: with 30 kB each the page stays below 1.5 MB
UNSHOWN = ("unreadable", "empty_text")  # there is nothing to see or hear of them
LONGEST_TEXT = 200  # characters
NAMED = {"audio": "sounds", "video": "films", "text": "texts"}
SPREADS = (  # column, title, unit
    ("audio_seconds", "length of sound", "s"),
    ("video_seconds", "length of pictures", "s"),
    ("audio_level", "level of what is not silent", "dBFS"),
    ("audio_silence", "share of silence", ""),
    ("audio_range", "between loud and soft", "dB"),
    ("video_frozen", "share of stillness", ""),
    ("text_words", "words of a text", "words"),
)
LEAVE_OUT = (
    "Nothing was left out. To leave clips out, write their ids into a file, one a line, and name it in the profile "
    "(dataset: {exclude: FILE}, below the dataset's root); extract/manifest.py then says how many it left out"
)


def counts(table: pl.DataFrame) -> dict[str, int]:
    """Of each kind that was found, how many clips; the most first."""
    found = table["findings"].explode(empty_as_null=True).drop_nulls().value_counts()
    known = dict(found.iter_rows())
    return {name: known[name] for name in sorted(known, key=lambda name: (-known[name], list(KINDS).index(name)))}


def summary(table: pl.DataFrame, looked: Mapping[str, Looked], hints: list[str], seconds: float) -> str:
    """What was found, each with its count, the first ids and what to do."""
    lines = [", ".join(_amounts(table, looked)) + f"; {seconds:.1f} s"]
    lines += [*_medians(table), ""]
    found = counts(table)
    clean = int((table["findings"].list.len() == 0).sum())
    lines.append(f"{clean:,} of {len(table):,} clips have no finding" if found else "nothing was found")
    width = max(map(len, found), default=0)
    for name, n in found.items():
        ids = [shortened(clip_id).strip("'") for clip_id in found_of(table, name)["clip_id"].head(4)]
        rest = f" (and {n - len(ids[:3]):,} more)" if n > 3 else ""
        lines.append(f"  {name:{width}} {n:>6,}  {', '.join(ids[:3])}{rest}")
        lines.append(f"  {'':{width}}         {KINDS[name].title}: {KINDS[name].remedy}")
    lines += ["", *([LEAVE_OUT] if found else []), *(f"note: {hint}" for hint in hints)]
    return "\n".join(lines).strip()


def _amounts(table: pl.DataFrame, looked: Mapping[str, Looked]) -> list[str]:
    found = [f"{len(table):,} clips"]
    for kind, each in looked.items():
        remembered = f" ({each.n_remembered:,} known from before)" if each.n_remembered else ""
        found.append(f"{len(each.files):,} {NAMED[kind]}{remembered}")
    n_texts = len(table) - table["text_words"].null_count()
    return found + ([f"{n_texts:,} texts"] if n_texts else [])


def _medians(table: pl.DataFrame) -> list[str]:
    """What most clips are like."""
    lines = []
    sounds = table.filter(pl.col("audio_seconds").is_not_null())
    if len(sounds):
        rate = sounds.select(pl.struct("audio_rate", "audio_channels").mode().first()).item()
        lines.append(
            f"sound: median {_median(sounds, 'audio_seconds'):.1f} s, {_median(sounds, 'audio_level'):.0f} dBFS, "
            f"{_median(sounds, 'audio_silence'):.0%} silence; mostly {rate['audio_rate']:.0f} Hz with "
            f"{rate['audio_channels']:.0f} channel(s)"
        )
    films = table.filter(pl.col("video_seconds").is_not_null())
    if len(films):
        size = films.select(pl.struct("video_width", "video_height", "video_fps").mode().first()).item()
        lines.append(
            f"pictures: median {_median(films, 'video_seconds'):.1f} s; mostly {size['video_width']:.0f} x "
            f"{size['video_height']:.0f} at {size['video_fps']:.3g} frames/s"
        )
    said = table.filter(pl.col("text_words").is_not_null())
    if len(said):
        kinds = [f"{name} {n:,}" for name, n in said["text_script"].drop_nulls().value_counts(sort=True).iter_rows()]
        told = [f"{name} {n:,}" for name, n in said["text_language"].drop_nulls().value_counts(sort=True).iter_rows()]
        lines.append(
            f"text: median {_median(said, 'text_words'):.0f} words, {_median(said, 'text_characters'):.0f} characters; "
            f"script: {some(kinds) or 'none'}" + (f"; language, where it is sure: {some(told)}" if told else "")
        )
    return lines


def _median(rows: pl.DataFrame, column: str) -> float:
    return float(np.median(rows[column].drop_nulls().to_numpy()))


def write_page(path: Path, manifest: Manifest, table: pl.DataFrame, name: str, hints: list[str], again: str) -> None:
    """Write the page; everything that comes from data is escaped.

    Args:
        again: the command that makes it again.
    """
    found = counts(table)
    sections: dict[str, dict[str, Any]] = {}
    chosen: dict[str, dict[str, Any]] = {}  # by clip: where it is seen and heard
    said = dict(manifest.clips.select("clip_id", "text").iter_rows()) if manifest.clips["text"].count() else {}
    for kind in found:
        rows = found_of(table, kind).head(ROWS).to_dicts()
        new = [row for row in rows if row["clip_id"] not in chosen and kind not in UNSHOWN]
        new = new[: min(SHOWN, MOST_SHOWN - len(chosen))]
        chosen |= {row["clip_id"]: row for row in new}
        sections[kind] = {"kind": KINDS[kind], "n": found[kind], "rows": rows, "new": [row["clip_id"] for row in new]}
    drawn = dict(zip(chosen, _pictures(list(chosen.values()), manifest), strict=True))
    spreads = [(title, unit, spread(table[column].drop_nulls(), unit == "words")) for column, title, unit in SPREADS]
    hours = {kind: table[f"{kind}_seconds"].sum() / 3600 for kind in ("audio", "video") if table[kind].count()}
    html = (
        environment(Path(__file__).parent)
        .get_template("page.html.j2")
        .render(
            name=name,
            n_clips=len(table),
            n_clean=int((table["findings"].list.len() == 0).sum()),
            medians=_medians(table),
            hours=hours,
            named=NAMED,
            table_counts={kind: table[kind].count() for kind in hours},
            sections=sections,
            found=found,
            spreads=[each for each in spreads if each[2] is not None and each[2].most > each[2].least],
            clips=chosen,
            places={clip_id: place for place, clip_id in enumerate(chosen)},
            pictures=drawn,
            said=said,
            hints=hints,
            leave_out=LEAVE_OUT,
            longest_text=LONGEST_TEXT,
            again=again,
        )
    )
    path.write_text(html, encoding="utf-8")


def _pictures(chosen: list[dict[str, Any]], manifest: Manifest) -> list[Picture]:
    """What can be seen and heard of some clips; of texts alone, nothing."""
    files = [(clip["video"], clip["audio"]) for clip in chosen]
    wanted = [file for file in files if any(file)]
    try:
        drawn = iter(pictures(wanted, manifest.root, heard=True) if wanted else [])
    except UserError as error:  # no decoder can be started: the page can do without
        drawn = iter([Picture(missing=one_line(error))] * len(wanted))
    return [next(drawn) if any(file) else Picture() for file in files]
