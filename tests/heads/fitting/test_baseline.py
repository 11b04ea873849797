"""The baseline that every head must beat."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from configs import UserError
from configs.schema import Head
from extract.corpora.manifest import Manifest
from heads.fitting.baseline import C, baseline_log_probabilities
from heads.fitting.outputs import Predictions

SPLITS = ("train", "train", "train", "val", "test")


def folds_of(manifest: Manifest, n: int = 3) -> np.ndarray:
    splits = [unit.split for unit in manifest.units()]
    return np.array([i % n if split == "train" else -1 for i, split in enumerate(splits)])


def baseline(manifest: Manifest, stores: Any, head: Any) -> Predictions:
    result = baseline_log_probabilities(head, manifest, manifest.units(), folds_of(manifest), stores, 0)
    assert result is not None
    return result


def accuracy(manifest: Manifest, predictions: Predictions, split: str) -> float:
    indices, log_p = predictions[split]
    labels = [manifest.classes.index(manifest.units()[i].label) for i in indices]
    return float((log_p.argmax(1) == labels).mean())


def test_it_is_logistic_regression_on_means_in_the_heads_folds(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(60, splits=SPLITS)
    units, folds = manifest.units(), folds_of(manifest)
    roles = dict(zip(manifest.clips["clip_id"], manifest.clips["role"], strict=True))
    spoken = [[clip for clip in unit.clip_ids if roles[clip] == "speaker"] for unit in units]
    x = np.array([np.concatenate([arrays["audio"][clip] for clip in clips]).mean(0) for clips in spoken])
    y = np.array([manifest.classes.index(unit.label) for unit in units])
    expected, test = np.empty((len(units), 3)), []
    for fold in range(3):
        train = (folds >= 0) & (folds != fold)
        scaler = StandardScaler().fit(x[train])
        model = LogisticRegression(C=C, class_weight="balanced").fit(scaler.transform(x[train]), y[train])
        log_p = model.predict_log_proba(scaler.transform(x))
        expected[folds == fold] = log_p[folds == fold]
        test.append(log_p[[unit.split == "test" for unit in units]])
    result = baseline(manifest, {"audio": arrays["audio"]}, tools.small_head(inputs=["audio"]))
    assert list(result) == ["oof", "val", "test"]
    np.testing.assert_array_equal(result["oof"][0], np.flatnonzero(folds >= 0))
    np.testing.assert_allclose(result["oof"][1], expected[folds >= 0], atol=1e-3)
    np.testing.assert_allclose(result["test"][1], log_softmax(np.mean(test, axis=0), axis=1), atol=1e-3)


def test_only_training_units_teach_it(tools: SimpleNamespace) -> None:
    """What val and test hold, their labels and categories too, changes no other prediction."""
    values = ["a", "b", "c", "held out", "held out"]
    manifest, arrays = tools.dataset(60, splits=SPLITS, missing=0.2, columns=lambda c: {"meta_topic": values[c % 5]})
    head = tools.small_head(metadata=["topic"])
    before = baseline(manifest, arrays, head)
    for unit in manifest.units():
        if unit.split != "train":
            for features in arrays.values():
                features |= {clip: features[clip] * 1000 for clip in unit.clip_ids if clip in features}
    held_out = manifest.clips["split"] != "train"
    clips = manifest.clips.with_columns(
        label=manifest.clips["label"].replace({"happy": "sad"}).zip_with(held_out, manifest.clips["label"])
    )
    after = baseline(Manifest(clips, manifest.root, manifest.classes, {}), arrays, head)
    np.testing.assert_array_equal(before["oof"][1], after["oof"][1])
    assert (before["test"][1] != after["test"][1]).any()


def test_metadata_counts_and_unknown_categories_are_answered(tools: SimpleNamespace) -> None:
    manifest, _ = tools.dataset(200, splits=SPLITS)
    cause = [None if i % 9 == 0 else f"cause of {label}" for i, label in enumerate(manifest.clips["label"])]
    clips = manifest.clips.with_columns(meta_cause=np.array(cause, dtype=object))
    told = Manifest(clips, manifest.root, manifest.classes, {})
    head = tools.small_head(inputs=[], metadata=["cause"])
    predictions = baseline(told, {}, head)
    assert accuracy(told, predictions, "oof") > 0.85
    test = told.clips["split"] == "test"
    unknown = told.clips.with_columns(meta_cause=told.clips["meta_cause"].set(test, "never heard"))
    log_p = baseline(Manifest(unknown, told.root, told.classes, {}), {}, head)["test"][1]
    assert np.isfinite(log_p).all()
    assert (log_p == log_p[0]).all()


def test_only_the_clips_that_the_head_sees_count(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(60)
    head = tools.small_head(context_clips=0)
    before = baseline(manifest, arrays, head)["oof"][1]
    labelled = {unit.unit_id for unit in manifest.units()}
    for features in arrays.values():
        features |= {clip: values + 100 for clip, values in features.items() if clip not in labelled}
    np.testing.assert_array_equal(baseline(manifest, arrays, head)["oof"][1], before)
    assert (baseline(manifest, arrays, tools.small_head())["oof"][1] != before).any()


def test_a_constant_dimension_and_a_missing_class_do_no_harm(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(90, signal=3)
    for features in arrays.values():
        for values in features.values():
            values[:, 0] = 0.1
    folds = folds_of(manifest)
    sad = np.array([unit.label == "sad" for unit in manifest.units()])
    folds[sad & (folds >= 0)] = 0  # the model of fold 0 never sees a sad unit
    result = baseline_log_probabilities(tools.small_head(), manifest, manifest.units(), folds, arrays, 0)
    assert result is not None
    p = np.exp(result["oof"][1])
    assert np.isfinite(p).all()
    of_fold_0 = folds[result["oof"][0]] == 0
    assert (p[of_fold_0, 2] < 1e-5).all()
    assert accuracy(manifest, {"oof": (result["oof"][0][~of_fold_0], result["oof"][1][~of_fold_0])}, "oof") > 0.5


def test_nothing_to_read_gives_none_and_privileged_fields_need_permission(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(30, columns=lambda c: {"privileged_cause": "rain"})
    bag = Head.model_validate({"kind": "bag_of_words", "inputs": ["text"]})
    folds = folds_of(manifest)
    assert baseline_log_probabilities(bag, manifest, manifest.units(), folds, {}, 0) is None
    assert baseline_log_probabilities(bag, manifest, manifest.units(), folds, {"text": arrays["text"]}, 0) is not None
    with pytest.raises(UserError, match="derived from the label"):
        baseline(manifest, arrays, tools.small_head(metadata=["cause"]))
