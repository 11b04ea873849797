"""Whether out-of-fold scores flatter: found where they do, and not where they do not."""

from typing import Any

import numpy as np
import pytest

from fusion.strategies.optimism import Gap, group_accuracies, holm, told
from fusion.strategies.optimism import gaps as gaps_of
from heads.metrics.scores import evaluate

CLASSES = ("a", "b", "c")
Scores = dict[str, dict[str, Any]]


def scored(right: float, n: int, rng: np.random.Generator, group_size: int = 3, shares: Any = None) -> dict[str, Any]:
    """A split of which a share is right, by groups: some are easy."""
    labels = rng.choice(3, size=n, p=shares)
    easy = np.repeat(rng.normal(0, 0.1, size=n // group_size + 1), group_size)[:n]
    answers = np.where(rng.random(n) < right + easy, labels, rng.integers(3, size=n))
    groups = [str(i // group_size) for i in range(n)]
    score = evaluate([CLASSES[i] for i in labels], np.eye(3)[answers], CLASSES, groups, bootstrap=100)
    return score | {"by_group": group_accuracies(answers == labels, np.array(groups))}


def gaps(scores: Scores) -> list[Gap]:
    by_group = {name: {split: score["by_group"] for split, score in each.items()} for name, each in scores.items()}
    return gaps_of(scores, by_group)


def candidates(oof: float, held: float, n: int, n_held: int, heads: int, seed: int, **options: Any) -> Scores:
    rng = np.random.default_rng(seed)
    return {
        f"head:h{h}": {"oof": scored(oof, n, rng), "test": scored(held, n_held, rng, **options)} for h in range(heads)
    }


def test_features_that_met_the_labels_are_told() -> None:
    scores = candidates(0.8, 0.8, 400, 200, 3, 0) | {"head:met": candidates(0.97, 0.6, 400, 200, 1, 1)["head:h0"]}
    first, *others = gaps(scores)
    assert (first.name, first.split, first.verdict) == ("head:met", "test", "fail")
    assert {gap.verdict for gap in others} == {"pass"}
    assert told([first, *others]).startswith(f"head met scores accuracy {first.oof['accuracy']:.3f} and macro-F1 ")
    assert told(others) == ""


def test_clean_scores_are_hardly_ever_told_of() -> None:
    """45 projects of four heads, of three sizes: at one in a hundred, four alarms would be a wonder."""
    alarms = 0
    for seed in range(45):
        n, n_held = ((60, 20), (200, 60), (500, 200))[seed % 3]
        alarms += bool(told(gaps(candidates(0.6, 0.6, n, n_held, 4, seed))))
    assert alarms <= 3


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (0.1, 0.1, 0.8)])
def test_other_class_shares_alone_are_no_alarm(shares: tuple[float, ...]) -> None:
    assert told(gaps(candidates(0.7, 0.7, 900, 400, 2, 0, shares=shares))) == ""


def test_few_groups_are_told_of_where_there_are_many_to_compare_them_with() -> None:
    """Four test speakers, each worse than all of 30 others; with one, or with few on either side, nobody can know."""
    (gap,) = gaps(candidates(0.97, 0.5, 300, 80, 1, 0, group_size=20))
    assert gap.verdict != "pass"
    (alone,) = gaps(candidates(0.99, 0.3, 300, 60, 1, 0, group_size=60))
    assert np.isnan(alone.p)
    assert alone.verdict == "pass"
    rng = np.random.default_rng(0)
    (few,) = gaps({"a": {"oof": scored(0.97, 40, rng, 20), "test": scored(0.5, 40, rng, 20)}})
    assert few.verdict == "pass"
    assert few.p > 0.05


def test_val_and_test_are_compared_and_nothing_without_them() -> None:
    both = candidates(0.9, 0.9, 100, 50, 1, 0)["head:h0"]
    assert [gap.split for gap in gaps({"head:h0": both | {"val": both["test"]}})] in (["val", "test"], ["test", "val"])
    assert gaps({"head:h0": {"oof": both["oof"]}}) == []
    assert told([]) == ""


def test_a_small_difference_is_no_matter_however_sure() -> None:
    values = {"accuracy": 0.74, "macro_f1": 0.74}
    assert Gap("mean", "test", {"accuracy": 0.78, "macro_f1": 0.80}, values, 1e-9).verdict == "pass"
    assert Gap("mean", "test", {"accuracy": 0.80, "macro_f1": 0.82}, values, 1e-9).verdict == "warn"
    assert Gap("mean", "test", {"accuracy": 0.85, "macro_f1": 0.90}, values, 1e-9).verdict == "fail"
    assert Gap("mean", "test", {"accuracy": 0.85, "macro_f1": 0.90}, values, 0.005).verdict == "warn"


def test_holm_counts_what_is_known() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm([0.02, float("nan")])
    assert adjusted[0] == 0.02
    assert np.isnan(adjusted[1])
