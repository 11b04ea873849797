"""Strategies that pool what heads say with weights: none, one per head, one per head and class, or one per unit.

The interface is described in ``catalogue.py``. An absent head is left out of the pool of that unit and the
others' weights are scaled up; it is never replaced. Pools that are not fitted by log-loss themselves end in a
temperature of their own, so that all strategies give calibrated probabilities.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax

from fusion.strategies.calibration import (
    PRIOR_STRENGTH,
    calibrated,
    fit_temperature,
    fit_temperatures,
    sharpened,
    silent_where_absent,
)
from fusion.strategies.predictions import HeadOutputs

SMALLEST_WEIGHT = 1e-6  # keeps the pool of units defined where all heads with weight are absent


# --- pools with nothing to learn ---


@dataclass(frozen=True)
class FittedMean:
    temperatures: list[float]
    temperature: float = 1.0  # of the pool

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        return sharpened(self.pooled(outputs), self.temperature)

    def pooled(self, outputs: HeadOutputs) -> np.ndarray:
        log_p = calibrated(outputs.logits, self.temperatures)
        return _linear_pool(log_p, outputs.present.astype(float))


@dataclass(frozen=True)
class Mean:
    """The linear opinion pool: the mean of the calibrated probabilities."""

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedMean:
        pool = FittedMean(fit_temperatures(outputs.logits, outputs.present, labels))
        return FittedMean(pool.temperatures, fit_temperature(pool.pooled(outputs), labels))


@dataclass(frozen=True)
class FittedMajorityVote:
    mean: FittedMean
    temperature: float = 1.0

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        return sharpened(self.pooled(outputs), self.temperature)

    def pooled(self, outputs: HeadOutputs) -> np.ndarray:
        """Votes count whole, the mean probability less than one: it decides between classes with equal votes."""
        mean = np.exp(self.mean.pooled(outputs))
        first = np.where(outputs.present[..., None], outputs.logits, -np.inf).argmax(axis=2)  # (n, h)
        votes = (np.eye(mean.shape[1])[first] * outputs.present[..., None]).sum(axis=1)
        return np.log((votes + mean) / (votes.sum(axis=1, keepdims=True) + 1))


@dataclass(frozen=True)
class MajorityVote:
    """Every head votes for its most probable class; of classes with equal votes the mean decides."""

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedMajorityVote:
        vote = FittedMajorityVote(Mean().fit(outputs, labels, groups, seed))
        return FittedMajorityVote(vote.mean, fit_temperature(vote.pooled(outputs), labels))


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
    temperatures: list[float]  # one per head, before pooling
    weights: list[float]  # one per head, non-negative, summing to one
    sharpness: float  # 1 / temperature of the pool

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        weights = np.array(self.weights) * outputs.present  # (n, h)
        pool = np.einsum("nh,nhc->nc", weights, silent_where_absent(outputs, self.temperatures))
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
        temperatures = fit_temperatures(outputs.logits, present, labels)
        x = silent_where_absent(outputs, temperatures)
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


# --- one weight per head and class ---


@dataclass(frozen=True)
class FittedClassWeighted:
    temperatures: list[float]
    weights: list[list[float]]  # (heads, classes), non-negative
    intercepts: list[float]  # (classes,)

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        x = silent_where_absent(outputs, self.temperatures)
        return log_softmax(_class_pool(x, outputs.present, np.array(self.weights))[0] + self.intercepts, axis=1)


@dataclass(frozen=True)
class ClassWeighted:
    """The log-linear pool with a weight for each head and class, and an intercept for each class.

    Fitted as :class:`Weighted` is, and drawn towards its weights: a head may be heard on anger and not on fear.
    Where heads are absent, the others' weights for a class are scaled up to the same sum.
    """

    strength: float = 2 * PRIOR_STRENGTH  # of the prior on each weight and intercept

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedClassWeighted:
        base = Weighted().fit(outputs, labels, groups, seed)
        present = outputs.present
        x = silent_where_absent(outputs, base.temperatures)
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
        return FittedClassWeighted(base.temperatures, found[: h * c].reshape(h, c).tolist(), found[h * c :].tolist())


def _class_pool(x: np.ndarray, present: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (n, c), the mean that they are a multiple of, (n, c), and what a weight's deviation counts, (n, c)."""
    total = weights.sum(axis=0)  # (c,)
    share = present @ weights  # (n, c)
    pool = np.einsum("hc,nhc->nc", weights, x) / share
    return total * pool, pool, total / share


# --- one weight per head and unit ---


@dataclass(frozen=True)
class FittedConfidence:
    temperatures: list[float]
    trust: list[float]  # in one minus relative entropy, and in the margin
    temperature: float = 1.0

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        return sharpened(self.pooled(outputs), self.temperature)

    def pooled(self, outputs: HeadOutputs) -> np.ndarray:
        log_p = calibrated(outputs.logits, self.temperatures)
        return _linear_pool(log_p, _trusted(confidences(log_p, outputs.present), np.array(self.trust), outputs.present))


@dataclass(frozen=True)
class Confidence:
    """The linear pool with weights by confidence, ``w_h ~ exp(a (1 - H_h / log c) + b margin_h)`` for each unit.

    H is the entropy of the calibrated probabilities, the margin that of the first class over the second. Both ``a``
    and ``b`` are non-negative, fitted by log-loss with a weak prior at zero, which is the mean.
    """

    strength: float = 0.1 * PRIOR_STRENGTH  # of the prior: confidences are below one, so trusts are large numbers

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedConfidence:
        temperatures = fit_temperatures(outputs.logits, outputs.present, labels)
        log_p = calibrated(outputs.logits, temperatures)
        sure = confidences(log_p, outputs.present)
        of_truth = _of_truth(log_p, outputs.present, labels)

        def loss(trust: np.ndarray) -> float:
            weights = _trusted(sure, trust, outputs.present)
            return self.strength / 2 * (trust @ trust) - np.log((weights * of_truth).sum(axis=1)).sum()

        found = minimize(loss, [1.0, 1.0], method="L-BFGS-B", bounds=[(0, 20)] * 2).x.tolist()
        pool = FittedConfidence(temperatures, found)
        return FittedConfidence(temperatures, found, fit_temperature(pool.pooled(outputs), labels))


def confidences(log_p: np.ndarray, present: np.ndarray) -> np.ndarray:
    """One minus relative entropy, and the margin, of calibrated log-probabilities: (n, h, 2), 0 where absent."""
    p = np.exp(log_p)
    sure = 1 + (p * np.maximum(log_p, np.log(1e-30))).sum(axis=2) / np.log(p.shape[2])
    best = np.sort(p, axis=2)
    return np.where(present[..., None], np.stack([sure, best[..., -1] - best[..., -2]], axis=2), 0.0)


def _trusted(sure: np.ndarray, trust: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Weights (n, h) that sum to one over the heads present."""
    return softmax(np.where(present, sure @ trust, -np.inf), axis=1)


# --- greedy ensemble selection ---


@dataclass(frozen=True)
class FittedGreedy:
    temperatures: list[float]
    weights: list[float]  # how often each head was taken, as shares
    temperature: float = 1.0

    def predict_logits(self, outputs: HeadOutputs) -> np.ndarray:
        return sharpened(self.pooled(outputs), self.temperature)

    def pooled(self, outputs: HeadOutputs) -> np.ndarray:
        log_p = calibrated(outputs.logits, self.temperatures)
        return _linear_pool(log_p, (np.array(self.weights) + SMALLEST_WEIGHT) * outputs.present)


@dataclass(frozen=True)
class Greedy:
    """Ensemble selection with replacement (Caruana et al. 2004): the head that lowers the pool's log-loss most is
    added, again and again; a head's weight is how often it was taken. Useless heads are never taken.
    """

    steps: int = 40

    def fit(self, outputs: HeadOutputs, labels: np.ndarray, groups: np.ndarray, seed: int) -> FittedGreedy:
        temperatures = fit_temperatures(outputs.logits, outputs.present, labels)
        of_truth = _of_truth(calibrated(outputs.logits, temperatures), outputs.present, labels)
        h = of_truth.shape[1]
        counts = np.full(h, SMALLEST_WEIGHT)
        for _ in range(self.steps):
            losses = []
            for head in range(h):
                tried = counts + np.eye(h)[head]
                losses.append(-np.log(of_truth @ tried / (outputs.present @ tried)).sum())
            counts[int(np.argmin(losses))] += 1
        pool = FittedGreedy(temperatures, (counts / counts.sum()).tolist())
        return FittedGreedy(temperatures, pool.weights, fit_temperature(pool.pooled(outputs), labels))


def _of_truth(log_p: np.ndarray, present: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What each head gives to the true class, (n, h), 0 where absent."""
    return np.where(present, np.exp(log_p[np.arange(len(labels)), :, labels]), 0.0)


def _linear_pool(log_p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Logarithm of the weighted mean of probabilities; weights (n, h) are 0 where a head is absent."""
    with np.errstate(divide="ignore"):
        log_w = np.log(weights / weights.sum(axis=1, keepdims=True))
    return logsumexp(np.where(weights[..., None] > 0, log_p + log_w[..., None], -np.inf), axis=1)
