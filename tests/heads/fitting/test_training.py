"""Training: it learns what can be learned, and nothing that it may not see."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError
from extract.corpora.manifest import Unit
from heads.data import folds as folding
from heads.data.batches import UnitData
from heads.data.folds import FEW_UNITS, FoldTask, assign_folds, inner_parts
from heads.data.sampling import class_weights
from heads.fitting.base import fit_base, linear_head
from heads.fitting.kinds import KINDS
from heads.fitting.saved import average
from heads.fitting.training import fit_fold
from heads.models.linear import fit_fold as fit_linear
from heads.models.network import load_fold
from heads.models.pooled import Moments

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
    losses = [record["inner_loss"] for record in history]
    smooth = [np.mean(losses[max(0, i - 2) : i + 1]) for i in range(len(losses))]
    assert smooth[best["epoch"]] == min(smooth)
    watched = data.labels[30:60]
    counts = class_weights(data.labels[:30].numpy(), 3)[watched]
    of_truth = model.log_probabilities(data, np.arange(30, 60))[np.arange(30), watched]
    assert -np.average(of_truth, weights=counts) == pytest.approx(best["inner_loss"], rel=1e-5)


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


def test_what_choices_look_at(tools: SimpleNamespace) -> None:
    """A val split that is not smaller; one part of many units; nothing where nothing can be had."""
    manifest, _ = tools.dataset(40, splits=("train", "val", "val"))
    units = manifest.units()
    train = np.array([i for i, unit in enumerate(units) if unit.split == "train"])
    ((fit, held),) = inner_parts(units, train, 0, needed=True)
    assert fit.tolist() == train.tolist()
    assert {units[i].split for i in held} == {"val"}
    fewer, _ = tools.dataset(40, splits=("train", "train", "val"))
    train = np.array([i for i, unit in enumerate(fewer.units()) if unit.split == "train"])
    parts = inner_parts(fewer.units(), train, 0, needed=True)
    assert sorted(np.concatenate([held for _, held in parts])) == train.tolist()
    many = [replace(units[i % 9], group=str(i), split="train") for i in range(FEW_UNITS + 1)]
    ((fit, held),) = inner_parts(many, np.arange(len(many)), 0, needed=False)
    assert len(fit) > 5 * len(held) > 0
    assert inner_parts(many, np.array([0]), 0, needed=False) == ()


def on_a_base(tools: SimpleNamespace, crossed: bool, n: int = 240) -> tuple[FoldTask, np.ndarray]:
    """Two classes at opposite corners of a square, which no line tells apart, or side by side; and a third between."""
    manifest, arrays = tools.dataset(n, most_clips=1, splits=("train",))
    rng = np.random.default_rng(0)
    for unit in manifest.units():
        label, side = manifest.classes.index(unit.label), rng.choice([-1, 1])
        place = [side * 3, side * (3 - 6 * label)] if crossed else [3 - 6 * label, 0]
        values = rng.normal(size=(1, 6))
        values[0, :2] += np.array(place) * (label < 2)
        arrays["audio"][unit.unit_id] = values.astype(np.float32)
    head = tools.small_head(inputs=["audio"], base="linear", epochs=25, patience=5, dropout=0.0, modality_dropout=0.0)
    data = KINDS["sequence"].read(head, manifest, manifest.units(), {"audio": arrays["audio"]})
    train = np.arange(2 * n // 3)
    inner = inner_parts(manifest.units(), train, 0, needed=True)
    return replace(tools.task(data, train, NONE, head), inner=inner), np.arange(2 * n // 3, n)


@pytest.mark.parametrize("crossed", [False, True])
def test_a_network_adds_to_its_linear_base_what_no_line_can_tell(
    tools: SimpleNamespace, tmp_path: Path, crossed: bool
) -> None:
    task, rest = on_a_base(tools, crossed)
    model, history = fit_fold(task)
    (best,) = [record for record in history if record["best"]]
    assert model.share == best["share"]
    rows, labels = task.data.rows, task.labels[rest]
    linear, _ = fit_linear(replace(task, head=linear_head(task.head), data=rows))
    log_p, base = model.log_probabilities(task.data, rest), linear.log_probabilities(rows, rest)
    right, simple = (log_p.argmax(1) == labels).mean(), (base.argmax(1) == labels).mean()
    if crossed:
        assert model.share > 0
        assert right > simple + 0.2
    else:
        assert right > simple - 0.03
    loaded = load_fold(tmp_path, json.loads(json.dumps(model.save(tmp_path, "fold0"))))
    np.testing.assert_array_equal(loaded.log_probabilities(task.data, rest), log_p)
    without = replace(model, share=0.0).log_probabilities(task.data, rest)
    np.testing.assert_array_equal(without.argmax(1), base.argmax(1))  # only sharper


def test_a_base_says_of_what_it_was_fitted_on_what_it_would_of_new_units(tools: SimpleNamespace) -> None:
    """Features of noise: what a fit knows by heart, its base does not tell."""
    task, _ = on_a_base(tools, crossed=False)
    wide = np.random.default_rng(1).normal(size=(len(task.labels), 200)).astype(np.float32)
    rows = replace(task.data.rows, own={"audio": Moments(np.ones(len(wide), np.int64), wide, 0 * wide)})
    task.data.rows = rows
    labels = task.labels[task.train]
    for asked in (task, replace(task, inner=(), groups=0 * task.groups)):  # also of units that all are of one group
        base = fit_base(asked)
        seen = base.model.log_probabilities(rows, task.train)
        assert (seen.argmax(1) == labels).mean() > 0.8
        assert (base.log_p[task.train].argmax(1) == labels).mean() < 0.5


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
    parts = inner_parts(units, candidates, seed, needed=True)
    assert len(parts) == folding.INNER_FOLDS
    for fit, watch in parts:
        assert sorted([*fit, *watch]) == candidates.tolist()
        assert not {units[i].group for i in fit} & {units[i].group for i in watch}
    assert sorted(np.concatenate([watch for _, watch in parts])) == candidates.tolist()


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
        inner_parts(units[:1], np.array([0]), 0, needed=True)
    assert "more folds" not in str(error.value)
