from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from synthetic_heads import make_units

from fusion.predictions import Predictions
from fusion.strategies import STRATEGIES, Fitted, Mean, Single, Strategy, Weighted, fit_temperatures, load

ALL: dict[str, Strategy] = {**STRATEGIES, "single": Single(1)}


def fit(strategy: Strategy, units: Predictions) -> Fitted:
    return strategy.fit(units.logits, units.present, units.labels, units.groups, 0)


def accuracy(units: Predictions, log_p: np.ndarray) -> float:
    return float((log_p.argmax(axis=1) == units.labels).mean())


@pytest.mark.parametrize("name", STRATEGIES)
def test_fused_beats_heads_with_independent_errors(name: str) -> None:
    train, new = make_units(900, (1.5, 1.2, 1.2)), make_units(3000, (1.5, 1.2, 1.2), seed=1)
    log_p = fit(STRATEGIES[name], train).predict_logits(new.logits, new.present)
    best = max(accuracy(new, new.logits[:, h]) for h in range(3))
    assert accuracy(new, log_p) > best + 0.05


@pytest.mark.parametrize("name", ["weighted", "logistic", "xgboost"])
def test_a_useless_head_hurts_little(name: str) -> None:
    """A fitted strategy of one good and one useless, overconfident head stays close to the good one."""
    train, new = (make_units(900, (1.5, 0.0), seed=seed) for seed in (0, 1))
    for units in (train, new):
        units.logits[:, 1] = log_softmax(units.logits[:, 1] * 5, axis=1)
    log_p = fit(STRATEGIES[name], train).predict_logits(new.logits, new.present)
    assert accuracy(new, log_p) > accuracy(new, new.logits[:, 0]) - 0.01


@pytest.mark.parametrize("name", ALL)
def test_absent_heads_leave_valid_predictions(name: str) -> None:
    units = make_units(300, (1.5, 1.2, 1.0), absent=0.4)
    log_p = fit(ALL[name], units).predict_logits(units.logits, units.present)
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["mean", "weighted"])
def test_an_absent_head_is_left_out_of_the_pool(name: str) -> None:
    """With one head present the pool follows that head alone, in temperature at most."""
    units = make_units(300, (1.5, 1.2), absent=0.4)
    log_p = fit(STRATEGIES[name], units).predict_logits(units.logits, units.present)
    alone = ~units.present[:, 1]
    order = np.argsort(units.logits[alone, 0], axis=1)
    np.testing.assert_array_equal(np.argsort(log_p[alone], axis=1), order)


@pytest.mark.parametrize("name", ALL)
def test_what_an_absent_head_would_have_said_does_not_matter(name: str) -> None:
    units = make_units(300, (1.5, 1.2, 1.0), absent=0.4)
    fitted = fit(ALL[name], units)
    units.logits[~units.present] = np.nan
    expected = fitted.predict_logits(units.logits, units.present)
    if name != "xgboost":  # which takes NaN itself as the mask
        units.logits[~units.present] = np.log(1 / 3) + 7
    np.testing.assert_array_equal(fitted.predict_logits(units.logits, units.present), expected)


@pytest.mark.parametrize("name", ALL)
def test_saved_is_reloaded(name: str, tmp_path: Path) -> None:
    units = make_units(300, absent=0.2)
    fitted = fit(ALL[name], units)
    fitted.save(tmp_path / "model")
    assert not list((tmp_path / "model").glob("*.pkl"))
    expected = fitted.predict_logits(units.logits, units.present)
    np.testing.assert_array_equal(load(tmp_path / "model").predict_logits(units.logits, units.present), expected)


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_predictions(name: str) -> None:
    units = make_units(200)
    first, second = (fit(ALL[name], units).predict_logits(units.logits, units.present) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_weighted_finds_the_minimum() -> None:
    """No other weights near the fitted ones have a lower penalised log-loss: the gradient is right."""
    units = make_units(400, (1.5, 0.8, 0.2), absent=0.2)
    fitted = fit(Weighted(), units)

    def loss(a: np.ndarray) -> float:
        at = type(fitted)(fitted.temperatures, (a / a.sum()).tolist(), float(a.sum()))  # type: ignore[attr-defined,call-arg]
        log_p = at.predict_logits(units.logits, units.present)
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


def test_mean_is_the_mean_of_calibrated_probabilities() -> None:
    units = make_units(50)
    t = np.array(fit_temperatures(units.logits, units.present, units.labels))
    expected = softmax(units.logits / t[:, None], axis=2).mean(axis=1)
    np.testing.assert_allclose(np.exp(fit(Mean(), units).predict_logits(units.logits, units.present)), expected)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_class_without_training_units_is_survived(name: str) -> None:
    units = make_units(200)
    common = units.where(units.labels != 2)
    log_p = fit(STRATEGIES[name], common).predict_logits(units.logits, units.present)
    assert np.isfinite(log_p).all()
