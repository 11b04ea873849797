"""The baseline that every head must beat: a linear head on the same inputs, kept as a head of its own."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cache import Store
from configs import UserError
from configs.profiles import load
from configs.schema import Head
from extract.corpora.manifest import Manifest, read_manifest, write_manifest
from heads.fitting.base import BASELINE_C, baseline_head
from heads.fitting.cross_validation import cross_validate
from heads.fitting.saved import load_head, predict

HEADS = Path("runs/tiny/heads")
SPLITS = ("train", "train", "train", "val", "test")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace) -> Callable[..., Manifest]:
    def make(heads: dict[str, Any], **settings: Any) -> Manifest:
        manifest, arrays = tools.dataset(60, **{"splits": SPLITS} | settings)
        tools.write_workspace(tmp_path, manifest, arrays, heads)
        monkeypatch.chdir(tmp_path)
        return manifest

    return make


def baseline() -> pl.DataFrame:
    profile = load("profile.yaml", [])
    cross_validate(profile, read_manifest(profile.manifest_path), "it")
    return pl.read_parquet(HEADS / "it" / "baseline" / "predictions.parquet")


def logits(table: pl.DataFrame) -> np.ndarray:
    return table.select(pl.col("^logit_.*$")).to_numpy()


TREES = {"kind": "xgboost", "inputs": ["audio"], "trees": 2}  # a head that takes no time


def test_it_is_logistic_regression_on_means_in_the_heads_folds(workspace: Any, tools: SimpleNamespace) -> None:
    """Of single clips there is one way to look at them."""
    manifest = workspace({"it": TREES}, most_clips=1)
    table = baseline()
    store = Store(Path("runs/tiny/stores/audio"))
    units = {unit.unit_id: unit for unit in manifest.units()}
    x = np.array([store[unit_id].astype(np.float64).mean(0) for unit_id in table["unit_id"]])
    y = np.array([units[unit_id].label for unit_id in table["unit_id"]])
    for fold in range(3):
        oof = (table["split"] == "oof").to_numpy()
        held = oof & (table["fold"] == fold).fill_null(False).to_numpy()
        scaler = StandardScaler().fit(x[oof & ~held])
        model = LogisticRegression(C=BASELINE_C, class_weight="balanced").fit(
            scaler.transform(x[oof & ~held]), y[oof & ~held]
        )
        expected = model.predict_log_proba(scaler.transform(x[held]))
        np.testing.assert_allclose(logits(table.filter(held)), expected, atol=1e-3)


def test_it_loads_as_a_head_and_predicts_what_was_written(workspace: Any) -> None:
    manifest = workspace({"it": TREES | {"inputs": ["audio", "text"]}}, missing=0.2)
    table = baseline()
    trained = load_head(HEADS / "it" / "baseline" / "model")
    assert trained.settings == baseline_head(load("profile.yaml", []).heads["it"], ["audio", "text"])
    test = [unit for unit in manifest.units() if unit.split == "test"]
    stores = {name: Store(Path("runs/tiny/stores") / name) for name in ("audio", "text")}
    written = table.filter(pl.col("split") == "test")
    assert written["unit_id"].to_list() == [unit.unit_id for unit in test]
    np.testing.assert_array_equal(predict(trained, manifest, test, stores), logits(written))


def test_only_training_units_teach_it(workspace: Any, tools: SimpleNamespace) -> None:
    """What test holds, its labels, features and categories too, changes no other prediction."""
    values = ["a", "b", "c", "held out", "held out"]
    settings = {
        "splits": ("train", "train", "train", "test", "test"),
        "columns": lambda c: {"meta_topic": values[c % 5]},
    }
    manifest = workspace({"it": TREES | {"metadata": ["topic"]}}, **settings)
    before = baseline()
    path = Path("runs/tiny/stores/audio")
    test = [unit for unit in manifest.units() if unit.split == "test"]
    store = Store(path)
    changed = {clip: np.array(store[clip]) for clip in store.clip_ids}
    changed |= {clip: changed[clip] * 1000 for unit in test for clip in unit.clip_ids if clip in changed}
    tools.write_store(path, changed)
    held = manifest.clips["split"] != "train"
    clips = manifest.clips.with_columns(
        label=manifest.clips["label"].replace({"happy": "sad"}).zip_with(held, manifest.clips["label"])
    )
    write_manifest(Manifest(clips, manifest.root, manifest.classes, {}), Path("runs/tiny/manifest.parquet"))
    after = baseline()
    oof = (before["split"] == "oof").to_numpy()
    np.testing.assert_array_equal(logits(before.filter(oof)), logits(after.filter(oof)))
    assert (logits(before.filter(~oof)) != logits(after.filter(~oof))).any()


def test_only_the_clips_that_the_head_sees_count(workspace: Any, tools: SimpleNamespace) -> None:
    manifest = workspace({"it": TREES | {"context_clips": 0}})
    before = baseline()
    path, labelled = Path("runs/tiny/stores/audio"), {unit.unit_id for unit in manifest.units()}
    store = Store(path)
    tools.write_store(path, {clip: np.array(store[clip]) + 100 * (clip not in labelled) for clip in store.clip_ids})
    np.testing.assert_array_equal(logits(baseline()), logits(before))


def test_a_constant_dimension_and_a_missing_class_do_no_harm(workspace: Any, tools: SimpleNamespace) -> None:
    manifest = workspace({"it": TREES}, splits=("train",), columns=lambda c: {"group": f"g{c % 9}"})
    path = Path("runs/tiny/stores/audio")
    store = Store(path)
    tools.write_store(path, {clip: np.array(store[clip]) * np.r_[0, np.ones(5)] + 0.1 for clip in store.clip_ids})
    rare = [unit.unit_id for unit in manifest.units() if unit.label == "sad"]
    kept = manifest.clips.with_columns(
        label=pl.when(pl.col("clip_id").is_in(rare[1:])).then(pl.lit("happy")).otherwise("label")
    )
    write_manifest(Manifest(kept, manifest.root, manifest.classes, {}), Path("runs/tiny/manifest.parquet"))
    p = np.exp(logits(baseline()))
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(1), 1)


def test_nothing_to_read_gives_none_and_privileged_fields_need_permission(workspace: Any) -> None:
    bag = Head.model_validate({"kind": "bag_of_words", "inputs": ["text"]})
    assert baseline_head(bag, []) is None
    assert baseline_head(bag, ["text"]) is not None
    workspace({"it": TREES | {"metadata": ["cause"]}}, columns=lambda c: {"privileged_cause": "rain"})
    with pytest.raises(UserError, match="derived from the label"):
        baseline()
