"""The xgboost head on its own, and through the script."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from configs import UserError
from configs.schema import Head
from heads.models.boosted import BoostedModel, fit_fold, load_fold
from heads.models.pooled import Moments, UnitRows, unit_rows

NONE = np.array([], dtype=int)


def trees(**settings: Any) -> Head:
    return Head.model_validate({"kind": "xgboost", "inputs": ["audio"], "trees": 60, "eta": 0.3} | settings)


def as_rows(values: np.ndarray, **fields: list[str | None]) -> UnitRows:
    """Units whose labelled clip has these means; NaN where they are not known."""
    counts = np.ones(len(values), np.int64)
    own = {"audio": Moments(counts, values, np.zeros_like(values))} if values.shape[1] else {}
    return UnitRows(len(values), own, {}, fields)


def rows_of(n: int = 120, seed: int = 0, **fields: list[str | None]) -> tuple[UnitRows, np.ndarray]:
    """Four numeric columns, one of which shows the class of three, with gaps."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    statistics = rng.normal(size=(n, 4)).astype(np.float32)
    statistics[:, 2] += 3 * labels
    statistics[rng.random((n, 4)) < 0.1] = np.nan
    return as_rows(statistics, **fields), labels


def accuracy(model: BoostedModel, rows: UnitRows, indices: np.ndarray, labels: np.ndarray) -> float:
    log_p = model.log_probabilities(rows, indices)
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1)
    return float((log_p.argmax(1) == labels[indices]).mean())


def test_it_learns_and_stops_early_on_the_watched_units(tools: SimpleNamespace) -> None:
    rows, labels = rows_of()
    fit, watch, rest = np.arange(60), np.arange(60, 80), np.arange(80, 120)
    task = tools.task(rows, fit, watch, trees(trees=500), labels=labels, train=np.arange(80))
    model, history = fit_fold(task)
    assert accuracy(model, rows, rest, labels) > 0.75
    (best,) = [record for record in history if record["best"]]
    assert best["inner_loss"] == min(record["inner_loss"] for record in history)
    assert len(history) == best["round"] + 31 < 500
    assert model.booster.num_boosted_rounds() == best["round"] + 1


def test_the_second_fit_sees_the_watched_units_and_no_others(tools: SimpleNamespace) -> None:
    """With ``train`` equal to ``fit`` (a val split is watched) nothing of ``watch`` reaches the trees."""
    rows, labels = rows_of()
    fit, watch = np.arange(60), np.arange(60, 80)
    kept, _ = fit_fold(tools.task(rows, fit, watch, trees(), labels=labels))
    refitted, history = fit_fold(tools.task(rows, fit, watch, trees(), labels=labels, train=np.arange(80)))
    rounds = next(record["round"] + 1 for record in history if record["best"])
    alone, _ = fit_fold(tools.task(rows, np.arange(80), NONE, trees(trees=rounds), labels=labels))
    every = np.arange(120)
    np.testing.assert_array_equal(refitted.log_probabilities(rows, every), alone.log_probabilities(rows, every))
    same_rounds, _ = fit_fold(tools.task(rows, fit, NONE, trees(trees=rounds), labels=labels))
    np.testing.assert_array_equal(kept.log_probabilities(rows, every), same_rounds.log_probabilities(rows, every))


def test_metadata_alone_with_unknown_and_missing_categories(tools: SimpleNamespace) -> None:
    _, labels = rows_of(150)
    topics: list[str | None] = [["exam", "dog", "rain"][label] for label in labels]
    topics[::7] = [None] * len(topics[::7])
    empty: list[str | None] = [None] * 150
    rows = as_rows(np.empty((150, 0), np.float32), topic=topics, empty=empty)
    model, _ = fit_fold(tools.task(rows, np.arange(100), NONE, trees(inputs=[], metadata=["topic"]), labels=labels))
    assert accuracy(model, rows, np.arange(100, 150), labels) > 0.8
    assert model.vocabularies == {"topic": ["dog", "exam", "rain"], "empty": []}
    unseen = as_rows(np.empty((2, 0), np.float32), topic=["moon", None], empty=["full", None])
    log_p = model.log_probabilities(unseen, np.arange(2))
    assert np.isfinite(log_p).all()
    np.testing.assert_array_equal(log_p[0], log_p[1])  # what training never saw is like nothing


def test_one_category_counts_among_thousands_of_columns(tools: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=200)
    rows = as_rows(rng.normal(size=(200, 3000)).astype(np.float32), topic=[f"topic {label}" for label in labels])
    model, _ = fit_fold(tools.task(rows, np.arange(100), NONE, trees(metadata=["topic"], trees=10), labels=labels))
    assert accuracy(model, rows, np.arange(100, 200), labels) == 1


def test_a_class_that_the_fold_lacks_stays_possible(tools: SimpleNamespace) -> None:
    rows, labels = rows_of()
    without = np.flatnonzero(labels != 1)
    watch = np.flatnonzero(labels == 1)  # and nothing to watch with it
    model, _ = fit_fold(tools.task(rows, without, watch, trees(trees=5), labels=labels))
    p = np.exp(model.log_probabilities(rows, np.arange(120)))
    assert ((p[:, 1] > 0) & (p[:, 1] < 1e-5)).all()
    assert (p.argmax(1) != 1).all()


def test_one_class_is_refused_in_one_line(tools: SimpleNamespace) -> None:
    rows, labels = rows_of()
    with pytest.raises(UserError, match="all of one class"):
        fit_fold(tools.task(rows, np.flatnonzero(labels == 1), NONE, trees(), labels=labels))


def test_weighted_loss_favours_the_rare_class(tools: SimpleNamespace) -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random(400) < 0.08).astype(int)
    rows = as_rows((rng.normal(size=(400, 1)) + labels[:, None]).astype(np.float32))
    answers = {}
    for loss in ("cross_entropy", "weighted"):
        head = trees(loss=loss, trees=10, depth=2)
        model, _ = fit_fold(tools.task(rows, np.arange(400), NONE, head, 2, labels=labels))
        answers[loss] = int(model.log_probabilities(rows, np.arange(400)).argmax(1).sum())
    assert answers["weighted"] > 3 * answers["cross_entropy"]


def test_loaded_equals_written_to_the_bit_and_so_does_a_second_run(tools: SimpleNamespace, tmp_path: Path) -> None:
    topics: list[str | None] = ["ä", None, "dog"] * 40
    rows, labels = rows_of(topic=topics)
    task = tools.task(rows, np.arange(60), np.arange(60, 80), trees(metadata=["topic"]), labels=labels)
    model, history = fit_fold(task)
    about = json.loads(json.dumps(model.save(tmp_path, "fold0")))
    assert [path.name for path in tmp_path.iterdir()] == ["fold0.json"]
    json.loads((tmp_path / "fold0.json").read_text())
    loaded = load_fold(tmp_path, about)
    again, history_again = fit_fold(task)
    every, log_p = np.arange(120), model.log_probabilities(rows, np.arange(120))
    np.testing.assert_array_equal(loaded.log_probabilities(rows, every), log_p)
    np.testing.assert_array_equal(again.log_probabilities(rows, every), log_p)
    assert history == history_again
    one_by_one = [model.log_probabilities(rows, every[i : i + 1])[0] for i in every]
    np.testing.assert_array_equal(one_by_one, log_p)
    other, _ = fit_fold(tools.task(rows, task.fit, task.watch, task.head, labels=labels, seed=1))
    assert (other.log_probabilities(rows, every) != log_p).any()


def test_a_missing_file_is_named(tools: SimpleNamespace, tmp_path: Path) -> None:
    rows, labels = rows_of()
    model, _ = fit_fold(tools.task(rows, np.arange(60), NONE, trees(trees=2), labels=labels))
    about = model.save(tmp_path, "fold0")
    (tmp_path / "fold0.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"fold0\.json"):
        load_fold(tmp_path, about)


def test_fields_derived_from_the_label_need_permission(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(12, columns=lambda c: {"privileged_cause": "rain"})
    with pytest.raises(UserError, match="derived from the label"):
        unit_rows(manifest, manifest.units(), arrays, ["cause"])
    allowed = unit_rows(manifest, manifest.units(), arrays, ["cause"], privileged=True)
    assert allowed.metadata == {"cause": ["rain"] * 12}
