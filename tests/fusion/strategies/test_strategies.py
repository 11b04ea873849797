from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from synthetic_heads import make_units

from cache import StoreError, publish_folder
from fusion.strategies.calibration import (
    calibrated,
    fit_calibration,
    fit_calibrations,
    fit_temperature,
    fit_temperatures,
)
from fusion.strategies.catalogue import STRATEGIES, Blend, Fitted, Strategy, fit_all, load, save
from fusion.strategies.pools import Mean, Single, Weighted
from fusion.tables.predictions import Predictions

ALL: dict[str, Strategy] = {**STRATEGIES, "single": Single(1)}


def fit(strategy: Strategy, units: Predictions) -> Fitted:
    return strategy.fit(units.outputs, units.labels, units.groups, 0)


def accuracy(units: Predictions, log_p: np.ndarray) -> float:
    return float((log_p.argmax(axis=1) == units.labels).mean())


@pytest.mark.parametrize("name", STRATEGIES)
def test_fused_beats_heads_with_independent_errors(name: str) -> None:
    train, new = make_units(900, (1.5, 1.2, 1.2)), make_units(3000, (1.5, 1.2, 1.2), seed=1)
    log_p = fit(STRATEGIES[name], train).predict_logits(new.outputs)
    best = max(accuracy(new, new.logits[:, h]) for h in range(3))
    assert accuracy(new, log_p) > best + 0.03


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "mean"])
def test_a_useless_head_hurts_little(name: str) -> None:
    """A fitted strategy of one good and one useless, overconfident head stays close to the good one."""
    train, new = (make_units(900, (1.5, 0.0), seed=seed) for seed in (0, 1))
    for units in (train, new):
        units.logits[:, 1] = log_softmax(units.logits[:, 1] * 5, axis=1)
    log_p = fit(STRATEGIES[name], train).predict_logits(new.outputs)
    assert accuracy(new, log_p) > accuracy(new, new.logits[:, 0]) - 0.01


@pytest.mark.parametrize("name", ALL)
def test_absent_heads_leave_valid_predictions(name: str) -> None:
    units = make_units(300, (1.5, 1.2, 1.0), absent=0.4)
    log_p = fit(ALL[name], units).predict_logits(units.outputs)
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["mean", "weighted"])
def test_an_absent_head_is_left_out_of_the_pool(name: str) -> None:
    """With one head present the pool follows that head alone, in temperature at most."""
    units = make_units(300, (1.5, 1.2), absent=0.4)
    log_p = fit(STRATEGIES[name], units).predict_logits(units.outputs)
    alone = ~units.present[:, 1]
    order = np.argsort(units.logits[alone, 0], axis=1)
    np.testing.assert_array_equal(np.argsort(log_p[alone], axis=1), order)


@pytest.mark.parametrize("name", ALL)
def test_what_an_absent_head_would_have_said_does_not_matter(name: str) -> None:
    units = make_units(300, (1.5, 1.2, 1.0), absent=0.4)
    fitted = fit(ALL[name], units)
    units.logits[~units.present] = np.nan
    expected = fitted.predict_logits(units.outputs)
    units.logits[~units.present] = np.log(1 / 3) + 7
    np.testing.assert_array_equal(fitted.predict_logits(units.outputs), expected)


@pytest.mark.parametrize("name", ALL)
def test_saved_is_reloaded(name: str, tmp_path: Path) -> None:
    units = make_units(300, absent=0.2)
    fitted = fit(ALL[name], units)
    publish_folder(tmp_path / "model", lambda folder: save(fitted, folder))
    assert not list((tmp_path / "model").glob("*.pkl"))
    expected = fitted.predict_logits(units.outputs)
    np.testing.assert_array_equal(load(tmp_path / "model").predict_logits(units.outputs), expected)


@pytest.mark.parametrize("content", ['{"kind": "Greedy", "weights": [1.0]}', '{"kind": "Mean", "temperatures": [1.0]}'])
def test_what_another_version_made_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    publish_folder(tmp_path / "model", lambda folder: (folder / "fusion.json").write_text(content))
    with pytest.raises(StoreError, match=r"fusion.json: another version of this program made it: fuse the heads again"):
        load(tmp_path / "model")


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_predictions(name: str) -> None:
    units = make_units(200)
    first, second = (fit(ALL[name], units).predict_logits(units.outputs) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_weighted_finds_the_minimum() -> None:
    """No other weights near the fitted ones have a lower penalised log-loss: the gradient is right."""
    units = make_units(400, (1.5, 0.8, 0.2), absent=0.2)
    fitted = fit(Weighted(), units)

    def loss(a: np.ndarray) -> float:
        at = type(fitted)(fitted.calibrations, (a / a.sum()).tolist(), float(a.sum()))  # type: ignore[attr-defined,call-arg]
        log_p = at.predict_logits(units.outputs)
        return -log_p[np.arange(400), units.labels].sum() + 2.0 * ((a - 1 / 3) ** 2).sum()

    best = np.array(fitted.weights) * fitted.sharpness  # type: ignore[attr-defined]
    for step in np.vstack([np.eye(3), -np.eye(3)]) * 0.02:
        assert loss(np.maximum(best + step, 1e-6)) >= loss(best) - 1e-5


def test_weighted_gives_the_better_head_more() -> None:
    weights = fit(Weighted(), make_units(900, (2.0, 0.5))).weights  # type: ignore[attr-defined]
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0


def test_temperature_is_recovered() -> None:
    units = make_units(5000, (1.0,))
    true_posterior = units.logits + np.log([0.5, 0.3, 0.2])  # unit-variance noise: logits are likelihood ratios
    overconfident = log_softmax(3 * true_posterior, axis=2)
    assert fit_temperatures(overconfident, units.present, units.labels)[0] == pytest.approx(3, rel=0.1)


def test_a_head_that_is_sure_of_something_wrong_now_and_then_is_doubted_and_not_dulled() -> None:
    """Of 15 % of the units it says what is true of another one: the doubt tells it, and the temperature stays."""
    units = make_units(6000, (2.0,))
    posterior = log_softmax(2 * units.logits[:, 0] + np.log([0.5, 0.3, 0.2]), axis=1)
    (temperature, doubt) = fit_calibration(posterior, units.labels)
    assert temperature == pytest.approx(1, rel=0.1)
    assert doubt < 0.01
    lost = np.random.default_rng(1).random(6000) < 0.15
    confused = np.where(lost[:, None], np.roll(posterior, 1, axis=0), posterior)
    temperature, doubt = fit_calibration(confused, units.labels)
    assert temperature == pytest.approx(1, rel=0.2)
    assert doubt == pytest.approx(0.15, abs=0.03)
    said = calibrated(confused[:, None], [[temperature, doubt]])[:, 0]
    np.testing.assert_allclose(np.exp(said).sum(axis=1), 1)
    assert np.exp(said).min() == pytest.approx(doubt / 3, rel=0.01)
    dulled = log_softmax(confused / fit_temperature(confused, units.labels), axis=1)
    rows = np.arange(6000)
    assert said[rows, units.labels].mean() > dulled[rows, units.labels].mean() + 0.02


def test_mean_is_the_mean_of_calibrated_probabilities() -> None:
    units = make_units(50)
    temperatures, doubts = np.array(fit_calibrations(units.logits, units.present, units.labels)).T[..., None]
    expected = ((1 - doubts) * softmax(units.logits / temperatures, axis=2) + doubts / 3).mean(axis=1)
    fitted = fit(Mean(), units)
    np.testing.assert_allclose(np.exp(fitted.pooled(units.outputs)), expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_class_without_training_units_is_survived(name: str) -> None:
    units = make_units(200)
    common = units.where(units.labels != 2)
    log_p = fit(STRATEGIES[name], common).predict_logits(units.outputs)
    assert np.isfinite(log_p).all()


def test_classes_may_trust_different_heads() -> None:
    """Head 0 tells only the first class apart, head 1 only the other two: one weight per head cannot say that."""
    train, new = (make_units(1500, (0.0, 0.0), seed=seed) for seed in (0, 1))
    for units in (train, new):
        rows = np.arange(len(units.labels))
        for head, classes in ((0, [0]), (1, [1, 2])):
            known = np.isin(units.labels, classes)
            units.logits[rows[known], head, units.labels[known]] += 4
        units.logits[:] = log_softmax(units.logits, axis=2)
    plain, by_class = (fit(STRATEGIES[name], train) for name in ("weighted", "class_weighted"))
    assert accuracy(new, by_class.predict_logits(new.outputs)) >= accuracy(new, plain.predict_logits(new.outputs))
    weights = np.array(by_class.weights)  # type: ignore[attr-defined]
    assert weights[0, 0] > weights[0, 1:].max()
    assert weights[1, 0] < weights[1, 1:].min()


def context_units(seed: int) -> Predictions:
    """Each head is right only where its light is on, and sure everywhere: only metadata tells which one to hear."""
    units = make_units(1200, (0.0, 0.0), seed=seed)
    light = np.random.default_rng(seed).integers(0, 2, size=1200)
    rows = np.arange(1200)
    units.logits[rows, light, units.labels] += 2
    names = np.array(["left", "right"], dtype=object)[light]
    return replace(units, logits=log_softmax(units.logits, axis=2), metadata={"light": names})


def test_attention_hears_the_head_that_the_context_speaks_for() -> None:
    train, new = context_units(0), context_units(1)
    attention = fit(STRATEGIES["attention"], train)
    weights = attention.weights(new.outputs)  # type: ignore[attr-defined]
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    left = new.metadata["light"] == "left"
    assert weights[left, 0].mean() > 0.6
    assert weights[~left, 1].mean() > 0.6
    fused = accuracy(new, attention.predict_logits(new.outputs))
    assert fused > accuracy(new, fit(STRATEGIES["weighted"], train).predict_logits(new.outputs)) + 0.03


def test_attention_survives_unknown_and_missing_metadata() -> None:
    train, new = context_units(0), context_units(1)
    attention = fit(STRATEGIES["attention"], train)
    values = np.array([None, "never seen"], dtype=object)[np.arange(1200) % 2]
    for metadata in ({"light": values}, {}):
        assert np.isfinite(attention.predict_logits(replace(new, metadata=metadata).outputs)).all()


def test_attention_gives_absent_heads_no_weight() -> None:
    units = make_units(300, (1.5, 1.2, 1.0), absent=0.4)
    weights = fit(STRATEGIES["attention"], units).weights(units.outputs)  # type: ignore[attr-defined]
    assert (weights[~units.present] == 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)


def test_the_mean_of_the_others_stands_in_for_a_single_head() -> None:
    units = make_units(300, (1.5, 1.2, 1.0), absent=0.3)
    single, mean = fit(Single(1), units), fit(Mean(), units)
    log_p, without = single.predict_logits(units.outputs), ~units.present[:, 1]
    np.testing.assert_array_equal(log_p[without], mean.predict_logits(units.outputs)[without])
    order = np.argsort(units.logits[~without, 1], axis=1)
    np.testing.assert_array_equal(np.argsort(log_p[~without], axis=1), order)


def test_blend_is_the_mean_of_its_members() -> None:
    units = make_units(200)
    fitted = fit_all(STRATEGIES, units.outputs, units.labels, units.groups, 0)
    members = Blend().members
    mean = np.mean([fitted[name].predict_logits(units.outputs) for name in members], axis=0)
    np.testing.assert_allclose(fitted["blend"].predict_logits(units.outputs), log_softmax(mean, axis=1))
    alone = STRATEGIES["blend"].fit(units.outputs, units.labels, units.groups, 0)
    np.testing.assert_array_equal(alone.predict_logits(units.outputs), fitted["blend"].predict_logits(units.outputs))
