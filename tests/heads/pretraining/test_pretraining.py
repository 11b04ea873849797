"""Networks that learn without labels: what from, what not from, and that heads begin there."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as deserialised

from configs import UserError
from configs.profiles import load
from configs.schema import Pretraining
from extract.corpora.manifest import Manifest
from heads import pretrain, train
from heads.data.batches import UnitData
from heads.data.folds import FoldTask, assign_folds
from heads.fitting.cross_validation import open_stores
from heads.fitting.progress_file import training_key
from heads.models.network import NetworkModel, new_model
from heads.pretraining.clips import Unlabelled, read_unlabelled
from heads.pretraining.fitting import pretrained_weights
from heads.pretraining.objectives import draw_masked, rows_of, without

FEW = {"epochs": 1, "batch_size": 16}
FOLDER = Path("runs/tiny/pretrained/both")


def folds_of(manifest: Manifest) -> np.ndarray:
    units = manifest.units()
    folds = np.full(len(units), -1)
    inside = [i for i, unit in enumerate(units) if unit.split == "train"]
    folds[inside] = assign_folds([units[i] for i in inside], 2, seed=0)
    return folds


def learned(tools: SimpleNamespace, manifest: Manifest, arrays: Any, head: Any = None, **how: Any) -> Any:
    head = head or tools.small_head(inputs=list(arrays))
    unlabelled = read_unlabelled("both", head, manifest, arrays)
    chosen = Pretraining.model_validate(FEW | how)
    return pretrained_weights(head, chosen, unlabelled, manifest.units(), folds_of(manifest), seed=0)


def shared_views(rng: np.random.Generator, arrays: Any, conversation: bool) -> Any:
    """Features in which each clip, or each conversation, is a point of its own that all inputs show in their way."""
    mixes = {name: rng.normal(size=(4, next(iter(clips.values())).shape[1])) for name, clips in arrays.items()}
    points: dict[str, np.ndarray] = {}
    return {
        name: {
            clip: (
                points.setdefault(clip[:4] if conversation else clip, rng.normal(size=4)) @ mixes[name]
                + 0.1 * rng.normal(size=values.shape)
            ).astype(np.float32)
            for clip, values in clips.items()
        }
        for name, clips in arrays.items()
    }


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_some_clips_are_hidden_and_never_all(sizes: list[int], share: float, seed: int) -> None:
    mask = torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1)
    hidden = draw_masked(mask, share, torch.Generator().manual_seed(seed))
    assert not bool((hidden & ~mask).any())
    for row, size in zip(hidden, sizes, strict=True):
        assert (int(row.sum()) == 0) if size == 1 else (1 <= int(row.sum()) < size)


def test_hidden_clips_keep_their_place_alone(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(6, missing=0.3)
    data = UnitData(manifest, manifest.units(), arrays)
    batch = data.batch(np.arange(6), data.metadata_ids({}))
    clips = batch.clips[:, 0]
    left = without(batch, clips)
    assert torch.equal(left.mask, batch.mask)
    assert torch.equal(left.roles, batch.roles)
    for name, frames in left.frames.items():
        assert not set(frames.places.tolist()) & set(clips.tolist())
        rows, columns = rows_of(batch.frames[name], frames.places, len(batch.roles))
        assert len(rows) == len(frames.places) < len(batch.frames[name].places)
        assert torch.equal(batch.frames[name].values[columns], frames.values)


def test_inputs_of_one_clip_find_each_other(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(32, splits=("train",), most_clips=1)
    clips = manifest.clips.filter(pl.col("label").is_not_null())  # one of each conversation
    single = Manifest(clips, manifest.root, manifest.classes, {})
    views = shared_views(np.random.default_rng(0), arrays, conversation=False)
    head = tools.small_head(time=None, dropout=0.0)
    weights, history = learned(tools, single, views, head, epochs=10, lr=0.01, transductive=True)
    assert "masked" not in history[-1]
    assert history[0]["contrastive"] > 2.2  # of sixteen to choose from
    assert history[-1]["contrastive"] < 1.2
    assert all(".missing" in name or "modalities." in name for name in weights[0])  # conversations taught nothing
    assert not any("lstm.ahead" in name or "transformer" in name for name in weights[0])


@pytest.mark.parametrize("kind", ["sequence", "transformer", "cross_modal"])
def test_a_hidden_clip_is_found_by_the_rest_of_its_conversation(tools: SimpleNamespace, kind: str) -> None:
    manifest, arrays = tools.dataset(32, splits=("train",), most_clips=3)
    views = shared_views(np.random.default_rng(0), arrays, conversation=True)
    head = tools.small_head(kind=kind, inputs=["audio"], dropout=0.0, time=None)
    weights, history = learned(tools, manifest, {"audio": views["audio"]}, head, epochs=10, lr=0.01, transductive=True)
    assert "contrastive" not in history[-1]
    assert history[-1]["masked"] < history[0]["masked"] - 0.7
    assert not any(
        name.startswith(("classifier", "metadata", "context", "conversation.context")) for name in weights[0]
    )
    recurrent = {"sequence": "conversation.lstm", "transformer": "conversation.transformer", "cross_modal": "fusion"}
    assert any(name.startswith(recurrent[kind]) for name in weights[0])


def changed(arrays: Any, clips: set[str]) -> Any:
    return {
        name: {clip: values + 3 * (clip in clips) for clip, values in theirs.items()} for name, theirs in arrays.items()
    }


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_what_is_held_out_is_not_learned_from(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20, splits=("train", "train", "val", "train", "test"), most_clips=2)
    one = manifest.clips.filter(pl.col("split") == "train")["conversation_id"][0]
    label = pl.when(pl.col("conversation_id") != one).then(pl.col("label"))
    manifest = Manifest(manifest.clips.with_columns(label=label), manifest.root, manifest.classes, {})
    units, folds = manifest.units(), folds_of(manifest)
    of = {"fold 0": {unit.group for unit, fold in zip(units, folds, strict=True) if fold == 0}, "unlabelled": {one}}
    of |= {split: set(manifest.clips.filter(pl.col("split") == split)["group"]) for split in ("val", "test")}
    members = {
        name: set(manifest.clips.filter(pl.col("group").is_in(list(groups)))["clip_id"]) for name, groups in of.items()
    }
    head = tools.small_head(hidden=8, time=None)
    base, _ = learned(tools, manifest, arrays, head)
    (everything,), _ = learned(tools, manifest, arrays, head, transductive=True)
    for name, clips in members.items():
        other = changed(arrays, clips)
        found, _ = learned(tools, manifest, other, head)
        assert equal(found[0], base[0]) == (name != "unlabelled")
        assert equal(found[1], base[1]) == (name in ("val", "test"))
        if name != "unlabelled":
            assert not equal(learned(tools, manifest, other, head, transductive=True)[0][0], everything)


def test_a_group_is_held_out_with_all_its_conversations(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(12, splits=("train",))
    group = pl.concat_str(pl.lit("g"), pl.col("conversation_id").str.tail(1))  # c000 and c010 share one
    manifest = Manifest(manifest.clips.with_columns(group=group), manifest.root, manifest.classes, {})
    unlabelled: Unlabelled = read_unlabelled("both", tools.small_head(), manifest, arrays)
    units, folds = manifest.units(), folds_of(manifest)
    for fold in (0, 1):
        seen = {unlabelled.data.units[i].group for i in unlabelled.seen_by(fold, units, folds)}
        assert seen == {unit.group for unit, theirs in zip(units, folds, strict=True) if theirs != fold}


def test_nothing_to_learn_from_is_said(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(12, most_clips=1)
    clips = manifest.clips.filter(pl.col("label").is_not_null())
    single = Manifest(clips, manifest.root, manifest.classes, {})
    with pytest.raises(UserError, match=r"head both: nothing can be learned without labels: no clip has more than one"):
        learned(tools, single, {"audio": arrays["audio"]})


@pytest.mark.parametrize("kind", ["sequence", "transformer", "cross_modal"])
def test_a_head_begins_where_pretraining_ended(tools: SimpleNamespace, kind: str) -> None:
    manifest, arrays = tools.dataset(20, splits=("train",), columns=lambda c: {"meta_age": ["old", "young"][c % 2]})
    head = tools.small_head(kind=kind, metadata=["age"])
    weights, _ = learned(tools, manifest, arrays, head, epochs=10)
    data = UnitData(manifest, manifest.units(), arrays, ["age"])
    everything = np.arange(20)
    torch.manual_seed(0)
    fresh = new_model(tools.task(data, everything, everything[:0], head)).network.state_dict()
    torch.manual_seed(0)
    begun = new_model(tools.task(data, everything, everything[:0], head, start=weights[0])).network.state_dict()
    assert begun.keys() == fresh.keys() > weights[0].keys()
    for name, value in begun.items():
        assert torch.equal(value, weights[0].get(name, fresh[name])), name
    assert not equal({name: fresh[name] for name in weights[0]}, weights[0])


def test_features_are_centred_as_the_head_wants_them(tools: SimpleNamespace) -> None:
    speakers = lambda c: {"speaker": f"s{c % 2}"}  # noqa: E731
    manifest, arrays = tools.dataset(12, splits=("train",), columns=speakers)
    head = tools.small_head(time=None, standardise="speaker")
    pieces = read_unlabelled("both", head, manifest, arrays).data
    for name, values in arrays.items():
        first = next(iter(values))
        own = np.concatenate([array for clip, array in values.items() if int(clip[1:4]) % 2 == int(first[1:4]) % 2])
        batch = pieces.batch(np.array([0]), pieces.metadata_ids({}))
        expected = values[pieces.units[0].clip_ids[0]].mean(0) - own.mean(0)
        np.testing.assert_allclose(batch.frames[name].values[0, 0, : own.shape[1]], expected, atol=1e-5)


# The scripts


HEADS = {
    "both": {"start_from": "both", "epochs": 1, "hidden": 8},
    "fresh": {"epochs": 1, "hidden": 8},
    "linear": {"kind": "linear", "inputs": ["audio"]},
}


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace) -> Callable[..., None]:
    """Write a profile, with stores or without."""

    def write(stores: bool = True) -> None:
        manifest, arrays = tools.dataset(24, splits=("train", "train", "train", "test"), missing=0.1)
        heads = {name: head if "kind" in head else tools.head_settings(**head) for name, head in HEADS.items()}
        tools.write_workspace(tmp_path, manifest, arrays if stores else {}, heads, folds=2, pretrain={"both": FEW})
        monkeypatch.chdir(tmp_path)

    return write


@pytest.fixture
def run(profile: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace) -> Callable[..., int]:
    profile()
    monkeypatch.setattr("heads.fitting.outputs.draw_curves", lambda *arguments: None)

    def call(script: str, *arguments: str) -> int:
        main = {"pretrain": pretrain.main, "train": train.main}[script]
        return int(tools.exit_code(monkeypatch, main, "--head", *arguments))

    return call


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr().err
    (line,) = [line for line in printed.splitlines() if line.startswith("error:")]
    return line


def test_from_the_scripts(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("train", "both") == 2
    assert "make it with python heads/pretrain.py --config profile.yaml --head both" in error_of(capsys)
    assert run("pretrain", "both") == 0
    assert "head both, without labels: 2 epochs; loss contrastive" in capsys.readouterr().out
    first = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert {"pretrained.json", "fold0.safetensors", "fold1.safetensors", "SHA256SUMS"} <= first.keys()
    assert run("pretrain", "both") == 0
    assert {path.name: path.read_bytes() for path in FOLDER.iterdir()} == first

    def key() -> str:
        profile = load("profile.yaml", [])
        return training_key(profile, profile.heads["both"], open_stores(profile, profile.heads["both"]))

    before = key()
    assert run("pretrain", "both", "pretrain.both.epochs=2") == 0
    assert key() != before  # what a killed training left of the former one is not gone on from

    begun: list[Any] = []

    def noted(task: FoldTask) -> NetworkModel:
        begun.append(task.start)
        return new_model(task)

    monkeypatch.setattr("heads.fitting.training.new_model", noted)
    assert run("train", "both") == 0
    assert "TRANSDUCTIVE" not in capsys.readouterr().out
    kept = [deserialised((FOLDER / f"fold{fold}.safetensors").read_bytes()) for fold in (0, 1)]
    half = len(begun) // 2  # a fold's networks after another's
    assert half > 0
    assert all(equal(start, kept[0]) for start in begun[:half])
    assert all(equal(start, kept[1]) for start in begun[half:])
    assert run("train", "both", "seed=1") == 2
    assert "pretrained.json: made with other folds than" in error_of(capsys)
    assert run("train", "both", "pretrain.both.epochs=2", "heads.both.hidden=4") == 2
    assert "pretrained.json: made with other hidden than" in error_of(capsys)
    weights = FOLDER / "fold1.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\1\2\3")
    assert run("train", "both") == 2
    assert "changed since it was written" in error_of(capsys)


def test_a_killed_one_leaves_what_was_there(run: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def killed(weights: Any) -> bytes:
        calls.append(weights)
        if len(calls) % 4 == 0:
            raise KeyboardInterrupt
        return b"weights"

    monkeypatch.setattr("heads.pretraining.folder.serialised", killed)
    assert run("pretrain", "both") == 0
    first = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert run("pretrain", "both", "pretrain.both.epochs=2") == 130  # after its first file
    assert {path.name: path.read_bytes() for path in FOLDER.iterdir()} == first
    assert {path.name for path in FOLDER.parent.iterdir()} == {FOLDER.name}


def test_transductive_is_said(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pretrain", "both", "pretrain.both.transductive=true") == 0
    assert "TRANSDUCTIVE" in capsys.readouterr().out
    assert not (FOLDER / "fold0.safetensors").exists()
    assert run("train", "both", "heads.both.base=linear") == 0
    printed = capsys.readouterr().out
    said = "pre-trained without labels on clips of held-out folds, val and test, too"
    assert f"head both of profile tiny (TRANSDUCTIVE: {said})" in printed
    metrics = json.loads(Path("runs/tiny/heads/both/metrics.json").read_text())
    assert metrics["transductive"] == said


def test_what_cannot_be_is_refused_before_any_work(
    profile: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tools: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    profile(stores=False)
    tail = "{inputs: [audio], start_from: fresh, fine_tune: {audio: {}}}"
    for override, line in {
        "heads.fresh.start_from=other": "heads.fresh.start_from names 'other', which is not under heads",
        "heads.fresh={inputs: [audio], start_from: both}": "its weights would not fit: inputs of heads.both is",
        "heads.fresh={metadata: [age], start_from: fresh}": "a head without inputs has nothing to learn",
        "heads.linear.start_from=both": "start_from: a linear head has no such setting",
        "pretrain.linear={}": "pretrain.linear: a linear head is no network",
        "pretrain.other={}": "pretrain.other: which is not under heads",
        f"heads.fresh={tail}": "layers under fine_tune are not pre-trained: leave fine_tune out",
    }.items():
        with pytest.raises(UserError) as raised:
            load("profile.yaml", [override])
        assert line in str(raised.value)
        assert "\n" not in str(raised.value)
    assert tools.exit_code(monkeypatch, pretrain.main, "--head", "linear") == 2
    assert error_of(capsys) == "error: --head linear: a linear head is no network"
