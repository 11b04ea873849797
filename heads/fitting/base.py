"""The linear head that reads what another head reads: every head must beat it, and networks start from it.

A network learns what to add to the answers of its base. With little data, or nothing to add, the linear head is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from configs.schema import Head
from heads.data.folds import FoldTask, Record
from heads.data.sampling import class_weights
from heads.metrics.choosing import is_sure, judged, some
from heads.models.columns import scalers
from heads.models.linear import LinearModel, choose, choose_layers, fit

BASELINE_C = 0.01  # inverse regularisation: fixed, as a baseline that is tuned is a head
SMOOTHED = 3  # epochs over which the loss on what is held out is averaged
MANY_EPOCHS = 10  # with fewer, each counts by itself
SHARES = (0.25, 0.5, 0.75, 1.0)  # of a network's correction, beside none
SURE = 2.0  # standard errors by which it must lower the loss: the best of many looks better than it is
PARTS = 4  # into which the units that it was fitted on are cut, to be predicted by fits on the others


@dataclass(frozen=True)
class Base:
    """A linear model, and what it says of the units that a network is fitted on and chosen by.

    ``log_p`` (units, classes) float32 is, of each unit that the model was fitted on, from a fit without it: a network
    that saw what the model knows by heart would learn that nothing is left to add. It is the model's own answer where
    the others are all of one class, of which nothing can be fitted. NaN elsewhere.
    """

    model: LinearModel
    log_p: np.ndarray


def baseline_head(head: Head, inputs: Sequence[str]) -> Head | None:
    """What a head must beat: logistic regression on means over time. Which clips' means, and of which inputs, is chosen
    on the inner folds, so that no head beats it by leaving out what had better not be read. It learns from view 0, so
    that what augmented views are worth is seen. None without anything to read.
    """
    if not inputs and not head.metadata:
        return None
    return linear_head(head, inputs).model_copy(update={"c": BASELINE_C, "deviations": False, "views": "none"})


def linear_head(head: Head, inputs: Sequence[str] | None = None) -> Head:
    """The linear head that reads what another head reads, and weighs classes as it does."""
    settings = {
        "kind": "linear",
        "inputs": list(head.stores if inputs is None else inputs),
        "metadata": head.metadata,
        "privileged": head.privileged,
        "context_clips": head.context_clips,
        "standardise": head.standardise,
        "views": head.views,
        "layer": head.layer if isinstance(head.layer, int) else None,
        "loss": "weighted" if head.loss == "weighted" or head.sampling == "balanced" else "cross_entropy",
    }
    return Head.model_validate(settings)


def fit_base(task: FoldTask) -> Base:
    """Of a network's fold; ``task.data.rows`` are its units as the linear head reads them.

    Raises:
        UserError: the training units are of one class only.
    """
    linear = replace(task, head=linear_head(task.head), data=task.data.rows)
    fitted = some(task.train, task.seed)
    layers = choose_layers(linear)
    known = scalers(linear.data, fitted, layers)
    choice, _ = choose(linear, known, layers)
    model = fit(linear, known, choice, fitted)
    log_p = np.full((len(task.labels), task.n_classes), np.nan, np.float32)
    wanted = np.union1d(task.train, np.concatenate([task.train[:0], *(held for _, held in task.inner)]))
    log_p[wanted] = model.log_probabilities(linear.data, wanted)
    for held in _parts(task, fitted):
        rest = np.setdiff1d(fitted, held)
        if len(set(task.labels[rest].tolist())) > 1:
            log_p[held] = fit(linear, known, choice, rest).log_probabilities(linear.data, held)
    counts = _weights(task, fitted)
    sharpness = _sharpness(log_p[fitted], task.labels[fitted], counts)
    sharper = replace(model, weights=model.weights * sharpness, intercepts=model.intercepts * sharpness)
    return Base(sharper, log_softmax(sharpness * log_p, axis=1))


def _weights(task: FoldTask, units: np.ndarray) -> np.ndarray:
    """(units,) what each counts in the head's loss."""
    if task.head.loss != "weighted":
        return np.ones(len(units))
    return class_weights(task.labels[task.train], task.n_classes)[task.labels[units]]


def _sharpness(log_p: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.float32:
    """By what logits are multiplied for the lowest loss: a penalty that finds the right order leaves them too small."""
    of_truth = np.arange(len(labels)), labels

    def loss(log_scale: float) -> float:
        return -float(np.average(log_softmax(np.exp(log_scale) * log_p, axis=1)[of_truth], weights=weights))

    return np.float32(np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x))


def _parts(task: FoldTask, fitted: np.ndarray) -> list[np.ndarray]:
    """Of the fitted units, those that are predicted together: the inner folds where these hold out each once, else
    whole groups; units by themselves where there is but one group."""
    if len(task.inner) > 1:
        return [np.intersect1d(held, fitted) for _, held in task.inner]
    _, groups = np.unique(task.groups[fitted], return_inverse=True)
    groups = groups if groups.any() else np.arange(len(fitted))
    part_of = np.random.default_rng(task.seed).permutation(groups.max(initial=0) + 1)[groups] % PARTS
    return [fitted[part_of == part] for part in range(PARTS) if (part_of == part).any()]


class Judge:
    """Which epoch is best, and how much of the network's correction counts: by what was held out."""

    def __init__(self, task: FoldTask, base: Base | None, held: np.ndarray) -> None:
        self._labels, self._groups = task.labels[held], task.groups[held]
        self._weights = _weights(task, held)
        self._base = None if base is None else base.log_p[held]
        self._window = SMOOTHED if task.head.epochs_for(len(task.train)) >= MANY_EPOCHS else 1
        self._losses: list[np.ndarray] = []  # of each epoch: (shares,)
        self._logits: list[np.ndarray] = []  # of each epoch: (held, classes)

    def see(self, logits: np.ndarray) -> None:
        """An epoch's logits of what is held out, (held, classes)."""
        self._logits.append(logits)
        if len(logits):
            self._losses.append(np.array([self._loss(share, logits).mean() for share in self._shares]))

    @property
    def _shares(self) -> tuple[float, ...]:
        return (1.0,) if self._base is None else SHARES

    def _loss(self, share: float, logits: np.ndarray) -> np.ndarray:
        log_p = log_softmax(share * logits + (0 if self._base is None else self._base), axis=1)
        return -self._weights * log_p[np.arange(len(logits)), self._labels] / self._weights.mean()

    @property
    def best_epoch(self) -> int:
        """The one with the lowest loss, at the share that suits it best; -1 before the first."""
        if not self._losses:
            return -1
        smoothed = [
            np.mean(self._losses[max(0, epoch + 1 - self._window) : epoch + 1], axis=0).min()
            for epoch in range(len(self._losses))
        ]
        return int(np.argmin(smoothed))

    def is_past_best(self, patience: int) -> bool:
        return len(self._losses) - 1 - self.best_epoch >= patience if self._losses else False

    def share(self, epoch: int) -> float:
        """Of the correction after an epoch; all of it where nothing is held out."""
        if self._base is None or not self._losses:
            return 1.0
        best = SHARES[int(self._losses[epoch].argmin())]
        gain = self._loss(0.0, self._logits[epoch]) - self._loss(best, self._logits[epoch])
        return best if is_sure(gain, self._groups, SURE) else 0.0

    def marked(self, history: list[Record], best: int) -> list[Record]:
        """Records of epochs, with how each did on what is held out, and which was kept."""
        result = []
        for epoch, record in enumerate(history):
            found = {}
            if self._losses:
                log_p = log_softmax(self._logits[epoch] + (0 if self._base is None else self._base), axis=1)
                macro_f1 = judged("macro_f1", self._labels, log_p).macro_f1
                found = {"inner_loss": float(self._losses[epoch][-1]), "inner_macro_f1": macro_f1}
            kept = {"share": self.share(epoch)} if epoch == best and self._base is not None else {}
            result.append(record | found | {"best": epoch == best} | kept)
        return result
