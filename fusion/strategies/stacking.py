"""Meta-learners that correct the weighted pool: logistic regression and trees.

Each starts from the pool's scores and learns what to add to them, so that with little data, or nothing to learn, what
is left is the pool. The interface is described in ``fusion/strategies/catalogue.py``.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import log_softmax

from fusion.strategies.calibration import calibrated
from fusion.strategies.pools import FittedWeighted, Weighted
from fusion.tables.predictions import HeadOutputs
from heads.metrics.choosing import some

if TYPE_CHECKING:  # seconds to import, and few predictions need it
    import xgboost


def base_and_features(pool: FittedWeighted, outputs: HeadOutputs) -> tuple[np.ndarray, np.ndarray]:
    """The pool's log-probabilities (n, c), and them beside each head's deviation from them (n, c + h * c)."""
    base = pool.predict_logits(outputs)
    own = calibrated(outputs.logits, pool.calibrations)
    deviations = np.where(outputs.present[..., None], own - base[:, None], 0.0)
    return base, np.column_stack([base, deviations.reshape(len(base), -1)])


# --- logistic: a regularised correction of the log-linear pool ---


@dataclass(frozen=True)
class FittedLogistic:
    base: FittedWeighted
    coefficients: list[list[float]]  # (features, classes)
    intercepts: list[float]  # (classes,)
    c: float

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        base, features = base_and_features(self.base, outputs)
        return log_softmax(base + features @ np.array(self.coefficients) + self.intercepts, axis=1)


@dataclass(frozen=True)
class Logistic:
    """Multinomial logistic regression on heads' log-probabilities, as a correction of the weighted pool.

    ``z = pool + W f + b``, where f holds the pool's log-probabilities and each head's deviation from them (none
    where the head is absent). The L2 penalty draws W and b to zero, so strong regularisation gives the pool itself.
    C, in scikit-learn's meaning, is chosen by grouped cross-validation within the units that ``fit`` is given, or
    some of them where they are many: then the choice matters little.
    """

    c_values: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
    inner_folds: int = 3

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedLogistic:
        pool = Weighted().fit(outputs, labels, groups, seed)
        base, features = base_and_features(pool, outputs)
        units = some(np.arange(len(labels)), seed)
        c = self._choose_c(base[units], features[units], labels[units], groups[units])
        weights = _fit_residual(base, features, labels, c)
        return FittedLogistic(pool, weights[:-1].tolist(), weights[-1].tolist(), c)

    def _choose_c(self, base: np.ndarray, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
        from sklearn.model_selection import GroupKFold

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
    way = solve_triangular(root, np.eye(x.shape[1]), lower=True).T  # from these coordinates to weights

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = way @ flat.reshape(-1, n_classes)
        log_p = log_softmax(base + x @ weights, axis=1)
        value = c * -log_p[np.arange(n), labels].sum() + (weights**2).sum() / 2
        slope = c * (x.T @ (np.exp(log_p) - truth)) + weights
        return value, (way.T @ slope).ravel()

    start = np.zeros((x.shape[1], n_classes)) if start is None else start
    options = {"maxiter": 200, "ftol": 1e-8, "gtol": 1e-3}
    found = minimize(loss, (root.T @ start).ravel(), jac=True, method="L-BFGS-B", options=options).x
    return way @ found.reshape(-1, n_classes)


# --- xgboost: trees that correct the log-linear pool ---


@dataclass(frozen=True)
class FittedXGBoost:
    base: FittedWeighted
    booster: "xgboost.Booster"

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        return log_softmax(self.booster.predict(_tree_input(self.base, outputs), output_margin=True), axis=1)


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

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedXGBoost:
        import xgboost

        pool = Weighted().fit(outputs, labels, groups, seed)
        data = _tree_input(pool, outputs)
        data.set_label(labels)
        settings = {
            "objective": "multi:softprob",
            "num_class": outputs.logits.shape[2],
            "max_depth": self.depth,
            "eta": self.learning_rate,
            "min_child_weight": self.min_child_weight,
            "subsample": self.subsample,
            "tree_method": "hist",
            "seed": seed,
            "nthread": 1,  # folds are fitted side by side
        }
        return FittedXGBoost(pool, xgboost.train(settings, data, num_boost_round=self.rounds))


def _tree_input(base: FittedWeighted, outputs: HeadOutputs) -> "xgboost.DMatrix":
    import xgboost

    pool = base.predict_logits(outputs)
    log_p = np.where(outputs.present[..., None], calibrated(outputs.logits, base.calibrations), np.nan)
    return xgboost.DMatrix(np.column_stack([pool, log_p.reshape(len(pool), -1)]), base_margin=pool)
