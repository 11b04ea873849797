"""Attention over heads: a small network that sees heads' predictions and metadata.

It starts from the weighted pool and is fitted by L-BFGS on all units at once. Weights have a Gaussian prior whose
strength is counted in units of summed log-loss, so it fades as data grows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax

from fusion.strategies.calibration import calibrated, silent_where_absent
from fusion.strategies.pools import FittedWeighted, Weighted
from fusion.strategies.stacking import base_and_features
from fusion.tables.predictions import HeadOutputs

if TYPE_CHECKING:  # torch takes two seconds to import, and most that know this strategy never run it
    from torch import Tensor

IDENTITY = "_id"
RAREST = 5  # units that a metadata category needs to be one


@dataclass(frozen=True)
class Features:
    """What the network sees of a unit: log-probabilities, confidences, which heads are present, metadata."""

    base: FittedWeighted
    categories: dict[str, list[str]]  # of each metadata field, from training units
    mean: list[float]
    scale: list[float]

    @staticmethod
    def fit(base: FittedWeighted, outputs: HeadOutputs) -> "Features":
        categories = {}
        for name, values in outputs.metadata.items():
            if name.endswith(IDENTITY):
                continue  # a gate that knows people by name is worth nothing with new ones
            known, counts = np.unique([value for value in values if value is not None], return_counts=True)
            categories[name] = known[counts >= RAREST].tolist()
        raw = Features(base, categories, [], []).raw(outputs)
        scale = raw.std(axis=0)
        return Features(base, categories, raw.mean(axis=0).tolist(), np.where(scale > 1e-6, scale, 1.0).tolist())

    def raw(self, outputs: HeadOutputs) -> np.ndarray:
        _, scores = base_and_features(self.base, outputs)
        sure = _confidences(calibrated(outputs.logits, self.base.calibrations), outputs.present)
        fields = [
            (np.asarray(outputs.metadata[name])[:, None] == np.array(known, dtype=object)).astype(float)
            if name in outputs.metadata
            else np.zeros((len(scores), len(known)))
            for name, known in self.categories.items()
        ]
        return np.column_stack([scores, sure.reshape(len(scores), -1), outputs.present.astype(float), *fields])

    def __call__(self, outputs: HeadOutputs) -> np.ndarray:
        """(n, features), standardised on training units; an unknown category is none of the known ones."""
        return (self.raw(outputs) - self.mean) / self.scale


def _confidences(log_p: np.ndarray, present: np.ndarray) -> np.ndarray:
    """One minus relative entropy, and the margin, of calibrated log-probabilities: (n, h, 2), 0 where absent."""
    p = np.exp(log_p)
    sure = 1 + (p * np.maximum(log_p, np.log(1e-30))).sum(axis=2) / np.log(p.shape[2])
    best = np.sort(p, axis=2)
    return np.where(present[..., None], np.stack([sure, best[..., -1] - best[..., -2]], axis=2), 0.0)


def _tensor(values: Any) -> "Tensor":
    import torch

    return torch.tensor(values, dtype=torch.float32)


def _minimise(loss: Callable[..., "Tensor"], start: list[np.ndarray], steps: int) -> list[list[Any]]:
    import torch

    parameters = [torch.tensor(values, dtype=torch.float32, requires_grad=True) for values in start]
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=steps,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )

    def closure() -> "Tensor":
        optimiser.zero_grad()
        value = loss(*parameters)
        value.backward()
        return value

    optimiser.step(closure)
    return [values.detach().tolist() for values in parameters]


@dataclass(frozen=True)
class FittedAttention:
    features: Features
    first: list[list[float]]  # (features, hidden)
    first_bias: list[float]
    second: list[list[float]]  # (hidden, heads)
    second_bias: list[float]  # (heads,)
    log_sharpness: list[float]  # (heads,)

    def weights(self, outputs: HeadOutputs) -> np.ndarray:
        """How much of each unit's decision each head makes: (n, h), rows sum to one, 0 where a head is absent.

        A head's share in the spread (standard deviation over classes) of the scores: the gate alone would flatter a
        head that says little, for it can be given much weight without harm.
        """
        spread = self._scores(outputs).std(axis=2)
        spread = np.where(spread.any(axis=1, keepdims=True), spread, outputs.present)  # no head says anything
        return spread / spread.sum(axis=1, keepdims=True)

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        return log_softmax(self._scores(outputs).sum(axis=1), axis=1)

    def _scores(self, outputs: HeadOutputs) -> np.ndarray:
        """What each head adds to the scores of the classes, (n, h, c); 0 where it is absent."""
        import torch

        log_p = silent_where_absent(outputs, self.features.base.calibrations)
        gate = _attend(
            _tensor(self.features(outputs)),
            torch.from_numpy(outputs.present),
            *(_tensor(values) for values in (self.first, self.first_bias, self.second, self.second_bias)),
        )
        return (gate.numpy() * np.exp(self.log_sharpness))[..., None] * log_p


def _attend(
    x: "Tensor", present: "Tensor", first: "Tensor", first_bias: "Tensor", second: "Tensor", bias: "Tensor"
) -> "Tensor":
    scores = (x @ first + first_bias).tanh() @ second + bias  # (n, h)
    return scores.masked_fill(~present, -np.inf).softmax(dim=1)


@dataclass(frozen=True)
class Attention:
    """A gate that decides for each unit how much each head is listened to: the log-linear pool with weights from
    a small network over log-probabilities, confidences, presence of heads, and metadata.

    A mixture of experts' gate (Jacobs et al. 1991) over log-probabilities instead of probabilities; it starts from the
    weights of the weighted pool, and its prior draws it there.
    """

    hidden: int = 8
    strength: float = 10.0
    steps: int = 60

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedAttention:
        import torch

        base = Weighted().fit(outputs, labels, groups, seed)
        features = Features.fit(base, outputs)
        x, truth, present = _tensor(features(outputs)), torch.from_numpy(labels), torch.from_numpy(outputs.present)
        log_p = _tensor(silent_where_absent(outputs, base.calibrations))
        h = log_p.shape[1]
        bias, sharpness = np.log(np.maximum(base.weights, 0.01)), np.full(h, np.log(base.sharpness))
        at_start = _tensor(bias), _tensor(sharpness)

        def loss(
            first: "Tensor", first_bias: "Tensor", second: "Tensor", second_bias: "Tensor", scale: "Tensor"
        ) -> "Tensor":
            weights = _attend(x, present, first, first_bias, second, second_bias) * scale.exp()
            z = torch.einsum("nh,nhc->nc", weights, log_p)
            prior = (first**2).sum() * x.shape[1] ** 0.5 + (second**2).sum()
            prior = prior + ((second_bias - at_start[0]) ** 2).sum() + ((scale - at_start[1]) ** 2).sum()
            return (torch.nn.functional.cross_entropy(z, truth, reduction="sum") + self.strength / 2 * prior) / len(x)

        first = np.random.default_rng(seed).normal(size=(x.shape[1], self.hidden)) / x.shape[1] ** 0.5
        start = [first, np.zeros(self.hidden), np.zeros((self.hidden, h)), bias, sharpness]
        return FittedAttention(features, *_minimise(loss, start, self.steps))
