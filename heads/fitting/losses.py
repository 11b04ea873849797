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
    """Mean loss of some units: of :func:`unit_losses`, each counted as its :func:`unit_weights`."""
    weights = unit_weights(labels, loss, class_weights)
    return (weights * unit_losses(logits, labels, loss, smoothing)).sum() / weights.sum()


def unit_losses(logits: Tensor, labels: Tensor, loss: Loss, smoothing: float = 0.0) -> Tensor:
    """(batch,) cross-entropy against targets of ``1 - smoothing`` on the label and ``smoothing`` spread evenly.

    ``focal``: each term is scaled by (1 - p)^gamma, Lin et al. 2017, eq. 4, so that what is already right counts
    little.

    Args:
        logits: (batch, classes).
        labels: (batch,) class numbers.
    """
    log_p = logits.log_softmax(dim=1)
    targets = torch.full_like(log_p, smoothing / logits.shape[1])
    targets.scatter_add_(1, labels.unsqueeze(1), torch.full_like(log_p[:, :1], 1 - smoothing))
    if loss == "focal":
        targets = targets * (1 - log_p.exp()) ** FOCAL_GAMMA
    return -(targets * log_p).sum(1)


def unit_weights(labels: Tensor, loss: Loss, class_weights: Tensor) -> Tensor:
    """(batch,) what a unit counts: its label's weight, of ``class_weights`` (classes,), with ``weighted``; else 1."""
    return class_weights[labels] if loss == "weighted" else torch.ones_like(labels, dtype=class_weights.dtype)


def inverse_frequency(labels: Tensor, n_classes: int) -> Tensor:
    """(classes,) the weight of each class: its frequency's inverse, 1 for balanced classes, capped."""
    counts = torch.bincount(labels, minlength=n_classes)
    return (len(labels) / (n_classes * counts.clamp(min=1))).clamp(max=LARGEST_CLASS_WEIGHT)


def log_frequency(labels: Tensor, n_classes: int) -> Tensor:
    """(classes,) log share of each class; a class that is not there counts as one unit.

    Logit adjustment, Menon et al. 2021 (arXiv:2007.07314), eq. 10: tau times this is added to logits in training alone,
    so that the logits themselves learn what minimises the balanced error.
    """
    counts = torch.bincount(labels, minlength=n_classes)
    return (counts.clamp(min=1) / len(labels)).log()
