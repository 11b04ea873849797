"""All networks: what they answer for a unit depends on that unit alone; how they are made, and come back from disk."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from configs.schema import Encoder
from configs.sections.common import TAKEN_NAMES
from extract.encoders.checkpoints.weights import find_folder, model_files, weights_hash
from heads.data.batches import ROLES, Batch, Frames, UnitData
from heads.fitting.training import fit_fold
from heads.models.cross_modal import CrossModalHead
from heads.models.network import HeadSizes, NetworkModel, build, clip_encoders, load_fold, n_segments, new_model

KINDS = ["sequence", "transformer", "cross_modal"]
TIMES = ("attentive", "statistics", "lstm")
EVERY = [*((kind, time) for kind in ("sequence", "cross_modal") for time in TIMES), ("transformer", "statistics")]
VOCABULARIES = {"age": ["old", "young"]}
DIMS = {"audio": 6, "text": 5}


def sizes_of(kind: str, time: Any = "attentive", **more: Any) -> HeadSizes:
    factor = 2 if time == "statistics" else 1
    dims = {name: factor * dim for name, dim in DIMS.items()}
    return replace(
        HeadSizes(kind, 3, dims, 1 + len(ROLES), {"age": 3}, hidden=16, attention_heads=2, dropout=0.3),
        **{"time": time, "segments": 3 if kind == "cross_modal" else 1, "lstm_layers": 2, "layers": 2} | more,
    )


def untrained(kind: str, time: str = "attentive", **more: Any) -> NetworkModel:
    torch.manual_seed(0)
    return NetworkModel(build(sizes_of(kind, time, **more)).eval(), VOCABULARIES)


def columns(conversation: int) -> dict[str, str | None]:
    return {"meta_age": ["young", "old", None][conversation % 3]}


def read(manifest: Any, arrays: Any, sizes: HeadSizes, units: Any = None, **more: Any) -> UnitData:
    statistics = sizes.segments if sizes.time == "statistics" else None
    return UnitData(manifest, units or manifest.units(), arrays, ["age"], statistics=statistics, **more)


@pytest.mark.parametrize(("kind", "time"), EVERY)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), missing=st.sampled_from([0.0, 0.3, 0.9]))
def test_batched_equals_alone(tools: SimpleNamespace, kind: str, time: str, seed: int, missing: float) -> None:
    manifest, arrays = tools.dataset(10, seed=seed, missing=missing, most_clips=6, columns=columns)
    arrays["audio"] |= {"c000u0": np.ones((1, 6), np.float32)}  # so that each modality has a width
    arrays["text"] |= {"c000u0": np.ones((40, 5), np.float32)}  # and batches have much padding
    model = untrained(kind, time)
    data = read(manifest, arrays, model.network.sizes)
    together = model.log_probabilities(data, np.arange(10))
    for i in range(10):
        alone = read(manifest, arrays, model.network.sizes, [data.units[i]])
        has_all = all(alone.features[name].dim for name in DIMS)
        answer = model.log_probabilities(*((alone, np.array([0])) if has_all else (data, np.array([i]))))
        np.testing.assert_allclose(answer[0], together[i], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "time"), EVERY)
def test_padding_never_enters(tools: SimpleNamespace, kind: str, time: str) -> None:
    manifest, arrays = tools.dataset(8, missing=0.3, columns=columns)
    model = untrained(kind, time)
    data = read(manifest, arrays, model.network.sizes)
    ids = data.metadata_ids(VOCABULARIES)
    batch = data.batch(np.arange(8), ids)
    for frames in batch.frames.values():
        frames.values[~frames.mask] = 1e6
    batch.clips[~batch.mask] = len(batch.roles) - 1
    noisy, clean = model.network(batch), model.network(data.batch(np.arange(8), ids))
    if kind == "cross_modal" or time != "statistics":  # where every clip has a single part
        assert any(bool((~frames.mask).any()) for frames in batch.frames.values())
    torch.testing.assert_close(noisy, clean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_is_not_zero_and_never_nan(tools: SimpleNamespace, kind: str) -> None:
    manifest, arrays = tools.dataset(3, most_clips=3, columns=columns)
    clip_ids = [clip for unit in manifest.units() for clip in unit.clip_ids]
    zeros = arrays | {"audio": {clip: np.zeros((2, 6), np.float32) for clip in clip_ids}}
    nothing: dict[str, dict[str, np.ndarray]] = {"audio": {}, "text": {}}
    model = untrained(kind)

    def answers(sources: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
        return model.log_probabilities(read(manifest, sources, model.network.sizes), np.arange(3))

    assert np.isfinite(answers(nothing)).all()  # units whose clips are all missing
    without_audio = answers(arrays | {"audio": {}})
    assert np.isfinite(without_audio).all()
    assert np.abs(without_audio - answers(zeros)).max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_missing_vectors_learn(kind: str) -> None:
    torch.manual_seed(0)
    network = build(sizes_of(kind))
    frames = {
        "audio": Frames(torch.randn(1, 3, 6), torch.ones(1, 3, dtype=torch.bool), torch.tensor([1])),
        "text": Frames(torch.zeros(0, 0, 5), torch.zeros(0, 0, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)),
    }
    mask, ids = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.int64)
    roles, clips, speakers = torch.tensor([1, 2]), torch.tensor([[0, 1]]), torch.tensor([1, 1])
    network(Batch(frames, roles, mask, ids, torch.tensor([0]), clips, speakers)).sum().backward()
    for encoder in clip_encoders(network).values():
        assert encoder.missing.grad is not None
        assert encoder.missing.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip_after", [True, False])
def test_the_future_never_enters(tools: SimpleNamespace, kind: str, clip_after: bool) -> None:
    manifest, arrays = tools.dataset(10, columns=columns)
    own = {clip for unit in manifest.units() for clip in unit.clip_ids}
    changed = {
        name: {clip: values if (clip in own) == clip_after else values + 5 for clip, values in clips.items()}
        for name, clips in arrays.items()
    }
    model = untrained(kind)
    before, after = (
        model.log_probabilities(read(manifest, sources, model.network.sizes), np.arange(10))
        for sources in (arrays, changed)
    )
    assert np.array_equal(before, after) == clip_after  # the other way round, the change is seen


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_clips_matters(tools: SimpleNamespace, kind: str) -> None:
    manifest, arrays = tools.dataset(20, most_clips=6, columns=columns)
    unit = next(unit for unit in manifest.units() if len(unit.clip_ids) > 3)
    first, second = unit.clip_ids[0], unit.clip_ids[2]  # both the speaker's
    swapped = {name: clips | {first: clips[second], second: clips[first]} for name, clips in arrays.items()}
    model = untrained(kind)
    one, other = (
        model.log_probabilities(read(manifest, sources, model.network.sizes, [unit]), np.array([0]))
        for sources in (arrays, swapped)
    )
    assert np.abs(one - other).max() > 1e-5


@pytest.mark.parametrize(("time", "segments", "sees_order"), [("attentive", 1, 0), ("lstm", 1, 1), ("attentive", 3, 1)])
def test_order_within_a_clip(tools: SimpleNamespace, time: str, segments: int, sees_order: bool) -> None:
    manifest, arrays = tools.dataset(5, columns=columns)
    backwards = {name: {clip: values[::-1] for clip, values in clips.items()} for name, clips in arrays.items()}
    model = untrained("cross_modal" if segments > 1 else "sequence", time, segments=segments)
    one, other = (
        model.log_probabilities(read(manifest, sources, model.network.sizes), np.arange(5))
        for sources in (arrays, backwards)
    )
    assert (np.abs(one - other).max() > 1e-5) == sees_order


def test_modalities_attend_to_each_other_over_the_whole_conversation(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20, most_clips=6, columns=columns)
    unit = next(unit for unit in manifest.units() if len(unit.clip_ids) > 3)
    early = unit.clip_ids[0]
    changed = arrays | {"text": arrays["text"] | {early: arrays["text"][early][::-1] + 1}}
    network = untrained("cross_modal").network
    assert isinstance(network, CrossModalHead)

    def audio_of_the_last_clip(sources: Any) -> torch.Tensor:
        data = read(manifest, sources, network.sizes, [unit])
        return network.clip_states(data.batch(np.array([0]), data.metadata_ids(VOCABULARIES)))["audio"][0, -1]

    assert (audio_of_the_last_clip(arrays) - audio_of_the_last_clip(changed)).abs().max() > 1e-4
    for cross in network.cross.values():  # what is measured comes through cross-modal attention and nothing else
        for attention in cross.others.values():  # type: ignore[union-attr]
            nn.init.zeros_(attention.out_proj.weight)
    assert torch.equal(audio_of_the_last_clip(arrays), audio_of_the_last_clip(changed))


def test_a_single_clip_is_more_than_one_place_to_attend_to(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(4, most_clips=1, columns=columns)
    unit = manifest.units()[0]
    arrays["text"][unit.unit_id] = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    network = untrained("cross_modal").network
    seen = []

    def note(module: nn.Module, given: Any, named: Any, result: Any) -> None:
        keys, padding = given[1], named["key_padding_mask"]
        _, weights = module(given[0], keys, keys, key_padding_mask=padding)
        seen.append(weights[0])

    cross = network.cross["audio"].others["text"]  # type: ignore[union-attr, index]
    handle = cross.register_forward_hook(lambda *call: (handle.remove(), note(*call))[0], with_kwargs=True)
    data = read(manifest, arrays, network.sizes, [unit])
    network(data.batch(np.array([0]), data.metadata_ids(VOCABULARIES)))
    assert seen[0].shape[1] == 3  # the parts of the text
    assert (seen[0] > 0.05).all()


def test_a_modality_that_is_alone_asks_itself(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(60, columns=columns)
    data = UnitData(manifest, manifest.units(), {"audio": arrays["audio"]})
    head = tools.small_head(kind="cross_modal", inputs=["audio"], segments=2)
    model, _ = fit_fold(tools.task(data, np.arange(40), np.arange(0), head))
    rest = np.arange(40, 60)
    assert (model.log_probabilities(data, rest).argmax(1) == data.labels[rest].numpy()).mean() > 0.7


@pytest.mark.parametrize("kind", ["sequence", "cross_modal"])
def test_losing_a_modality_costs_little_where_another_says_the_same(tools: SimpleNamespace, kind: str) -> None:
    manifest, arrays = tools.dataset(150, splits=("train",), most_clips=2)
    units = manifest.units()
    data = UnitData(manifest, units, arrays)
    rest = np.arange(100, 150)
    head = tools.small_head(kind=kind, modality_dropout=0.3, epochs=10)
    model, _ = fit_fold(tools.task(data, np.arange(100), rest[:0], head))

    def accuracy(sources: Any) -> float:
        here = UnitData(manifest, units, sources)
        return float((model.log_probabilities(here, rest).argmax(1) == data.labels[rest].numpy()).mean())

    assert accuracy(arrays) > 0.9
    for lost in DIMS:
        assert accuracy(arrays | {lost: {}}) > 0.75
    assert accuracy({"audio": {}, "text": {}}) < 0.6  # nothing but the lengths of conversations


@pytest.mark.parametrize(("kind", "time"), EVERY)
def test_a_network_comes_back_from_disk(tools: SimpleNamespace, tmp_path: Path, kind: str, time: str) -> None:
    manifest, arrays = tools.dataset(30, missing=0.2, columns=columns)
    depth = {"layers" if kind == "transformer" else "lstm_layers": 2}
    head = tools.small_head(kind=kind, time=time, metadata=["age"], epochs=1, **depth)
    statistics = n_segments(head) if time == "statistics" else None
    data = UnitData(manifest, manifest.units(), arrays, ["age"], statistics=statistics)
    model, _ = fit_fold(tools.task(data, np.arange(20), np.arange(0), head))
    loaded = load_fold(tmp_path, model.save(tmp_path, "fold0"))
    assert loaded.network.sizes == model.network.sizes
    assert loaded.vocabularies == model.vocabularies == VOCABULARIES
    everything = np.arange(30)
    expected = model.log_probabilities(data, everything)
    np.testing.assert_array_equal(loaded.log_probabilities(data, everything), expected)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """A tiny model of four layers, cached at its middle."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=20)).save_pretrained(folder)
    return Encoder(family="transformer", model=str(folder), boundary=2)


@pytest.mark.parametrize("kind", ["sequence", "cross_modal"])
@pytest.mark.parametrize("settings", [{}, {"layers": 1}, {"lora_rank": 2}])
def test_fine_tuned_layers_train_and_come_back(
    tools: SimpleNamespace, bert: Encoder, tmp_path: Path, kind: str, settings: dict[str, int]
) -> None:
    manifest, arrays = tools.dataset(20, missing=0.1)
    rng = np.random.default_rng(0)
    hidden = {clip: rng.normal(size=(len(steps), 8)).astype(np.float16) for clip, steps in arrays["text"].items()}
    data = UnitData(manifest, manifest.units(), {"audio": arrays["audio"], "text": hidden})
    head = tools.small_head(kind=kind, fine_tune={"text": {"lr": 0.01, **settings}}, epochs=2)
    stored = {"text": {"boundary": 2, "weights": weights_hash(model_files(find_folder(bert)))}}
    everything = np.arange(20)
    task = tools.task(data, everything, everything[:0], head, encoders={"text": bert}, stored=stored)
    torch.manual_seed(0)
    before = new_model(task).network
    assert clip_encoders(before)["audio"].tail is None
    if not settings.get("lora_rank"):
        pretrained = transformers.BertModel.from_pretrained(bert.model).encoder.layer[2:].state_dict()
        given = tail_of(before).layers.state_dict()  # type: ignore[union-attr, operator]
        assert all(weights.equal(given[name]) for name, weights in pretrained.items())

    model, _ = fit_fold(task)
    tail = tail_of(model.network)
    moved = [name for name, value in tail.named_parameters() if not value.equal(tail_of(before).state_dict()[name])]
    assert moved
    assert set(moved) <= {name for name, value in tail.named_parameters() if value.requires_grad}
    loaded = load_fold(tmp_path, model.save(tmp_path, "fold0"))
    assert loaded.network.sizes == model.network.sizes
    expected = model.log_probabilities(data, everything)
    np.testing.assert_array_equal(loaded.log_probabilities(data, everything), expected)
    alone = np.concatenate([model.log_probabilities(data, np.array([i])) for i in everything])
    np.testing.assert_allclose(alone, expected, atol=1e-5)


def tail_of(network: nn.Module) -> nn.Module:
    tail = clip_encoders(network)["text"].tail
    assert tail is not None
    return tail


def test_no_encoder_takes_a_name_that_networks_have_themselves() -> None:
    own = {name for name in dir(nn.ModuleDict()) if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)}
    assert own <= TAKEN_NAMES
    assert "audio" not in TAKEN_NAMES


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resident_bytes", [None, 0])
def test_a_gpu_answers_as_a_cpu_does(tools: SimpleNamespace, kind: str, resident_bytes: int | None) -> None:
    """Whether features lie on it or come by the batch; copies that nobody waits for included."""
    manifest, arrays = tools.dataset(200, missing=0.2, most_clips=6, columns=columns)
    model = untrained(kind)
    indices = np.arange(len(manifest.units()))
    cpu = read(manifest, arrays, model.network.sizes, device=torch.device("cpu"))
    wanted = model.log_probabilities(cpu, indices)
    model.network.to("cuda")
    for _ in range(3):
        got = model.log_probabilities(
            read(manifest, arrays, model.network.sizes, resident_bytes=resident_bytes), indices
        )
        assert np.abs(got - wanted).max() <= 1e-4
