"""What one encoder says of many clips: resident as one tensor where it fits, else read from its source by the batch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from configs import UserError
from heads.data.layers import layers_of
from heads.data.views import View, views_of

FREE_SHARE = 0.5  # of free memory that resident features may take
sharers = 1  # processes that fill their memory on this machine at once, this one included
UNKNOWN_FREE_BYTES = 8 * 2**30  # taken to be free where the system does not say
BLOCK_VALUES = 2**20  # how many numbers are read and summed up at a time: they stay in the processor's cache
MOMENT_VALUES = 2**28  # numbers that a mean and a deviation are taken over at most


class Source(Protocol):
    """What features are read from, ``(time, dim)`` each: a :class:`cache.Store`, a dict of live arrays, or
    :class:`heads.data.standardised.Centred`."""

    def __contains__(self, clip_id: object) -> bool: ...

    def __getitem__(self, clip_id: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Frames:
    """What one encoder says of the clips of a batch that have it."""

    values: Tensor  # (clips that have it, time, dim) float32; any finite number where the mask is False
    mask: Tensor  # (clips that have it, time)
    places: Tensor  # (clips that have it,) which of the batch's clips they are

    def to(self, device: torch.device) -> "Frames":
        return Frames(sent(self.values, device), sent(self.mask, device), sent(self.places, device))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. A GPU's queue is not waited for; what comes back from there is."""
    return tensor.to(device, non_blocking=tensor.device.type == "cpu")


def share_memory(n: int) -> None:
    """Let resident features of this process take an ``n``-th of the main memory that they would take alone."""
    global sharers
    sharers = n


class Features:
    """What one encoder says of a list of clips, which are known by their number in it.

    Behind the clips come those of one augmented view after another: what trains draws which is seen, see :meth:`drawn`.

    Attributes:
        dim: width of what is gathered; None where there is nothing of any clip.
        lengths: (clips, and of each view again,) time steps; 0 where there is nothing of a clip.
        n_views: how many augmented ones there are.
        layers: where the source is a store of several, what stands where; else none.
        n_bytes: what all of it takes.
    """

    def __init__(self, name: str, source: Source, clip_ids: Sequence[str], views: Sequence[View] = ()) -> None:
        self._name, self._sources, self._clip_ids = name, [source, *views], clip_ids
        self.n_views = len(views)
        self.layers = layers_of(getattr(source, "fields", {}))
        known = getattr(source, "lengths", None)
        if known is not None:  # a store, or one that is centred
            stored: Any = source
            self.lengths = np.array([known.get(clip_id, 0) for clip_id in clip_ids], dtype=np.int64)
            widths, dtype = {stored.dim}, stored.dtype
        else:
            arrays = [source[clip_id] for clip_id in clip_ids if clip_id in source]
            self.lengths = np.array([len(source[clip]) if clip in source else 0 for clip in clip_ids], dtype=np.int64)
            widths = {array.shape[1] for array in arrays}
            dtype = np.result_type(*{array.dtype for array in arrays}) if arrays else np.dtype(np.float32)
        if len(widths) > 1:
            raise UserError(f"{name}: its clips have different widths: {sorted(widths)}")
        self._n_clips = len(clip_ids)
        for view in views:
            known = view.lengths
            of_view = np.array([known.get(clip_id, 0) for clip_id in clip_ids], dtype=np.int64)
            self.lengths = np.append(self.lengths, of_view)
        self.dim: int | None = widths.pop() if widths and self.lengths.any() else None
        self._dtype = dtype
        self._values: Tensor | None = None
        self._place()

    def _place(self) -> None:
        """Note where each clip begins, on the device where the values are."""
        device = torch.device("cpu") if self._values is None else self._values.device
        self._lengths = torch.from_numpy(self.lengths).to(device)
        self._starts = self._lengths.cumsum(0) - self._lengths

    @property
    def n_bytes(self) -> int:
        return int(self.lengths.sum()) * (self.dim or 0) * self._dtype.itemsize

    @property
    def resident(self) -> bool:
        return self._values is not None or self.dim is None

    def load(self, device: torch.device) -> None:
        """Keep everything in one tensor on ``device``; it is read once."""
        if self._values is not None:
            values = self._values.to(device)
        else:
            values = torch.from_numpy(np.empty((0, self.dim or 0), self._dtype)).to(device)
            values = values.new_empty(int(self.lengths.sum()), self.dim or 0)
            start = 0
            for _, rows in self._blocks():
                values[start : start + len(rows)] = torch.from_numpy(rows)
                start += len(rows)
        self._values = values
        self._place()

    def summarise(self, n_parts: int) -> None:
        """Replace time steps by mean and deviation, (2 * dim,) float32, of at most ``n_parts`` parts of each clip.

        Step t of n belongs to part ``t * min(n_parts, n) // n``. Computed once, in float64; the result stays in memory.
        """
        counts = np.minimum(self.lengths, n_parts)
        values = torch.empty(int(counts.sum()), 2 * (self.dim or 0), dtype=torch.float32)
        start = 0
        for clips, rows in self._blocks():
            lengths, parts = torch.from_numpy(self.lengths[clips]), torch.from_numpy(counts[clips])
            clip = torch.arange(len(clips)).repeat_interleave(lengths)  # of each step
            step = torch.arange(len(rows)) - (lengths.cumsum(0) - lengths)[clip]
            part = (parts.cumsum(0) - parts)[clip] + step * parts[clip] // lengths[clip]
            sums = torch.zeros(int(parts.sum()), rows.shape[1], dtype=torch.float64)
            sizes = torch.bincount(part).unsqueeze(1)
            steps = torch.from_numpy(rows).double()
            mean = sums.index_add(0, part, steps) / sizes
            steps -= mean[part]
            deviation = (sums.index_add_(0, part, steps.square_()) / sizes).sqrt()
            values[start : start + len(mean)] = torch.cat([mean, deviation], dim=1)
            start += len(mean)
        self.lengths, self.dim, self._dtype = counts, self.dim and 2 * self.dim, np.dtype(np.float32)
        self._values = values
        self._place()

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Numbers of clips that have something, in order, and their time steps one after another, (steps, dim)."""
        clips = np.flatnonzero(self.lengths)
        block = np.cumsum(self.lengths[clips]) * (self.dim or 0) // BLOCK_VALUES
        with tqdm(total=len(clips), desc=f"reading {self._name}", unit="clip", disable=None, delay=2) as progress:
            for part in np.split(clips, np.flatnonzero(np.diff(block)) + 1):
                if len(part):
                    yield part, np.concatenate([self._read(clip) for clip in part])
                progress.update(len(part))

    def _read(self, number: int) -> np.ndarray:
        view, clip = divmod(int(number), self._n_clips)
        return self._sources[view][self._clip_ids[clip]]

    def drawn(self, clips: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """The numbers of one view of each of some clips: view 0, as the clips themselves have, where the one that was
        drawn has failed.

        Args:
            draws: (all clips,) 0 to 1: inputs with as many views see the same one.
        """
        numbers = clips + (draws[clips] * (1 + self.n_views)).astype(np.int64) * self._n_clips
        return np.where(self.lengths[numbers] > 0, numbers, clips)

    def gather(self, clips: np.ndarray, places: np.ndarray, draws: np.ndarray | None = None) -> Frames:
        """The features of those of a batch's clips (given by number) that stand at ``places``; they all have some.

        Args:
            draws: in training, by which one view of each clip is seen: :meth:`drawn`; default: view 0.
        """
        chosen = clips[places] if draws is None else self.drawn(clips[places], draws)
        longest = int(self.lengths[chosen].max(initial=0))
        device = self._lengths.device
        numbers = sent(torch.from_numpy(chosen), device)
        lengths = self._lengths[numbers].unsqueeze(1)
        steps = torch.arange(longest, device=device)
        mask = steps < lengths
        if self._values is None:
            values = torch.zeros(*mask.shape, self.dim or 0)
            for row, clip in zip(values, chosen, strict=True):
                array = np.array(self._read(clip))
                row[: len(array)] = torch.from_numpy(array)
                row[len(array) :] = row[len(array) - 1]
        else:
            index = self._starts[numbers].unsqueeze(1) + torch.minimum(steps, lengths - 1)
            values = self._values.index_select(0, index.flatten()).view(*mask.shape, self._values.shape[1]).float()
        return Frames(values, mask, sent(torch.from_numpy(places), device))

    def moments(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of every dimension over all time steps of some clips, in float64.

        A dimension that does not vary has deviation 1. Without any clip: 0 and 1. Of more than ``MOMENT_VALUES``
        numbers, every second, third ... clip stands for all.
        """
        dim = self.dim or 0
        clips = clips[self.lengths[clips] > 0]
        if not len(clips):
            return np.zeros(dim), np.ones(dim)
        clips = clips[:: -(-int(self.lengths[clips].sum()) * dim // MOMENT_VALUES)]
        shift, total, squares, n_steps = None, torch.zeros(()), torch.zeros(()), 0
        n_parts = min(len(clips), int(self.lengths[clips].sum()) * dim // BLOCK_VALUES + 1)
        for part in np.array_split(clips, n_parts):
            frames = self.gather(part, np.arange(len(part)))
            values = frames.values[frames.mask].double()  # (steps, dim)
            shift = values[0].clone() if shift is None else shift  # near the mean: keeps differences of squares exact
            values -= shift
            total = total.to(values.device) + values.sum(0)
            squares = squares.to(values.device) + values.square().sum(0)
            n_steps += len(values)
        assert shift is not None
        mean = (total / n_steps).cpu().numpy()
        deviation = np.sqrt(np.maximum((squares / n_steps).cpu().numpy() - mean**2, 0))
        mean_of_values = mean + shift.cpu().numpy()
        constant = deviation <= 1e-5 * np.abs(mean_of_values)
        return mean_of_values, np.where(constant, 1.0, deviation)


def load_features(
    sources: Mapping[str, Source],
    clip_ids: Sequence[str],
    statistics: int | None,
    resident_bytes: int | None,
    device: torch.device,
) -> dict[str, Features]:
    """Every source's features of some clips, in all views that it has; see :class:`heads.data.batches.UnitData` for the
    arguments.

    The smaller ones are made resident first. Features of other clips are never read.
    """
    seen = {name: views_of(source) for name, source in sources.items()}
    features = {name: Features(name, plain, clip_ids, views) for name, (plain, views) in seen.items()}
    free = {
        place: int(free_bytes(place) * FREE_SHARE / (sharers if place.type == "cpu" else 1))
        if resident_bytes is None
        else resident_bytes
        for place in dict.fromkeys([device, torch.device("cpu")])
    }
    for each in sorted(features.values(), key=lambda each: each.n_bytes):
        if each.dim is None:
            continue
        if statistics is not None:
            each.summarise(statistics)
        for place in free:
            if each.n_bytes <= free[place]:
                each.load(place)
                free[place] -= each.n_bytes
                break
    return features


def free_bytes(device: torch.device) -> int:
    """Memory that this process may still take, on a GPU or in main memory, within its container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return UNKNOWN_FREE_BYTES
    return min([free, *_left_in_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def _left_in_groups(own: Path, groups: Path) -> Iterator[int]:
    """Bytes that each control group which this process is in - a container, a job of a cluster - may still take.

    Args:
        own: the file that names the process's groups, a line each: ``0::PATH`` (version 2), ``4:memory:PATH`` (1).
        groups: where they are mounted.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:  # not Linux
        return
    for _, controllers, path in lines:
        if controllers == "":
            root, names, cache = groups, ("memory.max", "memory.current"), "file"
        elif "memory" in controllers.split(","):
            root, names, cache = groups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_cache"
        else:
            continue
        group = root / path.strip("/")
        for each in [group, *(parent for parent in group.parents if parent.is_relative_to(root))]:
            try:
                limit, used = (int((each / name).read_text()) for name in names)
                stated = dict(line.split() for line in (each / "memory.stat").read_text().splitlines())
                yield max(0, limit - used + int(stated[cache]))
            except (OSError, ValueError, KeyError):  # not seen from in here, or without a limit ("max")
                continue
