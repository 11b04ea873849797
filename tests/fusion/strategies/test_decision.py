from dataclasses import replace

import numpy as np
import pytest
from synthetic_heads import CLASSES, make_units

from fusion.strategies.choice import TAUS, decide
from fusion.tables.predictions import Predictions
from heads.metrics.confusions import SCORES
from heads.metrics.scores import evaluate


def rare_units(test_share: float = 0.5) -> tuple[Predictions, np.ndarray]:
    """Units of which one class in twenty is rare, and their true posteriors: nobody can do better by log-loss."""
    rng = np.random.default_rng(0)
    prior = np.array([0.6, 0.35, 0.05])
    units = make_units(4000, test_share=test_share, group_size=1)
    labels = rng.choice(3, size=4000, p=prior)
    seen = rng.normal(size=(4000, 3)) + 1.3 * np.eye(3)[labels]
    posterior = 1.3 * seen + np.log(prior)
    return replace(units, labels=labels), posterior - np.log(np.exp(posterior).sum(axis=1, keepdims=True))


def test_macro_f1_gains_where_a_class_is_rare_and_accuracy_keeps_the_plain_answers() -> None:
    units, log_p = rare_units()
    test = units.splits == "test"
    plain = evaluate(units.where(test).label_names, np.exp(log_p[test]), CLASSES, bootstrap=0)
    decided = decide(units, log_p, "macro_f1", bootstrap=100)
    assert decided.tau > 0
    assert decided.scores["test"]["macro_f1"]["value"] > plain["macro_f1"]["value"] + 0.01
    assert set(decided.scores) == {"oof", "test"}
    assert set(decided.scores["oof"]) == set(SCORES)
    assert decided.scores["oof"]["macro_f1"]["low"] < decided.scores["oof"]["macro_f1"]["value"]
    accurate = decide(units, log_p, "accuracy", bootstrap=0)
    assert accurate.tau == 0
    assert accurate.scores["test"]["accuracy"]["value"] == plain["accuracy"]["value"]


def test_log_loss_which_no_decision_changes_leaves_it_to_macro_f1() -> None:
    units, log_p = rare_units()
    assert decide(units, log_p, "log_loss", bootstrap=0) == decide(units, log_p, "macro_f1", bootstrap=0)


def test_tau_never_sees_what_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test labels change no tau; and what a fold is scored with comes from the other folds."""
    units, log_p = rare_units()
    spoiled = units.labels.copy()
    spoiled[units.splits == "test"] = 0
    assert decide(replace(units, labels=spoiled), log_p, "macro_f1", bootstrap=0).tau > 0
    oof = units.splits == "oof"
    seen = []

    def spy(metric: str, labels: list[str], log_p: np.ndarray, classes: tuple[str, ...]) -> float:
        seen.append(len(labels))
        return 0.0

    monkeypatch.setattr("fusion.strategies.choice.goodness", spy)
    decide(units, log_p, "macro_f1", bootstrap=0)
    sizes = [int((oof & (units.folds != fold)).sum()) for fold in range(5)] + [int(oof.sum())]
    assert seen == [size for size in sizes for _ in TAUS]
