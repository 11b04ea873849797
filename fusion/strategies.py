"""Ways to fuse several heads' predictions into one.

A strategy is a small frozen dataclass; ``fit(logits, present, labels, groups, seed)`` returns a fitted strategy with
``predict_logits(logits, present)`` and ``save(folder)``; :func:`load` reads it back. Everywhere ``logits`` are
log-probabilities (units n, heads h, classes c), ``present`` (n, h) says where a head has a prediction, and what
comes out are log-probabilities (n, c). An absent head is left out of the pool of that unit; it is never replaced.

Every head is first temperature-calibrated (Guo et al. 2017) on the units that ``fit`` is given.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xgboost
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, logsumexp
from sklearn.model_selection import GroupKFold

MODEL_FILE, TREES_FILE = "fusion.json", "trees.json"
SMALLEST_WEIGHT = 1e-6  # keeps the pool of units defined where all heads with weight are absent
PRIOR_STRENGTH = 4.0  # in units of summed log-loss: a handful of units decides nothing, a hundred does


class Fitted(Protocol):
    def predict_logits(self, logits: np.ndarray, present: np.ndarray) -> np.ndarray: ...
    def save(self, folder: Path) -> None: ...


class Strategy(Protocol):
    def fit(
        self, logits: np.ndarray, present: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int
    ) -> Fitted: ...


# --- mean: the arithmetic mean of the calibrated probabilities ---


@dataclass(frozen=True)
class FittedMean:
    temperatures: list[float]

    def predict_logits(self, logits: np.ndarray, present: np.ndarray) -> np.ndarray:
        calibrated = _calibrated(logits, self.temperatures)
        masked = np.where(present[..., None], calibrated, -np.inf)
        return logsumexp(masked, axis=1) - np.log(present.sum(axis=1, keepdims=True))

    def save(self, folder: Path) -> None:
        _write_json(folder, "mean", asdict(self))


@dataclass(frozen=True)
class Mean:
    """The linear opinion pool with equal weights; nothing is fitted but the heads' temperatures."""

    def fit(
        self, logits: np.ndarray, present: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int
    ) -> FittedMean:
        return FittedMean(fit_temperatures(logits, present, labels))


# --- weighted: the log-linear pool ---


@dataclass(frozen=True)
class FittedWeighted:
    temperatures: list[float]  # one per head, before pooling
    weights: list[float]  # one per head, non-negative, summing to one
    sharpness: float  # 1 / temperature of the pool

    def predict_logits(self, logits: np.ndarray, present: np.ndarray) -> np.ndarray:
        calibrated = _calibrated(logits, self.temperatures)
        weights = np.array(self.weights) * present  # (n, h)
        pool = np.einsum("nh,nhc->nc", weights, np.where(present[..., None], calibrated, 0.0))
        return log_softmax(self.sharpness * pool / weights.sum(axis=1, keepdims=True), axis=1)

    def save(self, folder: Path) -> None:
        _write_json(folder, "weighted", asdict(self))


@dataclass(frozen=True)
class Weighted:
    """The log-linear opinion pool (Genest and Zidek 1986), ``p ~ prod_h p_h ** (w_h / T)``.

    One weight per head on the simplex and one temperature, by maximum likelihood as in Heskes 1998, drawn towards
    the uniform pool by a weak quadratic prior. Where heads are absent the others' weights are scaled up to sum to
    one. With ``a = w / T`` the problem is convex in ``a >= 0`` when no head is absent; solved by L-BFGS-B.
    """

    def fit(
        self, logits: np.ndarray, present: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int
    ) -> FittedWeighted:
        temperatures = fit_temperatures(logits, present, labels)
        x = np.where(present[..., None], _calibrated(logits, temperatures), 0.0)
        n, h, c = x.shape
        truth, uniform = np.eye(c)[labels], np.full(h, 1 / h)

        def loss(a: np.ndarray) -> tuple[float, np.ndarray]:
            total, weights = a.sum(), a * present
            share = weights.sum(axis=1)[:, None]  # (n, 1)
            pool = np.einsum("nh,nhc->nc", weights, x) / share
            log_p = log_softmax(total * pool, axis=1)
            slope = np.exp(log_p) - truth  # d loss / d z, with z = total * pool
            common = (slope * pool).sum(axis=1)  # (n,)
            per_head = np.einsum("nc,nhc->nh", slope, x) - common[:, None]
            gradient = common.sum() + (total / share * present * per_head).sum(axis=0)
            distance = a - uniform
            value = PRIOR_STRENGTH / 2 * distance @ distance - log_p[np.arange(n), labels].sum()
            return value / n, (gradient + PRIOR_STRENGTH * distance) / n

        found = minimize(loss, uniform, jac=True, method="L-BFGS-B", bounds=[(SMALLEST_WEIGHT, None)] * h).x
        return FittedWeighted(temperatures, (found / found.sum()).tolist(), float(found.sum()))


# --- logistic: a regularised correction of the log-linear pool ---


@dataclass(frozen=True)
class FittedLogistic:
    base: FittedWeighted
    coefficients: list[list[float]]  # (features, classes)
    intercepts: list[float]  # (classes,)
    c: float

    def predict_logits(self, logits: np.ndarray, present: np.ndarray) -> np.ndarray:
        base, features = _base_and_features(self.base, logits, present)
        return log_softmax(base + features @ np.array(self.coefficients) + self.intercepts, axis=1)

    def save(self, folder: Path) -> None:
        _write_json(folder, "logistic", asdict(self))


@dataclass(frozen=True)
class Logistic:
    """Multinomial logistic regression on heads' log-probabilities, as a correction of the weighted pool.

    ``z = pool + W f + b``, where f holds the pool's log-probabilities and each head's deviation from them (none
    where the head is absent). The L2 penalty draws W and b to zero, so strong regularisation gives the pool itself.
    C, in scikit-learn's meaning, is chosen by grouped cross-validation within the units that ``fit`` is given.
    """

    c_values: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    inner_folds: int = 3

    def fit(
        self, logits: np.ndarray, present: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int
    ) -> FittedLogistic:
        pool = Weighted().fit(logits, present, labels, groups, seed)
        base, features = _base_and_features(pool, logits, present)
        c = self._choose_c(base, features, labels, groups)
        weights = _fit_residual(base, features, labels, c)
        return FittedLogistic(pool, weights[:-1].tolist(), weights[-1].tolist(), c)

    def _choose_c(self, base: np.ndarray, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
        folds = min(self.inner_folds, len(np.unique(groups)))
        if folds < 2:
            return self.c_values[0]
        losses = np.zeros(len(self.c_values))
        for fit, held in GroupKFold(folds).split(features, groups=groups):
            weights = np.zeros((features.shape[1] + 1, base.shape[1]))
            for i, c in enumerate(self.c_values):  # from strong to weak, each from where the last one ended
                weights = _fit_residual(base[fit], features[fit], labels[fit], c, weights)
                log_p = log_softmax(base[held] + features[held] @ weights[:-1] + weights[-1], axis=1)
                losses[i] -= log_p[np.arange(len(held)), labels[held]].sum()
        return self.c_values[int(losses.argmin())]


def _fit_residual(
    base: np.ndarray, features: np.ndarray, labels: np.ndarray, c: float, start: np.ndarray | None = None
) -> np.ndarray:
    """W and, as its last row, b, (features + 1, classes): minimises c * log-loss + |W, b|^2 / 2 (convex).

    L-BFGS in the coordinates of a bound on the curvature (Böhning 1992): log-probabilities of heads that agree are
    nearly collinear, and plain L-BFGS needs ten times the steps.
    """
    n, n_classes = base.shape
    x = np.column_stack([features, np.ones(n)])
    truth = np.eye(n_classes)[labels]
    root = cholesky(c / 4 * (x.T @ x) + np.eye(x.shape[1]), lower=True)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = solve_triangular(root, flat.reshape(-1, n_classes), lower=True, trans="T")
        log_p = log_softmax(base + x @ weights, axis=1)
        value = c * -log_p[np.arange(n), labels].sum() + (weights**2).sum() / 2
        slope = c * (x.T @ (np.exp(log_p) - truth)) + weights
        return value, solve_triangular(root, slope, lower=True).ravel()

    start = np.zeros((x.shape[1], n_classes)) if start is None else start
    options = {"maxiter": 200, "ftol": 1e-8, "gtol": 1e-3}
    found = minimize(loss, (root.T @ start).ravel(), jac=True, method="L-BFGS-B", options=options).x
    return solve_triangular(root, found.reshape(-1, n_classes), lower=True, trans="T")


# --- xgboost: trees that correct the log-linear pool ---


@dataclass(frozen=True)
class FittedXGBoost:
    base: FittedWeighted
    booster: xgboost.Booster

    def predict_logits(self, logits: np.ndarray, present: np.ndarray) -> np.ndarray:
        return log_softmax(self.booster.predict(_tree_input(self.base, logits, present), output_margin=True), axis=1)

    def save(self, folder: Path) -> None:
        _write_json(folder, "xgboost", {"base": asdict(self.base)})
        self.booster.save_model(folder / TREES_FILE)


@dataclass(frozen=True)
class XGBoost:
    """Few, shallow boosted trees (Chen and Guestrin 2016) that start from the weighted pool's logits.

    Trees see the same log-probabilities; an absent head is a missing value, for which each split learns a side.
    """

    depth: int = 2
    rounds: int = 40
    learning_rate: float = 0.1
    min_child_weight: float = 5.0
    subsample: float = 0.8

    def fit(
        self, logits: np.ndarray, present: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int
    ) -> FittedXGBoost:
        pool = Weighted().fit(logits, present, labels, groups, seed)
        data = _tree_input(pool, logits, present)
        data.set_label(labels)
        settings = {
            "objective": "multi:softprob",
            "num_class": logits.shape[2],
            "max_depth": self.depth,
            "eta": self.learning_rate,
            "min_child_weight": self.min_child_weight,
            "subsample": self.subsample,
            "tree_method": "hist",
            "seed": seed,
        }
        return FittedXGBoost(pool, xgboost.train(settings, data, num_boost_round=self.rounds))


def _tree_input(base: FittedWeighted, logits: np.ndarray, present: np.ndarray) -> xgboost.DMatrix:
    pool = base.predict_logits(logits, present)
    calibrated = _calibrated(logits, base.temperatures).reshape(len(logits), -1)  # NaN where absent
    return xgboost.DMatrix(np.column_stack([pool, calibrated]), base_margin=pool)


# --- one head alone: what fusion falls back to when it does not help ---


@dataclass(frozen=True)
class Single:
    """One head as it is; a unit without that head's prediction gets the training class frequencies."""

    head: int

    def fit(
        self, logits: np.ndarray, present: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int
    ) -> "FittedSingle":
        counts = np.bincount(labels, minlength=logits.shape[2]) + 1.0  # add-one: a class not seen stays possible
        return FittedSingle(self.head, np.log(counts / counts.sum()).tolist())


@dataclass(frozen=True)
class FittedSingle:
    head: int
    prior: list[float]  # log class frequencies

    def predict_logits(self, logits: np.ndarray, present: np.ndarray) -> np.ndarray:
        return np.where(present[:, self.head, None], logits[:, self.head], self.prior)

    def save(self, folder: Path) -> None:
        _write_json(folder, "single", asdict(self))


STRATEGIES: dict[str, Strategy] = {
    "mean": Mean(),
    "weighted": Weighted(),
    "logistic": Logistic(),
    "xgboost": XGBoost(),
}


def load(folder: Path) -> Fitted:
    """Read a fitted strategy that ``save(folder)`` wrote. Raises ``OSError`` or ``KeyError`` for anything else."""
    return _LOADERS[(saved := json.loads((folder / MODEL_FILE).read_text())).pop("strategy")](folder, saved)


def _load_xgboost(folder: Path, saved: dict[str, Any]) -> FittedXGBoost:
    booster = xgboost.Booster()
    booster.load_model(folder / TREES_FILE)
    return FittedXGBoost(FittedWeighted(**saved["base"]), booster)


_LOADERS: dict[str, Callable[[Path, dict[str, Any]], Fitted]] = {
    "mean": lambda _, saved: FittedMean(**saved),
    "weighted": lambda _, saved: FittedWeighted(**saved),
    "logistic": lambda _, saved: FittedLogistic(**{**saved, "base": FittedWeighted(**saved["base"])}),
    "xgboost": _load_xgboost,
    "single": lambda _, saved: FittedSingle(**saved),
}


# --- shared by the strategies ---


def fit_temperatures(logits: np.ndarray, present: np.ndarray, labels: np.ndarray) -> list[float]:
    """The temperature of each head that minimises its log-loss (Guo et al. 2017), drawn to 1 by a weak prior."""
    temperatures = []
    for h in range(logits.shape[1]):
        z, y = logits[present[:, h], h], labels[present[:, h]]

        def loss(log_t: float, z: np.ndarray = z, y: np.ndarray = y) -> float:
            log_p = log_softmax(z / np.exp(log_t), axis=1)
            return PRIOR_STRENGTH * log_t**2 / 2 - log_p[np.arange(len(y)), y].sum()

        temperatures.append(float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)))
    return temperatures


def _calibrated(logits: np.ndarray, temperatures: list[float]) -> np.ndarray:
    return log_softmax(logits / np.array(temperatures)[:, None], axis=2)


def _base_and_features(pool: FittedWeighted, logits: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pool's log-probabilities (n, c), and them beside each head's deviation from them (n, c + h * c)."""
    base = pool.predict_logits(logits, present)
    deviations = np.where(present[..., None], _calibrated(logits, pool.temperatures) - base[:, None], 0.0)
    return base, np.column_stack([base, deviations.reshape(len(base), -1)])


def _write_json(folder: Path, strategy: str, values: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_text(json.dumps({"strategy": strategy, **values}, indent=1) + "\n")
