import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fusion.report.significance import against, holm, mcnemar

CLASSES = ("happy", "sad", "angry")


def answers(labels: np.ndarray, accuracy: float, seed: int) -> np.ndarray:
    """Probabilities (n, 3) of a model that is right about as often as it should be."""
    rng = np.random.default_rng(seed)
    right = rng.random(len(labels)) < accuracy
    return np.eye(3)[np.where(right, labels, (labels + rng.integers(1, 3, len(labels))) % 3)] * 0.7 + 0.1


def test_mcnemar_is_the_binomial_test_of_the_units_that_only_one_gets_right() -> None:
    right = np.array([True] * 9 + [False] * 2 + [True] * 50 + [False] * 7)
    other = np.array([False] * 9 + [True] * 2 + [True] * 50 + [False] * 7)
    found = mcnemar(right, other)
    assert (found["gained"], found["lost"]) == (9, 2)
    assert found["p"] == pytest.approx(2 * binom.cdf(2, 11, 0.5))
    assert mcnemar(other, right)["p"] == found["p"]
    assert mcnemar(right, right)["p"] == 1


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, math.nan, 0.04])[::2] == pytest.approx([0.02, 0.04])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    assert max(adjusted) <= 1
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_a_better_candidate_is_told_from_one_that_is_as_good() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 600)
    groups = [f"g{i // 3}" for i in range(600)]
    candidates = {"better": answers(labels, 0.85, 1), "alike": answers(labels, 0.65, 2)}
    found = against(answers(labels, 0.65, 3), candidates, labels, CLASSES, groups)
    assert found["better"]["macro_f1"]["value"] > 0.1
    for test in ("macro_f1", "mcnemar"):
        assert found["better"][test]["p_holm"] < 0.01 < found["alike"][test]["p_holm"]
        assert found["better"][test]["p_holm"] == pytest.approx(2 * found["better"][test]["p"])


def test_alike_models_are_seldom_called_different() -> None:
    false_alarms = 0
    for seed in range(60):
        labels = np.random.default_rng(seed).integers(0, 3, 200)
        groups = [f"g{i}" for i in range(200)]
        pair = answers(labels, 0.6, 1000 + seed), answers(labels, 0.6, 2000 + seed)
        found = against(pair[0], {"other": pair[1]}, labels, CLASSES, groups, bootstrap=200)
        false_alarms += found["other"]["macro_f1"]["p"] < 0.05
    assert false_alarms <= 8


def test_a_handful_of_groups_proves_nothing() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 300)
    candidates = {"better": answers(labels, 0.95, 1)}
    for n in (5, 6):
        groups = [f"g{i % n}" for i in range(300)]
        gain = against(answers(labels, 0.4, 2), candidates, labels, CLASSES, groups)["better"]["macro_f1"]
        if n == 5:
            assert all(np.isnan(gain[name]) for name in ("low", "high", "p"))
        else:
            assert gain["low"] > 0
            assert gain["p"] == 2 / 2**6  # six groups that agree
