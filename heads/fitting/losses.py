"""What training minimises."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from configs.schema import Head
from heads.data.augment import mixup
from heads.data.batches import Batch
from heads.data.sampling import class_weights
from heads.models.network import Network

FOCAL_GAMMA = 2.0  # Lin et al. 2017 (arXiv:1708.02002), their best value

Loss = Literal["cross_entropy", "weighted", "focal"]


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


def log_frequency(labels: Tensor, n_classes: int) -> Tensor:
    """(classes,) log share of each class; a class that is not there counts as one unit.

    Logit adjustment, Menon et al. 2021 (arXiv:2007.07314), eq. 10: tau times this is added to logits in training alone,
    so that the logits themselves learn what minimises the balanced error.
    """
    counts = torch.bincount(labels, minlength=n_classes)
    return (counts.clamp(min=1) / len(labels)).log()


class Objective:
    """What training minimises, summed over a batch: the head's loss, with logit adjustment and mixup where asked for.

    Class weights are those of the units as they are drawn: balanced sampling leaves nothing to weigh.
    """

    def __init__(self, head: Head, labels: Tensor, n_classes: int, device: torch.device) -> None:
        """
        Args:
            labels: (fitted units,).
        """
        self._head = head
        balanced = head.sampling == "balanced"
        weights = np.ones(n_classes) if balanced else class_weights(labels.numpy(), n_classes)
        self.class_weights = torch.from_numpy(weights).float().to(device)
        self._adjustment = (head.logit_adjustment * log_frequency(labels, n_classes)).to(device)

    def __call__(
        self,
        network: Network,
        batch: Batch,
        generator: torch.Generator,
        finer: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            finer: (batch,) finer labels, -1 for none; None where none are learned.
            start: (batch, classes) what the network's logits are added to.
        """
        vectors = network.representation(batch)
        start = vectors.new_zeros(1, 1).expand(len(vectors), 1) if start is None else start
        if not self._head.mixup:
            return self._sum(network, vectors, start, batch.labels, finer)
        vectors, partners, share = mixup(vectors, self._head.mixup, generator)
        start = share * start + (1 - share) * start[partners]
        own = self._sum(network, vectors, start, batch.labels, finer)
        theirs = None if finer is None else finer[partners]
        return share * own + (1 - share) * self._sum(network, vectors, start, batch.labels[partners], theirs)

    def _sum(self, network: Network, vectors: Tensor, start: Tensor, labels: Tensor, finer: Tensor | None) -> Tensor:
        weights = unit_weights(labels, self._head.loss, self.class_weights)
        if finer is None:
            return (weights * self._losses(start + network.classifier(vectors), labels)).sum()
        logits = network.classifier[:-1](vectors).float()  # of finer labels
        losses = self._losses(start + network.classifier[-1](logits), labels)
        theirs = cross_entropy(
            logits, finer, reduction="none", ignore_index=-1, label_smoothing=self._head.label_smoothing
        )
        losses = torch.where(finer < 0, losses, torch.lerp(losses, theirs, self._head.auxiliary_share))
        return (weights * losses).sum()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return unit_losses(logits.float() + self._adjustment, labels, self._head.loss, self._head.label_smoothing)
