"""What training minimises."""

from typing import Literal

import torch
from torch import Tensor

FOCAL_GAMMA = 2.0  # Lin et al. 2017 (arXiv:1708.02002), their best value
LARGEST_CLASS_WEIGHT = 10.0

Loss = Literal["cross_entropy", "weighted", "focal"]


def classification_loss(
    logits: Tensor, labels: Tensor, loss: Loss, class_weights: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Mean loss of a batch, against targets of ``1 - smoothing`` on the label and ``smoothing`` spread evenly.

    ``cross_entropy``: plain. ``weighted``: a unit counts as its label's weight. ``focal``: each term of the
    cross-entropy is scaled by (1 - p)^gamma, Lin et al. 2017, eq. 4, so that what is already right counts little.

    Args:
        logits: (batch, classes).
        labels: (batch,) class numbers.
        class_weights: (classes,), see :func:`inverse_frequency`; used by ``weighted`` alone.
    """
    log_p = logits.log_softmax(dim=1)
    targets = torch.full_like(log_p, smoothing / logits.shape[1])
    targets.scatter_add_(1, labels.unsqueeze(1), torch.full_like(log_p[:, :1], 1 - smoothing))
    if loss == "focal":
        targets = targets * (1 - log_p.exp()) ** FOCAL_GAMMA
    per_unit = -(targets * log_p).sum(1)
    weights = class_weights[labels] if loss == "weighted" else torch.ones_like(per_unit)
    return (weights * per_unit).sum() / weights.sum()


def inverse_frequency(labels: Tensor, n_classes: int) -> Tensor:
    """(classes,) the weight of each class: its frequency's inverse, 1 for balanced classes, capped."""
    counts = torch.bincount(labels, minlength=n_classes)
    return (len(labels) / (n_classes * counts.clamp(min=1))).clamp(max=LARGEST_CLASS_WEIGHT)
