"""What training units and held-out units have in common that they should not: people, texts, files.

Two divisions are looked at. *splits*: a test unit against train and val, a val unit against train. *folds*: a training
unit against those of the other folds, which its out-of-fold prediction was trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy.stats import binom

from extract.corpora.manifest import Unit
from fusion.leaks.copies import Keys, Media, near_duplicates
from fusion.leaks.outputs import Check, Verdict, skipped
from fusion.leaks.units import Audited

RANKS = {"train": 0, "val": 1, "test": 2}  # a split is held out from those of lower rank
LONG = 6  # words; shorter texts recur by themselves
# The share of held-out units with a copy among the training units that does little harm: it cannot raise accuracy by
# more than itself. Out-of-fold scores choose a fusion and are not its headline, unless there is no test split.
MOST, MOST_IN_FOLDS = 0.01, 0.05
ENOUGH = 20  # copies from which on it can be told whether their labels agree
ALPHA = 0.05
EXAMPLES = 5


@dataclass(frozen=True)
class Division:
    """How units are kept apart."""

    name: Literal["splits", "folds"]
    parts: np.ndarray  # (units,) rank of the split, or number of the fold; -1: not looked at
    held: str  # what held-out units are called
    most: float  # the share of copies that does little harm

    def shared(self, keys: Keys) -> Keys:
        """The rows of ``keys`` that belong to held-out units and that a unit they are held out from has as well."""
        rows = keys.with_columns(part=self.part_of(keys["unit"])).filter(pl.col("part") >= 0)
        if self.name == "splits":
            rows = rows.filter(pl.col("part") > pl.col("part").min().over("key"))
        else:
            rows = rows.filter(pl.col("part").n_unique().over("key") > 1)
        return rows.select("unit", "key")

    def part_of(self, units: pl.Series) -> pl.Series:
        return pl.Series(self.parts).gather(units)

    def trains(self) -> pl.Expr:
        """Of rows with ``part`` and ``other``: whether the unit is held out from the other."""
        return pl.col("other") < pl.col("part") if self.name == "splits" else pl.col("other") != pl.col("part")

    def share(self, units: np.ndarray) -> float:
        """The share of held-out units that ``units`` are; of val and test, the larger share."""
        mask = np.zeros(len(self.parts), dtype=bool)
        mask[units] = True
        held = [self.parts == 1, self.parts == 2] if self.name == "splits" else [self.parts >= 0]
        return max(float(mask[part].mean()) for part in held if part.any())


def overlap_checks(audited: Audited) -> list[Check]:
    """Overlap of conversation, group, speaker, text (equal and nearly so) and media, in splits and in folds."""
    ranks = np.array([RANKS[split] for split in audited.splits])
    divisions = [Division("folds", audited.folds, "training units", MOST_IN_FOLDS if RANKS["test"] in ranks else MOST)]
    if len(set(ranks.tolist())) > 1:
        divisions.insert(0, Division("splits", ranks, "val and test units", MOST))
    texts = audited.spoken.filter(pl.col("words") >= LONG).select("unit", key="text").unique(maintain_order=True)
    nearly, pairs = near_duplicates(audited.spoken)
    media = Media.of(audited)
    checks: list[Check] = []
    for division in divisions:
        checks += [
            _apart(audited, division, "conversation", _own(audited, "conversation_id"), "fail"),
            _apart(audited, division, "group", _own(audited, "group"), "warn" if _known(audited, division) else "fail"),
            _speakers(audited, division),
            _texts(audited, division, texts),
            _copies(audited, division, "near_text", nearly, "nearly all words of what was said", names=pairs),
            _media(audited, division, media),
        ]
    if len(divisions) == 1:
        kinds = ("conversation", "group", "speaker", "text", "near_text", "media")
        checks = [skipped(f"overlap.{kind}.splits", "There is no val or test split.") for kind in kinds] + checks
    return checks


def _own(audited: Audited, column: str) -> Keys:
    keys = audited.rows.select(pl.int_range(pl.len()).alias("unit"), key=column)
    return keys.filter(pl.col("key").is_not_null())


def _known(audited: Audited, division: Division) -> bool:
    """Whether the manifest itself says that the splits or folds of the dataset share groups."""
    return bool(audited.manifest.counts.get(f"groups_across_{division.name}"))


def _apart(audited: Audited, division: Division, kind: str, keys: Keys, otherwise: Verdict) -> Check:
    """Nothing may be shared at all."""
    shared = division.shared(keys)
    units = shared["unit"].unique()
    share = division.share(units.to_numpy())
    says = f"{len(units)} {division.held} ({share:.1%}) belong to a {kind} that has units on both sides."
    return Check(
        f"overlap.{kind}.{division.name}",
        otherwise if len(units) else "pass",
        share,
        0.0 if otherwise == "fail" else None,
        says if len(units) else f"No {kind} has units on both sides.",
        shared["key"].unique(maintain_order=True).head(EXAMPLES).to_list(),
        {"units": len(units)},
    )


def _speakers(audited: Audited, division: Division) -> Check:
    name = f"overlap.speaker.{division.name}"
    own = _own(audited, "speaker")
    if own.is_empty():
        return skipped(name, "The manifest names no speaker, so nobody can say whether they are kept apart.")
    promised = audited.profile.dataset.parts_speakers and not _known(audited, division)
    check = _apart(audited, division, "speaker", own, "fail" if promised else "warn")
    # A held-out speaker may also be heard as the listener of a training unit: that is voice and face, but no label.
    heard = audited.seen.filter(pl.col("speaker").is_not_null()).select("unit", key="speaker").unique()
    both = division.shared(pl.concat([heard, own]).unique())
    either = both.join(own, on=["unit", "key"], how="semi")["unit"].n_unique()
    text = check.text
    if check.details["units"]:
        why = "although the profile's groups keep speakers apart" if promised else "people may be recognised"
        text = f"{text.removesuffix('.')}: {why}."
    if either > check.details["units"]:
        text += f" Counting speakers who are heard as listeners as well, {either} units."
    unknown = len(audited.units) - len(own)
    if unknown:
        text += f" The speaker of {unknown} units is unknown."
    details = {"units_heard_as_listeners_too": either, "units_of_unknown_speaker": unknown}
    return replace(check, text=text, details=check.details | details)


def _copies(
    audited: Audited,
    division: Division,
    kind: str,
    keys: Keys,
    what: str,
    harmless: bool = False,
    names: Mapping[str, str] = MappingProxyType({}),
) -> Check:
    """A few copies do little harm, many do."""
    shared = division.shared(keys)
    units = shared["unit"].unique()
    share = division.share(units.to_numpy())
    verdict: Verdict = "pass"
    if len(units):
        verdict = "fail" if share > division.most and not harmless else "warn"
    text = f"{len(units)} {division.held} ({share:.1%}) share {what} with a unit that they are held out from."
    if not len(units):
        text = f"None of the {division.held} shares {what} with a unit that it is held out from."
    examples = _pairs(audited, division, keys, shared, names)
    return Check(
        f"overlap.{kind}.{division.name}", verdict, share, division.most, text, examples, {"units": len(units)}
    )


def _texts(audited: Audited, division: Division, texts: Keys) -> Check:
    """Equal long texts; where people read a script, every sentence stands under every label and tells nothing."""
    by_length = {}
    for words in range(1, LONG):
        short = audited.spoken.filter(pl.col("words") == words).select("unit", key="text").unique()
        by_length[words] = division.share(division.shared(short)["unit"].unique().to_numpy())
    shared = division.shared(texts)
    said = ""
    agree, n, by_chance, p = _agreement(audited, division, texts, shared)
    harmless = n >= ENOUGH and p is not None and p > ALPHA
    if n >= ENOUGH:
        said = (
            f" Taking over the label that goes with the text is right for {agree / n:.1%} of them, {by_chance:.1%} by "
            f"chance: {'a script, which tells nothing of the label' if harmless else 'copies give the label away'}."
        )
    check = _copies(audited, division, "text", texts, f"a text of {LONG} words or more", harmless=harmless)
    details: dict[str, Any] = {"copied_label_right": agree, "copied_labels": n, "right_by_chance": by_chance}
    details |= {"share_by_words_of_shorter_texts": by_length}
    return replace(check, text=check.text + said, details=check.details | details)


def _media(audited: Audited, division: Division, media: "Media") -> Check:
    name = f"overlap.media.{division.name}"
    unread = f"{media.unread} media files cannot be read and were not compared." if media.unread else ""
    if media.keys.is_empty():
        return skipped(name, unread or "The manifest names no media.")
    check = _copies(audited, division, "media", media.keys, "a media file, byte for byte,", names=media.names)
    return replace(check, text=f"{check.text} {unread}".strip(), details=check.details | {"unread": media.unread})


def _agreement(
    audited: Audited, division: Division, keys: Keys, shared: Keys
) -> tuple[int, int, float | None, float | None]:
    """How often the commonest label among a unit's copies is its own: right, of how many, by chance, p-value."""
    if shared.is_empty():
        return 0, 0, None, None
    known = keys.join(shared.select("key").unique(), on="key", how="semi")
    known = known.with_columns(
        other=division.part_of(known["unit"]), copied=pl.Series(audited.labels).gather(known["unit"])
    ).filter(pl.col("other") >= 0)
    counts = known.group_by("key", "other", "copied").len()
    votes = (
        shared.with_columns(part=division.part_of(shared["unit"]))
        .join(counts, on="key")
        .filter(division.trains())
        .group_by("unit", "copied")
        .agg(pl.col("len").sum())
        .sort("unit", "len", "copied", descending=[False, True, False])
        .unique("unit", keep="first", maintain_order=True)
    )
    own, copied = audited.labels[votes["unit"].to_numpy()], votes["copied"].to_numpy()
    n_classes = len(audited.manifest.classes)
    shares = [np.bincount(numbers, minlength=n_classes) / len(numbers) for numbers in (own, copied)]
    by_chance, right = float(shares[0] @ shares[1]), int((own == copied).sum())
    return right, len(own), by_chance, float(binom.sf(right - 1, len(own), by_chance))


def _pairs(audited: Audited, division: Division, keys: Keys, shared: Keys, names: Mapping[str, str]) -> list[str]:
    """A few held-out units, a unit that each shares something with, and what."""
    first = shared.unique("unit", keep="first", maintain_order=True).head(EXAMPLES)
    others = keys.join(first.select("key").unique(), on="key", how="semi").rename({"unit": "copy"})
    pairs = first.join(others, on="key", maintain_order="left_right")
    pairs = pairs.with_columns(part=division.part_of(pairs["unit"]), other=division.part_of(pairs["copy"]))
    pairs = pairs.filter(division.trains() & (pl.col("other") >= 0)).unique("unit", keep="first", maintain_order=True)
    said = [[_place(audited.units, division, unit) for unit in both] for both in pairs.select("unit", "copy").rows()]
    return [f"{a} and {b}: {names.get(key, key)}" for (a, b), key in zip(said, pairs["key"], strict=True)]


def _place(units: Sequence[Unit], division: Division, unit: int) -> str:
    part = units[unit].split if division.name == "splits" else f"fold {division.parts[unit]}"
    return f"{units[unit].unit_id} ({part})"
