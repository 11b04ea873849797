"""Training one fold of a network."""

import time
from dataclasses import replace
from itertools import islice
from math import ceil, cos, pi
from typing import Any, Literal, cast

import numpy as np
import torch
import typer
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from configs import UserError, one_line
from configs.schema import Head
from heads.data.augment import augment, mixup
from heads.data.batches import Batch
from heads.data.features import sent
from heads.data.finer import finer_labels
from heads.data.folds import FoldTask, Record
from heads.data.sampling import epoch_batches
from heads.fitting.losses import classification_loss, inverse_frequency, log_frequency, unit_losses, unit_weights
from heads.fitting.progress_file import SECONDS_BETWEEN, read_state, write_state
from heads.models.network import Network, NetworkModel, new_model

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def fit_fold(task: FoldTask) -> tuple[NetworkModel, list[Record]]:
    """Train on the units ``fit``; stop early on the units ``watch`` and return the best epoch.

    Scalers, vocabularies, class weights and frequencies come from ``fit`` alone. An epoch is better when its macro-F1
    on ``watch`` is higher, or equal with a lower loss. An empty ``watch`` means all epochs, and the last one. With
    ``ema`` it is the weights' moving average that is watched and returned.

    A training that finds its own state in ``task.progress_file`` goes on from there, and ends with the same numbers.

    Returns:
        The model, in evaluation mode, and a record per epoch: train_loss, inner_loss, inner_macro_f1, lr, best.
    Raises:
        UserError: float16 without a GPU; a loss that is not finite.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        run = Run(task)
        saved = read_state(task.progress_file, run.model.device)
        if saved is not None:
            try:
                run.load_state_dict(saved)
            except (KeyError, ValueError, RuntimeError) as error:  # of another version of this program
                reason = one_line(error)
                typer.echo(f"warning: {task.progress_file}: does not fit, and is not used ({reason})", err=True)
                run = Run(task)
        return _fit(task, run)


def _fit(task: FoldTask, run: "Run") -> tuple[NetworkModel, list[Record]]:
    head, data, fit, watch = task.head, task.data, task.fit, task.watch
    network, device, optimiser, scaler, generator = run.network, run.model.device, run.optimiser, run.scaler, run.draws
    ids = data.metadata_ids(run.model.vocabularies)
    labels, costs, groups = data.labels[fit], data.costs()[fit], data.groups[fit]
    objective = Objective(head, labels, task.n_classes, device)
    finer_of = finer_labels(task)
    finer = None if finer_of is None else finer_of.ids[fit]
    counts = unit_weights(labels, head.loss, objective.class_weights.cpu())
    deviations = _deviations(task, device) if head.noise else {}
    autocast = torch.autocast(device.type, PRECISIONS[head.precision], enabled=head.precision != "float32")
    step_size = head.batch_size * head.accumulate
    n_steps = head.epochs * ceil(len(fit) / step_size)
    saved_at = time.monotonic()

    for record in run.history:
        task.on_epoch(record)
    for epoch in range(len(run.history), head.epochs):
        if len(watch) and head.patience and epoch - 1 - run.best_epoch >= head.patience:
            break
        network.train()
        loss_sum = torch.zeros((), device=device)
        weight_sum = 0.0
        steps = epoch_batches(labels, costs, groups, step_size, head.sampling, generator)
        parts = [[step[i : i + head.batch_size] for i in range(0, len(step), head.batch_size)] for step in steps]
        batches = data.batches([fit[part] for step in parts for part in step], ids, head.modality_dropout, generator)
        for step in parts:
            rate = rate_at(run.step, n_steps, head.warmup, head.schedule)
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * rate
            weight = float(sum(counts[part].sum() for part in step))
            for part, batch in zip(step, islice(batches, len(step)), strict=True):
                augmented = augment(batch.to(device), head, deviations, generator)
                with autocast:
                    loss = objective(
                        network, augmented, generator, None if finer is None else sent(finer[part], device)
                    )
                scaler.scale(loss / weight).backward()
                loss_sum += loss.detach()
            scaler.unscale_(optimiser)
            clip_grad_norm_(network.parameters(), head.largest_gradient)
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad()
            if run.average is not None:
                run.average.update_parameters(network)
            weight_sum += weight
            run.step += 1

        record = {"epoch": epoch, "train_loss": float(loss_sum) / weight_sum, "lr": head.lr * rate}
        if not np.isfinite(record["train_loss"]):
            raise UserError(f"epoch {epoch} of a fold: the loss is not finite: set a lower lr or largest_gradient")
        if len(watch):
            with autocast:
                log_p = torch.from_numpy(run.evaluated.log_probabilities(data, watch)).float()
            macro_f1 = float(f1_score(data.labels[watch], log_p.argmax(1), average="macro", zero_division=0))
            inner_loss = float(classification_loss(log_p, data.labels[watch], head.loss, objective.class_weights.cpu()))
            record |= {"inner_loss": inner_loss, "inner_macro_f1": macro_f1}
            run.note_score(epoch, (macro_f1, -inner_loss))
        run.history.append(record)
        task.on_epoch(record)
        if task.progress_file is not None and time.monotonic() - saved_at >= SECONDS_BETWEEN:
            write_state(task.progress_file, run.state_dict())
            saved_at = time.monotonic()

    best_epoch = run.best_epoch if len(watch) else len(run.history) - 1
    network.load_state_dict(run.best_weights if len(watch) else run.evaluated.network.state_dict())
    network.eval()
    return run.model, [record | {"best": record["epoch"] == best_epoch} for record in run.history]


class Run:
    """All of a training that changes while it goes on. Making one seeds torch's global random state."""

    def __init__(self, task: FoldTask) -> None:
        head = task.head
        torch.manual_seed(task.seed)
        self.draws = torch.Generator().manual_seed(task.seed)
        self.model = new_model(task)
        self.network = self.model.network
        if head.precision == "float16" and self.model.device.type == "cpu":
            raise UserError("precision: float16 needs a GPU: set bfloat16 or float32")
        self.optimiser = torch.optim.AdamW(parameter_groups(self.network, head), fused=True)
        self.scaler = torch.amp.GradScaler(self.model.device.type, enabled=head.precision == "float16")
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(head.ema)) if head.ema else None
        self.evaluated = self.model
        if self.average:
            self.evaluated = replace(self.model, network=cast(Network, self.average.module))
        self.step = 0
        self.history: list[Record] = []
        self.best_score, self.best_epoch = (-1.0, -np.inf), 0
        self.best_weights: dict[str, Tensor] = {}

    def note_score(self, epoch: int, score: tuple[float, float]) -> None:
        """Keep the weights of an epoch whose score is better than all before."""
        if score > self.best_score:
            self.best_score, self.best_epoch = score, epoch
            weights = self.evaluated.network.state_dict()
            self.best_weights = {name: value.clone() for name, value in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "draws": self.draws.get_state(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "step": self.step,
            "history": self.history,
            "best_score": list(self.best_score),
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises KeyError, ValueError or RuntimeError for what another training left."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.draws.set_state(state["draws"].cpu())
        torch.set_rng_state(state["random"].cpu())
        if state["cuda_random"] is not None:
            torch.cuda.set_rng_state(state["cuda_random"].cpu())
        self.step, self.history = state["step"], state["history"]
        self.best_score, self.best_epoch = tuple(state["best_score"]), state["best_epoch"]
        self.best_weights = state["best_weights"]


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
        self.class_weights = (torch.ones(n_classes) if balanced else inverse_frequency(labels, n_classes)).to(device)
        self._adjustment = (head.logit_adjustment * log_frequency(labels, n_classes)).to(device)

    def __call__(
        self, network: Network, batch: Batch, generator: torch.Generator, finer: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            finer: (batch,) finer labels, -1 for none; None where none are learned.
        """
        vectors = network.representation(batch)
        if not self._head.mixup:
            return self._sum(network, vectors, batch.labels, finer)
        vectors, partners, share = mixup(vectors, self._head.mixup, generator)
        own = self._sum(network, vectors, batch.labels, finer)
        others = self._sum(network, vectors, batch.labels[partners], None if finer is None else finer[partners])
        return share * own + (1 - share) * others

    def _sum(self, network: Network, vectors: Tensor, labels: Tensor, finer: Tensor | None) -> Tensor:
        weights = unit_weights(labels, self._head.loss, self.class_weights)
        if finer is None:
            return (weights * self._losses(network.classifier(vectors), labels)).sum()
        logits = network.classifier[:-1](vectors).float()  # of finer labels
        losses = self._losses(network.classifier[-1](logits), labels)
        theirs = cross_entropy(
            logits, finer, reduction="none", ignore_index=-1, label_smoothing=self._head.label_smoothing
        )
        losses = torch.where(finer < 0, losses, torch.lerp(losses, theirs, self._head.auxiliary_share))
        return (weights * losses).sum()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return unit_losses(logits.float() + self._adjustment, labels, self._head.loss, self._head.label_smoothing)


def parameter_groups(network: nn.Module, head: Head) -> list[dict[str, Any]]:
    """AdamW's groups, each with its own peak learning rate: of what is trained, the head's own parameters and tails.

    A tail's last layer learns at its ``lr``, each layer below ``lr_decay`` times slower than the one above (Howard and
    Ruder 2018, arXiv:1801.06146, section 3.2). Biases, norms, embeddings and vectors for what is missing do not decay.
    """
    rates: dict[Tensor, float] = {}
    plain: set[Tensor] = {parameter for parameter in network.parameters() if parameter.ndim <= 1}
    for name, module in network.named_modules():
        if isinstance(module, nn.Embedding):
            plain.add(module.weight)
        if name.rpartition(".")[2] == "tail":
            tail: Any = module
            settings = tail.about["settings"]
            rates |= dict.fromkeys(tail.parameters(), settings["lr"])
            for depth, layer in enumerate(reversed(tail.layers)):
                rates |= dict.fromkeys(layer.parameters(), settings["lr"] * settings["lr_decay"] ** depth)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = parameter not in plain and not name.endswith("missing")
            groups.setdefault((rates.get(parameter, head.lr), decays), []).append(parameter)
    return [
        {"params": parameters, "peak": rate, "lr": rate, "weight_decay": head.weight_decay if decays else 0.0}
        for (rate, decays), parameters in groups.items()
    ]


def rate_at(step: int, n_steps: int, warmup: float, schedule: Literal["cosine", "linear", "constant"]) -> float:
    """The learning rate at a step, as a share of its peak.

    It rises linearly in the first ``warmup`` of all steps; then it falls to 0 as half a cosine or as a line, or stays.
    """
    rising = round(warmup * n_steps)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, n_steps - rising)
    return {"cosine": 0.5 * (1 + cos(pi * done)), "linear": 1 - done, "constant": 1.0}[schedule]


def _deviations(task: FoldTask, device: torch.device) -> dict[str, Tensor]:
    """For each input, (dim,) float32: the standard deviation of each dimension over the fitted units."""
    clips = task.data.clips_of(task.fit)
    return {
        name: torch.from_numpy(features.moments(clips)[1]).float().to(device)
        for name, features in task.data.features.items()
    }
