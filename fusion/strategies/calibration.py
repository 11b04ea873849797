"""Temperatures: how sure a head, or a pool of heads, may be.

Everywhere in this room ``logits`` are log-probabilities (units n, heads h, classes c), NaN where a head is absent, and
``present`` (n, h) says where it is not.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from fusion.strategies.predictions import HeadOutputs

PRIOR_STRENGTH = 4.0  # in units of summed log-loss: a handful of units decides nothing, a hundred does


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


def calibrated(logits: np.ndarray, temperatures: list[float]) -> np.ndarray:
    """Log-probabilities (n, h, c) with each head's temperature; NaN stays NaN."""
    return log_softmax(logits / np.array(temperatures)[:, None], axis=2)


def silent_where_absent(outputs: HeadOutputs, temperatures: list[float]) -> np.ndarray:
    """The same with 0 where a head is absent: a term that adds nothing to a log-linear pool."""
    return np.where(outputs.present[..., None], calibrated(outputs.logits, temperatures), 0.0)


def sharpened(log_p: np.ndarray, temperature: float) -> np.ndarray:
    """Log-probabilities (n, c) at another temperature; the order of the classes stays."""
    return log_softmax(log_p / temperature, axis=1)
