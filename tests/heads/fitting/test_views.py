"""Augmented views: training learns from them, and nothing that is judged is read from them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cache import write_sealed_json
from configs import UserError
from configs.profiles import load
from configs.schema import Head
from extract.corpora.manifest import Manifest, read_manifest
from heads import inputs
from heads.data.batches import UnitData
from heads.data.folds import unit_folds
from heads.data.standardised import standardised
from heads.data.views import View, Viewed
from heads.fitting import training
from heads.fitting.cross_validation import predict_all, train_folds
from heads.fitting.kinds import KINDS
from heads.fitting.training import fit_fold

SPLITS = ("train", "train", "train", "test", "val")
VIEWS = {"views": 2, "augment": {"speed": [0.9, 1.1]}}
ENCODERS = {
    "audio": {"family": "wav2vec2", "model": "./none"} | VIEWS,
    "text": {"family": "transformer", "model": "./none"},
}
HEADS: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear", "inputs": ["audio", "text"], "c": 0.1},
    "xgboost": {"kind": "xgboost", "inputs": ["audio", "text"], "trees": 5},
    "net": {"inputs": ["audio", "text"], "hidden": 8, "attention_heads": 2, "epochs": 3, "patience": 0, "base": "none"},
}
Values = dict[str, np.ndarray]


class Held(dict[str, np.ndarray]):
    """Arrays as a store gives them."""

    dim, dtype = 6, np.dtype(np.float32)

    @property
    def lengths(self) -> dict[str, int]:
        return {clip: len(values) for clip, values in self.items()}


def changed(values: Values, seed: int, scale: float = 0.3) -> Values:
    """A version of each clip, of another length."""
    rng = np.random.default_rng(seed)
    return {
        clip: (array.mean(0) + scale * rng.normal(size=(len(array) + 1, array.shape[1]))).astype(np.float32)
        for clip, array in values.items()
    }


def viewed(manifest: Manifest, audio: Values, *views: Values) -> Viewed:
    training_clips = frozenset(clip for unit in manifest.units() if unit.split == "train" for clip in unit.clip_ids)
    return Viewed(Held(audio), tuple(View(Held(view), training_clips) for view in views))  # type: ignore[arg-type]


@pytest.mark.parametrize("resident_bytes", [10**9, 0])
def test_a_network_sees_the_view_of_each_clip_that_is_drawn(tools: SimpleNamespace, resident_bytes: int) -> None:
    manifest, arrays = tools.dataset(20, splits=SPLITS)
    units = manifest.units()
    one, two = changed(arrays["audio"], 1), changed(arrays["audio"], 2)
    failed = units[0].clip_ids[0]
    del two[failed]
    source = viewed(manifest, arrays["audio"], one, two)
    data = UnitData(manifest, units, {"audio": source}, resident_bytes=resident_bytes)
    draws = data.draw_views(seed=3, epoch=1)
    assert draws is not None
    assert np.array_equal(draws, data.draw_views(3, 1))  # type: ignore[arg-type]
    assert not np.array_equal(draws, data.draw_views(3, 2))  # type: ignore[arg-type]
    draws[0] = 0.99
    everything, seen = np.arange(len(units)), set()
    clip_ids = list(dict.fromkeys(clip for unit in units for clip in unit.clip_ids))
    assert clip_ids[0] == failed
    split_of = {clip: unit.split for unit in units for clip in unit.clip_ids}
    for drawn in (draws, None):
        (batch,) = data.batches([everything], data.metadata_ids({}), views=drawn)
        frames = batch.frames["audio"]
        for values, mask, place in zip(frames.values, frames.mask, frames.places, strict=True):
            clip = clip_ids[place]
            number = 0 if drawn is None or split_of[clip] != "train" else int(3 * drawn[place])
            expected = (arrays["audio"], one, two)[number].get(clip, arrays["audio"][clip])
            assert np.array_equal(values[mask].numpy(), expected[clip] if isinstance(expected, dict) else expected)
            seen.add(number)
    assert seen == {0, 1, 2}
    assert UnitData(manifest, units, arrays).draw_views(3, 1) is None


def test_views_are_centred_by_the_means_of_the_clips_themselves(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(12, splits=SPLITS, columns=lambda c: {"speaker": f"s{c % 2}"})
    source = viewed(manifest, arrays["audio"], changed(arrays["audio"], 1))
    head = Head(inputs=["audio"], standardise="speaker")
    centred = standardised(head, manifest, {"audio": source})["audio"]
    assert isinstance(centred, Viewed)
    clip = manifest.units()[0].unit_id
    mean = arrays["audio"][clip] - centred.plain[clip]
    np.testing.assert_allclose(centred.views[0][clip], source.views[0][clip] - mean[0], atol=1e-5)
    assert standardised(head, manifest, {"audio": centred})["audio"] is centred


def test_views_of_a_unit_together_count_as_it_would_alone(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(40, splits=("train",))
    units, audio = manifest.units(), arrays["audio"]
    fit, rest = np.arange(30), np.arange(30, 40)
    head = Head.model_validate(HEADS["linear"] | {"inputs": ["audio"], "c": 0.01, "deviations": False})
    labels = np.array([manifest.classes.index(unit.label) for unit in units])

    def answers(source: Any, **settings: Any) -> np.ndarray:
        data = KINDS["linear"].read(head, manifest, units, {"audio": source})
        task = tools.task(data, fit, rest[:0], head.model_copy(update=settings), labels=labels)
        model, _ = KINDS["linear"].fit(task)
        return model.log_probabilities(data, rest)

    plain, other = answers(Held(audio)), viewed(manifest, audio, changed(audio, 1, 3.0), changed(audio, 2, 3.0))
    np.testing.assert_allclose(answers(viewed(manifest, audio, audio, audio)), plain, atol=1e-4)
    assert np.abs(answers(other) - plain).max() > 0.02
    assert np.array_equal(answers(other, views="none"), plain)


def test_a_killed_training_goes_on_with_the_same_views(
    tools: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SECONDS_BETWEEN", 0.0)
    manifest, arrays = tools.dataset(30, signal=0.7, splits=("train",))
    source = viewed(manifest, arrays["audio"], changed(arrays["audio"], 1), changed(arrays["audio"], 2))
    path = tmp_path / "fold.epoch"

    def trained(kill_at: int | None = None) -> Any:
        def on_epoch(record: dict[str, Any]) -> None:
            if record["epoch"] == kill_at:
                raise KeyboardInterrupt

        data = UnitData(manifest, manifest.units(), {"audio": source})
        head = tools.small_head(inputs=["audio"], epochs=4)
        fold = tools.task(data, np.arange(20), np.arange(20, 30), head, progress_file=path, on_epoch=on_epoch)
        return fit_fold(fold)

    with pytest.raises(KeyboardInterrupt):
        trained(kill_at=2)
    assert path.is_file()
    again, records = trained()
    path.unlink()
    expected, history = trained()
    assert records == history
    for name, value in expected.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])


def predictions(head: str, *overrides: str) -> np.ndarray:
    """(units, classes) log-probabilities, of training units out of fold."""
    profile = load("profile.yaml", list(overrides))
    manifest = read_manifest(profile.manifest_path)
    units = manifest.units()
    folds = unit_folds(units, profile.folds, profile.seed, profile.manifest_path)
    trained, data, _ = train_folds(head, profile.heads[head], profile, manifest, units, folds)
    found = np.empty((len(units), len(manifest.classes)))
    for indices, log_p in predict_all(trained, data, units, folds).values():
        found[indices] = log_p
    return found


@pytest.mark.parametrize("head", HEADS)
def test_what_is_judged_is_never_read_from_views(
    tools: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    """Views of some units become nonsense: models that were not trained on these units must not notice."""
    manifest, arrays = tools.dataset(40, splits=SPLITS, signal=1.0)
    units = manifest.units()
    views = {f"audio@{k}": changed(arrays["audio"], k) for k in (1, 2)}
    folds = unit_folds(units, 2, 0, tmp_path)

    def answers(poisoned: np.ndarray, name: str, *overrides: str) -> np.ndarray:
        nonsense = {clip for i in np.flatnonzero(poisoned) for clip in units[i].clip_ids}
        given = {
            view: {clip: array + 50 * (clip in nonsense) for clip, array in values.items()}
            for view, values in views.items()
        }
        (tmp_path / name).mkdir()
        heads = {head: HEADS[head]}
        tools.write_workspace(tmp_path / name, manifest, arrays | given, heads, folds=2, encoders=ENCODERS)
        monkeypatch.chdir(tmp_path / name)
        return predictions(head, *overrides)

    whole = answers(folds == 9, "whole")
    assert np.array_equal(answers(folds < 0, "judged"), whole)
    poisoned = answers(folds == 0, "first")
    assert np.array_equal(poisoned[folds == 0], whole[folds == 0])
    assert not np.array_equal(poisoned[folds == 1], whole[folds == 1])
    without = answers(folds == 9, "without", f"heads.{head}.views=none")
    assert not np.array_equal(without, whole)


def test_what_a_head_reads_names_its_views(
    tools: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest, arrays = tools.dataset(10)
    heads = {"net": HEADS["net"], "plain": HEADS["linear"] | {"views": "none"}, "words": {"inputs": ["text"]}}
    tools.write_workspace(tmp_path, manifest, arrays, heads, encoders=ENCODERS)
    for name in ("audio", "audio@1", "text"):
        write_sealed_json_at(tmp_path / f"runs/tiny/extracted/{name}.json", {"values_sha256": name})
    with pytest.raises(UserError, match=r"audio@2.json: not there; make it with: .* --encoder audio$"):
        inputs.main(config="profile.yaml")
    write_sealed_json_at(tmp_path / "runs/tiny/extracted/audio@2.json", {"values_sha256": "audio@2"})
    inputs.main(config="profile.yaml")
    read = {path.stem: list(json.loads(path.read_text())["stores"]) for path in Path("runs/tiny/inputs").glob("*.json")}
    assert read == {"net": ["audio", "audio@1", "audio@2", "text"], "plain": ["audio", "text"], "words": ["text"]}
    with pytest.raises(UserError, match=r"stores/audio@1: no such store: make it with .*--encoder audio'"):
        predictions("net")


def write_sealed_json_at(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed_json(path, content)
