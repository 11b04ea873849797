from dataclasses import replace

import numpy as np
import pytest
from synthetic_heads import make_units

from fusion.strategies.choice import CLOSE, choose, goodness_of, jackknifed, rule, standard_error
from fusion.strategies.nested import fuse
from fusion.tables.predictions import Predictions

METRICS = ("macro_f1", "accuracy", "weighted_f1", "log_loss")


def answers(units: Predictions, named: np.ndarray, p: float = 0.8) -> np.ndarray:
    """Log-probabilities (n, 3) that give p to the class that is named."""
    return np.log(np.where(np.eye(3)[named] > 0, p, (1 - p) / 2))


def mistaken(units: Predictions, rows: np.ndarray) -> np.ndarray:
    return np.where(rows, (units.labels + 1) % 3, units.labels)


@pytest.mark.parametrize("choice", ["best", "one_se", "likeliest"])
def test_a_tiny_gain_at_equal_accuracy_does_not_choose_the_complex_one(choice: str) -> None:
    """The one errs on a unit of a rare class, the other on one of a common class: that is all that they differ in."""
    units = make_units(1500, group_size=1)
    common, rare = (np.flatnonzero(units.labels == label) for label in (0, 2))
    wrong = np.zeros(1500, dtype=bool)
    wrong[[*common[:150], *rare[:30]]] = True
    head, attention = wrong.copy(), wrong.copy()
    head[rare[40]] = attention[common[200]] = True
    log_p = {"head:h0": answers(units, mistaken(units, head)), "attention": answers(units, mistaken(units, attention))}
    f1, right = (goodness_of(units, log_p, metric) for metric in ("macro_f1", "accuracy"))
    assert right["head:h0"] == right["attention"]
    assert 0.0002 < f1["attention"] - f1["head:h0"] < 0.001
    assert choose(units, log_p, "macro_f1", choice) == "head:h0"


def test_each_metric_takes_what_is_best_by_it() -> None:
    units = make_units(900, group_size=1)
    rare, common = units.labels == 2, units.labels == 0
    some = np.arange(900) % 2 == 0
    log_p = {
        "careful": answers(units, mistaken(units, some & rare), 0.8),  # errs on few, that is on the rare
        "fair": answers(units, mistaken(units, some & common & (np.arange(900) % 4 == 0)), 0.8),
        "vague": answers(units, mistaken(units, some & ~rare), 0.5),
        "loud": answers(units, mistaken(units, some & rare), 0.9999),
    }
    values = {metric: goodness_of(units, log_p, metric) for metric in METRICS}
    for metric in METRICS:
        assert choose(units, log_p, metric, "best") == max(log_p, key=values[metric].__getitem__)
    assert choose(units, log_p, "log_loss", "best") not in ("vague", "loud")


def test_one_se_takes_the_simple_one_where_one_group_makes_the_difference() -> None:
    units = make_units(900, group_size=30)
    base = np.arange(900) % 4 == 0
    first = base & (units.groups != "g0")
    first[[31, 33]] = True  # lost in another group
    spread = base & ~(np.arange(900) % 20 == 0)
    log_p = {"mean": answers(units, mistaken(units, base)), "xgboost": answers(units, mistaken(units, first))}
    for metric in METRICS:
        assert choose(units, log_p, metric, "best") == "xgboost"
        assert choose(units, log_p, metric, "one_se") == "mean"
    log_p["xgboost"] = answers(units, mistaken(units, spread))  # a little in every group
    assert {choose(units, log_p, metric, "one_se") for metric in METRICS} == {"xgboost"}


def test_likeliest_takes_the_more_probable_where_hits_differ_by_chance_alone() -> None:
    units = make_units(900, group_size=30)
    lost = np.arange(900) % 4 == 0
    luck = lost & (units.groups != "g0")
    log_p = {"head:h0": answers(units, mistaken(units, luck), 0.99), "mean": answers(units, mistaken(units, lost))}
    for metric in ("macro_f1", "accuracy", "weighted_f1"):
        assert choose(units, log_p, metric, "best") == "head:h0"
        assert choose(units, log_p, metric, "likeliest") == "mean"
    skill = lost & (np.arange(900) % 8 == 0)  # clearly better, however loud
    log_p["head:h0"] = answers(units, mistaken(units, skill), 0.9999)
    assert goodness_of(units, log_p, "log_loss")["head:h0"] < goodness_of(units, log_p, "log_loss")["mean"]
    assert choose(units, log_p, "accuracy", "likeliest") == "head:h0"
    assert choose(units, log_p, "log_loss", "likeliest") == choose(units, log_p, "log_loss", "best") == "mean"


def test_of_heads_the_best_is_taken() -> None:
    """No head is simpler than another: where they are equal enough, their order in the profile says nothing."""
    units = make_units(900, group_size=30)
    base = np.arange(900) % 4 == 0
    log_p = {
        "head:h0": answers(units, mistaken(units, base)),
        "head:h1": answers(units, mistaken(units, base & (units.groups != "g0"))),
        "mean": answers(units, mistaken(units, base & (units.groups != "g1"))),
    }
    assert choose(units, log_p, "accuracy", "one_se") == "head:h1"


def test_the_standard_error_is_that_of_a_mean_and_counts_groups() -> None:
    def error_of(units: Predictions, one: np.ndarray, other: np.ndarray, metric: str) -> float:
        return standard_error(jackknifed(units, one, metric), jackknifed(units, other, metric))

    units = make_units(300, group_size=1)
    one, other = units.logits[:, 0], units.logits[:, 1]
    gained = (one - other)[np.arange(300), units.labels]
    assert error_of(units, one, other, "log_loss") == pytest.approx(gained.std(ddof=1) / 300**0.5)
    twice = np.repeat(np.arange(300), 2)
    doubled = units.where(twice)  # each unit twice, in its group
    for metric in METRICS:
        alone = error_of(units, one, other, metric)
        assert error_of(doubled, one[twice], other[twice], metric) == pytest.approx(alone)
    assert error_of(replace(units, groups=np.full(300, "everyone")), one, other, "macro_f1") == 0


def test_the_rule_is_told_as_it_is() -> None:
    units = make_units(200)
    found = fuse(units, ["mean", "weighted"], metric="log_loss", choice="one_se", bootstrap=100)
    assert found.rule == rule("log_loss", "one_se")
    assert "lowest cross-fitted log-loss" in found.rule
    assert "one standard error" in found.rule
    assert f"within {CLOSE}" in rule("accuracy", "best")
    assert "one standard error behind it (paired, by group), the one of the lowest log-loss" in rule(
        "accuracy", "likeliest"
    )
    on_oof = {name: values[units.splits == "oof"] for name, values in found.log_p.items()}
    assert found.chosen == choose(units.where(units.splits == "oof"), on_oof, "log_loss", "one_se")
