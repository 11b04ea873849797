"""Layers of an encoder: which one says most, and heads that read one of several."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cache import Store
from configs import UserError
from configs.schema import Head
from heads import layers as script
from heads import train
from heads.data.batches import UnitData
from heads.data.layers import Layer, layers_of
from heads.fitting.training import fit_fold as fit_fold_of_network
from heads.models import network
from heads.models.linear import fit_fold, load_fold
from heads.models.parts import LayerMix
from heads.models.pooled import unit_rows
from heads.probing.sweep import _out_of_fold

WIDTHS = {0: 4, 1: 6, 2: 4}
ABOUT = {"taken": [[number, width] for number, width in WIDTHS.items()], "statistics": ["mean", "deviation"]}
AUDIO = {"family": "wav2vec2", "model": "./none", "layers": "all", "pooling": "statistics"}


def layered(steps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows as a store of three layers has them; the second one's mean and deviation are those of the features."""
    rng = np.random.default_rng(0)
    rows = {}
    for clip, values in steps.items():
        parts = [np.concatenate([rng.normal(size=w), rng.random(w)]) for w in WIDTHS.values()]
        parts[1] = np.concatenate([values.mean(0), values.std(0)])
        rows[clip] = np.concatenate(parts)[None].astype(np.float32)
    return rows


def workspace(tools: SimpleNamespace, folder: Path, layers: Any = "all", **head: Any) -> None:
    manifest, arrays = tools.dataset(24, splits=("train", "train", "test"), most_clips=1)
    audio = AUDIO | {"layers": layers}
    text = {"family": "transformer", "model": "./none"}
    heads = {"best": {"kind": "linear", "inputs": ["audio"]} | head}
    tools.write_workspace(folder, manifest, {"text": arrays["text"]}, heads, encoders={"audio": audio, "text": text})
    tools.write_store(folder / "runs/tiny/stores/audio", layered(arrays["audio"]), layers=ABOUT)


def test_columns_of_layers() -> None:
    assert layers_of({"layer": -1}) == []
    found = layers_of({"layers": ABOUT})
    assert found[1] == Layer(1, (8, 14), (14, 20))
    assert found[2] == Layer(2, (20, 24), (24, 28))
    assert layers_of({"layers": ABOUT | {"statistics": ["mean"]}})[2] == Layer(2, (10, 14), None)


@pytest.mark.parametrize(("layer", "deviations"), [(None, None), ("best", True), (1, False)])
def test_a_linear_head_on_a_layer_of_several_is_the_head_on_that_layer(
    layer: Any, deviations: Any, tools: SimpleNamespace, tmp_path: Path
) -> None:
    manifest, arrays = tools.dataset(60, most_clips=1)
    units = manifest.units()
    fit, watch = np.arange(0, 30), np.arange(30, 45)
    settings = {"kind": "linear", "inputs": ["audio"], "deviations": deviations}
    every = np.arange(len(units))

    def fitted(source: Any, head: Any, **stored: Any) -> tuple[Any, np.ndarray]:
        rows = unit_rows(manifest, units, {"audio": source})
        labels = np.array([tools.CLASSES.index(unit.label) for unit in units])
        task = tools.task(rows, fit, watch, head, train=np.arange(45), labels=labels, **stored)
        model, history = fit_fold(task)
        again = load_fold(tmp_path, json.loads(json.dumps(model.save(tmp_path, "m"))))
        np.testing.assert_array_equal(again.log_probabilities(rows, every), model.log_probabilities(rows, every))
        return history, model.log_probabilities(rows, every)

    head = Head.model_validate
    history, found = fitted(
        layered(arrays["audio"]), head(settings | {"layer": layer}), stored={"audio": {"layers": ABOUT}}
    )
    assert all("audio layer 1" in record["read"] for record in history)
    _, wanted = fitted(arrays["audio"], head(settings))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_best_layer_is_found_and_shown(
    tools: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    workspace(tools, tmp_path)
    assert tools.exit_code(monkeypatch, script.main, "fusion.bootstrap=100") == 0
    assert "audio: best is layer 1" in capsys.readouterr().out
    folder = tmp_path / "runs/tiny/layers"
    (about,) = json.loads((folder / "layers.json").read_text())["encoders"]
    assert (about["best"], about["not_told_apart"], about["units"]) == (1, [], 16)
    for each in about["layers"]:
        assert each["over_best"] is None if each["layer"] == 1 else each["over_best"]["macro_f1"]["high"] < 0
        assert each["macro_f1"]["low"] <= each["macro_f1"]["value"] <= each["macro_f1"]["high"]
    assert (folder / "layers.png").read_bytes()[:4] == b"\x89PNG"
    page = (folder / "index.html").read_text()
    assert "best is layer 1" in page
    assert "http" not in page.replace("http-equiv", "")


def test_labels_of_a_fold_change_no_answer_of_its_own_probes(tools: SimpleNamespace) -> None:
    """What is said of units by fits that did not see them stays when their labels are turned."""
    manifest, arrays = tools.dataset(24, splits=("train",), most_clips=1)
    units = manifest.units()
    rows = unit_rows(manifest, units, {"audio": layered(arrays["audio"])}, context_clips=0)
    folds = np.arange(len(units)) % 3
    head = Head.model_validate({"kind": "linear", "inputs": ["audio"], "c": 0.01, "deviations": False})
    layer = layers_of({"layers": ABOUT})[1]
    before = _out_of_fold(head, rows, "audio", layer, units, folds, tools.CLASSES, 0)
    turned = [
        SimpleNamespace(label=tools.CLASSES[0] if fold == 0 else unit.label, group=unit.group)
        for unit, fold in zip(units, folds, strict=True)
    ]
    after = _out_of_fold(head, rows, "audio", layer, turned, folds, tools.CLASSES, 0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(before[folds == 0], after[folds == 0])
    assert (before[folds == 1] != after[folds == 1]).any()


@pytest.mark.parametrize("time", ["statistics", "attentive"])
def test_a_mix_is_the_average_of_layers_and_learns_which_counts(
    time: str, tools: SimpleNamespace, tmp_path: Path
) -> None:
    widths = {"audio": {"layers": {"taken": [[0, 6], [1, 6]], "statistics": ["mean"]}}}
    manifest, arrays = tools.dataset(60, most_clips=1)
    rng = np.random.default_rng(0)
    rows = {clip: np.concatenate([rng.normal(size=6), v.mean(0)])[None] for clip, v in arrays["audio"].items()}
    tools.write_store(tmp_path / "store", {clip: v.astype(np.float32) for clip, v in rows.items()}, **widths["audio"])
    head = tools.small_head(inputs=["audio"], time=time, epochs=12)
    statistics = 1 if time == "statistics" else None
    data = UnitData(manifest, manifest.units(), {"audio": Store(tmp_path / "store")}, statistics=statistics)
    units = np.arange(len(data.units))
    model, _ = fit_fold_of_network(tools.task(data, units, units[:0], head))
    (mix,) = model.layers.values()
    assert sum(mix.values()) == pytest.approx(1)
    assert mix[1] > 0.55  # the second layer shows the class, the first is noise
    before = model.log_probabilities(data, units)
    again = network.load_fold(tmp_path, json.loads(json.dumps(model.save(tmp_path, "m"))))
    np.testing.assert_array_equal(again.log_probabilities(data, units), before)
    live = UnitData(manifest, manifest.units(), {"audio": rows}, statistics=statistics)  # clips that are in no store
    np.testing.assert_allclose(again.log_probabilities(live, units), before, atol=1e-4)
    base = SimpleNamespace(layers={"audio": {0: 1.0}})  # where a linear base answers alone, what it reads counts
    assert replace(model, base=base, share=0.0).layers == {"audio": {0: 1.0}}
    named, _ = fit_fold_of_network(tools.task(data, units, units[:0], head.model_copy(update={"layer": 1})))
    assert named.layers == {"audio": {1: 1.0}}
    with pytest.raises(UserError, match="layer = 7: the audio store has the layers 0, 1"):
        fit_fold_of_network(tools.task(data, units, units[:0], head.model_copy(update={"layer": 7})))


def test_a_layer_mix_averages_by_its_weights() -> None:
    mix = LayerMix([3, 5], [0, 4], 2)
    values = torch.arange(12.0).view(2, 1, 6)
    torch.testing.assert_close(mix(values), torch.tensor([[[2.0, 3.0]], [[8.0, 9.0]]]))
    mix.scores.data = torch.tensor([10.0, 0.0])
    torch.testing.assert_close(mix(values), values[..., :2])
    assert mix.weights == {3: pytest.approx(1), 5: pytest.approx(0)}


def test_layers_of_different_widths_are_not_mixed(tools: SimpleNamespace, tmp_path: Path) -> None:
    manifest, arrays = tools.dataset(12, most_clips=1)
    tools.write_store(tmp_path / "store", layered(arrays["audio"]), layers=ABOUT)
    data = UnitData(manifest, manifest.units(), {"audio": Store(tmp_path / "store")})
    units = np.arange(len(data.units))
    with pytest.raises(UserError, match="audio: its layers have different widths and cannot be mixed"):
        fit_fold_of_network(tools.task(data, units, units[:0], tools.small_head(inputs=["audio"])))


@pytest.mark.parametrize(
    ("layers", "arguments", "said"),
    [
        ("all", ["--encoder", "voice"], "--encoder voice: no such encoder"),
        ("all", ["--encoder", "text"], "--encoder text: stores one layer"),
        ([0, 1], [], "holds other layers than encoders.audio says"),
    ],
)
def test_what_cannot_be_shown_ends_in_one_line(
    layers: Any,
    arguments: list[str],
    said: str,
    tools: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    workspace(tools, tmp_path, layers)
    assert tools.exit_code(monkeypatch, script.main, *arguments) == 2
    assert said in capsys.readouterr().err


def test_a_layer_that_the_store_lacks_is_refused(
    tools: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    workspace(tools, tmp_path, layer=7)
    assert tools.exit_code(monkeypatch, train.main, "--head", "best") == 2
    assert "layer = 7: the audio store has the layers 0, 1, 2" in capsys.readouterr().err
    profile = yaml.safe_load((tmp_path / "profile.yaml").read_text())
    profile["heads"]["best"]["inputs"] = ["text"]
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(profile))
    assert tools.exit_code(monkeypatch, train.main, "--head", "best") == 2
    assert "heads.best.layer: none of its encoders stores several" in capsys.readouterr().err
