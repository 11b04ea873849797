from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from synthetic_heads import CLASSES, make_units

from configs import UserError
from fusion.strategies.catalogue import STRATEGIES
from fusion.strategies.nested import cross_fit, fuse
from fusion.strategies.pools import FittedMean, Mean
from fusion.strategies.stacking import XGBoost
from fusion.tables.predictions import Predictions

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
    assert any("Nothing was clearly better than head" in note for note in found.notes)
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


def with_baselines(units: Predictions, strength: float) -> Predictions:
    """Two heads' baselines, which are the same one."""
    rng = np.random.default_rng(7)
    own = rng.normal(size=(len(units.labels), len(units.classes)))
    own[np.arange(len(own)), units.labels] += strength
    own -= np.log(np.exp(own).sum(axis=1, keepdims=True))
    return replace(units, baselines={"h0": own, "h1": own.copy()})


def test_a_baseline_is_a_candidate_by_itself_and_in_no_pool() -> None:
    units = make_units(300, (0.6, 0.5), test_share=0.3)
    plain, found = (fuse(given, ["mean"], bootstrap=100) for given in (units, with_baselines(units, 2.5)))
    assert list(found.log_p) == ["baseline:h0", "head:h0", "head:h1", "mean"]
    assert found.chosen == "baseline:h0"
    assert found.best_baseline == "h0"
    for name, log_p in plain.log_p.items():
        np.testing.assert_array_equal(log_p, found.log_p[name])
    assert any("the fusion is that alone" in note for note in found.notes)
    assert any("that of h0 is that of h1, too" in note for note in found.notes)
    weak = fuse(with_baselines(units, 0.2), ["mean"], bootstrap=100)
    assert weak.chosen == plain.chosen
    assert plain.best_baseline is None


def test_a_baseline_is_cross_fitted_and_the_heads_stand_in_for_it() -> None:
    units = with_baselines(make_units(200, (0.6, 0.5), test_share=0.2), 2.0)
    units.baselines["h0"][::4] = np.nan
    before = fuse(units, ["mean"], bootstrap=100)
    held = units.folds == 2
    after = fuse(relabelled(units, held), ["mean"], bootstrap=100)
    np.testing.assert_array_equal(before.log_p["baseline:h0"][held], after.log_p["baseline:h0"][held])
    assert not np.array_equal(before.log_p["baseline:h0"][~held], after.log_p["baseline:h0"][~held])
    assert np.isfinite(before.log_p["baseline:h0"]).all()
    test = units.splits == "test"
    again = before.fitted.predict_logits(units.where(test).outputs)
    np.testing.assert_array_equal(again, before.log_p[before.chosen][test])


def flattering(val: bool) -> Predictions:
    """h0 has met the training labels; h1, which has not, is the better one elsewhere."""
    units = make_units(900, (0.5, 1.5), test_share=0.4)
    rng = np.random.default_rng(3)
    logits = units.logits.copy()
    oof = units.splits == "oof"
    logits[oof, 0] = rng.normal(size=(oof.sum(), 3))
    logits[oof, 0, units.labels[oof]] += 6
    logits -= np.log(np.exp(logits).sum(axis=2, keepdims=True))
    splits = units.splits.copy()
    if val:
        splits[np.flatnonzero(splits == "test")[:180]] = "val"
    return replace(units, logits=logits, splits=splits)


def test_where_out_of_fold_flatters_the_choice_is_made_on_val() -> None:
    found = fuse(flattering(val=True), ["mean"], bootstrap=200)
    assert found.judged_on == "val"
    assert found.best_head == "h1"
    assert found.chosen != "head:h0"
    assert "on val" in found.rule
    assert found.warnings[0].startswith("Out-of-fold scores flatter: head h0 scores accuracy ")
    assert "The choice was made on val" in found.warnings[0]
    spoiled = fuse(relabelled(found.units, found.units.splits == "test"), ["mean"], bootstrap=200)
    assert (spoiled.judged_on, spoiled.chosen) == (found.judged_on, found.chosen)


def test_without_val_the_warning_says_that_the_choice_is_blind() -> None:
    found = fuse(flattering(val=False), ["mean"], bootstrap=200)
    assert (found.judged_on, found.best_head) == ("oof", "h0")
    assert "there is no val split to choose on" in found.warnings[0]
    assert {gap.name for gap in found.gaps if gap.verdict != "pass"} >= {"head:h0"}


def test_without_test_the_headline_is_where_the_choice_was_made() -> None:
    units = flattering(val=True)
    found = fuse(units.where(units.splits != "test"), ["mean"], bootstrap=200)
    assert (found.headline, found.judged_on) == ("val", "val")
    assert "There is no test split: the headline is measured on val" in found.notes[0]


def test_test_alone_decides_nothing() -> None:
    """It is worse on test, and on val as good as out of fold: that is said, and the choice is as it was."""
    units = make_units(900, (1.5, 1.0), test_share=0.5)
    splits = np.where((units.splits == "test") & (np.arange(900) < 675), "val", units.splits)
    found = fuse(relabelled(replace(units, splits=splits), splits == "test"), ["mean"], bootstrap=200)
    assert found.judged_on == "oof"
    assert "On val it does not show" in found.warnings[0]


def test_one_fold_is_refused() -> None:
    units = make_units(30)
    with pytest.raises(UserError, match="all oof rows are in fold 0"):
        fuse(replace(units, folds=np.zeros_like(units.folds)), ALL)


def test_what_is_odd_about_the_tables_is_among_the_notes() -> None:
    units = replace(make_units(60), notes=("a.csv: shares only 6 of its 30 oof units",))
    assert fuse(units, ["mean"], bootstrap=0).notes[0] == units.notes[0]
    assert units.where(units.folds == 0).notes == units.notes
