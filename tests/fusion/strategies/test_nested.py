from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from synthetic_heads import CLASSES, make_units

from configs import UserError
from fusion.strategies.catalogue import STRATEGIES
from fusion.strategies.nested import cross_fit, fuse
from fusion.strategies.pools import FittedMean, Mean
from fusion.strategies.predictions import Predictions
from fusion.strategies.stacking import XGBoost

ALL = list(STRATEGIES)


def relabelled(units: Predictions, rows: np.ndarray, seed: int = 0) -> Predictions:
    labels = units.labels.copy()
    labels[rows] = np.random.default_rng(seed).integers(0, len(CLASSES), size=int(rows.sum()))
    return replace(units, labels=labels)


def test_fold_k_is_predicted_without_the_labels_of_fold_k() -> None:
    units = make_units(200, absent=0.1)
    before, before_weights, _ = cross_fit(units, STRATEGIES)
    held = units.folds == 2
    after, after_weights, _ = cross_fit(relabelled(units, held), STRATEGIES)
    assert before_weights is not None
    assert after_weights is not None
    np.testing.assert_array_equal(before_weights[held], after_weights[held])
    for name in STRATEGIES:
        np.testing.assert_array_equal(before[name][held], after[name][held])
        assert not np.array_equal(before[name][~held], after[name][~held])


@dataclass(frozen=True)
class Spy(Mean):
    seen: list[set[float]] = field(default_factory=list)

    def fit(self, outputs, labels, groups, seed) -> FittedMean:  # type: ignore[no-untyped-def]
        self.seen.append(set(outputs.logits[:, 0, 0]))
        return super().fit(outputs, labels, groups, seed)


def test_nothing_is_fitted_on_the_held_fold_nor_on_test() -> None:
    units = make_units(200, test_share=0.2)
    spy = Spy()
    cross_fit(units, {"spy": spy})
    oof = units.splits == "oof"
    mark = units.logits[:, 0, 0]  # another for each unit
    expected = [set(mark[oof & (units.folds != fold)]) for fold in range(5)] + [set(mark[oof])]
    assert sorted(map(sorted, spy.seen)) == sorted(map(sorted, expected))  # fits run side by side


def test_random_labels_fall_to_chance() -> None:
    """A learner that could memorise its units does so when it sees them, and is at chance under cross-fitting."""
    units = relabelled(make_units(400, (1.0, 1.0)), np.ones(400, dtype=bool))
    memoriser = XGBoost(depth=8, rounds=20, learning_rate=0.8, min_child_weight=0.0)
    predicted, _, fits = cross_fit(units, {"memoriser": memoriser})
    log_p, fitted = predicted["memoriser"], fits["memoriser"]
    seen = fitted.predict_logits(units.outputs).argmax(axis=1) == units.labels
    assert seen.mean() > 0.9
    assert abs((log_p.argmax(axis=1) == units.labels).mean() - 1 / 3) < 0.08

    found = fuse(units, ALL, bootstrap=100)
    for name in found.log_p:
        assert found.scores[name]["oof"]["accuracy"]["value"] < 1 / 3 + 0.08


def test_test_labels_change_neither_the_choice_nor_a_prediction() -> None:
    units = make_units(400, absent=0.1, test_share=0.3)
    found = fuse(units, ALL, bootstrap=100)
    spoiled = fuse(relabelled(units, units.splits == "test"), ALL, bootstrap=100)
    assert spoiled.chosen == found.chosen
    assert spoiled.best_head == found.best_head
    for name in found.log_p:
        np.testing.assert_array_equal(found.log_p[name], spoiled.log_p[name])
    assert spoiled.scores[found.chosen]["test"] != found.scores[found.chosen]["test"]


def test_fused_beats_the_best_head_and_test_is_the_headline() -> None:
    found = fuse(make_units(1200, (1.3, 1.2, 1.2), test_share=0.3), ALL, bootstrap=200)
    assert found.headline == "test"
    assert found.chosen in ALL
    assert found.gains[found.best_head]["macro_f1"]["low"] > 0
    assert set(found.scores) == {"majority", "head:h0", "head:h1", "head:h2", *ALL}


def test_without_a_test_split_the_headline_is_oof_and_says_so() -> None:
    found = fuse(make_units(300), ALL, bootstrap=100)
    assert found.headline == "oof"
    assert "no test split" in found.notes[0]


def test_the_best_head_is_the_fallback() -> None:
    units = make_units(400, (2.0, 0.0), test_share=0.25)
    found = fuse(units, ["mean"], bootstrap=100)
    assert found.chosen == "head:h0"
    assert any("No strategy beat the best single head" in note for note in found.notes)
    np.testing.assert_array_equal(found.log_p[found.chosen].argmax(axis=1), units.logits[:, 0].argmax(axis=1))
    assert found.gains["h0"]["macro_f1"]["value"] == 0
    assert fuse(units, ["mean"], force=True, bootstrap=100).chosen == "mean"


def test_a_head_is_scored_on_all_units_also_where_it_is_absent() -> None:
    units = make_units(300, (2.0, 1.0))
    units.present[::2, 0] = False
    units.logits[::2, 0] = np.nan
    found = fuse(units, ["mean"], bootstrap=100)
    score = found.scores["head:h0"]["oof"]
    assert score["n_units"] == 300
    assert any("of 300, for which a head has no prediction: h0 150." in note for note in found.notes)


def test_a_unit_of_which_no_head_says_anything_is_scored_and_taught_to_no_one() -> None:
    units = make_units(300, test_share=0.2)
    unheard = np.arange(300) % 20 == 0
    units.present[unheard] = False
    units.logits[unheard] = np.nan
    found = fuse(units, ALL, bootstrap=100)
    test = units.splits == "test"
    counts = np.bincount(units.labels[~test & ~unheard], minlength=3) + 1
    for log_p in found.log_p.values():
        assert np.isfinite(log_p).all()
        np.testing.assert_allclose(np.exp(log_p[unheard]), np.tile(counts / counts.sum(), (unheard.sum(), 1)))
    assert found.scores["mean"]["test"]["n_units"] == test.sum()
    assert any("Of 3 test units no head says anything" in note for note in found.notes)
    relabelled_ones = fuse(relabelled(units, unheard), ALL, bootstrap=100)
    for name, log_p in found.log_p.items():
        np.testing.assert_array_equal(log_p[~unheard], relabelled_ones.log_p[name][~unheard])


def test_too_few_units_leave_the_mean() -> None:
    units = make_units(9, group_size=1)
    found = fuse(units, ALL, bootstrap=100)
    assert found.strategies == ("mean",)
    assert "9 oof units are too few" in found.notes[0]
    with pytest.raises(UserError, match="--strategy xgboost: 9 oof units are too few"):
        fuse(units, ["xgboost"], force=True)


def test_one_fold_is_refused() -> None:
    units = make_units(30)
    with pytest.raises(UserError, match="all oof rows are in fold 0"):
        fuse(replace(units, folds=np.zeros_like(units.folds)), ALL)


def test_what_is_odd_about_the_tables_is_among_the_notes() -> None:
    units = replace(make_units(60), notes=("a.csv: shares only 6 of its 30 oof units",))
    assert fuse(units, ["mean"], bootstrap=0).notes[0] == units.notes[0]
    assert units.where(units.folds == 0).notes == units.notes
