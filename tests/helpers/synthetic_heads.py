"""Synthetic heads: each sees the true class through its own, independent noise."""

import numpy as np
import polars as pl
from scipy.special import log_softmax, softmax

from fusion.tables.predictions import Predictions

CLASSES = ("happy", "sad", "angry")


def make_units(
    n: int = 600,
    strengths: tuple[float, ...] = (1.5, 1.2),
    absent: float = 0.0,
    test_share: float = 0.0,
    seed: int = 0,
    group_size: int = 3,
) -> Predictions:
    """Units in five grouped folds, heads of the given strengths (0 is noise), a share of predictions absent."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(CLASSES), size=n, p=(0.5, 0.3, 0.2))
    logits = rng.normal(size=(n, len(strengths), len(CLASSES)))
    for h, strength in enumerate(strengths):
        logits[np.arange(n), h, labels] += strength
    present = rng.random((n, len(strengths))) >= absent
    present[~present.any(axis=1), 0] = True
    group_numbers = np.arange(n) // group_size
    is_test = group_numbers >= (1 - test_share) * n / group_size
    logits = log_softmax(logits, axis=2)
    logits[~present] = np.nan
    return Predictions(
        heads=tuple(f"h{i}" for i in range(len(strengths))),
        classes=CLASSES,
        unit_ids=np.array([f"u{i}" for i in range(n)]),
        splits=np.where(is_test, "test", "oof"),
        folds=np.where(is_test, -1, group_numbers % 5),
        labels=labels,
        groups=np.array([f"g{g}" for g in group_numbers]),
        logits=logits,
        present=present,
    )


def frame_of(units: Predictions, head: int = 0) -> pl.DataFrame:
    """One head's table as the contract has it."""
    has = units.present[:, head]
    logits = units.logits[has, head]
    return pl.DataFrame(
        {
            "unit_id": units.unit_ids[has],
            "split": units.splits[has],
            "fold": [None if fold < 0 else int(fold) for fold in units.folds[has]],
            "label": [units.classes[i] for i in units.labels[has]],
            "group": units.groups[has],
            **{f"p_{name}": softmax(logits, axis=1)[:, i] for i, name in enumerate(units.classes)},
            **{f"logit_{name}": logits[:, i] for i, name in enumerate(units.classes)},
        }
    )
