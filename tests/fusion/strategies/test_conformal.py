"""Sets of classes: coverage is what was asked for, over groups and not over units."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from cache import StoreError, publish_folder
from configs import UserError
from fusion.strategies.conformal import (
    ENOUGH_GROUPS,
    SETS_FILE,
    STEPS,
    calibrate,
    checked_confidence,
    left_out_sets,
    load_sets,
    save_sets,
)

Problem = tuple[np.ndarray, np.ndarray, np.ndarray]  # p (n, c), labels (n,), groups (n,)


def people(rng: np.random.Generator, groups: int, classes: int = 4) -> Problem:
    """Exchangeable groups of unequal sizes; how well their emotions are told differs from one to the next, and those
    of whom there is little are told worst."""
    hard = rng.random(groups) < 0.3
    sizes = np.where(hard, 3, 30)
    which = np.repeat(np.arange(groups), sizes)
    labels = rng.integers(classes, size=len(which))
    logits = rng.normal(size=(len(which), classes))
    logits[np.arange(len(which)), labels] += np.where(hard[which], 0.0, 3.0)
    return softmax(logits, axis=1), labels, which.astype(str)


def everywhere(n: int) -> np.ndarray:
    return np.ones((n, 1), dtype=bool)


def group_coverage(sets: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    hit = sets[np.arange(len(labels)), labels]
    return float(np.mean([hit[groups == name].mean() for name in np.unique(groups)]))


@pytest.mark.parametrize("confidence", [0.8, 0.9])
def test_new_groups_are_covered_as_often_as_was_asked(confidence: float) -> None:
    rng, covered = np.random.default_rng(0), []
    for _ in range(80):
        p, labels, groups = people(rng, 24)
        sets = calibrate(p, labels, everywhere(len(p)), groups)
        p, labels, groups = people(rng, 12)
        covered.append(group_coverage(sets.sets(p, everywhere(len(p)), confidence), labels, groups))
    error = np.std(covered) / math.sqrt(len(covered))
    assert np.mean(covered) >= confidence - 2 * error
    assert np.mean(covered) <= confidence + 1 / 25 + 3 * error  # not bought with everything in every set


def test_few_groups_are_not_worth_as_many_units() -> None:
    """Were units exchangeable, five people with a thousand units each would vouch for 99.9 %."""
    rng = np.random.default_rng(0)
    p, labels = softmax(rng.normal(size=(5000, 4)), axis=1), rng.integers(4, size=5000)
    five = calibrate(p, labels, everywhere(5000), np.repeat(list("abcde"), 1000))
    assert five.everyone.limit(5 / 6) < math.inf
    assert five.everyone.limit(0.9) == math.inf
    assert five.sets(p, everywhere(5000), 0.9).all()
    each = calibrate(p, labels, everywhere(5000), np.arange(5000).astype(str))
    assert each.everyone.limit(0.999) < math.inf


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.05, 0.95))
def test_groups_that_are_left_out_are_judged_as_if_they_were_new(seed: int, confidence: float) -> None:
    p, labels, groups = people(np.random.default_rng(seed), 8)
    fast = left_out_sets(p, labels, everywhere(len(p)), groups, confidence)
    for name in np.unique(groups):
        own = groups == name
        others = calibrate(p[~own], labels[~own], everywhere(int((~own).sum())), groups[~own])
        assert np.array_equal(fast[own], others.sets(p[own], everywhere(int(own.sum())), confidence))


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.05, 0.9), st.floats(0.0, 0.09))
def test_no_set_is_empty_and_more_confidence_never_takes_a_class_away(seed: int, low: float, more: float) -> None:
    p, labels, groups = people(np.random.default_rng(seed), 10)
    sets = calibrate(p, labels, everywhere(len(p)), groups)
    small, large = (sets.sets(p, everywhere(len(p)), confidence) for confidence in (low, low + more))
    assert small[np.arange(len(p)), p.argmax(axis=1)].all()
    assert (small <= large).all()


def test_with_a_unit_a_group_the_limit_is_the_usual_quantile() -> None:
    rng = np.random.default_rng(3)
    p, labels = softmax(rng.normal(size=(199, 5)), axis=1), rng.integers(5, size=199)
    scores = np.sort(np.where(p.argmax(axis=1) == labels, 0, 1 - p[np.arange(199), labels]))
    limit = calibrate(p, labels, everywhere(199), np.arange(199).astype(str)).everyone.limit(0.9)
    assert scores[179] <= limit < scores[179] + 1 / STEPS + 1e-9  # the ceil(200 * .9)th of 199


def test_a_pattern_of_heads_has_its_own_limit_where_it_has_groups_enough() -> None:
    n = 10 * (ENOUGH_GROUPS + 1)
    group, place = np.divmod(np.arange(n), 10)
    labels, present = np.arange(n) % 3, np.ones((n, 2), dtype=bool)
    present[:, 1] = (place % 2 == 0) & (group < ENOUGH_GROUPS - 1)  # "11" lacks a group or two, "10" has all
    present[-1] = False  # of this unit nobody says anything
    p = np.full((n, 3), 0.05)
    p[np.arange(n), np.where(present[:, 1], labels, (labels + 1) % 3)] = 0.9  # without the second head all is wrong
    sets = calibrate(p, labels, present, group.astype(str))
    assert {name: scores.groups for name, scores in sets.patterns.items()} == {"10": ENOUGH_GROUPS + 1}
    assert sets.met == {"10": ENOUGH_GROUPS + 1, "11": ENOUGH_GROUPS - 1}
    assert sets.everyone.units == n - 1
    unit = np.array([[0.9, 0.06, 0.04]])
    alone, both, other = ([[True, False]], [[True, True]], [[False, True]])
    assert sets.sets(unit, np.array(alone), 0.4).sum() == 2
    assert sets.sets(unit, np.array(both), 0.4).sum() == 1  # by all units together
    assert np.array_equal(sets.sets(unit, np.array(other), 0.4), sets.sets(unit, np.array(both), 0.4))  # never met


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    p, labels, groups = people(np.random.default_rng(0), 30)
    present = np.random.default_rng(1).random((len(p), 2)) < 0.7
    sets = calibrate(p, labels, present, groups)
    publish_folder(tmp_path / "model", lambda fresh: save_sets(sets, fresh))
    assert load_sets(tmp_path / "model") == sets
    publish_folder(tmp_path / "again", lambda fresh: save_sets(sets, fresh))
    assert (tmp_path / "again" / SETS_FILE).read_bytes() == (tmp_path / "model" / SETS_FILE).read_bytes()

    def other(fresh: Path) -> None:
        (fresh / SETS_FILE).write_text(json.dumps({"everyone": {"quantile": 1}, "patterns": {}, "met": {}}))

    publish_folder(tmp_path / "other", other)
    with pytest.raises(StoreError, match=r"another version of this program made it: fuse the heads again"):
        load_sets(tmp_path / "other")
    (tmp_path / "model" / SETS_FILE).write_text("{}")
    with pytest.raises(StoreError, match=r"sets\.json"):
        load_sets(tmp_path / "model")
    publish_folder(tmp_path / "old", lambda fresh: (fresh / "fusion.json").write_text("{}"))
    assert load_sets(tmp_path / "old") is None


@pytest.mark.parametrize("confidence", [0, 1, -0.1, 90, math.nan, math.inf])
def test_a_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(UserError, match=r"--confidence \S+: a share above 0 and below 1, such as 0\.9"):
        checked_confidence(confidence)
    assert checked_confidence(0.9) == 0.9
