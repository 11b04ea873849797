"""``overview.html``: a manifest to look at, before anything is computed from it. One file, without network.

It stays small whatever the corpus: tables have a bounded number of rows, a dozen clips are decoded (two dozen where
there are as many classes), each with three small frames and five seconds of sound. Most is then under 1 MB.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache import write_text_atomically
from configs import UserError, one_line
from extract.corpora.manifest import Manifest
from extract.pages import tallies
from extract.pages.lengths import SUSPECTS, Lengths, look
from extract.pages.rendering import environment
from extract.pages.tallies import MODALITIES, Shown
from extract.pages.thumbnails import Picture, pictures

CLIPS, CLIPS_OF_CLASS, MOST_CLIPS = 12, 3, 24  # shown, of one class, and where there are many classes
LONGEST_TEXT = 240  # characters of what was said
MOST_COUNTS = 40  # rows of what the reader met
MOST_LINES = 20  # warnings and notes


def write_overview(manifest: Manifest, path: Path, name: str) -> None:
    """Write the page. What cannot be read of the media is said on it; everything that comes from data is escaped.

    Args:
        name: the profile's.
    """
    clips, shown = manifest.clips, Shown(manifest)
    units = shown.numbered(clips)
    chosen = _chosen(units, shown)
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(_pictures, chosen, manifest)
        lengths = look(manifest)
        drawn = drawing.result()
    moves = tallies.transitions(units, shown)
    counts = dict(manifest.counts)
    for known in ("clips", "conversations", "units", "clips_with"):  # other sections say more of these
        counts.pop(known, None)
    warnings = [*counts.pop("warnings", []), *tallies.uneven(units, shown)]
    html = (
        environment(Path(__file__).with_name("templates"))
        .get_template("overview.html.j2")
        .render(
            name=name,
            titles=shown.titles,
            sentences=_reading(manifest, units, shown, lengths),
            cards=_cards(clips, units, lengths),
            warnings=warnings[:MOST_LINES],
            n_warnings=len(warnings),
            notes=counts.pop("notes", [])[:MOST_LINES],
            totals=np.bincount(units["class"], minlength=len(shown.titles)).tolist(),
            by_split=tallies.crossed(units, shown, "split"),
            others={what: tallies.crossed(units, shown, by) for what, by in _groupings(clips)},
            medians=_medians(units, shown, lengths),
            spreads=_spreads(clips, lengths),
            lengths=lengths,
            suspects=SUSPECTS,
            combinations=tallies.combinations(clips),
            absent=tallies.absent(units, shown),
            moves=moves,
            stay=(float(np.trace(moves) / moves.sum()), tallies.expected_stay(moves)) if moves is not None else None,
            fields=tallies.fields(clips),
            repeated=tallies.repeated(clips),
            chosen=list(zip(chosen, drawn, strict=True)),
            counts=_flatten(counts)[:MOST_COUNTS],
            longest_text=LONGEST_TEXT,
            is_nan=math.isnan,
        )
    )
    write_text_atomically(path, html)


def _reading(manifest: Manifest, units: pl.DataFrame, shown: Shown, lengths: dict[str, Lengths]) -> list[str]:
    """What the corpus is, in words."""
    clips = manifest.clips
    n, conversations = clips.height, clips["conversation_id"].n_unique()
    each = ", each by itself" if conversations == n else f" in {conversations:,} conversations"
    labelled = "all" if units.height == n else f"{units.height:,}"
    sentences = [f"{n:,} clips{each}; {labelled} of them carry a label, one of {len(manifest.classes)} classes."]
    sizes = units.group_by("label").len().sort("len", "label")
    (least, few), (most, many) = sizes.row(0), sizes.row(-1)
    if len(manifest.classes) == 1:
        sentences.append("With one class there is nothing to tell apart.")
    elif few == many:
        sentences.append(f"Each class {'that occurs ' * (sizes.height < len(manifest.classes))}has {many:,}.")
    else:
        share = many / units.height
        sentences.append(
            f"The most frequent is “{most}” ({many:,}, {share:.0%}: what always answering it gets right), the rarest "
            f"“{least}” ({few:,})."
        )
    unused = [name for name in manifest.classes if name not in set(sizes["label"])]
    sentences += [f"No clip is labelled {', '.join(f'“{name}”' for name in unused[:5])}."] if unused else []
    speakers = clips["speaker"].n_unique() - (clips["speaker"].null_count() > 0)
    known = n - clips["speaker"].null_count()
    who = "all" if known == n else f"{known:,}"
    sentences.append(f"{speakers:,} speakers are known, of {who} clips." if speakers else "Who speaks is not known.")
    media = [f"{n - clips[kind].null_count():,} have {kind}" for kind in MODALITIES if clips[kind].null_count() < n]
    sentences.append(f"{'; '.join(media)}.".capitalize() if media else "No clip has anything to see, hear or read.")
    return sentences


def _cards(clips: pl.DataFrame, units: pl.DataFrame, lengths: dict[str, Lengths]) -> list[tuple[str, str, str]]:
    """Title, number, what it is."""
    cards = [("clips", f"{clips.height:,}", f"{clips['conversation_id'].n_unique():,} conversations")]
    cards += [("labelled", f"{units.height:,}", f"{units['group'].n_unique():,} groups")]
    for kind, found in lengths.items():
        about = "by the headers of all files"
        if found.is_sample:
            about = f"by the headers of {found.opened:,} files of {found.n_clips:,}"
        if math.isnan(found.hours):
            about = "no file that was opened says how long it is"
        hours = f"{found.hours:.2f} h" if found.hours < 10 else f"{found.hours:,.0f} h"
        cards.append((kind, "?" if math.isnan(found.hours) else hours, found.unknown or about))
    return cards


def _groupings(clips: pl.DataFrame) -> Iterator[tuple[str, str]]:
    """What units are counted by beside the split."""
    for what, by in (("corpus", "meta_corpus"), ("fold", "fold"), ("speaker", "speaker")):
        if by in clips.columns and clips[by].null_count() < clips.height:
            yield what, by


def _medians(units: pl.DataFrame, shown: Shown, lengths: dict[str, Lengths]) -> dict[str, list[float]]:
    """Modality: the median length of each class's clips, as far as they were looked at; NaN where none was."""
    of_unit = dict(units.select("clip_id", "class").iter_rows())
    found = {}
    for kind, each in lengths.items():
        by_class: list[list[float]] = [[] for _ in shown.titles]
        for clip_id, seconds in each.seconds.items():
            if clip_id in of_unit:
                by_class[of_unit[clip_id]].append(seconds)
        if any(by_class):
            found[kind] = [float(np.median(values)) if values else math.nan for values in by_class]
    return found


def _spreads(clips: pl.DataFrame, lengths: dict[str, Lengths]) -> list[tuple[str, str, tallies.Spread]]:
    """Title, unit, and how it is spread."""
    texts = clips["text"].drop_nulls()
    found = [
        (f"length of {kind}", "s", tallies.spread(list(each.seconds.values()), False)) for kind, each in lengths.items()
    ]
    found += [
        ("words of a text", "", tallies.spread(texts.str.count_matches(r"\S+"), True)),
        ("characters of a text", "", tallies.spread(texts.str.len_chars(), True)),
    ]
    sizes = clips.group_by("conversation_id").len()["len"]
    if sizes.max() != 1:
        found.append(("clips of a conversation", "", tallies.spread(sizes, True)))
    return [(title, unit, each) for title, unit, each in found if each is not None]


def _chosen(units: pl.DataFrame, shown: Shown) -> list[dict[str, Any]]:
    """A few clips of each class, of different speakers where they are known; from train where it has the class."""
    n_each = min(CLIPS_OF_CLASS, max(1, round(CLIPS / len(shown.names))))
    rng = np.random.default_rng(0)
    shuffled = units[rng.permutation(units.height)]
    chosen: list[dict[str, Any]] = []
    for number in range(min(len(shown.names), MOST_CLIPS)):
        own = shuffled.filter(pl.col("class") == number)
        own = own.sort(pl.col("split") != "train", maintain_order=True)
        again = pl.int_range(pl.len()).over("speaker")  # which of its speaker's it is
        chosen += own.sort(again, maintain_order=True).head(n_each).iter_rows(named=True)
    return chosen


def _pictures(chosen: list[dict[str, Any]], manifest: Manifest) -> list[Picture]:
    wanted = [i for i, clip in enumerate(chosen) if clip["video"] or clip["audio"]]
    found = [Picture() for _ in chosen]
    if wanted:
        files = [(chosen[i]["video"], chosen[i]["audio"]) for i in wanted]
        try:
            drawn = pictures(files, manifest.root, heard=True)
        except UserError as error:  # no decoder can be started: the page can do without
            drawn = [Picture(missing=one_line(error)) for _ in wanted]
        for i, picture in zip(wanted, drawn, strict=True):
            found[i] = picture
    return found


def _flatten(counts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """What the reader met as (name, value) rows, nested ones under a path."""
    rows: list[tuple[str, str]] = []
    for key, value in counts.items():
        name = f"{prefix} › {key}" if prefix else key.replace("_", " ")
        if isinstance(value, dict):
            rows += _flatten(value, name)
        else:
            rows.append((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows
