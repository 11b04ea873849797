"""From probabilities to classes where the most probable one is not what the metric asks for.

Macro-F1 counts every class the same, however rare: what is gained by naming a rare class more often is not seen by
``argmax p``. Here the class is ``argmax (log p - tau log prior)``, prior being the frequencies of classes among oof
units: tau 0 is the plain decision, tau 1 that for classes that are equally frequent.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from fusion.strategies.choice import CLOSE
from fusion.strategies.predictions import Predictions
from fusion.strategies.tables import SPLITS
from heads.metrics import SCORES, evaluate, goodness

TAUS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Decision:
    """The prior-corrected decision beside the plain one; predictions.parquet and the headline keep the plain one."""

    tau: float  # chosen on all oof units, for val and test
    metric: str  # what it was chosen by
    scores: dict[str, dict[str, Any]]  # split: of metrics.evaluate the SCORES; on oof, tau comes from the other folds


def decide(units: Predictions, log_p: np.ndarray, metric: str, bootstrap: int = 1000, seed: int = 0) -> Decision:
    """Choose tau for a fusion's cross-fitted log-probabilities (n, c), and score what it decides.

    By macro-F1 where the metric is the log-loss, which no decision changes.
    """
    metric = "macro_f1" if metric == "log_loss" else metric
    oof = units.splits == "oof"
    corrected = np.empty_like(log_p)
    for fold in np.unique(units.folds[oof]):
        held = oof & (units.folds == fold)
        corrected[held] = _corrected(units, log_p, oof & ~held, held, metric)[1]
    tau, corrected[~oof] = _corrected(units, log_p, oof, ~oof, metric)
    scores = {}
    for split in (s for s in SPLITS if (units.splits == s).any()):
        rows = units.where(units.splits == split)
        p = np.exp(log_softmax(corrected[units.splits == split], axis=1))
        whole = evaluate(rows.label_names, p, units.classes, rows.groups.tolist(), bootstrap, seed)
        scores[split] = {name: whole[name] for name in SCORES}
    return Decision(tau, metric, scores)


def _corrected(
    units: Predictions, log_p: np.ndarray, known: np.ndarray, asked: np.ndarray, metric: str
) -> tuple[float, np.ndarray]:
    """The smallest tau that is as good as the best on the known units, and the scores of the asked ones by it."""
    counts = np.bincount(units.labels[known], minlength=len(units.classes)) + 1.0
    prior = np.log(counts / counts.sum())
    labels = units.where(known).label_names
    good = [goodness(metric, labels, log_p[known] - tau * prior, units.classes) for tau in TAUS]
    tau = next(tau for tau, each in zip(TAUS, good, strict=True) if each >= max(good) - CLOSE)
    return tau, log_p[asked] - tau * prior
