"""Fusion problems drawn at random: heads' out-of-fold predictions of training units, and their predictions of test.

A head scores each class from a signal of its own strength, its habits of confusing classes, and noise; some of all
this it shares with the other heads. It knows the units' groups (speakers) by a shift that every one of its scores has,
is blind to some units and then sure of something wrong, and says all this too loud or too softly. There are so many
test units, in groups of their own, that a strategy's true quality on the problem is known well.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from fusion.strategies.predictions import NO_FOLD, Predictions

FOLDS = 5
TEST_UNITS = 4000
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


def draw(seed: int, test_units: int = TEST_UNITS) -> Draw:
    """The fusion problem of a seed."""
    rng = np.random.default_rng([seed, 2026])
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    acted = kind == "acted"
    c = 8 if acted else int(rng.integers(4, 9))
    h = int(rng.integers(3, 7) if acted else rng.integers(2, 7))
    n = int(np.exp(rng.uniform(np.log(1000), np.log(1500)) if acted else rng.uniform(np.log(60), np.log(5000))))
    n_groups = 24 if acted else int(np.exp(rng.uniform(np.log(8), np.log(n / 2))))
    groups = rng.integers(n_groups, size=n)
    test_groups = n_groups + rng.integers(max(24, round(n_groups * test_units / n)), size=test_units)
    folds = np.concatenate([groups % FOLDS, np.full(test_units, NO_FOLD)])
    whose = np.concatenate([groups, test_groups])
    labels = rng.choice(c, size=n + test_units, p=rng.dirichlet(np.full(c, 30.0 if acted else rng.uniform(1.5, 20))))

    levels = _levels(rng, kind, h, c)
    light = rng.integers(len(VALUES), size=len(labels))
    strengths = np.exp(rng.normal(scale=1.0 if kind == "context" else 0.1, size=(len(VALUES), h)))[light]  # (all, h)
    strengths = strengths[..., None] * np.exp(rng.normal(scale=0.6 if kind == "classwise" else 0.15, size=(1, h, c)))
    signal, noise = _scores(rng, labels, folds, whose, strengths)
    log_p = np.empty_like(noise)
    loudness = np.exp(rng.normal(np.log(2.2) if acted else rng.uniform(np.log(0.5), np.log(3)), 0.35, size=h))
    for head, level in enumerate(levels):
        s = _strength(signal[:, head], noise[:, head], labels, level)
        log_p[:, head] = log_softmax(loudness[head] * max(s, 1.0) * (s * signal[:, head] + noise[:, head]), axis=1)

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


def _scores(
    rng: np.random.Generator, labels: np.ndarray, folds: np.ndarray, groups: np.ndarray, strengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What heads' scores follow and what they follow by mistake, (n, h, c) each; of unit variance, about."""
    n, h, c = len(labels), *strengths.shape[1:]
    habits = 0.25 * rng.normal(size=(c, c)) + 0.25 * rng.normal(size=(h, c, c))
    seen = np.repeat(labels[:, None], h, axis=1)
    blind = rng.random((n, h)) < rng.uniform(0, 0.1, size=h)
    seen[blind] = rng.integers(c, size=int(blind.sum()))
    heads = np.arange(h)
    own_strength = np.broadcast_to(strengths, (n, h, c))[np.arange(n)[:, None], heads, seen]  # (n, h)
    signal = habits[heads, seen] + np.eye(c)[seen] * own_strength[..., None]

    # A fold's models err in a way of their own; on test, where all folds answer together, they partly agree.
    of_fold = 0.15 * rng.normal(size=(FOLDS, h, c, c))
    is_test = (folds == NO_FOLD)[:, None, None]
    signal += np.where(is_test, of_fold.mean(axis=0)[heads, labels[:, None]], of_fold[folds, :, labels])
    model_share, common_share = rng.uniform(0, 0.3), rng.uniform(0, 0.6)
    spread = np.where(is_test, FOLDS**-0.5, 1.0)
    own = (1 - model_share) ** 0.5 * rng.normal(size=(n, h, c)) + model_share**0.5 * spread * rng.normal(size=(n, h, c))
    noise = (1 - common_share) ** 0.5 * own + common_share**0.5 * rng.normal(size=(n, 1, c))
    noise *= np.exp(rng.normal(scale=0.3, size=(n, 1, 1)))  # some units are hard for all heads
    shift = rng.uniform(0, 0.8) * rng.normal(size=(int(groups.max()) + 1, h, c))
    return signal, noise + shift[groups]


def _strength(signal: np.ndarray, noise: np.ndarray, labels: np.ndarray, accuracy: float) -> float:
    """By how much the signal of a head, (n, c), is to be multiplied for the wanted accuracy; 0 for that of chance."""
    low, high = 0.0, 30.0
    if accuracy <= 1 / signal.shape[1]:
        return 0.0
    for _ in range(20):
        middle = (low + high) / 2
        reached = ((middle * signal + noise).argmax(axis=1) == labels).mean()
        low, high = (middle, high) if reached < accuracy else (low, middle)
    return high
