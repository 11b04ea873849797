"""The linear head on pooled features."""

from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from configs.schema import Head
from heads.linear import fit_fold
from heads.pooled import unit_statistics

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
