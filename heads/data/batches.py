"""Units as tensors, and batches gathered from them.

A batch never has the shape (batch, places, time, dim): the clips that its units see stand in one row, each once however
many units see it, and of each encoder only those that have something take part in it, so that short conversations,
missing media and shared context cost nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs import UserError
from extract.corpora.manifest import Manifest, Unit
from extract.media.decoding import default_device
from heads.data.features import Frames, Source, load_features, sent

ROLES = ("speaker", "listener", "listener_response", "context")  # id 0 is any other role, or none
SPEAKER, LISTENER = "speaker identity", "listener identity"  # fields that every UnitData has beside the named ones
BUCKET_BATCHES = 20  # shuffled units are sorted by length within runs of this many batches


@dataclass(frozen=True)
class Batch:
    frames: dict[str, Frames]
    roles: Tensor  # (clips,)
    mask: Tensor  # (batch, places): True where a unit has a clip, in order; the last one is the labelled clip
    metadata: Tensor  # (batch, fields) ids
    labels: Tensor  # (batch,)
    clips: Tensor  # (batch, places): which of the batch's clips it is; 0 where the mask is False
    speakers: Tensor  # (clips,) who speaks, by numbers that mean nothing more; 0: unknown

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            {name: frames.to(device) for name, frames in self.frames.items()},
            *(sent(part, device) for part in (self.roles, self.mask, self.metadata, self.labels)),
            *(sent(part, device) for part in (self.clips, self.speakers)),
        )


class UnitData:
    """All that networks read of a list of units: clips, roles, features, metadata, labels.

    Raises:
        UserError: a metadata field that the manifest lacks or that is privileged; a source without any of the clips.
    """

    def __init__(
        self,
        manifest: Manifest,
        units: Sequence[Unit],
        sources: Mapping[str, Source],
        fields: Sequence[str] = (),
        privileged: bool = False,
        resident_bytes: int | None = None,
        context_clips: int | None = None,
        statistics: int | None = None,
        device: torch.device | None = None,
        auxiliary: str | None = None,
    ) -> None:
        """
        Args:
            resident_bytes: the most bytes of features that stay in memory; default: half of what is free. Features stay
                on ``device`` where they fit there, else in main memory; what fits nowhere is read batch by batch.
            context_clips: how many clips before the labelled one are seen; default: all of them.
            statistics: read, in place of time steps, the mean and deviation of at most so many parts of each clip.
            device: where batches will be used; default: the GPU where there is one.
            auxiliary: a column with finer labels, which may be absent where nothing is trained.
        """
        self.rows: Any = None  # the units as a linear head reads them, where a network starts from one
        self.units = list(units)
        seen = [seen_clips(unit, context_clips) for unit in units]
        clip_ids = list(dict.fromkeys(clip for clips in seen for clip in clips))
        numbers = {clip_id: number for number, clip_id in enumerate(clip_ids)}
        self._members = np.array([numbers[clip] for clips in seen for clip in clips], dtype=np.int64)
        self.n_clips = np.array([len(clips) for clips in seen], dtype=np.int64)  # (units,)
        self._starts = np.cumsum(self.n_clips) - self.n_clips

        rows = dict(zip(manifest.clips["clip_id"], range(len(manifest.clips)), strict=True))
        unit_rows = [rows[unit.unit_id] for unit in units]
        roles = {role: number for number, role in enumerate(ROLES, start=1)}
        clip_roles = manifest.clips["role"][[rows[clip_id] for clip_id in clip_ids]]
        self.roles = torch.tensor([roles.get(role, 0) for role in clip_roles], dtype=torch.int64)
        people = manifest.clips["speaker"][[rows[clip_id] for clip_id in clip_ids]].to_list()
        number_of = {name: number for number, name in enumerate(dict.fromkeys([None, *people]))}  # unknown is 0
        self.speakers = torch.tensor([number_of[name] for name in people], dtype=torch.int64)
        columns = {field: metadata_column(manifest, field, privileged) for field in fields}
        columns |= {SPEAKER: "speaker"}
        columns |= {LISTENER: "meta_listener_id"} if "meta_listener_id" in manifest.clips.columns else {}
        self.metadata = {field: labelled_values(manifest, units, column) for field, column in columns.items()}
        self.fields = list(fields)
        finer = [name for name in (f"privileged_{auxiliary}", f"meta_{auxiliary}") if name in manifest.clips.columns]
        self.auxiliary = labelled_values(manifest, units, finer[0]) if finer else None
        class_numbers = {name: number for number, name in enumerate(manifest.classes)}
        self.labels = torch.tensor([class_numbers[unit.label] for unit in units], dtype=torch.int64)

        # Units that share clips have the same group: one batch encodes what they share once.
        self.groups = np.arange(len(units))
        if len(self._members) > len(clip_ids):
            conversations = manifest.clips["conversation_id"][unit_rows].to_numpy()
            self.groups = np.unique(conversations, return_inverse=True)[1]
        self.features = load_features(
            sources, clip_ids, statistics, resident_bytes, device or torch.device(default_device())
        )

    def draw_views(self, seed: int, epoch: int) -> np.ndarray | None:
        """(clips,) 0 to 1, which view of each clip an epoch of a training sees; None where there is view 0 alone."""
        if not any(features.n_views for features in self.features.values()):
            return None
        return np.random.default_rng([seed, epoch]).random(len(self.roles))

    @property
    def streams(self) -> bool:
        """Whether some features are read batch by batch."""
        return any(not features.resident for features in self.features.values())

    def _clips(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some units' clip numbers, unit after unit, and the mask (units, places) of where they stand."""
        mask = np.arange(self.n_clips[indices].max(initial=0)) < self.n_clips[indices, None]
        at = self._starts[indices, None] + np.arange(mask.shape[1])
        return self._members[at[mask]], mask

    def clips_of(self, indices: np.ndarray) -> np.ndarray:
        """The numbers of all clips of some units, each once, sorted."""
        return np.unique(self._clips(indices)[0])

    def metadata_ids(self, vocabularies: Mapping[str, Sequence[str]]) -> Tensor:
        """(units, fields): the place of each value in its vocabulary, from 1; 0 for none and for unseen ones."""
        columns = []
        for field, words in vocabularies.items():
            ids = {word: number for number, word in enumerate(words, start=1)}
            values = self.metadata.get(field) if field == LISTENER else self.metadata[field]
            values = values or [None] * len(self.units)  # a manifest that knows no listeners
            columns.append([ids.get(value, 0) if value is not None else 0 for value in values])
        return torch.tensor(columns, dtype=torch.int64).reshape(len(columns), len(self.units)).T

    def batch(
        self,
        indices: np.ndarray,
        metadata_ids: Tensor,
        hide: float = 0.0,
        generator: torch.Generator | None = None,
        views: np.ndarray | None = None,
    ) -> Batch:
        """Some units in one batch. What features stay on a device gives frames that lie there; the rest is on the CPU.

        Args:
            metadata_ids: what :meth:`metadata_ids` returned, for all units.
            hide: training's chance that an input of a clip is hidden, or that a metadata field becomes unknown, which
                also trains the embedding that unseen categories get.
            generator: where the chances are drawn from; needed with ``hide``.
            views: what :meth:`draw_views` gave, in training; else view 0 is seen.
        """
        members, mask = self._clips(indices)
        clips, which = np.unique(members, return_inverse=True)
        places = torch.zeros(mask.shape, dtype=torch.int64)
        places[torch.from_numpy(mask)] = torch.from_numpy(which)
        ids = metadata_ids[indices]
        has = torch.zeros(len(clips), len(self.features), dtype=torch.bool)
        for column, features in enumerate(self.features.values()):
            has[:, column] = torch.from_numpy(features.lengths[clips] > 0)
        if hide:
            assert generator is not None
            has &= ~draw_hidden(has, hide, generator)
            ids = ids.masked_fill(torch.rand(ids.shape, generator=generator) < hide, 0)
        return Batch(
            frames={
                name: features.gather(clips, np.flatnonzero(has[:, column].numpy()), views)
                for column, (name, features) in enumerate(self.features.items())
            },
            roles=self.roles[clips],
            mask=torch.from_numpy(mask),
            metadata=ids,
            labels=self.labels[indices],
            clips=places,
            speakers=self.speakers[clips],
        )

    def batches(
        self,
        parts: Sequence[np.ndarray],
        metadata_ids: Tensor,
        hide: float = 0.0,
        generator: torch.Generator | None = None,
        views: np.ndarray | None = None,
    ) -> Iterator[Batch]:
        """A batch of each of some lists of units, in their order; see :meth:`batch`.

        Where features are read from disk, the next batch is read while this one is used. One number is drawn from
        ``generator`` at the start, and no more: what the caller draws from it meanwhile does not depend on that.
        """
        own = None
        if hide:
            assert generator is not None
            own = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
        if not self.streams:
            for indices in parts:
                yield self.batch(indices, metadata_ids, hide, own, views)
            return
        with ThreadPoolExecutor(1) as reader:

            def begun(some: Sequence[np.ndarray]) -> list[Future[Batch]]:
                return [reader.submit(self.batch, indices, metadata_ids, hide, own, views) for indices in some]

            coming = begun(parts[:1])
            for i in range(len(parts)):
                coming += begun(parts[i + 1 : i + 2])
                yield coming.pop(0).result()

    def costs(self) -> np.ndarray:
        """(units,) what a unit makes a batch pay for: the length of its longest clip, then its number of clips."""
        longest = sum(
            np.maximum.reduceat(features.lengths[self._members], self._starts) * (features.dim or 0)
            for features in self.features.values()
        )
        return longest * 1000 + self.n_clips


def seen_clips(unit: Unit, context_clips: int | None) -> tuple[str, ...]:
    """The clips of a unit that a head sees: the labelled one, and so many before it, or all."""
    return unit.clip_ids if context_clips is None else unit.clip_ids[-1 - context_clips :]


def labelled_values(manifest: Manifest, units: Sequence[Unit], column: str) -> list[str | None]:
    """What a column of the manifest says on the labelled clip of each unit."""
    values = dict(zip(manifest.clips["clip_id"], manifest.clips[column], strict=True))
    return [values[unit.unit_id] for unit in units]


def categories(values: Sequence[str | None], indices: np.ndarray) -> list[str]:
    """The values of some units, each once, sorted; unknown ones are none."""
    return sorted({value for value in (values[i] for i in indices) if value is not None})


def metadata_column(manifest: Manifest, field: str, privileged: bool) -> str:
    """The manifest's column of a metadata field.

    Raises:
        UserError: there is none, or it is derived from the label and ``privileged`` is False.
    """
    columns = manifest.clips.columns
    if f"meta_{field}" in columns:
        return f"meta_{field}"
    if f"privileged_{field}" in columns:
        if privileged:
            return f"privileged_{field}"
        raise UserError(
            f"metadata names {field!r}, which is derived from the label: set the head's 'privileged: true' "
            "to use it all the same, and every report will say so"
        )
    known = [name.partition("_")[2] for name in columns if name.startswith(("meta_", "privileged_"))]
    raise UserError(f"metadata names {field!r}, which the manifest lacks; it has: {', '.join(known) or 'none'}")


def bucketed(
    costs: np.ndarray, batch_size: int, generator: torch.Generator, groups: np.ndarray | None = None
) -> list[np.ndarray]:
    """Shuffled batches of like cost: positions 0 .. len(costs) - 1, each exactly once.

    Args:
        costs: (units,), see :meth:`UnitData.costs`.
        groups: (units,) ints; units of one group stand together, in one batch or in neighbouring ones: give
            ``UnitData.groups``. Default: every unit by itself.
    """
    groups = np.arange(len(costs)) if groups is None else np.unique(groups, return_inverse=True)[1]
    n_groups = int(groups.max(initial=-1)) + 1
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups, minlength=n_groups))[:-1])
    largest = np.zeros(n_groups, dtype=costs.dtype)
    np.maximum.at(largest, groups, costs)

    shuffled = torch.randperm(n_groups, generator=generator).numpy()
    sizes = np.array([len(members[group]) for group in shuffled], dtype=np.int64)
    run = (np.cumsum(sizes) - sizes) // (batch_size * BUCKET_BATCHES)
    order = shuffled[np.lexsort((largest[shuffled], run))]
    units = np.concatenate([members[group] for group in order]) if n_groups else order
    batches = [units[i : i + batch_size] for i in range(0, len(units), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def draw_hidden(has: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Modality dropout: which of the inputs that clips have training hides, each with chance ``rate``.

    A clip never loses all that it has: where every draw says hide, one of them, at random, stays.

    Args:
        has: (clips, inputs) bool.
    Returns:
        bool, the same shape; True only where ``has`` is.
    """
    draws = torch.rand(has.shape, generator=generator)
    hidden = has & (draws < rate)
    spared = draws.masked_fill(~has, -1).argmax(1, keepdim=True) if has.shape[1] else draws.long()
    return hidden & ~((hidden == has).all(1, keepdim=True) & torch.zeros_like(has).scatter_(1, spared, True))
