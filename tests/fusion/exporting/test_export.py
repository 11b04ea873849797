"""Exported graphs say what heads, fusions and bundles say; the script beside them needs onnxruntime and NumPy alone."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnxruntime
import polars as pl
import pytest
import small_project
import torch
from checkpoints import MODALITIES, save_checkpoints
from synthetic_heads import CLASSES, make_units

from cache import Header
from configs import UserError
from configs.schema import Encoder as EncoderOf
from configs.schema import Head, Profile
from extract.corpora.manifest import make_manifest
from extract.encoders.loading import load_encoder
from fusion.exporting import checking
from fusion.exporting.encoders import export_encoder, relative, run, session
from fusion.exporting.folder import PEOPLE, _first, _write_encoders, write_onnx
from fusion.exporting.standalone import Stack
from fusion.exporting.strategies import export_fusion
from fusion.serving.bundle import Bundle, open_bundle
from fusion.strategies.catalogue import STRATEGIES
from fusion.strategies.pools import Baseline, Single
from fusion.strategies.speakers import Met, People, everyone
from heads.data.folds import FoldTask
from heads.exporting.head import export_head
from heads.fitting.kinds import KINDS
from heads.fitting.saved import TrainedHead, predict
from heads.models.presence import has_input

SMALL = {"hidden": 4, "attention_heads": 2, "epochs": 2, "patience": 0, "lr": 0.05}
BOTH = {"inputs": ["audio", "text"], "metadata": ["topic"]} | SMALL
HEADS: dict[str, dict[str, Any]] = {
    "sequence": BOTH,
    "attentive": BOTH | {"time": "attentive", "base": "none", "context_clips": 1, "speaker_identity": True},
    "lstm": BOTH | {"time": "lstm", "base": "none", "lstm_layers": 2, "auxiliary": "finer"},
    "metadata": {"metadata": ["topic"], "base": "none"} | SMALL,
    "transformer": {"kind": "transformer", "base": "none"} | BOTH,
    "cross_modal": {"kind": "cross_modal", "base": "none", "segments": 3} | BOTH,
    "cross_attentive": {"kind": "cross_modal", "time": "attentive", "base": "none"} | BOTH,
    "linear": {"kind": "linear", "inputs": ["audio"], "metadata": ["topic"], "c": 0.1, "deviations": True},
    "centred": {"kind": "linear", "inputs": ["audio"], "c": 0.1, "standardise": "speaker"},
    "xgboost": {"kind": "xgboost", "inputs": ["audio", "text"], "metadata": ["topic"], "trees": 8},
    "bag_of_words": {"kind": "bag_of_words", "inputs": ["text"], "c": 1.0},
    "letters": {"kind": "bag_of_words", "inputs": ["text"], "c": 1.0, "letters": True, "context_clips": 1},
}


@pytest.fixture(scope="module")
def material() -> checking.Material:
    """Units of one to three clips whose features show the class, with gaps; fields and texts, some of them odd."""
    rng, rows = np.random.default_rng(0), list[dict[str, Any]]()
    sources: dict[str, dict[str, np.ndarray]] = {"audio": {}, "text": {}}
    for number in range(48):
        label, n_clips = number % 3, int(rng.integers(1, 4))
        for index in range(n_clips):
            clip = f"u{number}c{index}"
            rows.append(
                {
                    "clip_id": clip,
                    "conversation_id": f"u{number}",
                    "index": index,
                    "role": ["speaker", "listener", None][int(rng.integers(3))],
                    "text": [None, f"{CLASSES[label]} ‘ｆｕｌｌ’ it's {label}!?", "今日は happy 🙂🏽 so so"][
                        int(rng.integers(3))
                    ],
                    "speaker": [None, "anna", "bob"][number % 3],
                    "split": "test" if number >= 30 else "train",
                    "group": f"u{number}",
                    "label": CLASSES[label] if index == n_clips - 1 else None,
                    "meta_topic": [None, "work", "home", f"rare{number}"][int(rng.integers(4))],
                    "meta_finer": f"{CLASSES[label]}{number % 2}",
                }
            )
            for source, dim in zip(sources.values(), (5, 3), strict=True):
                if rng.random() < 0.7:
                    source[clip] = (rng.normal(size=(int(rng.integers(1, 7)), dim)) + label).astype(np.float32)
    manifest = make_manifest(pl.DataFrame(rows, infer_schema_length=None), Path(), CLASSES, {}, "made")
    return checking.Material(manifest, manifest.units(), sources, "made", True)


def trained(given: checking.Material, settings: dict[str, Any]) -> TrainedHead:
    """Two folds of a head: they know other categories, terms and scalers."""
    head = Head.model_validate(settings)
    sources = {name: given.sources[name] for name in head.stores}
    data = KINDS[head.kind].read(head, given.manifest, given.units, sources)
    labels = np.array([CLASSES.index(unit.label) for unit in given.units])
    train = np.array([i for i, unit in enumerate(given.units) if unit.split == "train"])
    models = []
    for part in (train[:20], train[10:]):
        task = FoldTask(head, data, labels, part, (), 3, 0, np.arange(len(labels)))
        models.append([KINDS[head.kind].fit(task)[0]])
    return TrainedHead("h", head, CLASSES, 0, {source: {} for source in sources}, models)


def fed(tmp_path: Path, made: Any, head: TrainedHead) -> tuple[Stack, dict[str, Any]]:
    """What feeds the graph: the methods of the script, without its sessions."""
    stack = Stack.__new__(Stack)
    stack.folder, stack.about = tmp_path, {"roles": ["speaker", "listener", "listener_response", "context"]}
    (tmp_path / "terms.json").write_text(json.dumps(made.terms))
    fields = {name: {"is": PEOPLE.get(name, name), "categories": words} for name, words in made.words.items()}
    graph = {"is": head.settings.kind, "inputs": made.inputs, "dims": made.dims, "fields": fields}
    return stack, graph | {"first": _first(head.settings.context_clips), "terms": "terms.json", "counts": "h_counts"}


@pytest.mark.parametrize("name", HEADS)
def test_a_graph_says_what_its_head_says(tmp_path: Path, material: checking.Material, name: str) -> None:
    head = trained(material, HEADS[name])
    if head.models[0][0].__class__.__name__ == "NetworkModel":  # a base alone would hide the network
        assert all(model.share or model.base is None for (model,) in head.models) or name == "sequence"
        head = replace(head, models=[[replace(model, share=0.5)] for (model,) in head.models])
    made = export_head(head, "h", 2.0, {"audio": 5, "text": 3})
    assert export_head(head, "h", 2.0, {"audio": 5, "text": 3}).model == made.model
    stack, graph = fed(tmp_path, made, head)
    bundle: Any = type("Bundled", (), {"heads": (type("One", (), {"settings": head.settings}),), "baselines": ()})
    feed = stack.feed(graph, checking.described(material), checking.features(bundle, material))
    session = onnxruntime.InferenceSession(made.model)
    logits, p = session.run(["logits", "p_sad"], feed)
    there = has_input(head.settings, material.manifest, material.units, material.sources)
    assert (np.isnan(logits).any(axis=1) == ~there).all()
    assert there.sum() > 0
    expected = predict(head, material.manifest, material.units, material.sources)[there]
    if name == "xgboost":  # splits lie at values of training units, where the last bit decides
        new = np.array([unit.split == "test" for unit in material.units])[there]
        expected, there = expected[new], there & np.array([unit.split == "test" for unit in material.units])
    np.testing.assert_allclose(np.exp(logits[there]), np.exp(expected), atol=2e-5)
    warm = np.exp(expected / 2)
    np.testing.assert_allclose(p[there], (warm / warm.sum(axis=1, keepdims=True))[:, CLASSES.index("sad")], atol=2e-5)


def test_every_kind_is_exported() -> None:
    assert {Head.model_validate(settings).kind for settings in HEADS.values()} == set(KINDS)


ALL = {**STRATEGIES, "single": Single(1), "baseline": Baseline("h0")}


@pytest.mark.parametrize("name", ALL)
def test_a_graph_says_what_its_fusion_says(name: str) -> None:
    known, new = (make_units(200, (1.5, 1.2, 1.0), absent=0.4, seed=seed) for seed in (0, 1))
    topics = np.array([None, "work", "home", "rare"], dtype=object)[np.arange(200) % 4]
    gaps = np.arange(200)[:, None] % 5 == 0
    known, units = (
        replace(each, metadata={"topic": topics}, baselines={"h0": np.where(gaps, np.nan, each.logits[:, 1])})
        for each in (known, new)
    )
    own = units.baselines["h0"]
    fitted = ALL[name].fit(known.outputs, known.labels, known.groups, 0)
    model, inputs, words = export_fusion(fitted, units.heads, ["h0"], CLASSES)
    rows = units.logits.astype(np.float32)
    rows[0] = np.nan  # nobody says anything
    feed: dict[str, np.ndarray] = {head: rows[:, h] for h, head in enumerate(units.heads)}
    feed |= {"baseline_h0": own.astype(np.float32)}
    if words:
        feed["meta_topic"] = np.array([0 if t is None else 2 + words["topic"].index(t) for t in topics])
    assert set(inputs) == set(feed)
    found = onnxruntime.InferenceSession(model).run(["logits"], feed)[0]
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(np.exp(found[1:]), np.exp(fitted.predict_logits(units.outputs))[1:], atol=2e-6)


def test_a_graph_centres_speakers_as_they_are_met() -> None:
    units = make_units(60, (1.5, 1.2), absent=0.2)
    people = People(ALL["mean"].fit(units.outputs, units.labels, units.groups, 0), everyone(units))
    model, _, _ = export_fusion(people.fitted, units.heads, [], CLASSES, people)
    session, met, centred = onnxruntime.InferenceSession(model), Met(people), 0
    for i, row in enumerate(units.logits):
        logits, clips = met.centre("anna", row)
        feed = {head: row[None, h].astype(np.float32) for h, head in enumerate(units.heads)}
        feed |= {"sums": met._sums["anna"][None], "counts": met._counts["anna"][None]}
        if clips:
            centred += 1
            one = units.where(np.array([i])).outputs
            expected = people.fitted.predict_logits(replace(one, logits=logits[None]))
            np.testing.assert_allclose(np.exp(session.run(["logits"], feed)[0]), np.exp(expected), atol=2e-6)
    assert centred > 40


def test_a_strategy_that_is_not_known_is_refused_by_name() -> None:
    class FittedOracle:
        pass

    with pytest.raises(UserError, match="the strategy oracle cannot be exported: fuse with another one"):
        export_fusion(FittedOracle(), ["a", "b"], [], CLASSES)  # type: ignore[arg-type]


# --- a whole bundle ---

BLOCKED = """
import runpy, sys
for name in ("torch", "transformers", "sklearn", "xgboost", "onnx", "scipy", "polars", "cache", "fusion", "heads"):
    sys.modules[name] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("export")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        for slow in ("write_charts", "write_report"):
            patch.setattr(f"fusion.stack.{slow}", lambda *_: None)
        patch.setattr("heads.fitting.outputs.draw_curves", lambda *_: None)
        small_project.make(folder, [stage for stage in small_project.STAGES if stage != "audit"])
        yield folder


def test_a_bundle_becomes_graphs_and_a_script_that_needs_no_torch(project: Path) -> None:
    done = small_project.of_profile("fusion/export", "--encoders")
    assert done.code == 0, done.err
    assert "equal to the bundle within" in done.out
    assert "| all, fused |" in done.out
    out = Path("runs/small/onnx")
    about = json.loads((out / "manifest.json").read_text())
    graph = about["encoders"]["text"]["graph"]
    assert graph["inputs"]["input_ids"] == {"dtype": "int64", "axes": ["batch", "time"]}
    (row,) = json.loads((out / "quantised.json").read_text())["encoders"]["rows"]
    assert (row["graph"], row["units"], graph["path"]) == ("encoders/text.onnx", 6, "encoders/text.onnx")
    assert row["macro_f1"] is not None
    assert f"| {row['graph']} |" in (out / "quantised.md").read_text()
    assert (row["int8_bytes"] < row["bytes"]) == (row["largest_change"] > 0) == (out / "int8" / row["graph"]).is_file()
    heads = {f"heads/{name}.onnx" for name in small_project.PROFILE["heads"]}
    assert set(about["graphs"]) - {"baselines/words.onnx"} == {*heads, "fusion.onnx"}
    bundle = open_bundle(Path("runs/small/bundle"))
    given = checking.material(bundle)
    assert given.said == "the 6 test units of runs/small/manifest.parquet"
    Path("new").mkdir()
    Path("new/units.json").write_text(json.dumps(checking.described(given)))
    np.savez("new/text.npz", **{unit.unit_id: given.sources["text"][unit.unit_id] for unit in given.units})
    ran = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(out / "predict.onnx.py"), "new"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = [list(json.loads(line)["probabilities"].values()) for line in ran.stdout.splitlines()]
    np.testing.assert_allclose(found, np.exp(checking.expected(bundle, given).fused), atol=1e-4)
    assert len((out / "predict.onnx.py").read_text().splitlines()) < 150
    assert "quantised.json" in (out / "SHA256SUMS").read_text()


def test_the_same_bundle_gives_the_same_bytes_and_without_stores_is_compared_on_drawn_units(project: Path) -> None:
    bundle = open_bundle(Path("runs/small/bundle"))
    about, tables = write_onnx(bundle, Path("here"), int8=False)
    assert tables == []
    Path("elsewhere").mkdir()
    away = open_bundle(bundle.folder.absolute())
    with contextlib.chdir("elsewhere"):
        other, _ = write_onnx(away, Path("there"), int8=False)
    assert "drawn at random, as runs/small/manifest.parquet is not here" in other["checked"]["on"]
    assert about["graphs"] == other["graphs"]


def test_graphs_that_differ_are_not_published(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(Path("runs/small/bundle"))
    right = checking.expected
    monkeypatch.setattr(checking, "expected", lambda *both: replace(right(*both), fused=right(*both).fused[:, ::-1]))
    with pytest.raises(UserError, match=r"differs from the bundle by .*nothing was written"):
        write_onnx(bundle, Path("wrong"), int8=False)
    assert not Path("wrong").exists()


def holding(folder: Path, name: str, **more: Any) -> Bundle:
    """Of a bundle what exporting an encoder reads: a checkpoint of this name, and the header of its store."""
    modality, family = MODALITIES[name]
    spec = {"family": family, "model": str(save_checkpoints(folder, [name]) / name), "pooling": "mean"} | more
    spec |= {"n_frames": 2} if modality == "video" else {}
    profile = Profile.model_validate(
        small_project.PROFILE | {"heads": {"h": {"inputs": [modality]}}, "encoders": {modality: spec}}
    )
    encoder = load_encoder(profile, modality, "cpu")
    header = Header("zarr", "float16", encoder.dim, 1, "", {**encoder.fields, "dtype": "float16"})
    given = SimpleNamespace(profile=profile, stored={modality: header})
    return cast(Bundle, given)


@pytest.mark.parametrize(
    "name", ["whisper", "resnet", *(pytest.param(name, marks=pytest.mark.soak) for name in ("wav2vec2", "bert"))]
)
def test_an_encoders_graph_says_what_it_says_of_any_batch_and_length(tmp_path: Path, name: str) -> None:
    bundle = holding(tmp_path, name, layer=1, **({"context": "clip", "window_seconds": 1} if name == "whisper" else {}))
    modality = MODALITIES[name][0]
    made = export_encoder(bundle, modality)
    assert made.about["layer"] == 1
    assert 0 <= made.about["checked"]["largest_difference"] < 1e-4
    sizes = [tuple(next(iter(batch.values())).shape) for batch in made.batches]
    assert sizes[0][0] != sizes[1][0]
    again = {key: torch.cat([x, x]) for key, x in made.batches[0].items()}  # a batch that was not tried
    wanted = made.encoder.hidden(again, None)
    assert relative(run(session(made.model), again), wanted.detach()) < 1e-4


def test_encoders_that_cannot_be_exported_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = holding(tmp_path / "models", "distilbert", layer=1)
    changed = bundle.profile.encoders["text"].model_copy(update={"layer": 2})
    other = bundle.profile.model_copy(update={"encoders": {"text": changed}})
    with pytest.raises(UserError, match=r"encoders\.text: not the encoder that .* differs in layer$"):
        export_encoder(cast(Bundle, SimpleNamespace(profile=other, stored=bundle.stored)), "text")
    mels = other.model_copy(
        update={"encoders": {"mels": EncoderOf.model_validate({"family": "spectrum", "kind": "mel"})}}
    )
    with pytest.raises(UserError, match=r"encoders\.mels: is computed from the signal alone"):
        export_encoder(cast(Bundle, SimpleNamespace(profile=mels)), "mels")
    monkeypatch.setattr("fusion.exporting.encoders.relative", lambda *_: float("nan"))
    with pytest.raises(UserError, match=r"encoders\.text: its graph differs from torch by nan"):
        export_encoder(bundle, "text")

    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr("torch.onnx.export", refused)
    about: dict[str, dict[str, Any]] = {"text": {}}
    assert _write_encoders(bundle, tmp_path, about) == {}
    assert about["text"]["not_exported"].startswith("encoders.text: torch.onnx cannot export it: no such")
    assert "\n" not in about["text"]["not_exported"]


def test_a_bundle_needs_a_folder_for_its_graphs() -> None:
    done = small_project.run("fusion/export", "--bundle", "somewhere")
    assert done.code == 2
    assert "--bundle: goes with --out" in done.err
