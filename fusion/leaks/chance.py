"""What chance gives: null distributions of predictions that know nothing of the labels.

Balanced accuracy is the test statistic: whatever the class shares, a prediction that is independent of the labels has
an expected balanced accuracy of one over the number of classes.

Cross-fitted predictions, each fold's by models that learned the other folds, vary more than permuting their labels
shows: that two units look alike and have the same label by chance counts twice, when the first is predicted and when
the second is (which is why the variance of cross-validation has no unbiased estimate, Bengio and Grandvalet 2004). If
every agreement counts twice, the variance is twice that of as many independent ones; so much is allowed for.
"""

import math
from dataclasses import dataclass

import numpy as np

from heads.metrics.confusions import SCORES

DRAWS = 2000  # permutations behind each p-value: the smallest is 1 / 2001
SURE = 0.001  # a p-value at which a leak counts as shown: one clean project in a thousand fails
LIKELY = 0.01  # and at which it is worth a look
RELABELLINGS = 20_000
STATISTIC = "balanced_accuracy"
CROSSED = math.sqrt(2)  # standard deviations of a cross-fitted score for each one of its permutations


@dataclass(frozen=True)
class Chance:
    """Several predictions of the same units, against what they would score if they were independent of the labels."""

    scores: dict[str, dict[str, float]]  # prediction: score as in metrics.SCORES: value
    expected: dict[str, dict[str, float]]  # the same of independent predictions with the same answers, on average
    p: dict[str, float]  # of each one's balanced accuracy, corrected for taking the best of all
    limit: dict[str, float]  # the balanced accuracy that independent predictions pass with probability ``SURE``

    @property
    def best(self) -> str:
        """The prediction that chance explains least (the first of equals)."""
        return min(self.p, key=lambda name: (self.p[name], -self.gain(name)))

    def gain(self, name: str) -> float:
        """Balanced accuracy from chance (0) to perfect (1)."""
        expected = self.expected[name][STATISTIC]
        return (self.scores[name][STATISTIC] - expected) / (1 - expected) if expected < 1 else 0.0


def against_chance(
    labels: np.ndarray, predicted: dict[str, np.ndarray], n_classes: int, blocks: np.ndarray, seed: int, crossed: bool
) -> Chance:
    """A permutation test of each prediction's balanced accuracy, labels being permuted within blocks.

    Without ``crossed`` it is exact where labels were dealt out at random and predictions know nothing of them,
    whatever the groups. With blocks that are folds, what models know of a held-out fold's class counts, because they
    saw those of the others, helps neither side. The p-values are corrected for the number of predictions by the
    maximum of their standardised statistics (Westfall and Young 1993, single step).

    Args:
        labels: (n,) class numbers.
        predicted: name: (n,) class numbers.
        blocks: (n,) what labels are exchanged within.
        crossed: the predictions are cross-fitted: allow for their larger variance.
    """
    names = list(predicted)
    guesses = np.stack([predicted[name] for name in names])  # (models, n)
    offsets = np.arange(len(names))[:, None] * n_classes**2 + guesses
    parts = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]

    def confusions(truth: np.ndarray) -> np.ndarray:
        counts = np.bincount((offsets + truth * n_classes).ravel(), minlength=len(names) * n_classes**2)
        return counts.reshape(len(names), n_classes, n_classes).astype(float)

    rng = np.random.default_rng(seed)
    drawn = np.empty((DRAWS, len(names), n_classes, n_classes))
    permuted = labels.copy()
    for draw in range(DRAWS):
        for part in parts:
            permuted[part] = rng.permutation(labels[part])
        drawn[draw] = confusions(permuted)
    observed = confusions(labels)

    null = SCORES[STATISTIC](drawn)  # (draws, models)
    mean, deviation = null.mean(0), null.std(0)
    varies = deviation > 1e-9  # one answer for every unit has the same score under every permutation
    scale = np.where(varies, deviation, 1)
    highest = np.where(varies, (null - mean) / scale, 0.0).max(1)  # (draws,)
    scale *= CROSSED if crossed else 1
    z = np.where(varies, (SCORES[STATISTIC](observed) - mean) / scale, 0.0)
    p = (1 + (highest[:, None] >= z - 1e-9).sum(0)) / (1 + DRAWS)
    limit = mean + scale * varies * np.quantile(highest, 1 - SURE)
    return Chance(
        scores={name: {score: float(of(observed[m])) for score, of in SCORES.items()} for m, name in enumerate(names)},
        expected={
            name: {score: float(of(drawn[:, m]).mean()) for score, of in SCORES.items()} for m, name in enumerate(names)
        },
        p=dict(zip(names, p.tolist(), strict=True)),
        limit=dict(zip(names, limit.tolist(), strict=True)),
    )


def clustered_p(
    labels: np.ndarray,
    predicted: np.ndarray,
    n_classes: int,
    blocks: np.ndarray,
    groups: np.ndarray,
    seed: int,
    crossed: bool,
) -> float:
    """The p-value of a prediction's balanced accuracy where units of a group stand or fall together.

    Each group's part in the excess over chance gets a random sign (a wild bootstrap over clusters, Cameron, Gelbach
    and Miller 2008, of the null). With G groups no p-value is below 2**-G: few groups cannot show much.

    Args:
        labels, predicted: (n,) class numbers.
        blocks, crossed: as in :func:`against_chance`; chance is computed within blocks.
        groups: (n,) names of groups.
    """
    counts = np.bincount(labels, minlength=n_classes)
    expected = np.empty(len(labels))  # the chance that an independent guess of this block is the unit's label
    for block in np.unique(blocks):
        part = blocks == block
        shares = np.bincount(predicted[part], minlength=n_classes) / part.sum()
        expected[part] = shares[labels[part]]
    excess = ((predicted == labels) - expected) / (counts[labels] * (counts > 0).sum())
    _, numbers = np.unique(groups, return_inverse=True)
    per_group = np.bincount(numbers, weights=excess)
    observed = per_group.sum() / (CROSSED if crossed else 1)
    rng = np.random.default_rng(seed)
    as_high = 0
    for _ in range(DRAWS):
        signs = rng.integers(2, size=len(per_group), dtype=np.int8)
        as_high += bool((2 * signs - 1) @ per_group >= observed - 1e-12)
    return (1 + as_high) / (1 + DRAWS)


def relabelling_p(confusions: np.ndarray, seed: int) -> tuple[float, float, float]:
    """The p-value of the mean balanced accuracy of models that were trained on random labels, against true ones.

    Such a model may well answer all units of a class alike, because they are alike: units say nothing one by one. But
    which class it takes them for is chance, so any exchange of the names of its answers was as likely.

    Args:
        confusions: (models, classes, classes) counts, rows are true classes; each model was trained on labels of its
            own.
    Returns:
        The p-value, the mean balanced accuracy, and the smallest p-value that there could be: 1 / (classes!)**models.
    """
    models, n_classes, _ = confusions.shape
    totals = confusions.sum(2, keepdims=True)
    occurs = np.maximum((totals > 0).sum(1, keepdims=True), 1)
    recalls = np.divide(confusions, totals * occurs * models, out=np.zeros_like(confusions), where=totals > 0)
    rng = np.random.default_rng(seed)
    names = rng.permuted(np.tile(np.arange(n_classes), (RELABELLINGS, models, 1)), axis=2)
    drawn = recalls[np.arange(models)[:, None], np.arange(n_classes), names].sum((1, 2))
    observed = float(np.trace(recalls, axis1=1, axis2=2).sum())
    p = (1 + (drawn >= observed - 1e-9).sum()) / (1 + RELABELLINGS)
    return float(p), observed, max(math.factorial(n_classes) ** -float(models), 1 / (1 + RELABELLINGS))
