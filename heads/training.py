"""Training one fold of a sequence head."""

from math import cos, pi

import numpy as np
import torch
from sklearn.metrics import f1_score

from heads.batches import bucketed
from heads.folds import FoldTask, Record
from heads.losses import classification_loss, inverse_frequency
from heads.network import NetworkModel, new_model

WARMUP_SHARE = 0.1  # of all steps, the learning rate rises linearly; then it falls as a half cosine
LARGEST_GRADIENT = 1.0  # norm at which gradients are clipped


def fit_fold(task: FoldTask) -> tuple[NetworkModel, list[Record]]:
    """Train on the units ``fit``; stop early on the units ``watch`` and return the best epoch.

    Scalers, vocabularies and class weights come from ``fit`` alone. An epoch is better when its macro-F1 on ``watch``
    is higher, or equal with a lower loss. An empty ``watch`` means all epochs, and the last one.

    Returns:
        The model, in evaluation mode, and a record per epoch: train_loss, inner_loss, inner_macro_f1, lr, best.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        return _fit_fold(task, torch.Generator().manual_seed(task.seed))


def _fit_fold(task: FoldTask, generator: torch.Generator) -> tuple[NetworkModel, list[Record]]:
    data, head, fit, watch, n_classes = task.data, task.head, task.fit, task.watch, task.n_classes
    model = new_model(task)
    network, device = model.network, model.device
    ids = data.metadata_ids(model.vocabularies)
    class_weights = inverse_frequency(data.labels[fit], n_classes).to(device)
    costs = data.costs()[fit]

    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]  # biases, norms, missing vectors
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": head.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=head.lr,
        fused=True,
    )
    n_steps = head.epochs * -(-len(fit) // head.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_at(step, n_steps))

    history: list[Record] = []
    best_score, best_weights, best_epoch = (-1.0, -np.inf), network.state_dict(), 0
    for epoch in range(head.epochs):
        network.train()
        loss_sum = 0.0
        for positions in bucketed(costs, head.batch_size, generator):
            batch = data.batch(fit[positions], ids, head.modality_dropout, generator).to(device)
            loss = classification_loss(network(batch), batch.labels, head.loss, class_weights, head.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
            lr = schedule.get_last_lr()[0]
            optimiser.step()
            schedule.step()
            loss_sum += loss.item() * len(positions)
        record = {"epoch": epoch, "train_loss": loss_sum / len(fit), "lr": lr}

        if len(watch):
            log_p = torch.from_numpy(model.log_probabilities(data, watch)).float()
            labels = data.labels[watch]
            macro_f1 = float(f1_score(labels, log_p.argmax(1), average="macro", zero_division=0))
            inner_loss = float(classification_loss(log_p, labels, head.loss, class_weights.cpu()))
            record |= {"inner_loss": inner_loss, "inner_macro_f1": macro_f1}
            if (macro_f1, -inner_loss) > best_score:
                best_score, best_epoch = (macro_f1, -inner_loss), epoch
                best_weights = {name: value.clone() for name, value in network.state_dict().items()}
        else:
            best_weights, best_epoch = network.state_dict(), epoch
        history.append(record)
        task.on_epoch(record)
        if len(watch) and head.patience and epoch - best_epoch >= head.patience:
            break

    network.load_state_dict(best_weights)
    network.eval()
    for record in history:
        record["best"] = record["epoch"] == best_epoch
    return model, history


def rate_at(step: int, n_steps: int) -> float:
    """The learning rate at a step, as a share of its peak: linear warm-up, then half a cosine down to 0."""
    warmup = max(1, round(WARMUP_SHARE * n_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + cos(pi * (step - warmup) / max(1, n_steps - warmup)))
