"""Ways to fuse several heads' predictions into one: which there are, and how a fitted one is kept.

A strategy is a small frozen dataclass; ``fit(outputs, labels, groups, seed)`` returns a fitted strategy, a dataclass of
plain values with ``predict_logits(outputs)``: log-probabilities (n, c) for what :class:`HeadOutputs` holds of n units.
Every head is first calibrated, by a temperature and a doubt, on the units that ``fit`` is given. Choices within a fit
do not part ``groups`` (n,).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from cache import StoreError, read_published
from fusion.strategies.neural import Attention, Features, FittedAttention
from fusion.strategies.pools import (
    ClassWeighted,
    FittedBaseline,
    FittedClassWeighted,
    FittedMean,
    FittedSingle,
    FittedWeighted,
    Mean,
    Weighted,
)
from fusion.strategies.stacking import FittedLogistic, FittedXGBoost, Logistic, XGBoost
from fusion.tables.predictions import HeadOutputs

MODEL_FILE = "fusion.json"


class Fitted(Protocol):
    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray: ...


class Strategy(Protocol):
    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> Fitted: ...


# --- blend: what several strategies agree on ---


@dataclass(frozen=True)
class FittedBlend:
    members: dict[str, Fitted]

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        return log_softmax(
            np.mean([fitted.predict_logits(outputs) for fitted in self.members.values()], axis=0), axis=1
        )


@dataclass(frozen=True)
class Blend:
    """The mean of the log-probabilities of strategies that err in different ways."""

    members: tuple[str, ...] = ("logistic", "xgboost", "attention")

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedBlend:
        return self.of(fit_all({name: STRATEGIES[name] for name in self.members}, outputs, labels, groups, seed))

    def of(self, fitted: Mapping[str, Fitted]) -> FittedBlend:
        """From members that are fitted already."""
        return FittedBlend({name: fitted[name] for name in self.members})


# From simple to complex: among strategies that do equally well, the first is taken.
STRATEGIES: dict[str, Strategy] = {
    "mean": Mean(),
    "weighted": Weighted(),
    "class_weighted": ClassWeighted(),
    "logistic": Logistic(),
    "xgboost": XGBoost(),
    "attention": Attention(),
    "blend": Blend(),
}


def fit_all(
    strategies: Mapping[str, Strategy], outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int
) -> dict[str, Fitted]:
    """Fit several strategies on the same units; a blend takes what is fitted already and comes last."""
    fitted: dict[str, Fitted] = {}
    with threadpool_limits(1):  # matrices are small: threads in them cost more than they bring
        for name, strategy in strategies.items():
            if isinstance(strategy, Blend) and all(member in fitted for member in strategy.members):
                fitted[name] = strategy.of(fitted)
            else:
                fitted[name] = strategy.fit(outputs, labels, groups, seed)
    return fitted


# --- fitted strategies as JSON ---

_KINDS: dict[str, type] = {
    kind.__name__.removeprefix("Fitted"): kind
    for kind in (
        FittedSingle,
        FittedBaseline,
        FittedMean,
        FittedWeighted,
        FittedClassWeighted,
        FittedLogistic,
        FittedXGBoost,
        FittedAttention,
        FittedBlend,
        Features,
    )
}


def save(fitted: Fitted, folder: Path) -> None:
    """Write a fitted strategy, trees included, as one JSON file into a folder that is to be published."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_text(json.dumps(_plain(fitted)) + "\n", encoding="utf-8")


def load(folder: Path) -> Fitted:
    """Read what :func:`save` wrote into a folder that was then published. Raises StoreError for anything else."""
    path, remedy = folder / MODEL_FILE, "fuse the heads again with fusion/stack.py"
    content = json.loads(read_published(path, remedy))
    try:
        return _restored(content)
    except (KeyError, TypeError):  # a strategy, or a part of one, that there is no more
        raise StoreError(f"{path}: another version of this program made it: {remedy}") from None


def _plain(value: Any) -> Any:
    """Dataclasses become objects that name their kind; a booster is XGBoost's own JSON."""
    if type(value).__name__ == "Booster":  # xgboost takes a second to import
        return {"kind": "Booster", "model": json.loads(value.save_raw("json"))}
    if is_dataclass(value):
        kind = type(value).__name__.removeprefix("Fitted")
        return {"kind": kind, **{item.name: _plain(getattr(value, item.name)) for item in fields(value)}}
    if isinstance(value, dict):
        return {"kind": "dict", "items": {key: _plain(item) for key, item in value.items()}}
    return value


def _restored(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value["kind"] == "dict":
        return {key: _restored(item) for key, item in value["items"].items()}
    if value["kind"] == "Booster":
        import xgboost

        return xgboost.Booster(model_file=bytearray(json.dumps(value["model"]), "utf-8"))
    return _KINDS[value["kind"]](**{key: _restored(item) for key, item in value.items() if key != "kind"})
