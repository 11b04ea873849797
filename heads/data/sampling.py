"""Which units an epoch sees, in which batches; and what a unit counts where classes are weighted."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from heads.data.batches import bucketed

LARGEST_CLASS_WEIGHT = 10.0


def class_weights(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """(classes,) float64: the inverse frequency of each class, 1 for balanced ones, capped.

    The cap is that of all kinds of heads: without it a handful of units decides as much as thousands. In drawn problems
    with classes of .2 to 1 % it changed a linear head's macro-F1 by -.016 to +.008, -.001 on average, and its accuracy
    by 0 to +.025.

    Args:
        labels: (units,) class numbers.
    """
    counts = np.bincount(labels, minlength=n_classes)
    shares = np.maximum(counts, 1) * (counts > 0).sum() / max(1, len(labels))  # of what a balanced class would have
    return np.minimum(1 / shares, LARGEST_CLASS_WEIGHT)


def epoch_batches(
    labels: Tensor,
    costs: np.ndarray,
    groups: np.ndarray,
    batch_size: int,
    sampling: Literal["shuffled", "balanced"],
    generator: torch.Generator,
) -> list[np.ndarray]:
    """One epoch's batches: positions among the units that ``labels``, ``costs`` and ``groups`` are of, (batch,) each.

    ``shuffled``: each unit once. ``balanced``: as many draws, see :func:`draw_balanced`.
    """
    if sampling == "shuffled":
        return bucketed(costs, batch_size, generator, groups)
    drawn = draw_balanced(labels, generator).numpy()
    return [drawn[places] for places in bucketed(costs[drawn], batch_size, generator, groups[drawn])]


def draw_balanced(labels: Tensor, generator: torch.Generator) -> Tensor:
    """As many positions as there are labels, drawn with replacement, each class that occurs equally often.

    Where the number does not divide, the classes that get one more are drawn, too.
    """
    classes = labels.unique()
    each, left = divmod(len(labels), len(classes))
    counts = torch.full((len(classes),), each)
    counts[torch.randperm(len(classes), generator=generator)[:left]] += 1
    drawn = []
    for name, count in zip(classes, counts.tolist(), strict=True):
        members = torch.nonzero(labels == name).squeeze(1)
        drawn.append(members[torch.randint(len(members), (count,), generator=generator)])
    return torch.cat(drawn)
