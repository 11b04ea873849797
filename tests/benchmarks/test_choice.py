"""``benchmarks/choice.py``: its problems are what they are said to be, and its tables say what was measured."""

import numpy as np
import pytest

from benchmarks.choice import Result, _mean, leaders, solve
from benchmarks.draws import KINDS, draw
from fusion.strategies.catalogue import STRATEGIES


def test_a_seed_is_a_problem_and_folds_never_part_groups() -> None:
    kinds = set()
    for seed in (0, 1, 4, 5, 6, 9):  # small ones, of every kind
        problem = draw(seed, test_units=300)
        units, oof = problem.units, problem.units.splits == "oof"
        kinds.add(problem.kind)
        assert set(units.folds[oof]) == set(range(5))
        assert not set(units.groups[oof]) & set(units.groups[~oof])
        assert len(set(zip(units.groups[oof], units.folds[oof], strict=True))) == len(set(units.groups[oof]))
        assert units.present.any(axis=1).all()
        assert np.isfinite(units.logits[units.present]).all()
        right = [
            (units.logits[has, h].argmax(axis=1) == units.labels[has]).mean() for h, has in enumerate(units.present.T)
        ]
        if problem.kind == "acted":
            assert 1000 <= oof.sum() <= 1500
            assert all(0.6 < each < 0.9 for each in right)
            assert len(set(units.groups[oof])) == 24
        if problem.kind == "useless":
            assert min(right) < 0.35
        if problem.kind == "missing":
            assert not units.present.all()
    assert kinds == set(KINDS)
    again = draw(9, test_units=300).units
    np.testing.assert_array_equal(again.logits, units.logits)
    few = draw(9, test_units=300, few_groups=True).units
    oof = few.splits == "oof"
    assert 30 <= oof.sum() <= 500
    assert 3 <= len(set(few.groups[oof])) == len(set(few.folds[oof])) <= 5


def test_a_problem_is_solved_in_all_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: STRATEGIES[name] for name in ("mean", "weighted", "class_weighted")}
    monkeypatch.setattr("benchmarks.choice.STRATEGIES", some)
    result = solve(0, test_units=200)
    assert result.size == "< 200"
    rules = {f"{choice} by {metric}" for choice in ("best", "likeliest") for metric in ("macro-F1", "log-loss")}
    for judge in ("macro_f1", "log_loss"):
        assert rules | set(some) | {"best head"} <= set(result.worth[judge])
        assert set(result.worth[judge].values()) >= {result.worth[judge][rule] for rule in rules}
    assert max(result.worth["log_loss"].values()) < 0 < min(result.worth["macro_f1"].values())


def test_leaders_are_the_best_and_what_is_not_behind_it() -> None:
    worth = dict.fromkeys(STRATEGIES, 0.5) | {"mean": 0.7, "weighted": 0.70005}
    results = [
        Result(i, "plain", "< 200", {judge: worth | {"mean": 0.7 + i / 10000} for judge in ("log_loss", "macro_f1")})
        for i in range(-2, 3)
    ]
    assert list(leaders(results)) == [
        "log-loss, < 200, plain (5): weighted; mean",
        "macro-F1, < 200, plain (5): weighted; mean",
    ]
    assert _mean(np.array([0.001, 0.003])) == "+2.0 ± 2.0"
