"""The linear head on pooled features."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from configs import UserError
from configs.schema import Head
from extract.corpora.manifest import Unit, make_manifest
from heads.models.linear import fit_fold
from heads.models.pooled import unit_statistics

NONE = np.array([], dtype=int)


def linear(**settings: object) -> Head:
    return Head.model_validate({"kind": "linear", "inputs": ["audio", "text"]} | settings)


def test_rows_hold_the_speakers_mean_and_deviation(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20, missing=0.3)
    units = manifest.units()
    rows = unit_statistics(manifest, units, arrays)
    roles = dict(zip(manifest.clips["clip_id"], manifest.clips["role"], strict=True))
    for unit, row in zip(units, rows, strict=True):
        start = 0
        for features in arrays.values():
            width = 2 * next(iter(features.values())).shape[1]
            said = [features[c] for c in unit.clip_ids if roles[c] == "speaker" and c in features]
            if said:
                steps = np.concatenate(said)
                expected = np.concatenate([steps.mean(0), steps.std(0)])
                np.testing.assert_allclose(row[start : start + width], expected, rtol=1e-5, atol=1e-6)
            else:
                assert np.isnan(row[start : start + width]).all()
            start += width


def test_what_the_listener_does_changes_nothing(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20)
    before = unit_statistics(manifest, manifest.units(), arrays)
    listened = manifest.clips.filter(manifest.clips["role"] == "listener")["clip_id"]
    assert len(listened)
    for clip_id in listened:
        arrays["audio"][clip_id] = arrays["audio"][clip_id] + 100
    np.testing.assert_array_equal(unit_statistics(manifest, manifest.units(), arrays), before)


def test_only_so_many_clips_before_the_labelled_one_count(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20, missing=0.3)
    units = manifest.units()
    assert max(len(unit.clip_ids) for unit in units) == 4
    for n in (0, 1, 3):
        cut = [replace(unit, clip_ids=unit.clip_ids[-1 - n :]) for unit in units]
        np.testing.assert_array_equal(
            unit_statistics(manifest, units, arrays, context_clips=n), unit_statistics(manifest, cut, arrays)
        )


def test_units_that_share_clips_get_the_rows_that_they_get_alone(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20, missing=0.3)
    units = [
        Unit(clip, unit.clip_ids[: i + 1], unit.label, unit.split, unit.group)
        for unit in manifest.units()
        for i, clip in enumerate(unit.clip_ids)
    ]
    together = unit_statistics(manifest, units, arrays)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(units))
    apart = unit_statistics(manifest, [units[i] for i in order], arrays)
    np.testing.assert_array_equal(together[order], apart)
    means = unit_statistics(manifest, units, arrays, deviations=False)
    np.testing.assert_array_equal(means, together[:, np.r_[0:6, 12:17]])  # audio has 6 dimensions, text 5


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
    row = unit_statistics(manifest, manifest.units(), {"audio": arrays})[0]
    steps = np.concatenate(list(arrays.values())).astype(np.float64)
    largest = np.abs(steps).max()  # sums in float32 are off by a few times 1e-7 of it
    np.testing.assert_allclose(row[:3], steps.mean(0), rtol=1e-6, atol=1e-6 * largest)
    np.testing.assert_allclose(row[3:], steps.std(0), rtol=1e-4, atol=1e-6 * largest)


def test_a_store_without_any_of_the_clips_is_named(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(5)
    with pytest.raises(UserError, match="the text store holds none of the units' clips"):
        unit_statistics(manifest, manifest.units(), arrays | {"text": {}})


def test_it_learns_with_modalities_missing(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(160, missing=0.3)
    units = manifest.units()
    rows = unit_statistics(manifest, units, arrays)
    labels = np.array([manifest.classes.index(unit.label) for unit in units])
    train, watch, rest = np.arange(80), np.arange(80, 110), np.arange(110, 160)
    model, history = fit_fold(tools.task(rows, train, watch, linear(), 3, labels=labels))
    assert sum(record["best"] for record in history) == 1
    log_p = model.log_probabilities(rows, rest)
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1)
    assert (log_p.argmax(1) == labels[rest]).mean() > 0.7


def test_a_unit_without_anything_is_still_answered(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(40)
    rows = unit_statistics(manifest, manifest.units(), arrays)
    rows[-1] = np.nan
    labels = np.array([manifest.classes.index(unit.label) for unit in manifest.units()])
    everything = np.arange(39)
    model, _ = fit_fold(tools.task(rows, everything, NONE, linear(c=0.1), 3, labels=labels))
    assert np.isfinite(model.log_probabilities(rows, np.array([len(rows) - 1]))).all()


@pytest.mark.parametrize("settings", [{"inputs": []}, {"metadata": ["age"]}])
def test_it_reads_stores_alone(settings: dict[str, list[str]]) -> None:
    with pytest.raises(ValidationError, match=r"a (linear )?head (reads stores alone|needs inputs)"):
        linear(**settings)
