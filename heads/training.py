"""Training one fold of a sequence head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from configs.schema import Head
from heads.batches import ROLES, UnitData, bucketed
from heads.losses import classification_loss, inverse_frequency
from heads.model import HeadSizes, ModalityEncoder, SequenceHead

WARMUP_SHARE = 0.1  # of all steps, the learning rate rises linearly; then it falls as a half cosine
LARGEST_GRADIENT = 1.0  # norm at which gradients are clipped
PREDICTION_BATCH = 64  # units


@dataclass(frozen=True)
class FoldModel:
    """A trained network and the vocabularies (training categories of each field, sorted) that feed it."""

    network: SequenceHead
    vocabularies: dict[str, list[str]]


def fit_fold(
    data: UnitData,
    fit: np.ndarray,
    watch: np.ndarray,
    head: Head,
    n_classes: int,
    seed: int,
    on_epoch: Callable[[dict[str, Any]], object] = lambda record: None,
) -> tuple[FoldModel, list[dict[str, Any]]]:
    """Train on the units ``fit``; stop early on the units ``watch`` and return the best epoch.

    Scalers, vocabularies and class weights come from ``fit`` alone. An epoch is better when its macro-F1 on ``watch``
    is higher, or equal with a lower loss. An empty ``watch`` means all epochs, and the last one.

    Returns:
        The model, in evaluation mode, and a record per epoch: train_loss, inner_loss, inner_macro_f1, lr, best.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _fit_fold(data, fit, watch, head, n_classes, torch.Generator().manual_seed(seed), on_epoch)


def _fit_fold(
    data: UnitData,
    fit: np.ndarray,
    watch: np.ndarray,
    head: Head,
    n_classes: int,
    generator: torch.Generator,
    on_epoch: Callable[[dict[str, Any]], object],
) -> tuple[FoldModel, list[dict[str, Any]]]:
    vocabularies = fit_vocabularies(data, fit)
    sizes = HeadSizes(
        classes=n_classes,
        dims={name: features.dim for name, features in data.features.items() if features.dim},
        roles=1 + len(ROLES),
        vocabularies={field: 1 + len(words) for field, words in vocabularies.items()},
        hidden=head.hidden,
        attention_heads=head.attention_heads,
        dropout=head.dropout,
    )
    device = default_device()
    network = SequenceHead(sizes).to(device)
    fit_scalers(network, data, fit)
    model = FoldModel(network, vocabularies)
    ids = data.metadata_ids(vocabularies)
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

    history: list[dict[str, Any]] = []
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
            log_p = torch.from_numpy(log_probabilities(model, data, watch)).float()
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
        on_epoch(record)
        if len(watch) and head.patience and epoch - best_epoch >= head.patience:
            break

    network.load_state_dict(best_weights)
    network.eval()
    for record in history:
        record["best"] = record["epoch"] == best_epoch
    return model, history


def default_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rate_at(step: int, n_steps: int) -> float:
    """The learning rate at a step, as a share of its peak: linear warm-up, then half a cosine down to 0."""
    warmup = max(1, round(WARMUP_SHARE * n_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + cos(pi * (step - warmup) / max(1, n_steps - warmup)))


def fit_vocabularies(data: UnitData, indices: np.ndarray) -> dict[str, list[str]]:
    """The categories of each metadata field among some units, sorted."""
    return {
        field: sorted({value for value in (values[i] for i in indices) if value is not None})
        for field, values in data.metadata.items()
    }


def fit_scalers(network: SequenceHead, data: UnitData, indices: np.ndarray) -> None:
    """Set the network's feature scalers to the mean and deviation over all clips of some units."""
    if not network.sizes.dims:
        return
    clips = data.clips_of(indices)
    for name, encoder in network.conversation.modalities.items():
        assert isinstance(encoder, ModalityEncoder)
        mean, deviation = data.features[name].moments(clips)
        encoder.mean.copy_(torch.from_numpy(mean))
        encoder.scale.copy_(torch.from_numpy(deviation))


@torch.inference_mode()
def log_probabilities(model: FoldModel, data: UnitData, indices: np.ndarray) -> np.ndarray:
    """Log-probabilities of some units, (units, classes) float64, without dropout."""
    model.network.eval()
    device = next(model.network.parameters()).device
    ids = data.metadata_ids(model.vocabularies)
    order = np.argsort(data.costs()[indices], kind="stable")  # like lengths together: little padding
    result = np.empty((len(indices), model.network.sizes.classes))
    for start in range(0, len(order), PREDICTION_BATCH):
        positions = order[start : start + PREDICTION_BATCH]
        logits: Tensor = model.network(data.batch(indices[positions], ids).to(device))
        result[positions] = logits.double().log_softmax(dim=1).cpu().numpy()
    return result


def average(log_p: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of several models' log-probabilities, each (units, classes), re-normalised."""
    mean = torch.from_numpy(np.mean(np.stack(log_p), axis=0))
    return mean.log_softmax(dim=1).numpy()
