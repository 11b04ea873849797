"""Strategies that pool what heads say with weights: none, one per head, or one per head and class.

The interface is described in ``catalogue.py``. An absent head is left out of the pool of that unit and the
others' weights are scaled up; it is never replaced. Pools that are not fitted by log-loss themselves end in a
temperature of their own, so that all strategies give calibrated probabilities.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from fusion.strategies.calibration import (
    PRIOR_STRENGTH,
    calibrated,
    fit_calibrations,
    fit_temperature,
    sharpened,
    silent_where_absent,
)
from fusion.tables.predictions import HeadOutputs

SMALLEST_WEIGHT = 1e-6  # keeps the pool of units defined where all heads with weight are absent


# --- pools with nothing to learn ---


@dataclass(frozen=True)
class FittedMean:
    calibrations: list[list[float]]
    temperature: float = 1.0  # of the pool

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        return sharpened(self.pooled(outputs), self.temperature)

    def pooled(self, outputs: HeadOutputs) -> np.ndarray:
        log_p = calibrated(outputs.logits, self.calibrations)
        return _linear_pool(log_p, outputs.present.astype(float))


@dataclass(frozen=True)
class Mean:
    """The linear opinion pool: the mean of the calibrated probabilities."""

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedMean:
        pool = FittedMean(fit_calibrations(outputs.logits, outputs.present, labels))
        return FittedMean(pool.calibrations, fit_temperature(pool.pooled(outputs), labels))


# --- one head: what fusion falls back to when it does not help ---


@dataclass(frozen=True)
class FittedSingle:
    head: int
    temperature: float
    others: FittedMean  # for units without this head

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        own = sharpened(outputs.logits[:, self.head], self.temperature)
        return np.where(outputs.present[:, self.head, None], own, self.others.predict_logits(outputs))


@dataclass(frozen=True)
class Single:
    """One head, calibrated; the mean of the others stands in for it where it has no prediction."""

    head: int

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedSingle:
        has = outputs.present[:, self.head]
        temperature = fit_temperature(outputs.logits[has, self.head], labels[has])
        return FittedSingle(self.head, temperature, Mean().fit(outputs, labels, groups, seed))


@dataclass(frozen=True)
class FittedBaseline:
    name: str  # of the head whose baseline it is
    temperature: float
    others: FittedMean  # for units without it

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        own = outputs.baselines[self.name]
        log_p, without = sharpened(own, self.temperature), np.isnan(own).any(axis=1)
        if without.any():
            log_p[without] = self.others.predict_logits(outputs.where(without))
        return log_p


@dataclass(frozen=True)
class Baseline:
    """A head's plain baseline, calibrated; the mean of the heads stands in for it where it has no prediction."""

    name: str

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedBaseline:
        own = outputs.baselines[self.name]
        has = ~np.isnan(own).any(axis=1)
        return FittedBaseline(
            self.name, fit_temperature(own[has], labels[has]), Mean().fit(outputs, labels, groups, seed)
        )


# --- one weight per head ---


@dataclass(frozen=True)
class FittedWeighted:
    calibrations: list[list[float]]  # one per head, before pooling
    weights: list[float]  # one per head, non-negative, summing to one
    sharpness: float  # 1 / temperature of the pool

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        weights = np.array(self.weights) * outputs.present  # (n, h)
        pool = np.einsum("nh,nhc->nc", weights, silent_where_absent(outputs, self.calibrations))
        return log_softmax(self.sharpness * pool / weights.sum(axis=1, keepdims=True), axis=1)


@dataclass(frozen=True)
class Weighted:
    """The log-linear opinion pool (Genest and Zidek 1986), ``p ~ prod_h p_h ** (w_h / T)``.

    One weight per head on the simplex and one temperature, by maximum likelihood as in Heskes 1998, drawn towards
    the uniform pool by a weak quadratic prior. Where heads are absent the others' weights are scaled up to sum to
    one. With ``a = w / T`` the problem is convex in ``a >= 0`` when no head is absent; solved by L-BFGS-B.
    """

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedWeighted:
        present = outputs.present
        calibrations = fit_calibrations(outputs.logits, present, labels)
        x = silent_where_absent(outputs, calibrations)
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
        return FittedWeighted(calibrations, (found / found.sum()).tolist(), float(found.sum()))


# --- one weight per head and class ---


@dataclass(frozen=True)
class FittedClassWeighted:
    calibrations: list[list[float]]
    weights: list[list[float]]  # (heads, classes), non-negative
    intercepts: list[float]  # (classes,)

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        x = silent_where_absent(outputs, self.calibrations)
        return log_softmax(_class_pool(x, outputs.present, np.array(self.weights))[0] + self.intercepts, axis=1)


@dataclass(frozen=True)
class ClassWeighted:
    """The log-linear pool with a weight for each head and class, and an intercept for each class.

    Fitted as :class:`Weighted` is, and drawn towards its weights: a head may be heard on anger and not on fear.
    Where heads are absent, the others' weights for a class are scaled up to the same sum.
    """

    strength: float = 8 * PRIOR_STRENGTH  # of the prior on each weight and intercept

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedClassWeighted:
        base = Weighted().fit(outputs, labels, groups, seed)
        present = outputs.present
        x = silent_where_absent(outputs, base.calibrations)
        n, h, c = x.shape
        start = np.repeat(np.array(base.weights)[:, None] * base.sharpness, c, axis=1)  # (h, c)
        truth = np.eye(c)[labels]

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights, intercepts = flat[: h * c].reshape(h, c), flat[h * c :]
            z, pool, scale = _class_pool(x, present, weights)
            log_p = log_softmax(z + intercepts, axis=1)
            slope = np.exp(log_p) - truth
            inner = present[..., None] * (x - pool[:, None]) * (slope * scale)[:, None]  # (n, h, c)
            distance = weights - start
            gradient = inner.sum(axis=0) + (slope * pool).sum(axis=0) + self.strength * distance
            to_intercepts = slope.sum(axis=0) + self.strength * intercepts
            penalty = self.strength / 2 * ((distance**2).sum() + intercepts @ intercepts)
            value = penalty - log_p[np.arange(n), labels].sum()
            return value / n, np.concatenate([gradient.ravel(), to_intercepts]) / n

        bounds = [(SMALLEST_WEIGHT, None)] * (h * c) + [(None, None)] * c
        first = np.concatenate([start.ravel(), np.zeros(c)])
        found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 200}).x
        return FittedClassWeighted(base.calibrations, found[: h * c].reshape(h, c).tolist(), found[h * c :].tolist())


def _class_pool(x: np.ndarray, present: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (n, c), the mean that they are a multiple of, (n, c), and what a weight's deviation counts, (n, c)."""
    total = weights.sum(axis=0)  # (c,)
    share = present @ weights  # (n, c)
    pool = np.einsum("hc,nhc->nc", weights, x) / share
    return total * pool, pool, total / share


def _linear_pool(log_p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Logarithm of the weighted mean of probabilities; weights (n, h) are 0 where a head is absent."""
    with np.errstate(divide="ignore"):
        log_w = np.log(weights / weights.sum(axis=1, keepdims=True))
    return logsumexp(np.where(weights[..., None] > 0, log_p + log_w[..., None], -np.inf), axis=1)
