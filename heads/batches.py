"""Units as tensors, and batches gathered from them.

A batch never has the shape (batch, places, time, dim): the clips of its units stand in one row, and only those that
have a modality take part in it, so that short conversations and missing media cost nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from configs import UserError
from extract.manifest import Manifest, Unit

ROLES = ("speaker", "listener", "listener_response", "context")  # id 0 is any other role, or none
RESIDENT_BYTES = 8 * 2**30  # a store below this size is read once and stays in memory; a larger one stays mapped
BUCKET_BATCHES = 20  # shuffled units are sorted by length within runs of this many batches


class Source(Protocol):
    """What features are read from: a :class:`cache.Store`, or a dict of live arrays; ``(time, dim)`` each."""

    def __contains__(self, clip_id: object) -> bool: ...

    def __getitem__(self, clip_id: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Frames:
    """One modality of the clips of a batch that have it."""

    values: Tensor  # (clips that have it, time, dim) float32; any finite number where the mask is False
    mask: Tensor  # (clips that have it, time)
    places: Tensor  # (clips that have it,) which of the batch's clips they are

    def to(self, device: torch.device) -> "Frames":
        return Frames(self.values.to(device), self.mask.to(device), self.places.to(device))


@dataclass(frozen=True)
class Batch:
    frames: dict[str, Frames]
    roles: Tensor  # (clips,)
    mask: Tensor  # (batch, places): True where a unit has a clip; its sum is the number of clips
    metadata: Tensor  # (batch, fields) ids
    labels: Tensor  # (batch,)

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            {name: frames.to(device) for name, frames in self.frames.items()},
            *(part.to(device) for part in (self.roles, self.mask, self.metadata, self.labels)),
        )


class Features:
    """One modality of a list of clips: resident in memory as one tensor, or read from its source as needed."""

    def __init__(self, name: str, source: Source, clip_ids: Sequence[str], resident_bytes: int) -> None:
        self._source, self._clip_ids = source, clip_ids
        arrays = [source[clip_id] if clip_id in source else None for clip_id in clip_ids]  # noqa: SIM401 (no get)
        shapes = {array.shape[1] for array in arrays if array is not None}
        if len(shapes) > 1:
            raise UserError(f"{name}: its clips have different widths: {sorted(shapes)}")
        self.dim = shapes.pop() if shapes else None
        self.lengths = np.array([0 if array is None else len(array) for array in arrays])
        self._starts = torch.from_numpy(np.cumsum(self.lengths) - self.lengths)
        self._values: Tensor | None = None
        if sum(array.nbytes for array in arrays if array is not None) <= resident_bytes and self.dim:
            joined = np.concatenate([array for array in arrays if array is not None])
            self._values = torch.from_numpy(joined)

    def gather(self, clips: np.ndarray, places: np.ndarray) -> Frames:
        """The features of those of a batch's clips (given by number) that stand at ``places``; they all have some."""
        clips = clips[places]
        lengths = torch.from_numpy(self.lengths[clips])
        steps = torch.arange(int(lengths.max()) if len(clips) else 0)
        mask = steps < lengths.unsqueeze(1)
        if self._values is None:
            values = torch.zeros(*mask.shape, self.dim or 0)
            for row, clip in zip(values, clips, strict=True):
                array = self._source[self._clip_ids[clip]]
                row[: len(array)] = torch.from_numpy(np.array(array))
        else:
            index = self._starts[clips].unsqueeze(1) + torch.minimum(steps, lengths.unsqueeze(1) - 1)
            values = self._values[index].float()
        return Frames(values, mask, torch.from_numpy(places))

    def moments(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of every dimension over all time steps of some clips, in float64.

        A dimension that does not vary has deviation 1. Without any clip: 0 and 1.
        """
        dim = self.dim or 0
        shift, total, squares, steps = None, np.zeros(dim), np.zeros(dim), 0
        clips = clips[self.lengths[clips] > 0]
        for start in range(0, len(clips), 32):
            frames = self.gather(clips, np.arange(start, min(start + 32, len(clips))))
            values = frames.values[frames.mask].numpy().astype(np.float64)  # (steps, dim)
            shift = values[0].copy() if shift is None else shift  # near the mean: keeps differences of squares exact
            values -= shift
            total += values.sum(0)
            squares += np.einsum("td,td->d", values, values)
            steps += len(values)
        if shift is None:
            return np.zeros(dim), np.ones(dim)
        mean = total / steps
        deviation = np.sqrt(np.maximum(squares / steps - mean**2, 0))
        constant = deviation <= 1e-5 * np.abs(mean + shift)
        return mean + shift, np.where(constant, 1.0, deviation)


class UnitData:
    """All that heads read of a list of units: clips, roles, features, metadata, labels.

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
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        self.units = list(units)
        clip_ids = list(dict.fromkeys(clip for unit in units for clip in unit.clip_ids))
        numbers = {clip_id: number for number, clip_id in enumerate(clip_ids)}
        self.unit_clips = [np.array([numbers[clip] for clip in unit.clip_ids]) for unit in units]
        rows = dict(zip(manifest.clips["clip_id"], range(len(manifest.clips)), strict=True))
        clip_rows = [rows[clip_id] for clip_id in clip_ids]
        roles = {role: number for number, role in enumerate(ROLES, start=1)}
        self.roles = np.array([roles.get(role, 0) for role in manifest.clips["role"][clip_rows]], dtype=np.int64)
        self.features = {name: Features(name, source, clip_ids, resident_bytes) for name, source in sources.items()}
        unit_rows = [rows[unit.unit_id] for unit in units]
        self.metadata = {
            field: [
                None if value is None else str(value)
                for value in manifest.clips[metadata_column(manifest, field, privileged)][unit_rows]
            ]
            for field in fields
        }
        class_numbers = {name: number for number, name in enumerate(manifest.classes)}
        self.labels = torch.tensor([class_numbers[unit.label] for unit in units], dtype=torch.int64)

    def clips_of(self, indices: np.ndarray) -> np.ndarray:
        """The numbers of all clips of some units, each once, sorted."""
        return np.unique(np.concatenate([self.unit_clips[i] for i in indices]))

    def metadata_ids(self, vocabularies: Mapping[str, Sequence[str]]) -> Tensor:
        """(units, fields): the place of each value in its vocabulary, from 1; 0 for none and for unseen ones."""
        columns = []
        for field, words in vocabularies.items():
            ids = {word: number for number, word in enumerate(words, start=1)}
            columns.append([ids.get(value, 0) if value is not None else 0 for value in self.metadata[field]])
        return torch.tensor(columns, dtype=torch.int64).reshape(len(columns), len(self.units)).T

    def batch(
        self,
        indices: np.ndarray,
        metadata_ids: Tensor,
        hide: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Batch:
        """Some units in one batch.

        Args:
            metadata_ids: what :meth:`metadata_ids` returned, for all units.
            hide: training's chance that a clip's modality is hidden, or that a metadata field becomes unknown, which
                also trains the embedding that unseen categories get.
            generator: where the chances are drawn from; needed with ``hide``.
        """
        clips = np.concatenate([self.unit_clips[i] for i in indices])
        lengths = torch.tensor([len(self.unit_clips[i]) for i in indices])
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
                name: features.gather(clips, np.flatnonzero(has[:, column].numpy()))
                for column, (name, features) in enumerate(self.features.items())
            },
            roles=torch.from_numpy(self.roles[clips]),
            mask=torch.arange(int(lengths.max())) < lengths.unsqueeze(1),
            metadata=ids,
            labels=self.labels[indices],
        )

    def costs(self) -> np.ndarray:
        """(units,) what a unit makes a batch pay for: the length of its longest clip, then its number of clips."""
        longest = sum(
            np.array([features.lengths[clips].max() for clips in self.unit_clips]) * (features.dim or 0)
            for features in self.features.values()
        )
        n_clips = np.array([len(clips) for clips in self.unit_clips])
        return longest * 1000 + n_clips


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


def bucketed(costs: np.ndarray, batch_size: int, generator: torch.Generator) -> Iterator[np.ndarray]:
    """Shuffled batches of like cost: positions 0 .. len(costs) - 1, each exactly once."""
    order = torch.randperm(len(costs), generator=generator).numpy()
    run = batch_size * BUCKET_BATCHES
    batches = []
    for start in range(0, len(order), run):
        part = order[start : start + run]
        part = part[np.argsort(costs[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    for i in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[i]


def draw_hidden(has: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Modality dropout: which of the modalities that clips have training hides, each with chance ``rate``.

    A clip never loses all that it has: where every draw says hide, one of them, at random, stays.

    Args:
        has: (clips, modalities) bool.
    Returns:
        bool, the same shape; True only where ``has`` is.
    """
    draws = torch.rand(has.shape, generator=generator)
    hidden = has & (draws < rate)
    spared = draws.masked_fill(~has, -1).argmax(1, keepdim=True) if has.shape[1] else draws.long()
    return hidden & ~((hidden == has).all(1, keepdim=True) & torch.zeros_like(has).scatter_(1, spared, True))
