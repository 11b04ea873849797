import math
import time

import numpy as np
import pytest
from sklearn import metrics as reference

from heads.metrics.calibration import reliability
from heads.metrics.choosing import goodness, goodness_without_each
from heads.metrics.printed import as_printed
from heads.metrics.scores import by_fold, difference, evaluate, majority

CLASSES = ["c0", "c1", "c2", "c3"]


def some_predictions(n: int = 400, seed: int = 0) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, size=n, p=(0.5, 0.3, 0.15, 0.05))
    probabilities = rng.dirichlet(np.ones(4), size=n)
    probabilities[np.arange(n), labels] += 0.4
    return [CLASSES[i] for i in labels], probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n", [5, 400])
def test_scores_are_those_of_scikit_learn(n: int) -> None:
    labels, p = some_predictions(n)
    predicted = [CLASSES[i] for i in p.argmax(axis=1)]
    score = evaluate(labels, p, CLASSES)
    assert score["accuracy"]["value"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert score["macro_f1"]["value"] == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    assert score["weighted_f1"]["value"] == pytest.approx(reference.f1_score(labels, predicted, average="weighted"))
    seen = sorted(set(labels))
    balanced = reference.recall_score(labels, predicted, labels=seen, average="macro")
    assert score["balanced_accuracy"]["value"] == pytest.approx(balanced)
    assert score["log_loss"] == pytest.approx(reference.log_loss(labels, p, labels=CLASSES))
    assert score["confusion"] == reference.confusion_matrix(labels, predicted, labels=CLASSES).tolist()
    expected = reference.precision_recall_fscore_support(labels, predicted, labels=CLASSES, zero_division=0)
    for i, name in enumerate(CLASSES):
        if support := score["per_class"][name]["support"]:
            assert list(score["per_class"][name].values()) == pytest.approx([part[i] for part in expected])
        else:
            assert support == expected[3][i]
            assert all(math.isnan(score["per_class"][name][measure]) for measure in ("precision", "recall", "f1"))


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "weighted_f1", "log_loss"])
def test_goodness_is_the_score_and_is_higher_for_the_better(metric: str) -> None:
    labels, p = some_predictions()
    groups = [f"g{i % 7}" for i in range(400)]
    score = evaluate(labels, p, CLASSES)
    expected = -score["log_loss"] if metric == "log_loss" else score[metric]["value"]
    assert goodness(metric, labels, np.log(p), CLASSES) == pytest.approx(expected)
    numbers = [CLASSES.index(name) for name in labels]
    assert goodness(metric, numbers, np.log(p), range(4)) == pytest.approx(expected)
    without = goodness_without_each(metric, labels, np.log(p), CLASSES, groups)
    for i, value in enumerate(without):
        kept = [row for row in range(400) if groups[row] != f"g{i}"]
        assert value == pytest.approx(goodness(metric, [labels[row] for row in kept], np.log(p[kept]), CLASSES))


def test_calibration_error_of_a_known_case() -> None:
    # Ten units at confidence 0.9, of which six are right: 0.3 off, in one bin.
    p = np.tile([0.9, 0.1, 0.0, 0.0], (10, 1))
    assert evaluate(["c0"] * 6 + ["c1"] * 4, p, CLASSES)["ece"] == pytest.approx(0.3)


def test_interval_matches_resampling_done_the_long_way() -> None:
    labels, p = some_predictions(300)
    groups = [f"g{i // 6}" for i in range(300)]
    right = (p.argmax(axis=1) == [CLASSES.index(name) for name in labels]).reshape(50, 6).sum(axis=1)
    rng = np.random.default_rng(1)
    slow = [right[rng.integers(0, 50, 50)].sum() / 300 for _ in range(4000)]
    score = evaluate(labels, p, CLASSES, groups, bootstrap=4000)["accuracy"]
    assert [score["low"], score["high"]] == pytest.approx(np.percentile(slow, [2.5, 97.5]).tolist(), abs=0.012)


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        skill = rng.beta(8, 4, size=60).repeat(5)  # accuracy varies by group; its mean is 2/3
        right = rng.random(300) < skill
        p = np.where(right[:, None], [1.0, 0, 0, 0], [0, 1.0, 0, 0])
        score = evaluate(["c0"] * 300, p, CLASSES, [f"g{i // 5}" for i in range(300)], bootstrap=300)["accuracy"]
        covered += score["low"] <= 2 / 3 <= score["high"]
    assert 180 <= covered <= 198


@pytest.mark.parametrize(("n_groups", "is_covered"), [(2, True), (9, True), (10, False)])
def test_a_few_groups_that_are_alike_do_not_narrow_the_interval(n_groups: int, is_covered: bool) -> None:
    right = np.tile(np.arange(10) < 9, n_groups)  # nine of ten in each
    p = np.where(right[:, None], [1.0, 0, 0, 0], [0, 1.0, 0, 0])
    labels, groups = ["c0"] * len(right), [f"g{i // 10}" for i in range(len(right))]
    few, single = evaluate(labels, p, CLASSES, groups)["accuracy"], evaluate(labels, p, CLASSES)["accuracy"]
    own = {"value": single["value"], "low": single["value"], "high": single["value"]}  # of groups: no spread at all
    assert few == (single if is_covered else own)


def test_clustered_interval_is_wider_on_clustered_data() -> None:
    rng = np.random.default_rng(0)
    right = (rng.random(100) < 0.6).repeat(10)  # a group is right or wrong as a whole
    p = np.where(right[:, None], [1.0, 0, 0, 0], [0, 1.0, 0, 0])
    clustered = evaluate(["c0"] * 1000, p, CLASSES, [f"g{i // 10}" for i in range(1000)])["accuracy"]
    single = evaluate(["c0"] * 1000, p, CLASSES)["accuracy"]
    assert clustered["high"] - clustered["low"] > 2.5 * (single["high"] - single["low"])


def test_one_group_gives_no_interval_rather_than_a_narrow_one() -> None:
    labels, p = some_predictions(20)
    assert np.isnan(evaluate(labels, p, CLASSES, ["g"] * 20)["accuracy"]["low"])


def test_majority_is_the_class_of_training_not_of_test() -> None:
    score = majority(["c1"] * 3 + ["c0"], ["c0", "c0", "c0", "c1"], CLASSES)
    assert score["class"] == "c1"
    assert score["accuracy"]["value"] == 0.25
    assert score["log_loss"] == pytest.approx(-(3 * np.log(0.25) + np.log(0.75)) / 4)


def test_difference_is_paired() -> None:
    labels, p = some_predictions()
    worse = p.copy()
    worse[::10] = worse[::10, ::-1]
    same = difference(labels, p, p, CLASSES)["macro_f1"]
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)
    gain = difference(labels, p, worse, CLASSES)["accuracy"]
    a, b = (evaluate(labels, x, CLASSES)["accuracy"] for x in (p, worse))
    assert gain["value"] == pytest.approx(a["value"] - b["value"])
    assert gain["high"] - gain["low"] < a["high"] - a["low"]


def test_same_seed_same_numbers() -> None:
    labels, p = some_predictions()
    assert evaluate(labels, p, CLASSES, seed=3) == evaluate(labels, p, CLASSES, seed=3)
    assert evaluate(labels, p, CLASSES, seed=3)["macro_f1"] != evaluate(labels, p, CLASSES, seed=4)["macro_f1"]


def test_a_thousand_resamples_of_20000_units_take_about_a_second() -> None:
    labels, p = some_predictions(20000)
    start = time.perf_counter()
    evaluate(labels, p, CLASSES, [f"g{i // 5}" for i in range(20000)])
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize(
    ("labels", "p", "groups", "message"),
    [
        (["c0", "joy"], np.full((2, 4), 0.25), None, "'joy'"),
        (["c0", "c1"], np.full((2, 3), 0.25), None, "shape"),
        (["c0", "c1"], np.full((2, 4), np.nan), None, "NaN"),
        (["c0", "c1"], np.full((2, 4), 0.25), ["g"], "1 groups for 2 units"),
        (["c0", "c1"], np.full((2, 4), 0.25), ["g", None], "null"),
        ([], np.empty((0, 4)), None, "no units"),
    ],
)
def test_bad_arguments_are_refused(labels: list[str], p: np.ndarray, groups: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(labels, p, CLASSES, groups)


def test_the_reliability_of_a_known_case() -> None:
    # Confidence 0.9, six of ten right; confidence 0.5, all of ten right.
    p = np.concatenate([np.tile([0.9, 0.1, 0.0, 0.0], (10, 1)), np.tile([0.1, 0.5, 0.4, 0.0], (10, 1))])
    found = reliability(["c0"] * 6 + ["c1"] * 14, p, CLASSES)
    assert [part["units"] for part in found["bins"]] == [10, 10]
    assert [part["confidence"] for part in found["bins"]] == pytest.approx([0.5, 0.9])
    assert [part["accuracy"] for part in found["bins"]] == pytest.approx([1.0, 0.6])
    assert all(part["low"] < part["confidence"] <= part["high"] for part in found["bins"])
    assert found["ece"] == pytest.approx((0.5 + 0.3) / 2)
    # Off by 0.3 and 0.1 for c0, by 0.3 and 0.5 for c1, by 0.4 for c2 on half of the units, never for c3.
    assert found["classwise_ece"] == pytest.approx((0.2 + 0.4 + 0.2 + 0.0) / 4)


def test_reliability_and_evaluate_agree() -> None:
    labels, p = some_predictions()
    found, score = reliability(labels, p, CLASSES), evaluate(labels, p, CLASSES)
    assert (found["ece"], found["classwise_ece"]) == (score["ece"], score["classwise_ece"])
    assert sum(part["units"] for part in found["bins"]) == len(labels)


def test_a_difference_has_a_low_p_where_its_interval_leaves_out_zero() -> None:
    labels, p = some_predictions()
    better = p + 0.15 * np.eye(4)[[CLASSES.index(name) for name in labels]]
    gain = difference(labels, better / better.sum(axis=1, keepdims=True), p, CLASSES)["macro_f1"]
    assert gain["low"] > 0
    assert gain["p"] == pytest.approx(2 / 1001)
    none = difference(labels, p, p, CLASSES)["macro_f1"]
    assert none["p"] == 1
    assert np.isnan(difference(labels, better, p, CLASSES, bootstrap=0)["macro_f1"]["p"])


def test_folds_are_scored_one_by_one_as_papers_print_them() -> None:
    labels, p = some_predictions(90)
    folds = [i % 3 for i in range(90)]
    found = by_fold(labels, p, CLASSES, folds)
    predicted = [CLASSES[i] for i in p.argmax(axis=1)]
    recalls = []
    for fold in range(3):
        part = [i for i in range(90) if folds[i] == fold]
        true, said = [labels[i] for i in part], [predicted[i] for i in part]
        recalls.append(reference.recall_score(true, said, labels=sorted(set(true)), average="macro"))
        assert found["folds"][fold]["accuracy"] == pytest.approx(reference.accuracy_score(true, said))
    assert found["mean"]["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["std"]["balanced_accuracy"] == pytest.approx(np.std(recalls, ddof=1))
    assert as_printed(found).startswith(f"UA {100 * np.mean(recalls):.1f} ± {100 * np.std(recalls, ddof=1):.1f}, WA ")
    assert math.isnan(by_fold(labels, p, CLASSES, [4] * 90)["std"]["accuracy"])
