"""Copies of one text or one file under different names.

This module opens a door of ``extract``: it hashes, as the extraction does, media files that no store has hashes of.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from cache.shelf import content_hashes
from extract.corpora.manifest import some
from extract.media.sources import Clip, Sources
from fusion.leaks.units import Audited

SHINGLE = 5  # words in a row, as in Broder 1997
FEWEST_SHINGLES = 10
NEARLY = 0.8  # of the shorter text's shingles that another one holds
PHRASE = 100  # a shingle of more texts than that is a phrase
HASHERS = 2  # threads that read files
Keys = pl.DataFrame  # unit (its number), key (what it has); each pair once


def near_duplicates(spoken: pl.DataFrame) -> tuple[Keys, dict[str, str]]:
    """Units most of whose words stand in the same order: edited copies of one text. A key per pair of texts, and its
    beginning.

    A unit's text is cut into shingles of ``SHINGLE`` words (Broder 1997). Two different texts are near duplicates if
    the shorter has ``FEWEST_SHINGLES`` of them or more and the other one holds ``NEARLY`` of these.

    Args:
        spoken: unit, text (normalised), a row per clip, as in ``Audited.spoken``.
    """
    whole = spoken.group_by("unit", maintain_order=True).agg(pl.col("text").str.join(" "))
    distinct = whole["text"].unique(maintain_order=True).to_list()
    empty = pl.DataFrame(schema={"unit": pl.Int64, "key": pl.String})
    if not distinct:
        return empty, {}
    shingles = _shingles(distinct)
    shingles = shingles[:, np.asarray(shingles.sum(axis=0)).ravel() <= PHRASE]
    lengths = np.asarray(shingles.sum(axis=1)).ravel()
    together = (shingles @ shingles.T).tocoo()
    smaller = np.minimum(lengths[together.row], lengths[together.col])
    close = (together.row < together.col) & (smaller >= FEWEST_SHINGLES) & (together.data >= NEARLY * smaller)
    members = whole.group_by("text").agg("unit")
    units = dict(members.iter_rows())
    rows, names = [], {}
    for a, b in zip(together.row[close].tolist(), together.col[close].tolist(), strict=True):
        key = f"{a}-{b}"
        names[key] = distinct[a]
        rows += [(unit, key) for text in (distinct[a], distinct[b]) for unit in units[text]]
    return (pl.DataFrame(rows, schema=empty.schema, orient="row"), names) if rows else (empty, {})


def _shingles(texts: Sequence[str]) -> csr_matrix:
    """(texts, different shingles) of ones, float32; shingles are told apart by a hash of 64 bits."""
    numbers: dict[str, int] = {}
    words = [[numbers.setdefault(word, len(numbers)) for word in text.split()] for text in texts]
    of_text = np.repeat(np.arange(len(texts)), [len(line) for line in words])
    flat = np.array([number for line in words for number in line], dtype=np.uint64)
    n = max(len(flat) - SHINGLE + 1, 0)
    hashes = np.zeros(n, dtype=np.uint64)
    for i in range(SHINGLE):  # a polynomial, modulo 2**64
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + flat[i : i + n] + np.uint64(1)
    inside = of_text[:n] == of_text[len(flat) - n :]  # it ends in the text in which it begins
    _, columns = np.unique(hashes[inside], return_inverse=True)
    shape = (len(texts), int(columns.max(initial=-1)) + 1)
    counts = csr_matrix((np.ones(len(columns), np.float32), (of_text[:n][inside], columns)), shape)
    counts.sum_duplicates()
    counts.data[:] = 1
    return counts


@dataclass(frozen=True)
class Media:
    """The content of each audio and video file that a unit may see: its hash, and the first files that have it."""

    keys: Keys
    names: dict[str, str]
    unread: int  # files that cannot be read

    @classmethod
    def of(cls, audited: Audited) -> "Media":
        """Hashes come from the stores' indices, and are computed as the extraction does where no store has them."""
        rows: list[tuple[str, str]] = []
        files: dict[str, list[str]] = {}
        unread = 0
        for modality in ("audio", "video"):
            clips = audited.manifest.clips.filter(pl.col(modality).is_not_null()).select("clip_id", modality)
            hashes: dict[str, str] = {}
            for encoder in audited.profile.encoders_of(modality):
                hashes |= content_hashes(audited.profile.store_path(encoder))  # none where there is no store
            rest = [Clip(clip, audited.manifest.media(path)) for clip, path in clips.iter_rows() if clip not in hashes]
            for clip, (found, _) in zip(rest, Sources(None).content_hashes(rest, HASHERS), strict=True):
                if found is None:
                    unread += 1
                else:
                    hashes[clip.clip_id] = found
            for clip_id, path in clips.iter_rows():
                if clip_id in hashes:
                    rows.append((clip_id, key := f"{modality} {hashes[clip_id]}"))
                    files.setdefault(key, []).append(path)
        keys = pl.DataFrame(rows, schema={"clip_id": pl.String, "key": pl.String}, orient="row")
        keys = audited.seen.join(keys, on="clip_id", maintain_order="left").select("unit", "key")
        return cls(
            keys.unique(maintain_order=True), {key: some(dict.fromkeys(paths)) for key, paths in files.items()}, unread
        )
