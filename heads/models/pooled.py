"""Units as one row each: an input's mean and deviation over time, and metadata.

The labelled clip and what its speaker said before stand apart: an average over both would bury the one in the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from configs import UserError
from extract.corpora.manifest import Manifest, Unit
from heads.data.batches import categories, labelled_values, metadata_column, seen_clips
from heads.data.features import Source
from heads.data.views import View, views_of

OTHERS = ("listener", "listener_response")  # whose clips say little about how the speaker feels
OWN, BEFORE, ALL = "own", "before", "all"  # the labelled clip; the speaker's clips before it; both together


@dataclass(frozen=True)
class Moments:
    """Of all time steps of some clips of each unit; NaN where a unit has none of an input."""

    counts: np.ndarray  # (units,) time steps
    mean: np.ndarray  # (units, dim) float32
    deviation: np.ndarray  # (units, dim) float32

    def narrow(self, columns: slice) -> "Moments":
        return Moments(self.counts, self.mean[:, columns], self.deviation[:, columns])

    def __getitem__(self, units: np.ndarray) -> "Moments":
        return Moments(self.counts[units], self.mean[units], self.deviation[units])


@dataclass(frozen=True)
class UnitRows:
    """What is known of each unit, as columns."""

    n_units: int
    own: dict[str, Moments]  # input: of the labelled clip
    before: dict[str, Moments]  # input: of the speaker's clips before it; inputs that no unit has there are left out
    metadata: dict[str, list[str | None]]  # field: a value for each unit
    augmented: tuple["UnitRows", ...] = ()  # the same of augmented views, of training units alone: NaN elsewhere

    def only(self, name: str) -> "UnitRows":
        """One input, without anything beside it."""
        before = {name: self.before[name]} if name in self.before else {}
        augmented = tuple(rows.only(name) for rows in self.augmented)
        return UnitRows(self.n_units, {name: self.own[name]}, before, {}, augmented)

    def learned(self, views: str) -> tuple["UnitRows", ...]:
        """The versions of a unit that are learned from, each as much as the others (the head's ``views``)."""
        return (self, *(self.augmented if views == "all" else ()))

    def views(self, name: str) -> tuple[str, ...]:
        """How an input can be looked at: one way where no unit has anything before its labelled clip."""
        return (OWN, BEFORE, ALL) if name in self.before else (OWN,)

    def moments(self, name: str, view: str, units: np.ndarray, columns: slice = slice(None)) -> Moments:
        """An input of some units, as it is seen in a view; some of its columns, where others need not be copied."""
        own = self.own[name].narrow(columns)[units]
        if view == OWN:
            return own
        if name in self.before:
            before = self.before[name].narrow(columns)[units]
        else:
            before = _empty(len(units), own.mean.shape[1])
        return before if view == BEFORE else _merged(own, before)

    def vocabularies(self, indices: np.ndarray) -> dict[str, list[str]]:
        """The categories of each metadata field among some units, sorted."""
        return {field: categories(values, indices) for field, values in self.metadata.items()}

    def codes(self, vocabularies: Mapping[str, Sequence[str]], units: np.ndarray) -> np.ndarray:
        """(units, fields) float32: the place of each value in its vocabulary, from 0; NaN for none and unseen ones."""
        codes = np.full((len(units), len(vocabularies)), np.nan, dtype=np.float32)
        for column, (field, words) in enumerate(vocabularies.items()):
            places = {word: place for place, word in enumerate(words)}
            values = self.metadata[field]
            codes[:, column] = [places.get(values[unit], np.nan) for unit in units]
        return codes


def unit_rows(
    manifest: Manifest,
    units: Sequence[Unit],
    sources: Mapping[str, Source],
    fields: Sequence[str] = (),
    privileged: bool = False,
    context_clips: int | None = None,
) -> UnitRows:
    """Moments of each input in each unit, and each field's value on its labelled clip.

    One clip is in memory at a time, however large the stores are. Of sources with augmented views, training units are
    read in each of these, too; a clip that has none is itself there.

    Args:
        sources: by input.
        context_clips: how many clips before the labelled one count; None: all.
    Raises:
        UserError: a source holds nothing of any unit; a field that the manifest lacks, or that is derived from the
            label while ``privileged`` is False.
    """
    columns = {field: metadata_column(manifest, field, privileged) for field in fields}
    metadata = {field: labelled_values(manifest, units, name) for field, name in columns.items()}
    roles = dict(zip(manifest.clips["clip_id"], manifest.clips["role"], strict=True))
    spoken = [[clip for clip in seen_clips(unit, context_clips)[:-1] if roles[clip] not in OTHERS] for unit in units]
    own: dict[str, Moments] = {}
    before: dict[str, Moments] = {}
    seen = {name: views_of(source) for name, source in sources.items()}
    for name, (source, _) in seen.items():
        labelled = (unit.unit_id for unit in units)
        there = (clip for clip in (*labelled, *(clip for clips in spoken for clip in clips)) if clip in source)
        width = getattr(source, "width", 0) or next((source[clip].shape[1] for clip in there), 0)
        if not width:
            raise UserError(
                f"the {name} store holds none of the units' clips: run 'python extract/run.py --encoder {name}'"
            )
        own[name], earlier = _of_source(units, spoken, source, None, width)
        if earlier.counts.any():
            before[name] = earlier
    augmented = []
    for k in range(1, 1 + max((len(views) for _, views in seen.values()), default=0)):
        pairs = {}
        for name, (source, views) in seen.items():
            view = (None, *views)[k % (1 + len(views))]  # of inputs with fewer views, they come again
            width = own[name].mean.shape[1]
            pairs[name] = _of_source(units, spoken, source, view, width, "train")
        of_own, of_before = ({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))
        augmented.append(UnitRows(len(units), of_own, {name: of_before[name] for name in before}, metadata))
    return UnitRows(len(units), own, before, metadata, tuple(augmented))


def _of_source(
    units: Sequence[Unit],
    spoken: Sequence[Sequence[str]],
    source: Source,
    view: View | None,
    width: int,
    split: str | None = None,
) -> tuple[Moments, Moments]:
    """Of each unit's labelled clip, and of what its speaker said before; of an augmented view, where it has a clip.

    Args:
        split: of the units that are read; default: all.
    """
    own, earlier = _empty(len(units), width), _empty(len(units), width)
    sums: dict[str, _Sums] = {}
    for row, (unit, clips) in enumerate(zip(units, spoken, strict=True)):
        if split not in (None, unit.split):
            continue
        # a conversation's later units see the clips of its earlier ones: those are not read twice
        known = [clip for clip in (*clips, unit.unit_id) if clip in source]
        sums = {
            clip: sums[clip] if clip in sums else _sums((view if view is not None and clip in view else source)[clip])
            for clip in known
        }
        _put(own, row, [sums[unit.unit_id]] if unit.unit_id in sums else [])
        _put(earlier, row, [sums[clip] for clip in clips if clip in sums])
    return own, earlier


_Sums = tuple[int, np.ndarray, np.ndarray]  # of a clip: time steps, mean (dim,), squared distances from it (dim,)


def _sums(values: np.ndarray) -> _Sums:
    # (time, dim); torch widens fp16 thirty times faster than NumPy, and wants an array that it may write to
    steps = torch.from_numpy(np.array(values)).float().numpy()
    mean = steps.mean(0)
    steps = steps - mean
    return len(steps), mean, np.einsum("td,td->d", steps, steps)


def _empty(n_units: int, width: int) -> Moments:
    shape = n_units, width
    return Moments(np.zeros(n_units, np.int64), np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32))


def _put(moments: Moments, row: int, clips: Sequence[_Sums]) -> None:
    """All time steps of some clips together (Chan, Golub and LeVeque 1983)."""
    if not clips:
        return
    counts = np.array([n for n, _, _ in clips], dtype=np.float64)
    shares = counts / counts.sum()  # (clips,)
    means = np.array([mean for _, mean, _ in clips])  # (clips, dim)
    mean = shares @ means
    between = shares @ (means - mean) ** 2
    within = sum(squares for _, _, squares in clips) / counts.sum()
    moments.counts[row], moments.mean[row], moments.deviation[row] = counts.sum(), mean, np.sqrt(between + within)


def _merged(own: Moments, before: Moments) -> Moments:
    """Of all time steps of both, unit by unit."""
    counts = own.counts + before.counts
    share = np.divide(own.counts, counts, out=np.zeros(len(counts)), where=counts > 0)[:, None].astype(np.float32)
    alone = (own.counts == 0)[:, None], (before.counts == 0)[:, None]
    mean = share * own.mean + (1 - share) * before.mean
    between = share * (1 - share) * (own.mean - before.mean) ** 2
    deviation = np.sqrt(share * own.deviation**2 + (1 - share) * before.deviation**2 + between)
    return Moments(
        counts,
        np.where(alone[0], before.mean, np.where(alone[1], own.mean, mean)),
        np.where(alone[0], before.deviation, np.where(alone[1], own.deviation, deviation)),
    )
