"""The linear head: logistic regression on what :mod:`heads.models.columns` makes of units.

What is read - the labelled clip alone, beside what its speaker said before, or averaged with it; deviations over time
or none; how much each input counts - and how strongly it is drawn to zero are chosen on inner folds, the plainest among
equals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from safetensors.numpy import save as serialised
from scipy.linalg import eigh
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController

from configs import UserError
from heads.data.folds import FoldTask, Record
from heads.data.layers import Layer, lacks_layer, layers_of
from heads.data.sampling import class_weights
from heads.metrics.choosing import is_sure, judged, some
from heads.models.columns import DEVIATION, VIEWS, Block, Scaler, matrix, names_of, scalers, selected
from heads.models.pooled import BEFORE, OWN, UnitRows

CS = (0.001, 0.01, 0.1, 1.0)
DEFAULT_C = 0.01  # where there is nothing to choose it by
WEIGHTS = (0.0, 0.25, 0.5)  # at which an input is tried, beside 1
SMALLEST_PROBABILITY = 1e-6  # of a class that a fold's training part lacks


@dataclass(frozen=True)
class Choice:
    """What a linear model reads, and how strongly it is drawn to zero."""

    view: str  # one of heads.models.columns.VIEWS
    deviations: bool
    weights: dict[str, float]  # of each input and field
    c: float  # inverse regularisation
    layers: dict[str, int] = field(default_factory=dict)  # of inputs whose store has several, the one that is read

    @property
    def said(self) -> str:
        """In a few words."""
        turned = [f"{name} x {weight:g}" for name, weight in self.weights.items() if weight != 1]
        of_layer = [f"{name} layer {number}" for name, number in self.layers.items()]
        return ", ".join([self.view, "means and deviations" if self.deviations else "means", *of_layer, *turned])


@dataclass(frozen=True)
class LinearModel:
    """Logits of units: of each block the columns times their weights, summed up."""

    choice: Choice
    scalers: tuple[Scaler, ...]
    weights: np.ndarray  # (columns of all blocks, fitted classes) float32
    intercepts: np.ndarray  # (fitted classes,) float32
    classes: list[int]  # those that were fitted
    n_classes: int

    @property
    def layers(self) -> dict[str, dict[int, float]]:
        """Input whose store has several layers: the one that is read, at the weight 1."""
        return {name: {number: 1.0} for name, number in self.choice.layers.items()}

    def log_probabilities(self, data: UnitRows, indices: np.ndarray) -> np.ndarray:
        """Log-probabilities, (units, classes) float64; a class never seen in training gets a tiny probability."""
        blocks = {scaler.block: scaler for scaler in self.scalers}
        x = matrix(blocks, dict.fromkeys(blocks, 1.0), data, indices)
        return spread(_softmax(x @ self.weights + self.intercepts), np.array(self.classes), self.n_classes)

    def save(self, folder: Path, stem: str) -> dict[str, Any]:
        arrays = {"weights": self.weights, "intercepts": self.intercepts}
        for number, scaler in enumerate(self.scalers):
            arrays |= {f"mean{number}": scaler.mean, f"scale{number}": scaler.scale}
        (folder / f"{stem}.safetensors").write_bytes(serialised(arrays))
        blocks = [{"block": each.block, "words": each.words, "span": each.span} for each in self.scalers]
        about = {"file": f"{stem}.safetensors", "blocks": blocks, "choice": asdict(self.choice)}
        vocabularies = {scaler.block[0]: list(scaler.words) for scaler in self.scalers if scaler.words}
        return about | {"vocabularies": vocabularies, "classes": self.classes, "n_classes": self.n_classes}


def load_fold(folder: Path, about: dict[str, Any]) -> LinearModel:
    """What :meth:`LinearModel.save` wrote."""
    arrays = load_file(folder / about["file"])
    found = tuple(
        Scaler(
            tuple(each["block"]),
            arrays[f"mean{number}"],
            arrays[f"scale{number}"],
            tuple(each["words"]),
            tuple(each["span"]) if each.get("span") else None,  # heads from before there were layers have none
        )
        for number, each in enumerate(about["blocks"])
    )
    choice = Choice(**about["choice"])
    return LinearModel(choice, found, arrays["weights"], arrays["intercepts"], about["classes"], about["n_classes"])


def spread(p: np.ndarray, classes: np.ndarray, n_classes: int) -> np.ndarray:
    """Log-probabilities over all classes, (units, n_classes) float64, from probabilities of those that were fitted.

    Args:
        p: (units, fitted classes).
        classes: their numbers, in the order of the columns.
    """
    full = np.zeros((len(p), n_classes))
    full[:, classes] = p
    full = np.maximum(full, SMALLEST_PROBABILITY)
    return np.log(full / full.sum(1, keepdims=True))


def fit_fold(task: FoldTask) -> tuple[LinearModel, list[Record]]:
    """Choose on the task's inner folds, then fit on the units ``train``.

    A head's own ``c``, and ``deviations`` and ``layer`` where it says so, are not chosen. ``task.data`` are
    :class:`UnitRows`.

    Returns:
        The model, and a record per C of what was chosen: c, inner_loss, inner_macro_f1, best, and ``read`` in words.
    Raises:
        UserError: the training units of a fold are of one class only; a layer that a store lacks.
    """
    layers = choose_layers(task)
    known = scalers(task.data, task.train, layers)
    choice, history = choose(task, known, layers)
    return fit(task, known, choice, task.train), history


def choose_layers(task: FoldTask) -> dict[str, Layer]:
    """Of each input whose store has several layers the one that the head names, or that does best, by itself, on the
    inner folds: the lowest of equals."""
    found: dict[str, Layer] = {}
    for name, fields in task.stored.items():
        layers, wanted = layers_of(fields), task.head.layer
        if not layers or name not in task.data.own:
            continue
        if isinstance(wanted, int):
            if wanted not in (each.number for each in layers):
                raise UserError(lacks_layer(name, layers, wanted))
            found[name] = next(each for each in layers if each.number == wanted)
        elif not task.inner:
            raise UserError(f"layer: best: too few training units to choose the layer of {name} by: name one")
        else:
            found[name] = min(layers, key=lambda layer: _loss_of_layer(task, name, layer))
    return found


def _loss_of_layer(task: FoldTask, name: str, layer: Layer) -> float:
    """Of what is held out on the inner folds, as what else there is to choose is chosen."""
    rows: UnitRows = task.data
    alone = replace(task, data=rows.only(name))
    known = scalers(alone.data, task.train, {name: layer})
    if not known:
        return np.inf
    _, history = choose(alone, known, {})
    return min(float(record["inner_loss"]) for record in history if record["best"])


def choose(task: FoldTask, known: Mapping[Block, Scaler], layers: Mapping[str, Layer]) -> tuple[Choice, list[Record]]:
    """The choice that does best on the inner folds; and a record per C of it.

    What is read is chosen at the plain C, means alone; another C, and deviations, must then show that they are better:
    where units are few, the best of many is no better than the plain one.
    """
    head = task.head
    deviations = any(statistic == DEVIATION for _, _, statistic in known) and head.deviations is not False
    several = any(view == BEFORE for _, view, _ in known)
    names = names_of(known)
    plain = dict.fromkeys(names, 1.0)
    numbers = {name: layer.number for name, layer in layers.items()}
    cs = CS if head.c is None else (head.c,)
    if not task.inner:
        choice = Choice("apart" if several else OWN, deviations, plain, head.c or DEFAULT_C, numbers)
        return choice, [{"c": choice.c, "best": True, "read": choice.said}]
    tried: dict[tuple[str, int], list[Trial]] = {}

    def trials(choice: Choice, cs: Sequence[float]) -> list[Trial]:
        """Of each C."""
        if (choice.said, len(cs)) not in tried:
            tried[choice.said, len(cs)] = _tried(task, known, choice, cs)
        return tried[choice.said, len(cs)]

    def loss(choice: Choice) -> float:
        """At the plain C; fits at smaller ones give this one its start."""
        return trials(choice, cs[: cs.index(choice.c) + 1])[-1].loss

    def best_of(choices: Sequence[Choice]) -> Choice:
        """The first of equals."""
        return choices[0] if len(choices) == 1 else min(choices, key=loss)

    first = head.deviations is True and deviations
    views = list(VIEWS) if several else [OWN]
    read = best_of([Choice(view, first, plain, head.c or DEFAULT_C, numbers) for view in views])
    for name in names if len(names) > 1 else []:  # what leaves something out needs no proof
        turned = [replace(read, weights=read.weights | {name: weight}) for weight in WEIGHTS]
        read = best_of([read, *(choice for choice in turned if any(choice.weights.values()))])
    depths = [False, True] if deviations and head.deviations is None else [first]
    of_depth = {deep: trials(replace(read, deviations=deep), cs) for deep in depths}
    every = [trial for each in of_depth.values() for trial in each]
    best, plainest = min(every, key=lambda trial: trial.loss), next(trial for trial in every if trial.choice == read)
    held = np.concatenate([part for _, part in task.inner])
    chosen = best.choice if is_sure(plainest.losses - best.losses, task.groups[held]) else read
    return chosen, [each.record | {"best": each.choice == chosen} for each in of_depth[chosen.deviations]]


@dataclass(frozen=True)
class Trial:
    """How a choice does on what the inner folds hold out: a loss for each unit, as the head weighs classes.

    The loss decides: scores that count right answers follow noise where units are few.
    """

    choice: Choice
    losses: np.ndarray  # (held,)
    record: Record

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


def _tried(task: FoldTask, known: Mapping[Block, Scaler], choice: Choice, cs: Sequence[float]) -> list[Trial]:
    held = np.concatenate([part for _, part in task.inner])
    parts = [_fitted(task, known, choice, cs, some(fit_part, task.seed), part) for fit_part, part in task.inner]
    labels, counts = task.labels[held], np.ones(len(held))
    if task.head.loss == "weighted":
        counts = class_weights(task.labels[task.train], task.n_classes)[labels]
        counts /= counts.mean()
    found = []
    for i, c in enumerate(cs):
        log_p = np.concatenate([of_part[i] for of_part in parts])
        losses = -counts * log_p[np.arange(len(labels)), labels]
        macro_f1 = judged("macro_f1", labels, log_p).macro_f1
        record = {"c": c, "inner_loss": float(losses.mean()), "inner_macro_f1": macro_f1, "read": choice.said}
        found.append(Trial(replace(choice, c=c), losses, record))
    return found


def _fitted(
    task: FoldTask,
    known: Mapping[Block, Scaler],
    choice: Choice,
    cs: Sequence[float],
    units: np.ndarray,
    held: np.ndarray,
) -> list[np.ndarray]:
    """Log-probabilities of the units ``held``, (held, classes), for each C, of models fitted on ``units``."""
    blocks = selected(known, choice.view, choice.deviations, choice.weights)
    other = matrix(known, blocks, task.data, held)
    return [
        spread(_softmax(other @ weights + intercepts), classes, task.n_classes)
        for weights, intercepts, classes in _path(task, known, blocks, units, cs)
    ]


def fit(task: FoldTask, known: Mapping[Block, Scaler], choice: Choice, units: np.ndarray) -> LinearModel:
    """A model of some units as it was chosen."""
    blocks = selected(known, choice.view, choice.deviations, choice.weights)
    ((weights, intercepts, classes),) = _path(task, known, blocks, units, [choice.c])
    widths = [len(known[block].mean) for block in blocks]
    weights = weights * np.repeat(np.array(list(blocks.values())), widths)[:, None]  # of unweighted columns
    return LinearModel(
        choice,
        tuple(known[block] for block in blocks),
        weights.astype(np.float32),
        intercepts.astype(np.float32),
        classes.tolist(),
        task.n_classes,
    )


def _path(
    task: FoldTask, known: Mapping[Block, Scaler], blocks: Mapping[Block, float], units: np.ndarray, cs: Sequence[float]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each C, (columns, classes) weights, (classes,) intercepts, and the numbers of the classes that there are.

    The views of a unit are rows that together count as it would alone. With more columns than rows, the fit is made in
    the space of the rows: the penalty does not see the rotation.
    """
    head, labels = task.head, task.labels[units]
    if len(set(labels.tolist())) < 2:
        raise UserError(f"{head.kind} head: the training units of a fold are all of one class")
    counts = class_weights(labels, labels.max() + 1)[labels] if head.loss == "weighted" else None
    versions = task.data.learned(head.views)
    x = np.concatenate([matrix(known, blocks, rows, units) for rows in versions])
    if len(versions) > 1:
        labels = np.tile(labels, len(versions))
        counts = np.tile(np.ones(len(units)) if counts is None else counts, len(versions)) / len(versions)
    found, start, basis = [], None, None
    with _threads().limit(limits=1):  # products of a few columns: two threads took ten times as long
        if x.shape[1] > len(x):
            values, vectors = eigh(x.astype(np.float64) @ x.T.astype(np.float64))
            kept = values > 1e-9 * max(values[-1], 1e-12)
            basis = x.T.astype(np.float64) @ (vectors[:, kept] / np.sqrt(values[kept]))  # (columns, rank)
            x = vectors[:, kept] * np.sqrt(values[kept])
        for c in cs:
            # newton-cg: four times faster here than lbfgs, and it converges where lbfgs stops early
            model = LogisticRegression(C=c, solver="newton-cg", max_iter=1000, warm_start=True)
            if start is not None:
                model.classes_, model.coef_, model.intercept_ = start.classes_, start.coef_, start.intercept_
            start = model.fit(x, labels, sample_weight=counts)
            weights, intercepts = model.coef_.T, model.intercept_
            if len(model.classes_) == 2:  # scikit-learn keeps the second one's alone
                weights, intercepts = np.c_[0 * weights, weights], np.r_[0.0, intercepts]
            found.append((weights if basis is None else basis @ weights, intercepts, model.classes_))
    return found


@cache
def _threads() -> ThreadpoolController:
    """Found once: to look through all that is loaded takes as long as a small fit."""
    return ThreadpoolController()


def _softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)
