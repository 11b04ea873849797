"""What is counted of a manifest for its overview: tables and distributions, each of a bounded size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from extract.corpora.manifest import SPLITS, Manifest

MOST_CLASSES = 40  # shown by themselves, the most frequent; the others together
MOST_ROWS = 30  # of a table: speakers, corpora, fields
BINS = 24
MODALITIES = ("text", "audio", "video")
UNEVEN = 0.2  # how much more often a modality may be absent in one class than in another, before it is said
FEW = 10  # units below which a class's share says little


@dataclass(frozen=True)
class Crossed:
    """Units of each class for each value of a column. ``rest``: values that are not shown, and their units."""

    rows: list[tuple[str, list[int]]]
    rest: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Spread:
    """How some numbers are spread. ``bins``: (from, to, how many); the last one holds all that is larger, too."""

    n: int
    least: float
    median: float
    most: float
    total: float
    bins: list[tuple[float, float, int]]

    @property
    def highest(self) -> int:
        return max(count for _, _, count in self.bins)


@dataclass(frozen=True)
class Field:
    """A free column: how many clips have it, how many values there are, and the most frequent ones."""

    name: str
    n: int
    n_values: int
    most: list[tuple[str, int]]
    is_privileged: bool


class Shown:
    """The classes as they are shown: all of them, or the most frequent and the others together."""

    def __init__(self, manifest: Manifest) -> None:
        counts = dict(manifest.clips["label"].drop_nulls().value_counts().iter_rows())
        ranked = sorted(manifest.classes, key=lambda name: -counts.get(name, 0))
        kept = set(ranked[:MOST_CLASSES])
        self.names = [name for name in manifest.classes if name in kept]
        self.n_others = len(manifest.classes) - len(kept)
        numbers = {name: place for place, name in enumerate(self.names)}
        others = len(self.names)
        self._numbers = {name: numbers.get(name, others) for name in manifest.classes}

    @property
    def titles(self) -> list[str]:
        return self.names + ([f"{self.n_others} others"] if self.n_others else [])

    def numbered(self, clips: pl.DataFrame) -> pl.DataFrame:
        """The labelled clips, with the column ``class``: which of the titles it is."""
        known = clips.filter(pl.col("label").is_not_null())
        return known.with_columns(pl.col("label").replace_strict(self._numbers, return_dtype=pl.Int64).alias("class"))


def crossed(units: pl.DataFrame, shown: Shown, by: str) -> Crossed:
    """Of labelled clips, as ``Shown.numbered`` gives them; splits in their order, other values most units first."""
    counts = units.filter(pl.col(by).is_not_null()).group_by(by, "class").len()
    totals = counts.group_by(by).agg(pl.col("len").sum()).sort(pl.col("len"), by, descending=[True, False])
    values = totals[by].to_list()
    if by == "split":
        values = [split for split in SPLITS if split in values]
    cells = {(value, number): n for value, number, n in counts.iter_rows()}
    rows = [(value, [cells.get((value, i), 0) for i in range(len(shown.titles))]) for value in values[:MOST_ROWS]]
    return Crossed(rows, (len(values) - len(rows), units[by].count() - sum(sum(row) for _, row in rows)))


def spread(values: pl.Series | Sequence[float], whole: bool) -> Spread | None:
    """None where there are no values. ``whole``: they are integers, and a bin is a range of such."""
    numbers = np.asarray(values, dtype=float)
    if not len(numbers):
        return None
    low, high = float(numbers.min()), float(np.quantile(numbers, 0.99))
    if whole:
        step = max(1, int(np.ceil((high - low + 1) / BINS)))
        edges = np.arange(low, high + step + 0.5, step)
    else:
        edges = np.linspace(low, high, BINS + 1) if high > low else np.array([low, low])
    inside = np.clip(numbers, edges[0], edges[-1] - (0.5 if whole else 0))
    counts = np.histogram(inside, edges)[0] if edges[-1] > edges[0] else np.array([len(numbers)])
    bins = [(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]
    return Spread(len(numbers), low, float(np.median(numbers)), float(numbers.max()), float(numbers.sum()), bins)


def transitions(units: pl.DataFrame, shown: Shown) -> np.ndarray | None:
    """(classes, classes) how often a label (row) is followed by another (column) in a conversation, or by itself; None
    where no conversation has two labels."""
    ordered = units.sort("conversation_id", "index")
    pairs = ordered.select("class", pl.col("class").shift(-1).over("conversation_id").alias("next")).drop_nulls()
    if pairs.is_empty():
        return None
    counts = np.zeros((len(shown.titles), len(shown.titles)), dtype=int)
    for before, after, n in pairs.group_by("class", "next").len().iter_rows():
        counts[before, after] = n
    return counts


def expected_stay(counts: np.ndarray) -> float:
    """How often a label would be followed by itself if each were drawn by itself, as often as it comes."""
    shares = counts / counts.sum()
    return float((shares.sum(0) * shares.sum(1)).sum())


def combinations(clips: pl.DataFrame) -> list[tuple[str, int]]:
    """What clips have of text, sound and pictures, and how many have just that; the most frequent first."""
    has = clips.select(pl.col(name).is_not_null() for name in MODALITIES).group_by(MODALITIES).len()
    named = [
        (" + ".join(name for name, one in zip(MODALITIES, row, strict=False) if one), row[-1]) for row in has.rows()
    ]
    return sorted(((name or "nothing", n) for name, n in named), key=lambda each: (-each[1], each[0]))


def absent(units: pl.DataFrame, shown: Shown) -> dict[str, list[float]]:
    """Modality: the share of each class's units without it; of modalities that some units have and some lack. NaN for
    a class without units."""
    lacking = units.group_by("class").agg(pl.len(), *(pl.col(name).null_count() for name in MODALITIES))
    rows = {row["class"]: row for row in lacking.iter_rows(named=True)}
    found = {}
    for name in MODALITIES:
        if 0 < units[name].null_count() < units.height:
            shares = [rows[i][name] / rows[i]["len"] if i in rows else float("nan") for i in range(len(shown.titles))]
            found[name] = shares
    return found


def uneven(units: pl.DataFrame, shown: Shown) -> Iterator[str]:
    """What of missing modalities tells the label by itself."""
    sizes = dict(units.group_by("class").len().iter_rows())
    for name, shares in absent(units, shown).items():
        known = [(share, i) for i, share in enumerate(shares) if sizes.get(i, 0) >= FEW]
        if known and max(known)[0] - min(known)[0] > UNEVEN:
            (low, least), (high, most) = min(known), max(known)
            yield (
                f"{name} is absent from {high:.0%} of “{shown.titles[most]}” and from {low:.0%} of "
                f"“{shown.titles[least]}”: that it is absent tells of the label"
            )


def fields(clips: pl.DataFrame) -> list[Field]:
    """Free columns. Of those derived from the label no values are given."""
    found = []
    for name in [name for name in clips.columns if name.startswith(("meta_", "privileged_"))][:MOST_ROWS]:
        kind, _, said = name.partition("_")
        values = clips[name].drop_nulls()
        counts = values.value_counts().sort(pl.col("count"), name, descending=[True, False]).head(5).rows()
        found.append(Field(said, len(values), values.n_unique(), counts if kind == "meta" else [], kind != "meta"))
    return found


def repeated(clips: pl.DataFrame) -> dict[str, int]:
    """Modality: clips whose text or file some other clip has, too."""
    known = {name: clips[name].drop_nulls() for name in MODALITIES}
    return {name: int(values.is_duplicated().sum()) for name, values in known.items() if values.is_duplicated().any()}
