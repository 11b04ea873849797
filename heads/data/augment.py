"""What training alone does to its batches, so that a head does not learn them by heart. Modality dropout is drawn where
a batch is made: ``UnitData.batch``."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from configs.schema import Head
from heads.data.batches import Batch, Frames
from heads.data.features import sent


def augment(batch: Batch, head: Head, deviations: Mapping[str, Tensor], generator: torch.Generator) -> Batch:
    """A batch with time masking and noise, as far as the head's settings ask for them.

    Args:
        deviations: for each input, (dim,) the standard deviation of each dimension over the fitted units.
    """
    frames = dict(batch.frames)
    for name in frames:
        if head.time_masking and len(frames[name].places):
            frames[name] = mask_time(frames[name], head.time_masking, generator)
        if head.noise:
            values = frames[name].values
            noise = torch.randn_like(values) * (head.noise * deviations[name])
            frames[name] = replace(frames[name], values=values + noise)
    return replace(batch, frames=frames)


def mask_time(frames: Frames, largest: float, generator: torch.Generator) -> Frames:
    """Hide a run of time steps of each clip: a share of its own steps between 0 and ``largest``, but never all of them.

    SpecAugment's time masking, Park et al. 2019 (arXiv:1904.08779), on features. What is left moves together, so that
    a mask stays True up to a clip's end and False behind it, as recurrent networks need it.
    """
    mask = frames.mask
    lengths = mask.sum(1, keepdim=True)  # (clips, 1)
    share, place = sent(torch.rand(2, len(mask), 1, generator=generator), mask.device)
    hidden = (share * largest * (lengths + 1)).long().clamp(max=(lengths - 1).clamp(min=0))
    start = (place * (lengths - hidden + 1)).long()
    steps = torch.arange(mask.shape[1], device=mask.device)
    kept = mask & ~((steps >= start) & (steps < start + hidden))
    order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)
    values = frames.values.gather(1, order.unsqueeze(2).expand(-1, -1, frames.values.shape[2]))
    return replace(frames, values=values, mask=kept.gather(1, order))


def mixup(vectors: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Each unit's vector mixed with that of another one of its batch.

    Mixup, Zhang et al. 2018 (arXiv:1710.09412), of what enters the classifier, as in manifold mixup, Verma et al. 2019
    (arXiv:1806.05236): conversations of different lengths, with different clips missing, have no mean of their inputs.

    Args:
        vectors: (batch, width).
    Returns:
        The mixed vectors; (batch,) each unit's partner; how much of a unit is itself, drawn from Beta(alpha, alpha):
        its loss is this share of the loss against its own label, and the rest against its partner's.
    """
    share = torch.distributions.Beta(alpha, alpha).sample().to(vectors)
    partners = sent(torch.randperm(len(vectors), generator=generator), vectors.device)
    return share * vectors + (1 - share) * vectors[partners], partners, share
