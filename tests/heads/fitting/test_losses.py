"""Losses, sampling, augmentation, schedules, averages: each against what it should be, written out plainly."""

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from configs import UserError
from heads.data.augment import augment, mask_time, mixup
from heads.data.batches import Batch, Frames, UnitData
from heads.data.sampling import class_weights, draw_balanced, epoch_batches
from heads.fitting import losses, training
from heads.fitting.losses import log_frequency, unit_losses, unit_weights
from heads.fitting.training import Objective, fit_fold, parameter_groups, rate_at

NONE = np.array([], dtype=int)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
LABELS = torch.tensor([0] * 60 + [1] * 30 + [2])
QUIET = {"dropout": 0.0, "modality_dropout": 0.0}  # nothing is drawn while it trains
BATCHES = [{"batch_size": 16}, {"batch_size": 4, "accumulate": 4}, {"batch_size": 8, "accumulate": 2}]


def by_hand(logits: Tensor, label: int, loss: str, smoothing: float) -> float:
    """One unit's loss, term by term."""
    p = logits.double().softmax(0)
    total = 0.0
    for k in range(len(p)):
        target = smoothing / len(p) + (1 - smoothing) * (k == label)
        total -= target * (1 - p[k]) ** (2.0 if loss == "focal" else 0.0) * p[k].log()
    return float(total)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", ["cross_entropy", "weighted", "focal"])
def test_losses_by_hand(loss: Any, smoothing: float) -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [-3.0, 1.0, 2.0]])
    labels, weights = torch.tensor([0, 2, 1]), torch.tensor([1.0, 2.0, 4.0])
    each = [by_hand(logits[i], int(labels[i]), loss, smoothing) for i in range(3)]
    np.testing.assert_allclose(unit_losses(logits, labels, loss, smoothing).tolist(), each, rtol=1e-5)
    counts = [1, 4, 2] if loss == "weighted" else [1, 1, 1]
    assert unit_weights(labels, loss, weights).tolist() == counts
    if loss != "focal":
        same = nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        torch.testing.assert_close(unit_losses(logits, labels, loss, smoothing), same, **CLOSE)


def test_class_weights_are_inverse_frequencies_capped() -> None:
    assert class_weights(LABELS.numpy(), 3).tolist() == pytest.approx([91 / 180, 91 / 90, 10.0])
    assert class_weights(np.array([0, 2, 2]), 4).tolist() == pytest.approx([1.5, 1.5, 0.75, 1.5])  # of two that occur


def test_log_frequencies() -> None:
    assert log_frequency(LABELS, 4).exp().tolist() == pytest.approx([60 / 91, 30 / 91, 1 / 91, 1 / 91])


class Network(nn.Module):
    """One whose units' vectors stand in the batch."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.classifier = nn.Sequential(*layers)

    def representation(self, batch: Any) -> Tensor:
        return batch.vectors


def test_objective_adjusts_logits_and_weighs_units(tools: SimpleNamespace) -> None:
    logits = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.5]])
    batch = SimpleNamespace(vectors=logits, labels=torch.tensor([0, 2]))
    head = tools.small_head(loss="weighted", logit_adjustment=1.5, label_smoothing=0.0)
    objective = Objective(head, LABELS, 3, torch.device("cpu"))
    moved = logits + 1.5 * torch.tensor([60 / 91, 30 / 91, 1 / 91]).log()
    weights = torch.from_numpy(class_weights(LABELS.numpy(), 3)).float()
    expected = nn.functional.cross_entropy(moved, batch.labels, weights, reduction="sum")
    torch.testing.assert_close(objective(Network(), batch, torch.Generator()), expected, **CLOSE)

    head = tools.small_head(loss="weighted", sampling="balanced", label_smoothing=0.0)
    objective = Objective(head, LABELS, 3, torch.device("cpu"))
    expected = nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
    torch.testing.assert_close(objective(Network(), batch, torch.Generator()), expected, **CLOSE)


def test_mixup_mixes_vectors_and_losses(tools: SimpleNamespace) -> None:
    batch = SimpleNamespace(vectors=torch.randn(6, 4), labels=torch.tensor([0, 1, 2, 0, 1, 2]))
    network = Network(nn.Linear(4, 3))
    head = tools.small_head(loss="cross_entropy", mixup=0.4, label_smoothing=0.0)
    objective = Objective(head, LABELS, 3, torch.device("cpu"))
    torch.manual_seed(3)
    found = objective(network, batch, torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    mixed, partners, share = mixup(batch.vectors, 0.4, torch.Generator().manual_seed(0))
    assert sorted(partners.tolist()) == list(range(6))
    assert 0 < float(share) < 1
    torch.testing.assert_close(mixed, share * batch.vectors + (1 - share) * batch.vectors[partners])
    one_hot = nn.functional.one_hot(batch.labels, 3).float()
    targets = share * one_hot + (1 - share) * one_hot[partners]
    expected = nn.functional.cross_entropy(network.classifier(mixed), targets, reduction="sum")
    torch.testing.assert_close(found, expected, **CLOSE)


def test_balanced_draws_are_equal_and_repeatable() -> None:
    drawn = draw_balanced(LABELS, torch.Generator().manual_seed(0))
    assert sorted(torch.bincount(LABELS[drawn]).tolist()) == [30, 30, 31]
    assert set(LABELS[drawn].tolist()) == {0, 1, 2}
    assert (drawn[LABELS[drawn] == 2] == 90).all()
    assert len(drawn[LABELS[drawn] == 0].unique()) < 31  # with replacement
    assert torch.equal(drawn, draw_balanced(LABELS, torch.Generator().manual_seed(0)))
    assert not torch.equal(drawn, draw_balanced(LABELS, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("sampling", ["shuffled", "balanced"])
def test_an_epoch_has_as_many_units_as_there_are(sampling: Any) -> None:
    costs, groups = np.arange(91), np.arange(91)
    batches = epoch_batches(LABELS, costs, groups, 8, sampling, torch.Generator().manual_seed(0))
    seen = np.concatenate(batches)
    assert len(seen) == 91
    assert max(len(batch) for batch in batches) == 8
    assert (sorted(seen.tolist()) == list(range(91))) == (sampling == "shuffled")


def frames(lengths: list[int]) -> Frames:
    lengths_ = torch.tensor(lengths)
    steps = torch.arange(max(lengths))
    mask = steps < lengths_.unsqueeze(1)
    values = (100 * torch.arange(len(lengths)).unsqueeze(1) + steps).unsqueeze(2).float()
    return Frames(values * mask.unsqueeze(2), mask, torch.arange(len(lengths)))


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    largest=st.floats(0.01, 0.99),
    seed=st.integers(0, 10**6),
)
def test_time_masking_hides_one_run_and_never_all(lengths: list[int], largest: float, seed: int) -> None:
    before = frames(lengths)
    after = mask_time(before, largest, torch.Generator().manual_seed(seed))
    for clip, length in enumerate(lengths):
        kept = (after.values[clip, after.mask[clip], 0] - 100 * clip).int().tolist()
        assert kept == sorted(kept)
        assert len(kept) >= max(1, length - largest * (length + 1))
        hidden = sorted(set(range(length)) - set(kept))
        assert hidden == list(range(hidden[0], hidden[-1] + 1)) if hidden else kept == list(range(length))
        assert after.mask[clip].int().diff().le(0).all()  # True up to the end, then False


def test_time_masking_hides_all_parts_of_a_clip_alike_often() -> None:
    generator, hidden = torch.Generator().manual_seed(0), np.zeros(10)
    for _ in range(600):
        after = mask_time(frames([10]), 0.5, generator)
        hidden[sorted(set(range(10)) - set(after.values[0, after.mask[0], 0].int().tolist()))] += 1
    assert 0.1 < hidden.min() / 600 < hidden.max() / 600 < 0.45
    assert 0.2 < hidden.sum() / 6000 < 0.3  # half of 0.5


def test_noise_is_in_units_of_each_dimensions_deviation(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(40)
    data = UnitData(manifest, manifest.units(), arrays)
    batch = data.batch(np.arange(40), data.metadata_ids({}))
    deviations = {"audio": torch.tensor([1.0, 2, 3, 4, 5, 0]), "text": torch.ones(5)}
    torch.manual_seed(0)
    noisy = augment(batch, tools.small_head(noise=0.5), deviations, torch.Generator())
    added = noisy.frames["audio"].values - batch.frames["audio"].values
    np.testing.assert_allclose(added.std(dim=(0, 1)), [0.5, 1, 1.5, 2, 2.5, 0], rtol=0.15)
    assert torch.equal(batch.frames["audio"].mask, noisy.frames["audio"].mask)
    plain = augment(batch, tools.small_head(), {}, torch.Generator())
    assert torch.equal(plain.frames["audio"].values, batch.frames["audio"].values)


def test_nothing_is_augmented_where_a_head_predicts(tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, arrays = tools.dataset(40)
    data = UnitData(manifest, manifest.units(), arrays)
    head = tools.small_head(epochs=2, noise=0.5, time_masking=0.5, mixup=0.4, modality_dropout=0.5)
    model, _ = fit_fold(tools.task(data, np.arange(30), np.arange(30, 40), head))
    first = model.log_probabilities(data, np.arange(40))
    monkeypatch.setattr(training, "augment", None)
    monkeypatch.setattr(losses, "mixup", None)
    torch.manual_seed(99)
    assert np.array_equal(first, model.log_probabilities(data, np.arange(40)))


@pytest.mark.parametrize("setting", [{"noise": 0.5}, {"time_masking": 0.5}, {"mixup": 0.5}, {"logit_adjustment": 1.0}])
def test_each_setting_changes_training(tools: SimpleNamespace, setting: dict[str, float]) -> None:
    manifest, arrays = tools.dataset(40)
    data = UnitData(manifest, manifest.units(), arrays)
    with_it, without = (
        fit_fold(tools.task(data, np.arange(30), NONE, tools.small_head(epochs=1, **more)))[1][0]["train_loss"]
        for more in (setting, {})
    )
    assert with_it != without


def test_schedules() -> None:
    for schedule in ("cosine", "linear", "constant"):
        rates = [rate_at(step, 100, 0.1, schedule) for step in range(100)]
        np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
        assert rates[10] == 1
        assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    cosine, linear, constant = (
        [rate_at(step, 110, 10 / 110, schedule) for step in range(110)] for schedule in ("cosine", "linear", "constant")
    )
    np.testing.assert_allclose(cosine[10:], 0.5 * (1 + np.cos(np.pi * np.arange(100) / 100)))
    np.testing.assert_allclose(linear[10:], 1 - np.arange(100) / 100)
    assert constant[10:] == [1.0] * 100
    assert [rate_at(step, 4, 0.0, "linear") for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_accumulated_batches_equal_a_large_one(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(60, splits=("train",))
    data = UnitData(manifest, manifest.units(), arrays)
    results = []
    for batches in BATCHES:
        head = tools.small_head(epochs=3, loss="weighted", logit_adjustment=0.5, **QUIET, **batches)
        model, history = fit_fold(tools.task(data, np.arange(50), NONE, head))
        results.append((model.log_probabilities(data, np.arange(60)), [record["train_loss"] for record in history]))
    for log_p, curve in results[1:]:
        np.testing.assert_allclose(curve, results[0][1], rtol=1e-4)
        np.testing.assert_allclose(log_p, results[0][0], atol=2e-3)
    alone, _ = fit_fold(tools.task(data, np.arange(50), NONE, tools.small_head(epochs=3, batch_size=4, **QUIET)))
    assert np.abs(alone.log_probabilities(data, np.arange(60)) - results[0][0]).max() > 0.05


def test_moving_average_by_hand(tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, arrays = tools.dataset(30)
    data = UnitData(manifest, manifest.units(), arrays)
    steps: list[dict[str, Tensor]] = []
    update = training.AveragedModel.update_parameters

    def note(average: Any, network: nn.Module) -> None:
        steps.append(copy.deepcopy(network.state_dict()))
        update(average, network)

    monkeypatch.setattr(training.AveragedModel, "update_parameters", note)
    model, _ = fit_fold(tools.task(data, np.arange(30), NONE, tools.small_head(epochs=3, ema=0.7)))
    assert len(steps) == 6
    expected = {name: value.double() for name, value in steps[0].items()}
    for weights in steps[1:]:
        expected = {name: 0.7 * expected[name] + 0.3 * weights[name].double() for name in expected}
    for name, value in model.network.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-7)
        assert name.endswith(("mean", "scale")) or not torch.equal(value, steps[-1][name])


def test_logit_adjustment_finds_the_rare_class(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(400, signal=0.35, splits=("train",), most_clips=1, seed=3)
    data = UnitData(manifest, manifest.units(), arrays)
    labels = data.labels.numpy()
    rare = np.flatnonzero(labels == 2)
    fit = np.concatenate([np.flatnonzero(labels == 0)[:80], np.flatnonzero(labels == 1)[:80], rare[:8]])
    rest = rare[8:]
    recalls = []
    for tau in (0.0, 1.0):
        head = tools.small_head(loss="cross_entropy", epochs=6, logit_adjustment=tau)
        model, _ = fit_fold(tools.task(data, fit, NONE, head))
        recalls.append((model.log_probabilities(data, rest).argmax(1) == 2).mean())
    assert recalls[1] > recalls[0] + 0.2


def test_float16_needs_a_gpu(tools: SimpleNamespace) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    manifest, arrays = tools.dataset(20)
    data = UnitData(manifest, manifest.units(), arrays)
    with pytest.raises(UserError, match="precision: float16 needs a GPU: set bfloat16 or float32"):
        fit_fold(tools.task(data, np.arange(20), NONE, tools.small_head(precision="float16")))


@pytest.mark.parametrize("kind", ["sequence", "cross_modal"])
@pytest.mark.parametrize("time", ["attentive", "lstm"])
def test_bfloat16_learns_as_float32_does(tools: SimpleNamespace, kind: str, time: str) -> None:
    manifest, arrays = tools.dataset(90, missing=0.1)
    data = UnitData(manifest, manifest.units(), arrays)
    losses = []
    for precision in ("float32", "bfloat16"):
        head = tools.small_head(kind=kind, time=time, precision=precision, epochs=4)
        model, history = fit_fold(tools.task(data, np.arange(60), np.arange(60, 90), head))
        assert {value.dtype for value in model.network.state_dict().values()} == {torch.float32}
        losses.append([record["train_loss"] for record in history])
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.15)


def test_a_loss_that_is_not_finite_is_reported(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20)
    data = UnitData(manifest, manifest.units(), arrays)
    head = tools.small_head().model_copy(update={"lr": 1e30, "largest_gradient": 1e30})  # no profile may say it
    with pytest.raises(UserError, match="the loss is not finite: set a lower lr or largest_gradient"):
        fit_fold(tools.task(data, np.arange(20), NONE, head))


class FakeTail(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.about = {"settings": {"lr": 1e-4, "lr_decay": 0.5}}
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.layers[0].requires_grad_(False)
        self.norm = nn.LayerNorm(2)


def test_parameter_groups(tools: SimpleNamespace) -> None:
    network = nn.Module()
    network.tail, network.head, network.role = FakeTail(), nn.Linear(2, 3), nn.Embedding(4, 2)
    network.missing = nn.Parameter(torch.ones(1, 3))
    groups = parameter_groups(network, tools.small_head(lr=0.01, weight_decay=0.1))
    names = {parameter: name for name, parameter in network.named_parameters()}
    found = {names[p]: (group["peak"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found == {
        "tail.layers.1.weight": (5e-5, 0.1),
        "tail.layers.1.bias": (5e-5, 0.0),
        "tail.layers.2.weight": (1e-4, 0.1),
        "tail.layers.2.bias": (1e-4, 0.0),
        "tail.norm.weight": (1e-4, 0.0),
        "tail.norm.bias": (1e-4, 0.0),
        "head.weight": (0.01, 0.1),
        "head.bias": (0.01, 0.0),
        "role.weight": (0.01, 0.0),
        "missing": (0.01, 0.0),
    }


def test_batches_reach_augmentation_whole(tools: SimpleNamespace) -> None:
    """Time masking leaves missing modalities missing, and everything else of a batch as it was."""
    manifest, arrays = tools.dataset(30, missing=0.5)
    data = UnitData(manifest, manifest.units(), arrays | {"text": {}})
    batch = data.batch(np.arange(30), data.metadata_ids({}))
    masked = augment(batch, tools.small_head(time_masking=0.9), {}, torch.Generator().manual_seed(0))
    assert isinstance(masked, Batch)
    assert len(masked.frames["text"].places) == 0
    assert torch.equal(masked.frames["audio"].places, batch.frames["audio"].places)
    assert masked.frames["audio"].mask.any(1).all()
    assert masked.frames["audio"].mask.sum() < batch.frames["audio"].mask.sum()
    assert torch.equal(replace(masked, frames=batch.frames).labels, batch.labels)
