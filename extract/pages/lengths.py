"""How long media are, by their headers: of all files where they are few, else of some, spread evenly over the manifest.

Files are opened in child processes, as the extraction opens them; nothing is decoded.
"""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from configs import UserError, one_line
from extract.corpora.manifest import Manifest
from extract.corpora.media_paths import misplaced
from extract.media.decoding import Decoders
from extract.media.reading import MediaError
from extract.media.tasks import LengthTask

MOST_FILES = 300  # of a modality, that are opened
MOST_SECONDS = 4.0  # after which no further file of a modality is opened: disks and networks may be slow
SILENCE_SECONDS = 5.0  # without a sign of life, after which a file is given up
SUSPECTS = 5  # files that cannot be opened, and are named


@dataclass(frozen=True)
class Lengths:
    """Of one modality's files."""

    n_clips: int  # that name a file
    opened: int = 0  # files that were opened, or could not be
    seconds: dict[str, float] = field(default_factory=dict)  # clip id: what its file says of itself
    broken: list[tuple[str, str]] = field(default_factory=list)  # clip id, why its file cannot be opened
    unknown: str = ""  # why nothing is known, in words

    @property
    def is_sample(self) -> bool:
        return self.opened < self.n_clips

    @property
    def hours(self) -> float:
        """Of all clips, as far as the files that were opened stand for the others; NaN where nothing is known."""
        values = list(self.seconds.values())
        return float(np.mean(values)) * self.n_clips * (len(values) / self.opened) / 3600 if values else math.nan


def look(manifest: Manifest) -> dict[str, Lengths]:
    """Lengths of what is heard and seen, by modality; of modalities that some clip has."""
    named = {kind: manifest.clips.filter(pl.col(kind).is_not_null()) for kind in ("audio", "video")}
    present = {kind: clips for kind, clips in named.items() if clips.height}
    with ThreadPoolExecutor(max(1, len(present))) as pool:
        found = pool.map(lambda kind: _look(present[kind], kind, manifest.root), present)
        return dict(zip(present, found, strict=True))


def _look(clips: pl.DataFrame, kind: str, root: Path | str) -> Lengths:
    if isinstance(root, str):
        return Lengths(clips.height, unknown="the files lie on object storage, and are not fetched for this page")
    places = np.unique(np.linspace(0, clips.height - 1, min(MOST_FILES, clips.height)).round().astype(int))
    rows = clips[places].select("clip_id", kind).rows()
    seconds: dict[str, float] = {}
    broken: list[tuple[str, str]] = []
    opened = 0
    with closing(Decoders(LengthTask(kind), 1, SILENCE_SECONDS)) as decoders:
        until = None
        for clip_id, path in _scattered(rows):
            if until is not None and time.monotonic() > until:
                break
            reason = next((why for _, why in misplaced([path], root)), "")
            try:
                length = math.nan if reason else decoders.decode(root / path).seconds
            except MediaError as error:
                reason, length = one_line(error), math.nan
            except UserError as error:  # no decoder can be started: the page can do without
                return Lengths(clips.height, unknown=one_line(error))
            until = time.monotonic() + MOST_SECONDS if until is None else until  # the decoder's start does not count
            opened += 1
            if reason:
                broken.append((clip_id, reason))
            elif not math.isnan(length):
                seconds[clip_id] = length
    return Lengths(clips.height, opened, seconds, sorted(broken))


def _scattered(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """In an order in which any first part is spread over the whole, should time run out."""
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
