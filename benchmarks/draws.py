"""Fusion problems drawn at random: heads' out-of-fold predictions of training units, and their predictions of test.

A head sees a unit as a point near its class's place in a space of its own, and answers with the posterior of a model
whose places are a little off, in each fold in another way: as networks that were trained well, it leaves little that
could be put right in its answers by themselves. Points are moved by noise, some of it common to all heads, and by the
unit's group (the speaker). Some units show another class than theirs, to one head or to all. And all answers of a head
are too loud, or too soft. There are so many test units, in groups of their own, that a strategy's true quality on the
problem is known well.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from fusion.tables.predictions import NO_FOLD, Predictions

FOLDS = 5
TEST_UNITS = 4000
SPACE = 8  # dimensions
KINDS = {  # of draw: how often. What each is about is drawn large in it, and small or not at all in the others
    "acted": 0.25,  # 24 people act 8 emotions, 1,000 to 1,500 units, 3 to 6 strong and overconfident heads
    "plain": 0.15,
    "classwise": 0.15,  # heads are good at different classes
    "useless": 0.15,  # some heads know nothing
    "missing": 0.15,  # heads are absent for some units
    "context": 0.15,  # metadata tell which head to hear
}
VALUES = np.array(["dawn", "noon", "night"], dtype=object)  # of the metadata field


@dataclass(frozen=True)
class Draw:
    seed: int
    kind: str
    units: Predictions  # oof in folds, and test


def draw(seed: int, test_units: int = TEST_UNITS, few_groups: bool = False) -> Draw:
    """The fusion problem of a seed; with ``few_groups``, of 30 to 500 units of three to five people."""
    rng = np.random.default_rng([seed, 2026])
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    acted = kind == "acted"
    c = 8 if acted else int(rng.integers(4, 9))
    h = int(rng.integers(3, 7) if acted else rng.integers(2, 7))
    n = int(np.exp(rng.uniform(np.log(1000), np.log(1500)) if acted else rng.uniform(np.log(60), np.log(5000))))
    n_groups = 24 if acted else int(np.exp(rng.uniform(np.log(8), np.log(n / 2))))
    if few_groups:
        n, n_groups = int(np.exp(rng.uniform(np.log(30), np.log(500)))), int(rng.integers(3, 6))
    groups = rng.integers(n_groups, size=n)
    test_groups = n_groups + rng.integers(max(24, round(n_groups * test_units / n)), size=test_units)
    folds = np.concatenate([groups % FOLDS, np.full(test_units, NO_FOLD)])
    whose = np.concatenate([groups, test_groups])
    labels = rng.choice(c, size=n + test_units, p=rng.dirichlet(np.full(c, 30.0 if acted else rng.uniform(1.5, 20))))

    levels = _levels(rng, kind, h, c)
    light = rng.integers(len(VALUES), size=len(labels))
    lit = np.exp(rng.normal(scale=0.8 if kind == "context" else 0.1, size=(len(VALUES), h)))[light]  # (all, h)
    alike = rng.uniform(0.5, 0.95) if acted else rng.uniform(0, 0.9)  # of heads: what they see, and their noise
    places = _mixed(rng.normal(size=(h, c, SPACE)), rng.normal(size=(c, SPACE)), alike)
    places *= np.exp(rng.normal(scale=0.6 if kind == "classwise" else 0.1, size=(h, c, 1)))
    noise = _noise(rng, whose, h, alike * rng.uniform(0.5, 1))
    shown = np.where(rng.random(len(labels)) < rng.uniform(0, 0.1), rng.integers(c, size=len(labels)), labels)
    loudness = np.exp(rng.normal(np.log(2.2) if acted else rng.uniform(np.log(0.5), np.log(3)), 0.35, size=h))
    log_p = np.empty((len(labels), h, c))
    for head, level in enumerate(levels):
        seen = np.where(rng.random(len(labels)) < rng.uniform(0, 0.1), rng.integers(c, size=len(labels)), shown)
        points = places[head, seen] * lit[:, head, None]  # without noise
        off = rng.normal(scale=rng.uniform(0, 0.5), size=(c, SPACE))
        believed = places[head] + off + rng.normal(scale=rng.uniform(0, 0.4), size=(FOLDS, c, SPACE))
        strength = _strength(points, noise[:, head], believed, folds, labels, level)
        answers = _answers(strength * points + noise[:, head], (strength or 1.0) * believed, folds)
        log_p[:, head] = log_softmax(loudness[head] * answers, axis=1)

    present = np.ones(log_p.shape[:2], dtype=bool)
    if kind == "missing":
        present = rng.random(present.shape) >= rng.uniform(0, 0.5, size=h)
        present[~present.any(axis=1), 0] = True
    log_p[~present] = np.nan
    splits = np.repeat(["oof", "test"], [n, test_units])
    units = Predictions(
        heads=tuple(f"h{i}" for i in range(h)),
        classes=tuple(f"class{i}" for i in range(c)),
        unit_ids=np.array([f"u{i}" for i in range(len(labels))]),
        splits=splits,
        folds=folds,
        labels=labels,
        groups=np.array([f"g{group}" for group in whose]),
        logits=log_p,
        present=present,
        metadata={"light": VALUES[light]} if kind in ("context", "plain") else {},
    )
    return Draw(seed, kind, units)


def _levels(rng: np.random.Generator, kind: str, h: int, c: int) -> np.ndarray:
    """The accuracy of each head, (h,)."""
    if kind == "acted":
        return rng.uniform(0.70, 0.82, size=h)
    levels = np.clip(rng.uniform(0.35, 0.85) + rng.normal(scale=0.08, size=h), 1 / c + 0.05, 0.88)
    if kind == "useless":
        levels[1 + rng.permutation(h - 1)[: int(rng.integers(1, h))]] = 1 / c
    return levels


def _mixed(own: np.ndarray, common: np.ndarray, share: float) -> np.ndarray:
    return (1 - share) ** 0.5 * own + share**0.5 * common


def _noise(rng: np.random.Generator, groups: np.ndarray, h: int, common: float) -> np.ndarray:
    """What moves the units' points, (n, h, SPACE); of about unit variance, a share of it common to all heads."""
    n, n_groups = len(groups), int(groups.max()) + 1
    noise = _mixed(rng.normal(size=(n, h, SPACE)), rng.normal(size=(n, 1, SPACE)), common)
    noise *= np.exp(rng.normal(scale=0.3, size=(n, 1, 1)))  # some units are hard for all heads
    moved = _mixed(rng.normal(size=(n_groups, h, SPACE)), rng.normal(size=(n_groups, 1, SPACE)), common)
    return noise + rng.uniform(0, 0.8) * moved[groups]


def _answers(points: np.ndarray, believed: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """A head's log-probabilities (n, c): its models' of each fold; on test the mean of all folds' models."""
    each = points @ believed.transpose(0, 2, 1) - (believed**2).sum(axis=2)[:, None] / 2  # (FOLDS, n, c)
    each = log_softmax(each, axis=2)
    return np.where((folds == NO_FOLD)[:, None], each.mean(axis=0), each[folds, np.arange(len(folds))])


def _strength(
    points: np.ndarray, noise: np.ndarray, believed: np.ndarray, folds: np.ndarray, labels: np.ndarray, accuracy: float
) -> float:
    """How far apart the places of classes are to be for a head to have the accuracy; 0 for that of chance."""
    low, high = 0.0, 10.0
    if accuracy <= 1 / believed.shape[1]:
        return 0.0
    for _ in range(12):
        middle = (low + high) / 2
        answers = _answers(middle * points + noise, middle * believed, folds)
        low, high = (middle, high) if (answers.argmax(axis=1) == labels).mean() < accuracy else (low, middle)
    return high
