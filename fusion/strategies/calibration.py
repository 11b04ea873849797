"""Temperatures and doubts: how sure a head, or a pool of heads, may be.

Everywhere in this room ``logits`` are log-probabilities (units n, heads h, classes c), NaN where a head is absent, and
``present`` (n, h) says where it is not.
"""

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax, softmax

from fusion.tables.predictions import HeadOutputs

PRIOR_STRENGTH = 4.0  # in units of summed log-loss: a handful of units decides nothing, a hundred does
USUAL_DOUBT, DOUBT_SHARE = -4.0, 0.1  # where the prior has the log-odds of a doubt, and how strong it is beside the T's


def fit_temperatures(logits: np.ndarray, present: np.ndarray, labels: np.ndarray) -> list[float]:
    """The temperature of each head that minimises its log-loss (Guo et al. 2017), drawn to 1 by a weak prior."""
    return [fit_temperature(logits[has, h], labels[has]) for h, has in enumerate(present.T)]


def fit_temperature(log_p: np.ndarray, labels: np.ndarray) -> float:
    """The same for one set of log-probabilities (n, c)."""
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        scaled = log_softmax(log_p / np.exp(log_t), axis=1)
        return PRIOR_STRENGTH * log_t**2 / 2 - scaled[rows, labels].sum()

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def fit_calibrations(logits: np.ndarray, present: np.ndarray, labels: np.ndarray) -> list[list[float]]:
    """What pools and meta-learners do to each head first: a temperature, and a doubt (below), fitted together."""
    return [fit_calibration(logits[has, h], labels[has]) for h, has in enumerate(present.T)]


def fit_calibration(log_p: np.ndarray, labels: np.ndarray) -> list[float]:
    """Temperature T and doubt d that minimise the log-loss of ``(1 - d) softmax(log p / T) + d / c``.

    Heads are sure of something wrong now and then. A temperature that allows for it makes them less sure of all the
    rest; without one, such a head has a veto in a pool of log-probabilities. A share of units of which the head knows
    nothing says it better. Priors are weak: T is drawn to 1, the log-odds of d to -4.
    """
    n, c = log_p.shape
    rows = np.arange(n)

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        t, d = np.exp(at[0]), expit(at[1])
        q = softmax(log_p / t, axis=1)
        of_truth = (1 - d) * q[rows, labels] + d / c
        known = (1 - d) * q[rows, labels] / of_truth
        to_t = (known * (log_p[rows, labels] - (q * log_p).sum(axis=1)) / t).sum()
        to_d = d * (1 - d) * ((q[rows, labels] - 1 / c) / of_truth).sum()
        prior = at[0] ** 2 / 2 + DOUBT_SHARE * (at[1] - USUAL_DOUBT) ** 2 / 2
        slope = PRIOR_STRENGTH * np.array([at[0], DOUBT_SHARE * (at[1] - USUAL_DOUBT)])
        return PRIOR_STRENGTH * prior - np.log(of_truth).sum(), slope + np.array([to_t, to_d])

    bounds = [(-3.0, 3.0), (-9.0, 0.0)]
    found = minimize(loss, [0.0, USUAL_DOUBT], jac=True, method="L-BFGS-B", bounds=bounds).x
    return [float(np.exp(found[0])), float(expit(found[1]))]


def calibrated(logits: np.ndarray, calibrations: list[list[float]]) -> np.ndarray:
    """Log-probabilities (n, h, c) with each head's temperature and doubt; NaN stays NaN."""
    temperatures, doubts = np.array(calibrations).T[..., None]
    log_p = log_softmax(logits / temperatures, axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):  # absent; no doubt at all
        return np.logaddexp(log_p + np.log1p(-doubts), np.log(doubts / log_p.shape[2]))


def silent_where_absent(outputs: HeadOutputs, calibrations: list[list[float]]) -> np.ndarray:
    """The same with 0 where a head is absent: a term that adds nothing to a log-linear pool."""
    return np.where(outputs.present[..., None], calibrated(outputs.logits, calibrations), 0.0)


def sharpened(log_p: np.ndarray, temperature: float) -> np.ndarray:
    """Log-probabilities (n, c) at another temperature; the order of the classes stays."""
    return log_softmax(log_p / temperature, axis=1)
