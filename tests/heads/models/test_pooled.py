"""The linear head on pooled features."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from configs import UserError
from configs.schema import Head
from extract.corpora.manifest import Unit, make_manifest
from heads.data.folds import inner_parts
from heads.models.linear import fit_fold, load_fold
from heads.models.pooled import ALL, BEFORE, OWN, Moments, UnitRows, unit_rows

NONE = np.array([], dtype=int)


def linear(**settings: object) -> Head:
    return Head.model_validate({"kind": "linear", "inputs": ["audio", "text"]} | settings)


def said_before(manifest: Any, unit: Unit) -> list[str]:
    roles = dict(zip(manifest.clips["clip_id"], manifest.clips["role"], strict=True))
    return [clip for clip in unit.clip_ids[:-1] if roles[clip] == "speaker"]


def table(rows: UnitRows) -> np.ndarray:
    """All of some rows side by side."""
    every = np.arange(rows.n_units)
    seen = [rows.moments(name, view, every) for name in rows.own for view in (OWN, BEFORE, ALL)]
    return np.concatenate([part for each in seen for part in (each.mean, each.deviation)], axis=1)


def test_rows_hold_mean_and_deviation_of_the_labelled_clip_and_of_what_was_said_before(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20, missing=0.3)
    units = manifest.units()
    rows = unit_rows(manifest, units, arrays)
    for name, features in arrays.items():
        assert rows.views(name) == (OWN, BEFORE, ALL)
        for number, unit in enumerate(units):
            before = said_before(manifest, unit)
            for view, clips in ((OWN, [unit.unit_id]), (BEFORE, before), (ALL, [*before, unit.unit_id])):
                found = rows.moments(name, view, np.array([number]))
                steps = [features[clip] for clip in clips if clip in features]
                if steps:
                    said = np.concatenate(steps)
                    assert found.counts == [len(said)]
                    np.testing.assert_allclose(found.mean[0], said.mean(0), rtol=1e-5, atol=1e-6)
                    np.testing.assert_allclose(found.deviation[0], said.std(0), rtol=1e-5, atol=1e-5)
                else:
                    assert found.counts == [0]
                    assert np.isnan(found.mean).all()
                    assert np.isnan(found.deviation).all()


def test_what_the_listener_does_changes_nothing(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20)
    before = table(unit_rows(manifest, manifest.units(), arrays))
    listened = manifest.clips.filter(manifest.clips["role"] == "listener")["clip_id"]
    assert len(listened)
    for clip_id in listened:
        arrays["audio"][clip_id] = arrays["audio"][clip_id] + 100
    np.testing.assert_array_equal(table(unit_rows(manifest, manifest.units(), arrays)), before)


def test_only_so_many_clips_before_the_labelled_one_count(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20, missing=0.3)
    units = manifest.units()
    assert max(len(unit.clip_ids) for unit in units) == 4
    for n in (0, 1, 3):
        cut = [replace(unit, clip_ids=unit.clip_ids[-1 - n :]) for unit in units]
        rows = unit_rows(manifest, units, arrays, context_clips=n)
        np.testing.assert_array_equal(table(rows), table(unit_rows(manifest, cut, arrays)))
        assert rows.views("audio") == ((OWN, BEFORE, ALL) if n else (OWN,))


def test_units_that_share_clips_get_the_rows_that_they_get_alone(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20, missing=0.3)
    units = [
        Unit(clip, unit.clip_ids[: i + 1], unit.label, unit.split, unit.group)
        for unit in manifest.units()
        for i, clip in enumerate(unit.clip_ids)
    ]
    together = table(unit_rows(manifest, units, arrays))
    order = np.random.default_rng(0).permutation(len(units))
    np.testing.assert_array_equal(together[order], table(unit_rows(manifest, [units[i] for i in order], arrays)))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.floats(-1e4, 1e4), st.sampled_from([1e-2, 1.0, 1e2]))
def test_deviations_stay_exact_far_from_zero(lengths: list[int], offset: float, scale: float) -> None:
    """Of fp16 values in clips of any lengths, against float64."""
    rng = np.random.default_rng(0)
    arrays = {f"u{i}": (offset + scale * rng.normal(size=(n, 3))).astype(np.float16) for i, n in enumerate(lengths)}
    rows = [
        {"clip_id": clip, "conversation_id": "c", "index": i, "split": "train", "group": "c"}
        | {"label": "a" if i == len(lengths) - 1 else None}
        for i, clip in enumerate(arrays)
    ]
    manifest = make_manifest(pl.DataFrame(rows, infer_schema_length=None), Path(), ("a",), {}, "by hand")
    moments = unit_rows(manifest, manifest.units(), {"audio": arrays}).moments("audio", ALL, np.array([0]))
    steps = np.concatenate(list(arrays.values())).astype(np.float64)
    largest = np.abs(steps).max()  # sums in float32 are off by a few times 1e-7 of it
    np.testing.assert_allclose(moments.mean[0], steps.mean(0), rtol=1e-6, atol=1e-6 * largest)
    np.testing.assert_allclose(moments.deviation[0], steps.std(0), rtol=1e-4, atol=2e-6 * largest)


def test_a_store_without_any_of_the_clips_is_named(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(5)
    with pytest.raises(UserError, match="the text store holds none of the units' clips"):
        unit_rows(manifest, manifest.units(), arrays | {"text": {}})


def labels_of(manifest: Any) -> np.ndarray:
    return np.array([manifest.classes.index(unit.label) for unit in manifest.units()])


def test_it_learns_with_modalities_missing_and_is_the_same_when_loaded(tools: SimpleNamespace, tmp_path: Path) -> None:
    manifest, arrays = tools.dataset(160, missing=0.3)
    rows, labels = unit_rows(manifest, manifest.units(), arrays), labels_of(manifest)
    train, watch, rest = np.arange(80), np.arange(80, 110), np.arange(110, 160)
    model, history = fit_fold(tools.task(rows, train, watch, linear(), 3, labels=labels))
    assert sum(record["best"] for record in history) == 1
    log_p = model.log_probabilities(rows, rest)
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1)
    assert (log_p.argmax(1) == labels[rest]).mean() > 0.7
    loaded = load_fold(tmp_path, json.loads(json.dumps(model.save(tmp_path, "fold0"))))
    np.testing.assert_array_equal(loaded.log_probabilities(rows, rest), log_p)


def test_a_unit_without_anything_is_still_answered(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(40)
    last = manifest.units()[-1]
    arrays = {name: {c: v for c, v in each.items() if c not in last.clip_ids} for name, each in arrays.items()}
    rows = unit_rows(manifest, manifest.units(), arrays)
    model, _ = fit_fold(tools.task(rows, np.arange(39), NONE, linear(c=0.1), 3, labels=labels_of(manifest)))
    assert np.isfinite(model.log_probabilities(rows, np.array([39]))).all()


def test_a_new_clip_without_a_past_is_answered(tools: SimpleNamespace) -> None:
    """What a model learned of earlier clips is missing there, and no error."""
    manifest, arrays = tools.dataset(60)
    units = manifest.units()
    rows = unit_rows(manifest, units, arrays)
    model, _ = fit_fold(tools.task(rows, np.arange(60), NONE, linear(c=0.1), 3, labels=labels_of(manifest)))
    assert BEFORE in {scaler.block[1] for scaler in model.scalers}
    alone = unit_rows(manifest, units, arrays, context_clips=0)
    assert np.isfinite(model.log_probabilities(alone, np.arange(60))).all()


@pytest.mark.parametrize(("of", "read"), [(OWN, "own"), (BEFORE, "apart"), (ALL, "all")])
def test_what_the_label_is_about_is_what_is_read(tools: SimpleNamespace, of: str, read: str) -> None:
    """40 conversations of 10 clips, all labelled: the class is that of a feature of the clip, of what was said before,
    or of all of it; an average over all would bury the first."""
    rng = np.random.default_rng(0)
    clips, arrays = [], {}
    for conversation in range(60):
        own = rng.normal(size=(8, 4))
        for index in range(8):
            seen = {
                OWN: own[index],
                BEFORE: own[:index].mean(0) if index else np.zeros(4),
                ALL: own[: index + 1].mean(0),
            }
            value = seen[of][0] * (1 if of == OWN else np.sqrt(index + 1))
            name = f"c{conversation:02}u{index}"
            arrays[name] = own[None, index].astype(np.float32)
            clips.append(
                {"clip_id": name, "conversation_id": f"c{conversation:02}", "index": index, "role": "speaker"}
                | {"split": "train", "group": f"c{conversation:02}", "label": "a" if value > 0 else "b"}
            )
    manifest = make_manifest(pl.DataFrame(clips), Path(), ("a", "b"), {}, "by hand")
    units, labels = manifest.units(), labels_of(manifest)
    rows = unit_rows(manifest, units, {"audio": arrays})
    groups = np.array([int(unit.group[1:]) for unit in units])
    train, rest = np.flatnonzero(groups < 40), np.flatnonzero(groups >= 40)
    task = tools.task(rows, train, NONE, linear(inputs=["audio"]), 2, labels=labels)
    model, history = fit_fold(replace(task, inner=inner_parts(units, train, 0, needed=True)))
    assert history[0]["read"].split(",")[0] == read
    assert (model.log_probabilities(rows, rest).argmax(1) == labels[rest]).mean() > 0.85


def test_an_input_that_says_nothing_costs_nothing(tools: SimpleNamespace) -> None:
    """Beside 200 columns of noise, with few units, a good input keeps what it says."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=220)
    good = (rng.normal(size=(220, 6)) + 1.2 * np.eye(6)[labels]).astype(np.float32)
    noise = rng.normal(size=(220, 200)).astype(np.float32)
    counts = np.ones(220, np.int64)
    own = {name: Moments(counts, values, np.zeros_like(values)) for name, values in (("audio", good), ("text", noise))}
    train, rest = np.arange(70), np.arange(70, 220)
    inner = tuple((np.flatnonzero(train % 4 != k), np.flatnonzero(train % 4 == k)) for k in range(4))

    def accuracy(inputs: list[str]) -> float:
        rows = UnitRows(220, {name: own[name] for name in inputs}, {}, {})
        task = replace(tools.task(rows, train, NONE, linear(inputs=inputs), 3, labels=labels), inner=inner)
        return float((fit_fold(task)[0].log_probabilities(rows, rest).argmax(1) == labels[rest]).mean())

    assert accuracy(["audio", "text"]) > accuracy(["audio"]) - 0.05
    assert accuracy(["text", "audio"]) > accuracy(["text"]) + 0.2


def test_metadata_counts_and_unknown_categories_are_answered(tools: SimpleNamespace) -> None:
    labels = np.arange(120) % 3
    rows = UnitRows(120, {}, {}, {"cause": [None if i % 9 == 0 else f"cause {i % 3}" for i in range(120)]})
    task = tools.task(rows, np.arange(80), NONE, linear(inputs=[], metadata=["cause"], c=0.1), labels=labels)
    model, _ = fit_fold(task)
    assert (model.log_probabilities(rows, np.arange(80, 120)).argmax(1) == labels[80:]).mean() > 0.85
    unknown = UnitRows(2, {}, {}, {"cause": ["never heard", None]})
    log_p = model.log_probabilities(unknown, np.arange(2))
    assert np.isfinite(log_p).all()
    np.testing.assert_array_equal(log_p[0], log_p[1])


def test_more_columns_than_units_are_fitted_the_same(tools: SimpleNamespace) -> None:
    """The penalty does not see the rotation into the space of the units."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 3
    values = rng.normal(size=(40, 90)).astype(np.float32)
    rows = UnitRows(40, {"audio": Moments(np.ones(40, np.int64), values, np.zeros_like(values))}, {}, {})
    head = linear(inputs=["audio"], c=0.03, loss="cross_entropy")
    model, _ = fit_fold(tools.task(rows, np.arange(40), NONE, head, labels=labels))
    x = StandardScaler().fit_transform(values.astype(np.float64))
    plain = LogisticRegression(C=0.03, tol=1e-8, max_iter=1000).fit(x, labels)
    np.testing.assert_allclose(model.log_probabilities(rows, np.arange(40)), plain.predict_log_proba(x), atol=2e-3)


def test_a_rare_class_counts_ten_times_a_balanced_one_at_most(tools: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [200, 2])
    values = rng.normal(size=(202, 5)).astype(np.float32)
    rows = UnitRows(202, {"audio": Moments(np.ones(202, np.int64), values, np.zeros_like(values))}, {}, {})
    task = tools.task(rows, np.arange(202), NONE, linear(inputs=["audio"], c=1.0, loss="weighted"), 2, labels=labels)
    x, counts = StandardScaler().fit_transform(values.astype(np.float64)), np.where(labels == 1, 10, 202 / 400)
    plain = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(x, labels, sample_weight=counts)
    found = fit_fold(task)[0].log_probabilities(rows, np.arange(202))
    np.testing.assert_allclose(found, plain.predict_log_proba(x), atol=2e-3)
