"""A head's network trained without labels, once for each fold."""

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR

from configs import UserError
from configs.schema import Head, Pretraining
from extract.corpora.manifest import Unit
from heads.data.batches import bucketed
from heads.data.folds import FoldTask, Record
from heads.models.network import new_model, rate_at
from heads.pretraining.clips import Unlabelled
from heads.pretraining.objectives import Objectives

LARGEST_GRADIENT = 1.0
WARMUP = 0.1  # share of all steps in which the learning rate rises; then it falls as half a cosine


def pretrained_weights(
    head: Head,
    settings: Pretraining,
    unlabelled: Unlabelled,
    units: Sequence[Unit],
    folds: np.ndarray,
    seed: int,
    on_epoch: Callable[[Record], object] = lambda record: None,
) -> tuple[list[dict[str, Tensor]], list[Record]]:
    """What heads start from in each fold, and a record of every epoch. A transductive one, for all folds, is alone.

    Args:
        folds: (units,) the fold of each labelled unit, -1 outside train.
    Raises:
        UserError: a fold may see nothing; a loss that is not finite.
    """
    weights, history = [], []
    for fold in [None] if settings.transductive else list(range(int(folds.max()) + 1)):
        seen = unlabelled.seen_by(fold, units, folds)
        if not len(seen):
            raise UserError(f"fold {fold}: no clip is left to learn from without labels: make fewer folds")
        found, records = _fit(head, settings, unlabelled, seen, (seed * 1000 + (fold or 0)) % 2**32, on_epoch)
        weights.append(found)
        history += [{"fold": fold} | record for record in records]
    return weights, history


def _fit(
    head: Head,
    settings: Pretraining,
    unlabelled: Unlabelled,
    seen: np.ndarray,
    seed: int,
    on_epoch: Callable[[Record], object],
) -> tuple[dict[str, Tensor], list[Record]]:
    data = unlabelled.data
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        draws = torch.Generator().manual_seed(seed)
        bare = {"metadata": [], "speaker_identity": False, "auxiliary": None}
        task = FoldTask(
            head=head.model_copy(update=bare),
            data=data,
            labels=data.labels.numpy(),
            train=seen,
            inner=(),
            n_classes=1,
            seed=seed,
            groups=np.arange(len(data.units)),
        )
        model = new_model(task)
        objectives = Objectives(model.network, settings, unlabelled.several, unlabelled.conversing).to(model.device)
        objectives.train()
        parameters = [parameter for parameter in objectives.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)
        n_steps = settings.epochs * ceil(len(seen) / settings.batch_size)
        schedule = LambdaLR(optimiser, lambda step: rate_at(step, n_steps, WARMUP, "cosine"))
        ids, costs = data.metadata_ids({}), data.costs()[seen]
        history: list[Record] = []
        for epoch in range(settings.epochs):
            sums: dict[str, list[float]] = {}
            parts = [seen[part] for part in bucketed(costs, settings.batch_size, draws)]
            for batch in data.batches(parts, ids):
                losses = objectives(batch.to(model.device), draws)
                if losses:
                    sum(losses.values(), torch.zeros((), device=model.device)).backward()
                    clip_grad_norm_(parameters, LARGEST_GRADIENT)
                    optimiser.step()
                    optimiser.zero_grad()
                    schedule.step()
                for name, loss in losses.items():
                    sums.setdefault(name, []).append(float(loss.detach()))
            record = {"epoch": epoch, "pieces": len(seen)} | {name: float(np.mean(each)) for name, each in sums.items()}
            if not np.isfinite(list(record.values())).all():
                raise UserError(f"epoch {epoch} of a fold: the loss is not finite: set a lower lr under pretrain")
            history.append(record)
            on_epoch(record)
        return {name: value.detach().cpu().clone() for name, value in objectives.kept().items()}, history
