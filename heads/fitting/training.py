"""Training one fold of a network."""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from math import ceil
from typing import Any, cast

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from configs import UserError, one_line
from configs.schema import Head
from heads.data.augment import augment
from heads.data.features import sent
from heads.data.finer import finer_labels
from heads.data.folds import FoldTask, Record
from heads.data.sampling import epoch_batches
from heads.fitting.base import Base, Judge, fit_base
from heads.fitting.losses import Objective, unit_weights
from heads.fitting.progress_file import SECONDS_BETWEEN, read_state, write_state
from heads.models.network import Network, NetworkModel, new_model, rate_at

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def fit_fold(task: FoldTask) -> tuple[NetworkModel, list[Record]]:
    """Train a network; what the inner folds hold out decides when to stop, and how much of what it says counts.

    With ``base: linear`` it learns a correction of a linear head's answers: a share of it is added to them, and none
    where it does not clearly help. Where units are few, a network is trained for each inner fold, one epoch and share
    are chosen for all of them together, and one is then trained on all units for as long. Where they are many, or there
    is a val split, it stops early, and the best epoch's weights are returned. An epoch is better when the loss on what
    is held out is lower, as a mean over the last few epochs. With ``patience: 0`` it is the last one that counts.

    Scalers, vocabularies, class weights and frequencies come from what is fitted alone. With ``ema`` it is the weights'
    moving average that is watched and returned.

    Where units are many, a training that finds its own state in ``task.progress_file`` goes on from there, and ends
    with the same numbers.

    Returns:
        The model, in evaluation mode, and a record per epoch: train_loss, inner_loss, inner_macro_f1, lr, best (of
        several inner folds: means, and all that they hold out together), and the best one's share.
    Raises:
        UserError: float16 without a GPU; a loss that is not finite; with a base, training units of one class only.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        base = fit_base(task) if task.head.starts_linear else None
        return _chosen_on_folds(task, base) if len(task.inner) > 1 else _stopped_early(task, base)


def _chosen_on_folds(task: FoldTask, base: Base | None) -> tuple[NetworkModel, list[Record]]:
    n_epochs = task.head.epochs_for(len(task.train))
    runs = [Run(replace(task, train=fit, inner=((fit, held),)), base, n_epochs) for fit, held in task.inner]
    judge = Judge(task, base, np.concatenate([held for _, held in task.inner]))
    for logits in zip(*(run.epochs() for run in runs), strict=True):
        judge.see(np.concatenate(logits))
        if task.head.patience and judge.is_past_best(task.head.patience):
            break
    history = [
        {name: float(np.mean([record[name] for record in records])) for name in ("train_loss", "lr")} | {"epoch": epoch}
        for epoch, records in enumerate(zip(*(run.history for run in runs), strict=True))
    ]
    best = judge.best_epoch if task.head.patience else len(history) - 1
    final = Run(replace(task, inner=()), base, n_epochs)
    for _ in islice(final.epochs(), best + 1):
        pass
    return final.finished(judge, best), judge.marked(history, best)


def _stopped_early(task: FoldTask, base: Base | None) -> tuple[NetworkModel, list[Record]]:
    """With one inner fold, or none."""
    run = Run(task, base, task.head.epochs_for(len(task.train)))
    saved = read_state(task.progress_file, run.model.device)
    if saved is not None:
        try:
            run.load_state_dict(saved)
        except (KeyError, ValueError, RuntimeError) as error:  # of another version of this program
            reason = one_line(error)
            typer.echo(f"warning: {task.progress_file}: does not fit, and is not used ({reason})", err=True)
            run = Run(task, base, run.n_epochs)
    for record in run.history:
        task.on_epoch(record)
    judge = Judge(task, base, task.watch)
    for logits in run.seen:
        judge.see(logits)
    stops = len(task.watch) > 0 and task.head.patience > 0
    saved_at = time.monotonic()
    epochs = run.epochs()
    while not (stops and judge.is_past_best(task.head.patience)):
        if len(run.history) == run.n_epochs:
            break
        run.seen.append(next(epochs))
        logits = run.seen[-1]
        judge.see(logits)
        if stops and judge.best_epoch == len(run.history) - 1:
            run.best_weights = {name: value.clone() for name, value in run.evaluated.network.state_dict().items()}
        if task.progress_file is not None and time.monotonic() - saved_at >= SECONDS_BETWEEN:
            write_state(task.progress_file, run.state_dict())
            saved_at = time.monotonic()
    best = judge.best_epoch if stops else len(run.history) - 1
    if stops:
        run.evaluated.network.load_state_dict(run.best_weights)
    return run.finished(judge, best), judge.marked(run.history, best)


class Run:
    """All of a training that changes while it goes on. Making one seeds torch's global random state."""

    def __init__(self, task: FoldTask, base: Base | None, n_epochs: int) -> None:
        head = task.head
        torch.manual_seed(task.seed)
        self.task, self.base, self.n_epochs = task, base, n_epochs
        self.draws = torch.Generator().manual_seed(task.seed)
        self.model = new_model(task)
        self.network = self.model.network
        if base is not None:  # a correction starts at nothing
            start_at_nothing(self.network)
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
        self.seen: list[np.ndarray] = []  # of each epoch: logits of what is held out
        self.best_weights: dict[str, Tensor] = {}

    def epochs(self) -> Iterator[np.ndarray]:
        """Train on; after each epoch, the network's logits of what is held out, (held, classes)."""
        task, head, data, fit = self.task, self.task.head, self.task.data, self.task.fit
        device = self.model.device
        ids = data.metadata_ids(self.model.vocabularies)
        labels, costs, groups = data.labels[fit], data.costs()[fit], data.groups[fit]
        objective = Objective(head, labels, task.n_classes, device)
        finer_of = finer_labels(task)
        finer = None if finer_of is None else finer_of.ids[fit]
        start = None if self.base is None else torch.from_numpy(self.base.log_p[fit])
        counts = unit_weights(labels, head.loss, objective.class_weights.cpu())
        deviations = _deviations(task, device) if head.noise else {}
        autocast = torch.autocast(device.type, PRECISIONS[head.precision], enabled=head.precision != "float32")
        step_size = head.batch_size * head.accumulate
        n_steps = self.n_epochs * ceil(len(fit) / step_size)
        while len(self.history) < self.n_epochs:
            self.network.train()
            loss_sum = torch.zeros((), device=device)
            weight_sum = 0.0
            steps = epoch_batches(labels, costs, groups, step_size, head.sampling, self.draws)
            parts = [[step[i : i + head.batch_size] for i in range(0, len(step), head.batch_size)] for step in steps]
            order = [fit[part] for step in parts for part in step]
            views = data.draw_views(task.seed, len(self.history))  # by the epoch alone: a killed training goes on alike
            batches = data.batches(order, ids, head.modality_dropout, self.draws, views)
            for step in parts:
                rate = rate_at(self.step, n_steps, head.warmup, head.schedule)
                for group in self.optimiser.param_groups:
                    group["lr"] = group["peak"] * rate
                weight = float(sum(counts[part].sum() for part in step))
                for part, batch in zip(step, islice(batches, len(step)), strict=True):
                    augmented = augment(batch.to(device), head, deviations, self.draws)
                    known = [None if each is None else sent(each[part], device) for each in (finer, start)]
                    with autocast:
                        loss = objective(self.network, augmented, self.draws, *known)
                    self.scaler.scale(loss / weight).backward()
                    loss_sum += loss.detach()
                self.scaler.unscale_(self.optimiser)
                clip_grad_norm_(self.network.parameters(), head.largest_gradient)
                self.scaler.step(self.optimiser)
                self.scaler.update()
                self.optimiser.zero_grad()
                if self.average is not None:
                    self.average.update_parameters(self.network)
                weight_sum += weight
                self.step += 1

            epoch = len(self.history)
            record = {"epoch": epoch, "train_loss": float(loss_sum) / weight_sum, "lr": head.lr * rate}
            if not np.isfinite(record["train_loss"]):
                raise UserError(f"epoch {epoch} of a fold: the loss is not finite: set a lower lr or largest_gradient")
            self.history.append(record)
            task.on_epoch(record)
            with autocast:
                logits = self.evaluated.logits(data, task.watch).astype(np.float32)
            yield logits

    def finished(self, judge: Judge, epoch: int) -> NetworkModel:
        """The model that predicts, in evaluation mode."""
        self.network.load_state_dict(self.evaluated.network.state_dict())
        self.network.eval()
        base = None if self.base is None else self.base.model
        return replace(self.model, base=base, share=judge.share(epoch))

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
            "seen": [torch.from_numpy(logits) for logits in self.seen],
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
        self.seen = [logits.cpu().numpy() for logits in state["seen"]]
        self.best_weights = state["best_weights"]


def start_at_nothing(network: Network) -> None:
    """Let it give every class the same logit."""
    last: Any = network.classifier[3]
    nn.init.zeros_(last.weight)
    finer = torch.tensor(network.sizes.finer)
    counts = torch.bincount(finer)[finer] if len(finer) else torch.ones(len(last.bias))
    with torch.no_grad():
        last.bias.copy_(-counts.log())  # a class is as likely as its finer labels together


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


def _deviations(task: FoldTask, device: torch.device) -> dict[str, Tensor]:
    """For each input, (dim,) float32: the standard deviation of each dimension over the fitted units."""
    clips = task.data.clips_of(task.fit)
    return {
        name: torch.from_numpy(features.moments(clips)[1]).float().to(device)
        for name, features in task.data.features.items()
    }
