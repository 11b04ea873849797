"""Training: it learns what can be learned, and nothing that it may not see."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError
from extract.corpora.manifest import Unit
from heads.data.batches import UnitData
from heads.data.folds import assign_folds, carve_inner
from heads.fitting.losses import classification_loss, inverse_frequency
from heads.fitting.saved import average
from heads.fitting.training import fit_fold

NONE = np.array([], dtype=int)


@pytest.mark.parametrize("loss", ["cross_entropy", "weighted", "focal"])
def test_learnable_task_is_learned(tools: SimpleNamespace, loss: str) -> None:
    manifest, arrays = tools.dataset(90, missing=0.1)
    data = UnitData(manifest, manifest.units(), arrays)
    fit, rest = np.arange(60), np.arange(60, 90)
    model, history = fit_fold(tools.task(data, fit, NONE, tools.small_head(loss=loss, epochs=24), 3, seed=1))
    accuracy = (model.log_probabilities(data, rest).argmax(1) == data.labels[rest].numpy()).mean()
    assert accuracy > 0.8
    assert len(history) == 24
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_random_labels_are_learned_by_heart_and_not_predicted(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(80, signal=0.0, splits=("train",), most_clips=2)
    units = manifest.units()
    data = UnitData(manifest, units, arrays)
    folds = assign_folds(units, 2, seed=0)
    head = tools.small_head(epochs=30, dropout=0.0, modality_dropout=0.0, label_smoothing=0.0)
    right_in, right_out = [], []
    for fold in range(2):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        model, _ = fit_fold(tools.task(data, inside, NONE, head, 3, seed=fold))
        right_in += (model.log_probabilities(data, inside).argmax(1) == data.labels[inside].numpy()).tolist()
        right_out += (model.log_probabilities(data, outside).argmax(1) == data.labels[outside].numpy()).tolist()
    assert np.mean(right_in) > 0.9
    assert np.mean(right_out) < 0.55  # chance is 0.33


def test_same_seed_same_numbers_and_the_callers_randomness_is_left_alone(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(30)
    data, head = UnitData(manifest, manifest.units(), arrays), tools.small_head(epochs=2)
    fit, watch = np.arange(20), np.arange(20, 30)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (
        fit_fold(tools.task(data, fit, watch, head, 3, seed))[0].log_probabilities(data, watch) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.rand(3), expected)


def test_best_epoch_is_restored_and_patience_stops(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(60, signal=0.5)
    data = UnitData(manifest, manifest.units(), arrays)
    head = tools.small_head(epochs=60, patience=3)
    model, history = fit_fold(tools.task(data, np.arange(30), np.arange(30, 60), head, 3, seed=0))
    best = next(record for record in history if record["best"])
    assert len(history) == best["epoch"] + 4 < 60
    assert best["inner_macro_f1"] == max(record["inner_macro_f1"] for record in history)
    log_p = torch.from_numpy(model.log_probabilities(data, np.arange(30, 60))).float()
    weights = inverse_frequency(data.labels[:30], 3)
    assert float(classification_loss(log_p, data.labels[30:60], "weighted", weights)) == best["inner_loss"]


def test_scalers_see_the_fitted_units_alone(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20)
    units = manifest.units()
    for i in range(10, 20):
        for clip in units[i].clip_ids:
            arrays["audio"][clip] = arrays["audio"][clip] + 100
    data = UnitData(manifest, units, arrays)
    model, _ = fit_fold(tools.task(data, np.arange(10), NONE, tools.small_head(epochs=1), 3, seed=0))
    steps = np.concatenate([arrays["audio"][clip] for unit in units[:10] for clip in unit.clip_ids])
    encoder = model.network.conversation.modalities["audio"]
    np.testing.assert_allclose(encoder.mean.numpy(), steps.mean(0), atol=1e-5)
    np.testing.assert_allclose(encoder.scale.numpy(), steps.std(0), rtol=1e-4)


def test_metadata_alone_is_enough(tools: SimpleNamespace) -> None:
    manifest, _ = tools.dataset(60)
    label_of = {unit.unit_id[:4]: unit.label for unit in manifest.units()}
    manifest, _ = tools.dataset(60, columns=lambda c: {"meta_mood": label_of[f"c{c:03}"]})
    data = UnitData(manifest, manifest.units(), {}, ["mood"])
    head = tools.small_head(inputs=[], metadata=["mood"], epochs=10)
    model, _ = fit_fold(tools.task(data, np.arange(40), NONE, head, 3, seed=0))
    rest = np.arange(40, 60)
    assert (model.log_probabilities(data, rest).argmax(1) == data.labels[rest].numpy()).all()


def test_average_is_a_geometric_mean() -> None:
    a, b = np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]])
    raw = np.sqrt(a * b)
    np.testing.assert_allclose(np.exp(average([np.log(a), np.log(b)])), raw / raw.sum())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), per_group=st.integers(1, 4), n_folds=st.integers(2, 5))
def test_folds_never_share_a_group(tools: SimpleNamespace, seed: int, per_group: int, n_folds: int) -> None:
    manifest, _ = tools.dataset(
        60, seed=seed, splits=("train",), columns=lambda c: {"group": f"g{c // per_group}"}, most_clips=1
    )
    units = manifest.units()
    folds = assign_folds(units, n_folds, seed)
    assert np.array_equal(folds, assign_folds(units, n_folds, seed))
    assert set(folds.tolist()) == set(range(n_folds))
    homes: dict[str, set[int]] = {}
    for unit, fold in zip(units, folds, strict=True):
        homes.setdefault(unit.group, set()).add(int(fold))
    assert all(len(home) == 1 for home in homes.values())

    candidates = np.flatnonzero(folds != 0)
    fit, watch = carve_inner(units, candidates, seed)
    assert sorted([*fit, *watch]) == candidates.tolist()
    assert not {units[i].group for i in fit} & {units[i].group for i in watch}
    assert 0.05 < len(watch) / len(candidates) < 0.4


def test_too_few_groups_for_the_folds(tools: SimpleNamespace) -> None:
    manifest, _ = tools.dataset(30, splits=("train",), columns=lambda c: {"group": f"g{c % 3}"})
    with pytest.raises(UserError, match=r"folds = 5: .*only 3 group\(s\).*3 or fewer"):
        assign_folds(manifest.units(), 5, 0)


def unit(number: int, label: str, group: str, conversation: int | None = None) -> Unit:
    first = f"c{number if conversation is None else conversation}"
    return Unit(f"c{number}", tuple(dict.fromkeys([first, f"c{number}"])), label, "train", group)


@pytest.mark.parametrize(
    ("units", "advice"),
    [
        ([unit(0, "sad", "a"), unit(1, "happy", "b")], "label more clips"),  # two clips
        ([unit(i, "sad", "a", conversation=0) for i in range(9)], "label more clips"),  # one conversation
        ([unit(i, f"class {i}", f"g{i}") for i in range(9)], "label more clips"),  # classes of one unit
        ([unit(i, f"class {i}", "a") for i in range(9)], "label more clips"),  # other groups would not help
        ([unit(i, "sad", "everybody") for i in range(9)], r"make conversations the groups.* are 9 .*columns\.group"),
        ([unit(i, "sad", f"g{i % 2}") for i in range(9)], r"set 'folds' to 2 or fewer, or make conversations"),
    ],
)
def test_no_advice_is_one_that_the_profile_refuses(units: list[Unit], advice: str) -> None:
    with pytest.raises(UserError, match=advice) as error:
        assign_folds(units, 5, 0)
    assert not re.search(r"to [01] or fewer", str(error.value))
    with pytest.raises(UserError) as error:
        carve_inner(units[:1], np.array([0]), 0)
    assert "more folds" not in str(error.value)
