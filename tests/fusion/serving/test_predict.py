"""New clips through a bundle: the same answers as the batch gives, and a clear line where there is none."""

import contextlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bundled_project import HEADS, N_TRAIN, READS_TEXT, WORDS, Project, record, write_clip
from huggingface_hub import ModelCard
from media_tools import write_audio
from safetensors.numpy import load_file, save_file

import fusion.serving.bundle
from cache import StoreError, write_sums
from configs import UserError
from configs.command_line import command
from extract.corpora.manifest import read_manifest
from extract.passes.live import LiveEncoder
from fusion.card import main as write_its_card
from fusion.explain import main as explain_main
from fusion.explaining.answer import explain_fusion
from fusion.live import main as live_main
from fusion.predict import main
from fusion.report.card import _as_text, write_card
from fusion.serving.bundle import add_to_bundle, make_bundle, open_bundle
from fusion.serving.clips import manifests
from fusion.serving.doubt import _says, with_set
from fusion.serving.live import Predictor, contributions
from fusion.stack import main as stack
from fusion.strategies.catalogue import STRATEGIES
from fusion.strategies.pools import FittedMean, FittedSingle
from fusion.tables.predictions import HeadOutputs, manifest_metadata

pytestmark = pytest.mark.xdist_group("predict")  # what is made for all of them is made once
NAMED = {"accuracy": "accuracy", "macro-F1": "macro_f1"}
Predict = Callable[..., tuple[int, list[dict[str, Any]], str]]


@pytest.fixture(autouse=True)
def _in_its_folder(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)


@pytest.fixture
def predict(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Predict:
    """``predict(*arguments)``: the command line with ``--json``; exit code, answers, stderr."""

    def call(*arguments: str, bundle: Path = project.bundle) -> tuple[int, list[dict[str, Any]], str]:
        monkeypatch.setattr(sys, "argv", ["predict.py", *arguments, "--bundle", str(bundle), "--json"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command(main)
        printed = capsys.readouterr()
        lines = [line for line in printed.out.splitlines() if "--out" not in arguments]
        return int(ended.value.code or 0), [json.loads(line) for line in lines], printed.err

    return call


def probabilities(answer: dict[str, Any]) -> np.ndarray:
    return np.array(list(answer["probabilities"].values()))


def clip(project: Project, name: str) -> str:
    return str(project.root / "data" / "clips" / name)


def test_a_file_gets_the_answer_of_the_batch(project, predict):
    name = f"{N_TRAIN}_0.mp4"
    code, (answer,), _ = predict(clip(project, name), "--text", WORDS["happy"], "--metadata", "topic=exams")
    assert code == 0
    fused = pl.read_parquet(project.profile.fusion_path / "predictions.parquet")
    row = fused.filter((pl.col("split") == "test") & (pl.col("unit_id") == f"dia{N_TRAIN:05d}utt0"))
    expected = row.select(f"p_{name}" for name in answer["probabilities"]).to_numpy()[0]
    np.testing.assert_allclose(probabilities(answer), expected, atol=1e-5)
    assert answer["prediction"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert answer["missing"] == []
    assert all(head["prediction"] and not head["lacks"] for head in answer["heads"].values())


def test_encoders_run_in_another_precision_where_that_is_asked_for(project, predict, monkeypatch):
    name = clip(project, f"{N_TRAIN}_0.mp4")
    _, (plain,), _ = predict(name)
    code, (half,), said = predict(name, "--precision", "bf16")
    assert code == 0
    assert "encoders in bf16: numbers differ from those of the profile's precision" in said
    assert probabilities(half).sum() == pytest.approx(1)
    assert 0 < np.abs(probabilities(half) - probabilities(plain)).max() < 0.2
    given = ("--text", WORDS["happy"])
    seen: list[np.ndarray] = []
    encode = LiveEncoder.encode

    def noted(encoder: LiveEncoder, clips: Any) -> Any:
        found = encode(encoder, clips)
        seen.extend(found[0].values())
        return found

    monkeypatch.setattr(LiveEncoder, "encode", noted)
    _, (plain,), _ = predict(*given)
    _, (small,), said = predict(*given, "--precision", "int8")
    assert said.startswith("encoders in int8")
    assert len(seen) == 2
    assert 0 < np.abs(seen[1] - seen[0]).max() < 0.1 * np.abs(seen[0]).max()  # a head need not show it
    np.testing.assert_allclose(probabilities(small), probabilities(plain), atol=0.2)
    code, answers, said = predict(name, "--precision", "int8")  # a ResNet: convolutions alone
    assert (code, answers) == (2, [])
    assert said.splitlines()[-1].endswith("has no linear layers, which are what int8 is for: take --precision bf16")
    assert "encoders.video: " in said.splitlines()[-1]
    opened = open_bundle(project.bundle)
    own = opened.profile.encoders["text"].model_copy(update={"runtime": "openvino"})
    profile = opened.profile.model_copy(update={"encoders": opened.profile.encoders | {"text": own}})
    monkeypatch.setattr("fusion.serving.options.with_encoders", lambda *_: profile)
    code, answers, said = predict(*given, "--precision", "int8")
    assert (code, answers) == (2, [])
    assert "encoders.text: int8 is for CPUs and runtime: torch; leave it out, or take" in said.splitlines()[-1]


def test_windows_of_a_stream_get_the_answers_of_clips_cut_there(project, predict, monkeypatch, capsys, tmp_path):
    def live(*arguments: str) -> tuple[int, list[dict[str, Any]], str]:
        given = ["live.py", *arguments, "--bundle", str(project.bundle), "--json", "--vad", "off"]
        monkeypatch.setattr(sys, "argv", given)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command(live_main)
        printed = capsys.readouterr()
        return int(ended.value.code or 0), [json.loads(line) for line in printed.out.splitlines()], printed.err

    name = clip(project, f"{N_TRAIN}_0.mp4")
    code, (window,), said = live(name, "--meta", "topic=exams", "--out", str(tmp_path / "a.jsonl"))
    _, (whole,), _ = predict(name, "--metadata", "topic=exams")
    assert code == 0
    assert said.startswith("1 windows, 0 dropped; 0.5 s of it in ")
    assert json.loads((tmp_path / "a.jsonl").read_text()) == window
    np.testing.assert_allclose(probabilities(window), probabilities(whole), atol=1e-6)
    assert window["smoothed"] == window["probabilities"]
    without = {each["what"] for each in window["missing"]}, {each["what"] for each in whole["missing"]}
    assert without[0] == without[1] == {"text"}
    sound = np.random.default_rng(5).normal(scale=0.1, size=(20000, 1)).astype(np.float32)
    write_audio(tmp_path / "all.wav", sound, 16000, "pcm_f32le")
    _, windows, _ = live(str(tmp_path / "all.wav"), "--window", "0.5", "--hop", "0.4")
    assert [(each["start"], each["stop"]) for each in windows] == [(0, 0.5), (0.4, 0.9), (0.8, 1.25)]
    cuts = [str(tmp_path / f"{each['window']}.wav") for each in windows]
    for each, name in zip(windows, cuts, strict=True):
        cut = sound[round(each["start"] * 16000) : round(each["stop"] * 16000)]
        write_audio(Path(name), cut, 16000, "pcm_f32le")
    _, alone, _ = predict(*cuts)
    found, expected = ([probabilities(each) for each in answers] for answers in (windows, alone))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    code, _, said = live(str(tmp_path / "all.wav"), "--out", str(tmp_path / "a.jsonl"))
    assert (code, said.endswith("it is there already: name another, or remove it\n")) == (2, True)
    for wrong in (["--window", "0"], ["--hop", "5"], ["--smooth", "-1"], ["--queue", "0"], ["--meta", "mood=x"]):
        code, _, said = live(str(tmp_path / "all.wav"), *wrong)
        assert (code, len(said.splitlines())) == (2, 1)
        assert wrong[0].replace("--meta", "--metadata") in said


def test_conversations_get_the_answers_of_the_batch_and_broken_clips_are_named(project, predict):
    code, answers, _ = predict(str(project.root / "data" / "test.json"))
    assert code == 0
    assert [answer["unit"] for answer in answers] == [
        f"dia{N_TRAIN + i:05d}utt{last}" for i, last in enumerate([0, 2, 2, 0])
    ]
    for answer in answers[:3]:
        np.testing.assert_allclose(probabilities(answer), project.batch(answer["unit"]), atol=1e-5)
    np.testing.assert_allclose(
        probabilities(answers[3]), project.batch(answers[3]["unit"], READS_TEXT), atol=1e-5
    )  # nothing but text: heads that read none of it are left out, and not asked about nothing
    missing = {(each["what"], each["clip"]): each["why"] for each in answers[2]["missing"]}
    broken = f"dia{N_TRAIN + 2:05d}utt2"
    assert missing["audio", broken] == missing["video", broken] == "Invalid data found when processing input"
    assert missing["audio", None] == "not given for 1 of 3 clips"


@pytest.mark.parametrize("number", [N_TRAIN, 3])
def test_a_fused_answer_is_taken_apart(project, predict, monkeypatch, number):
    monkeypatch.chdir(project.root)
    manifest = read_manifest(project.profile.manifest_path)
    unit = next(unit for unit in manifest.units() if unit.unit_id.startswith(f"dia{number:05d}"))
    found = explain_fusion(project.profile, manifest, unit)
    fused = pl.read_parquet(project.profile.fusion_path / "predictions.parquet").filter(unit_id=unit.unit_id)
    expected = fused.select(f"p_{name}" for name in found.classes).to_numpy()[0]
    np.testing.assert_allclose(found.p, expected, atol=1e-9)  # of a training unit, of the fit without its fold
    assert found.notes == ()
    assert found.fold == fused["fold"][0]
    assert {each.name for each in found.inputs} == {"audio", "text", "video", f"topic: {('exams', 'work')[number % 2]}"}
    silent = {each.name: each.silent for each in found.inputs}
    assert (silent["audio"], silent["text"], silent["video"]) == (("sound",), ("words",), ())
    if found.fold is not None:
        assert explain_fusion(project.profile, manifest, unit, found.classes[0]).explained == found.classes[0]
        return
    # What is taken away is what a new clip may lack: the bundle answers so by ways of its own.
    given = {"text": ["--metadata", "topic=exams"], "topic: exams": ["--text", WORDS["happy"]]}
    for name, rest in given.items():
        _, (answer,), _ = predict(clip(project, f"{number}_0.mp4"), *rest)
        left = next(each.p for each in found.inputs if each.name == name)
        np.testing.assert_allclose(left, probabilities(answer), atol=1e-5)
    _, (answer,), _ = predict(clip(project, f"{number}_0.mp4"), *given["text"], *given["topic: exams"])
    for voice in found.voices:
        assert voice.contribution == pytest.approx(answer["heads"][voice.name]["contribution"], abs=1e-4)


def test_a_fused_answer_is_explained_on_a_page(project, monkeypatch, capsys):
    monkeypatch.chdir(project.root)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["explain.py", *arguments, "--config", "tiny.yaml"])
        with pytest.raises(SystemExit) as ended:
            command(explain_main)
        return int(ended.value.code or 0)

    unit, folder = f"dia{N_TRAIN:05d}utt0", Path("runs/tiny/explain") / f"dia{N_TRAIN:05d}utt0"
    assert run(unit) == 0
    printed = capsys.readouterr().out
    facts = json.loads((folder / "_fusion.json").read_text())
    assert f"the fusion (weighted): {facts['predicted']}" in printed
    index = (folder / "index.html").read_text()
    assert 'class="card first"' in index
    html = (folder / "_fusion.html").read_text()
    assert "fitted on all out-of-fold predictions" in html
    assert html.count("<table") == 2
    other = next(name for name in facts["classes"] if name != facts["predicted"])
    assert run(unit, "--class", other) == 0
    assert f"why not “{other}”" in (folder / "_fusion.html").read_text()
    capsys.readouterr()
    for wrong, said in {
        (unit, "--class", "bored"): "--class bored: no such class; the fusion knows",
        (f"{unit}9",): f"{unit}9: no such unit",
        (unit, "name=empty"): "no such manifest",
    }.items():
        assert run(*wrong) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_a_fused_answer_that_cannot_be_made_again_is_said_to_be_another(project, monkeypatch):
    monkeypatch.chdir(project.root)
    manifest = read_manifest(project.profile.manifest_path)
    unit = next(unit for unit in manifest.units() if unit.split == "train")
    monkeypatch.setattr("fusion.explaining.answer._recorded", lambda *_: (np.eye(7)[0], Path("table")))
    (note,) = explain_fusion(project.profile, manifest, unit).notes
    assert "its cross-fitted answer could not be made again" in note


def test_labels_are_neither_needed_nor_looked_at(project, predict, tmp_path):
    records = json.loads((project.root / "data" / "test.json").read_text())
    _, expected, _ = predict(str(project.root / "data" / "test.json"))
    for number, each in enumerate(records):
        each["turn"]["chain_of_empathy"] = {"speaker_emotion": "no such emotion"} if number % 2 else {}
    (tmp_path / "new.json").write_text(json.dumps(records))
    code, answers, _ = predict(str(tmp_path / "new.json"), "--media", str(project.root / "data"))
    assert code == 0
    assert answers == expected


def test_the_original_layout_is_answered_where_the_speaker_speaks_last(project, predict, tmp_path):
    said = [("speaker", WORDS["sad"]), ("listener", "and you ?"), ("speaker", WORDS["sad"])]
    history = [{"index": i, "role": role, "utterance": text} for i, (role, text) in enumerate(said)]
    turn = {"turn_id": "0", "dialogue_history": history, "response": "you are not very angry"}
    (tmp_path / "new.json").write_text(json.dumps([{"conversation_id": "7", "topic": "work", "turns": [turn]}]))
    code, (answer,), _ = predict(str(tmp_path / "new.json"))
    assert code == 0
    assert answer["unit"] == "dia00007utt2"
    assert {name for name, head in answer["heads"].items() if head["prediction"]} == set(READS_TEXT)


def test_a_conversation_without_a_speaker_has_nothing_to_predict(predict, tmp_path):
    silent = record(7, None, [None], "so sad")
    silent["turn"]["dialogue"][0]["role"] = "listener"
    (tmp_path / "new.json").write_text(json.dumps([silent]))
    code, answers, err = predict(str(tmp_path / "new.json"))
    assert (code, answers) == (2, [])
    assert "no speaker says anything" in err


def test_text_alone_is_a_unit(project, predict):
    code, (answer,), _ = predict("--text", WORDS["happy"], "--metadata", "topic=work")
    assert code == 0
    expected = project.batch(f"dia{N_TRAIN + 3:05d}utt0", READS_TEXT)
    np.testing.assert_allclose(probabilities(answer), expected, atol=1e-5)
    assert [(each["what"], each["why"]) for each in answer["missing"]] == [
        ("audio", "not given"),
        ("video", "not given"),
    ]
    assert answer["heads"]["sound"]["prediction"] is None
    assert answer["heads"]["joint"] | {"prediction": 0, "probability": 0, "probabilities": 0, "contribution": 0} == {
        "prediction": 0,
        "probability": 0,
        "probabilities": 0,
        "contribution": 0,
        "reads": ["text", "topic"],
        "lacks": ["audio"],
    }


def test_metadata_alone_is_a_unit(predict):
    code, (answer,), _ = predict("--metadata", "topic=work")
    assert code == 0
    assert [name for name, head in answer["heads"].items() if head["prediction"]] == ["joint"]
    assert answer["heads"]["joint"]["contribution"] is None  # it is all there is


def test_sound_and_pictures_may_be_files_of_their_own(project, predict, tmp_path):
    together = clip(project, "3_0.mp4")
    _, (expected,), _ = predict(together)
    write_clip(tmp_path / "mute.mp4", 6, 0.2)
    shutil.copy(together, tmp_path / "sound.m4a")
    _, (alone,), _ = predict(str(tmp_path / "sound.m4a"))
    assert {each["what"]: each["why"] for each in alone["missing"]}["video"] == "not given"
    _, (apart,), _ = predict(together, "--audio", str(tmp_path / "sound.m4a"))
    np.testing.assert_array_equal(probabilities(apart), probabilities(expected))


def test_a_stream_that_is_not_there_is_missing_with_the_decoders_words(project, predict, tmp_path):
    write_clip(tmp_path / "heard.mp4", 1, 0.2, pictures=False)
    code, (answer,), _ = predict(str(tmp_path / "heard.mp4"))
    assert code == 0
    assert {each["what"]: each["why"] for each in answer["missing"]}["video"] == "it has no video stream"
    assert answer["heads"]["both"]["lacks"] == ["video"]
    assert answer["heads"]["both"]["prediction"]
    assert answer["heads"]["crossed"]["prediction"] is None


def test_a_folder_is_answered_file_by_file_and_says_what_it_could_not(project, predict, tmp_path):
    (tmp_path / "takes" / "deeper").mkdir(parents=True)
    for name, source in (("b.mp4", "1_0.mp4"), ("a.mp4", "2_1.mp4"), ("takes/deeper/c.mp4", "broken.mp4")):
        shutil.copy(clip(project, source), tmp_path / name)
    (tmp_path / "notes.txt").write_text("no media")
    (tmp_path / ".hidden").mkdir()
    shutil.copy(clip(project, "1_0.mp4"), tmp_path / ".hidden" / "d.mp4")
    code, answers, err = predict(str(tmp_path))
    assert [Path(answer["unit"]).name for answer in answers] == ["a.mp4", "b.mp4", "c.mp4"]
    assert [answer["error"] is None for answer in answers] == [True, True, False]
    _, (alone,), _ = predict(clip(project, "1_0.mp4"))
    np.testing.assert_allclose(probabilities(answers[1]), probabilities(alone), atol=1e-5)
    assert code == 3
    assert "1 of 3 units could not be answered" in err
    assert "c.mp4: nothing to go on (audio: Invalid data found" in err
    said, _ = err.strip().splitlines()
    assert said == f"{tmp_path}: 1 left out, no media by their names: notes.txt"


def test_a_table_gets_a_row_for_each_unit(project, predict, tmp_path):
    """Columns are called as ours, the profile having none; labels are not looked at, and media lie beside the table."""
    shutil.copy(clip(project, "1_0.mp4"), tmp_path / "a.mp4")
    rows = ["clip_id;text;audio;video;topic", f"x;{WORDS['happy']};a.mp4;a.mp4;exams", "y;;a.mp4;gone.mp4;", "z;;;;"]
    (tmp_path / "new.csv").write_text("\n".join(rows))
    code, answers, err = predict(str(tmp_path / "new.csv"))
    assert (code, [answer["unit"] for answer in answers]) == (3, ["x", "y", "z"])
    assert "z: nothing to go on" in err
    _, (alone,), _ = predict(str(tmp_path / "a.mp4"), "--text", WORDS["happy"], "--metadata", "topic=exams")
    np.testing.assert_allclose(probabilities(answers[0]), probabilities(alone), atol=1e-5)

    out = tmp_path / "answers.csv"
    code, printed, _ = predict(str(tmp_path / "new.csv"), "--out", str(out))
    written = pl.read_csv(out)
    assert (code, printed) == (3, [])
    assert written["unit_id"].to_list() == ["x", "y", "z"]
    assert written["prediction"].to_list() == [answer["prediction"] for answer in answers]
    assert written["p_happy"].to_list()[:2] == [answer["probabilities"]["happy"] for answer in answers[:2]]
    assert written["error"].is_not_null().to_list() == [False, False, True]


def test_a_damaged_clip_is_answered_and_said_to_be(predict, tmp_path):
    write_audio(tmp_path / "a.aac", np.random.default_rng(0).normal(scale=0.1, size=(64_000, 1)), 16000, "aac")
    content = bytearray((tmp_path / "a.aac").read_bytes())
    at = len(content) // 2
    content[at : at + 40] = bytes(byte ^ 0x5A for byte in content[at : at + 40])
    (tmp_path / "a.aac").write_bytes(content)
    code, (answer,), _ = predict(str(tmp_path / "a.aac"))
    assert (code, answer["error"]) == (0, None)
    (said,) = [each for each in answer["missing"] if each["what"] == "audio"]
    assert said["why"].startswith("damaged, the rest is used: 0.064 of 4.096 s: ")


def test_every_answer_has_the_same_keys(project, predict, tmp_path):
    shutil.copy(clip(project, "broken.mp4"), tmp_path / "broken.mp4")
    _, (good,), _ = predict("--text", "so happy")
    _, (bad,), _ = predict(str(tmp_path / "broken.mp4"))
    keys = ["unit", "prediction", "probability", "probabilities", "heads", "missing", "error", "centred_on", "set"]
    assert list(good) == list(bad) == keys
    assert list(good["heads"]) == list(bad["heads"]) == list(HEADS)
    of_heads = [list(head) for answer in (good, bad) for head in answer["heads"].values()]
    assert all(
        keys == ["prediction", "probability", "probabilities", "contribution", "reads", "lacks"] for keys in of_heads
    )
    assert bad["prediction"] is bad["probability"] is bad["probabilities"] is None


def test_the_table_says_the_same(project, monkeypatch, capsys):
    line = ["predict.py", clip(project, "1_0.mp4"), "--bundle", str(project.bundle)]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as ended:
        command(main)
    printed = capsys.readouterr().out
    assert not ended.value.code
    assert "missing: text: not given" in printed
    assert "words" in printed
    assert "absent" in printed
    for name in open_bundle(project.bundle).classes:
        assert name in printed


def test_an_answer_can_be_that_it_does_not_know(project, predict, tmp_path, capsys, monkeypatch):
    bundle, given = open_bundle(project.bundle), ("--text", WORDS["happy"])
    groups = bundle.sets.everyone.groups
    code, (answer,), _ = predict(*given, "--confidence", "0.999")
    assert code == 0
    assert answer["set"] == {
        "confidence": 0.999,
        "classes": sorted(bundle.classes, key=answer["probabilities"].__getitem__, reverse=True),
        "known": False,
        "says": "don't know: any of the 7",
        "heads": None,
        "groups": groups,
        "note": f"{groups} groups to calibrate on vouch for {100 * groups / (groups + 1):.3g}% at most",
    }
    sure = with_set(bundle, answer, 0.01)["set"]
    assert (sure["known"], sure["says"], sure["classes"]) == (True, answer["prediction"], [answer["prediction"]])
    assert sure["note"].startswith(f"rough: of {groups} groups to calibrate on, 0 had what")
    everything = answer | {"heads": {name: {"prediction": "happy"} for name in HEADS}}
    assert with_set(bundle, everything, 0.01)["set"]["note"] == f"rough: calibrated on {groups} groups"
    nothing = answer | {"prediction": None, "probability": None, "probabilities": None}
    assert with_set(bundle, nothing, 0.9)["set"] is None

    out = tmp_path / "answers.csv"
    assert predict(*given, "--confidence", "0.999", "--out", str(out))[0] == 0
    row = pl.read_csv(out).to_dicts()[0]
    assert (row["confidence"], row["says"]) == (0.999, "don't know: any of the 7")
    assert row["set"].split("; ") == answer["set"]["classes"]
    line = ["predict.py", *given, "--confidence", "0.999", "--bundle", str(project.bundle)]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit):
        command(main)
    assert "  at 0.999 confidence: don't know: any of the 7 (" in capsys.readouterr().out


def test_the_most_probable_classes_of_a_set_are_named() -> None:
    names = [f"c{i}" for i in range(7)]
    assert _says(names[:2], 7) == "don't know: c0 or c1"
    assert _says(names[:4], 7) == "don't know: c0, c1, c2 or c3"
    assert _says(names[:6], 7) == "don't know: c0, c1, c2, c3 or 2 more"
    assert _says(names, 7) == "don't know: any of the 7"


def test_a_bundle_of_an_earlier_version_answers_and_has_no_sets(copied, predict):
    (copied / "fusion" / "sets.json").unlink()
    write_sums(copied)
    code, (answer,), _ = predict("--text", "so", bundle=copied)
    assert (code, answer["set"]) == (0, None)
    code, answers, err = predict("--text", "so", "--confidence", "0.9", bundle=copied)
    assert (code, answers) == (2, [])
    assert "made by an earlier version, without what --confidence needs: fuse again with python fusion/stack.py" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to predict"),
        (["nowhere.mp4"], "nowhere.mp4: no such file"),
        (["nowhere.json"], "nowhere.json: no such file"),
        pytest.param(["a" * 5000 + ".json"], "aaa: no such file", id="long.json"),
        pytest.param(["a" * 5000], "aaa: no such file", id="long"),
        (["--text", " "], "--text: there is nothing in it"),
        (["--text", "\u00a0\u200b"], "--text: there is nothing in it"),
        (["--text", "so", "--metadata", "topic= "], "--metadata topic: there is nothing in it"),
        (["--text", "\udc80"], "not valid UTF-8"),
        (["--text", "so", "--metadata", "age=9"], "--metadata age: nothing reads it; what is read: topic"),
        (["--text", "so", "--metadata", "topic"], "--metadata topic: write NAME=VALUE"),
        (["--text", "so", "--encoder", "smell=x"], "the bundle has encoders for audio, video, text"),
        (["--text", "so", "--encoder", "text=./nowhere"], "no such model folder"),
        (["data/clips", "--text", "so"], "--text and --audio belong to one clip"),
        (["--text", "so", "--out", "answers.txt"], "--out answers.txt: name a .csv file in a folder that is there"),
        (["models"], "models: no media file in this folder"),
        (["--text", "so", "--confidence", "90"], "--confidence 90: a share above 0 and below 1, such as 0.9"),
        (["--text", "so", "--confidence", "nan"], "--confidence nan: a share above 0 and below 1, such as 0.9"),
    ],
)
def test_a_mistake_ends_in_one_line(project, predict, arguments, says):
    code, answers, err = predict(*arguments)
    assert (code, answers) == (2, [])
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_a_category_that_training_never_met_is_unknown_and_said_to_be(project, predict):
    _, (unknown,), _ = predict("--text", "so happy", "--metadata", "topic=weather")
    _, (without,), _ = predict("--text", "so happy")
    assert {each["what"]: each["why"] for each in unknown["missing"]}["topic"].startswith("'weather' was not met")
    np.testing.assert_array_equal(probabilities(unknown), probabilities(without))


@pytest.mark.parametrize("name", ["attention", "blend"])
def test_a_fusion_that_reads_metadata_gets_it(project, name):
    metadata = manifest_metadata(project.root / project.profile.manifest_path, project.units.unit_ids)
    units = replace(project.units, metadata=metadata)
    oof, test = units.where(units.splits == "oof"), units.where(units.splits == "test")
    fitted = STRATEGIES[name].fit(oof.outputs, oof.labels, oof.groups, 0)
    bundle = open_bundle(project.bundle)
    bundle.__dict__["fusion"] = fitted
    with Predictor(bundle, bundle.profile, "cpu") as predictor:
        assert predictor.fields == ["topic"]
        path = project.root / "data" / "test.json"
        (manifest,) = manifests([path], None, None, {}, None, bundle.profile, predictor.fields)
        answers = list(predictor.answers(manifest))[:3]
    found = np.array([probabilities(answer) for answer in answers])
    order = [test.unit_ids.tolist().index(answer["unit"]) for answer in answers]
    np.testing.assert_allclose(found, np.exp(fitted.predict_logits(test.outputs))[order], atol=1e-5)


def test_where_the_chosen_head_has_nothing_to_read_the_others_answer(project):
    """The fusion is the head "sound", and all there is is text."""
    bundle = open_bundle(project.bundle)
    others = FittedMean([[1.0, 0.0]] * len(bundle.heads))
    bundle.__dict__["fusion"] = FittedSingle([head.name for head in bundle.heads].index("sound"), 1.0, others)
    with Predictor(bundle, bundle.profile, "cpu") as predictor:
        (manifest,) = manifests([], "so happy", None, {}, None, bundle.profile, predictor.fields)
        (answer,) = predictor.answers(manifest)
    assert answer["error"] is None
    assert answer["heads"]["sound"]["prediction"] is None
    readers = [name for name, head in answer["heads"].items() if head["prediction"]]
    assert readers
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_only_encoders_with_something_to_read_are_loaded(project, monkeypatch):
    bundle = open_bundle(project.bundle)
    asked: list[str] = []
    monkeypatch.setattr("fusion.serving.live.LiveEncoder.__init__", lambda self, _, name, *rest: asked.append(name))
    monkeypatch.setattr("fusion.serving.live.LiveEncoder.encode", lambda self, clips: ({}, [], []))
    monkeypatch.setattr("fusion.serving.live.LiveEncoder.__exit__", lambda *_: None)
    with Predictor(bundle, bundle.profile, "cpu") as predictor:
        (manifest,) = manifests([], "so", None, {}, None, bundle.profile, predictor.fields)
        list(predictor.answers(manifest))
    assert asked == ["text"]


def test_an_encoder_may_lie_elsewhere_but_must_be_the_same(project, predict, tmp_path):
    elsewhere = tmp_path / "moved"
    shutil.copytree(project.root / "models" / "distilbert", elsewhere)
    _, (expected,), _ = predict("--text", "so happy")
    code, (answer,), _ = predict("--text", "so happy", "--encoder", f"text={elsewhere}")
    assert code == 0
    assert answer == expected
    weights = load_file(elsewhere / "model.safetensors")
    name = sorted(weights)[0]
    save_file(weights | {name: weights[name] + 1}, elsewhere / "model.safetensors", metadata={"format": "pt"})
    code, answers, err = predict("--text", "so happy", "--encoder", f"text={elsewhere}")
    assert (code, answers) == (2, [])
    assert "differs in weights" in err


# --- the bundle ---


@pytest.fixture
def copied(project: Project, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project.bundle, tmp_path / "copied"))


@pytest.mark.parametrize("pattern", ["*.json", "heads/**/head.json", "*.yaml", "**/*.safetensors", "**/*.skops"])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_file_that_is_changed_or_missing_is_named(copied, predict, pattern, how):
    file = next(copied.glob(pattern))
    if how == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    code, answers, err = predict("--text", "so", bundle=copied)
    assert (code, answers) == (2, [])
    assert f"{file}: {how}" in err
    assert len(err.strip().splitlines()) == 1


def test_a_file_too_many_is_named(copied):
    (copied / "heads" / "extra.json").write_text("{}")
    with pytest.raises(UserError, match=r"heads/extra.json: is none of this folder's files"):
        open_bundle(copied)


def test_what_is_no_file_is_named(copied):
    (copied / "heads" / "pipe").symlink_to(copied)
    with pytest.raises(UserError, match=r"heads/pipe: a link that leads to no file, which does not belong here"):
        open_bundle(copied)
    (copied / "heads" / "pipe").unlink()
    os.mkfifo(copied / "heads" / "pipe")
    with pytest.raises(UserError, match=r"heads/pipe: no regular file"):
        open_bundle(copied)


def test_a_bundle_that_lacks_what_its_heads_need_is_refused_though_its_sums_are_right(copied):
    (copied / "heads" / "joint" / "fold1.safetensors").unlink()
    write_sums(copied)
    with pytest.raises(UserError, match=r"joint/fold1\.safetensors: missing, by .*head\.json: make the bundle again"):
        open_bundle(copied)


@pytest.mark.parametrize("at", [0, 70, -2])
def test_the_checksums_themselves_cannot_be_changed(copied, at):
    sums = copied / "SHA256SUMS"
    content = bytearray(sums.read_bytes())
    content[at] ^= 1
    sums.write_bytes(content)
    with pytest.raises(UserError, match="SHA256SUMS"):
        open_bundle(copied)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no bundle"):
        open_bundle(tmp_path)


def test_nothing_in_it_is_pickled(project):
    kinds = {path.suffix for path in project.bundle.rglob("*") if path.is_file() and path.name != "SHA256SUMS"}
    assert kinds == {".json", ".yaml", ".safetensors", ".skops"}
    for path in project.bundle.rglob("*.skops"):
        with zipfile.ZipFile(path) as archive:
            assert {Path(name).suffix for name in archive.namelist()} <= {".json", ".npy", ".npz"}
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as file:
                        np.load(file, allow_pickle=False)


def test_the_same_stack_gives_the_same_bytes(project, tmp_path):
    make_bundle(project.profile, tmp_path / "again")
    assert open_bundle(tmp_path / "again").digest == open_bundle(project.bundle).digest


def test_the_card_is_one_that_the_hub_takes_and_says_what_was_measured(project, copied, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a card needs no network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.chdir(project.root)
    add_to_bundle(copied, lambda fresh: write_card(project.profile, fresh))
    assert open_bundle(copied).digest != open_bundle(project.bundle).digest
    found = ModelCard.load(copied / "README.md")
    metrics = json.loads((project.profile.fusion_path / "metrics.json").read_text())
    values = {result.metric_name: result.metric_value for result in found.data.eval_results}
    assert values == {name: round(metrics["headline"][key], 4) for name, key in NAMED.items()}
    assert found.data.tags == ["emotion-recognition", "multimodal", "audio", "video", "text"]
    text = found.text
    assert f"| {metrics['headline']['macro_f1']:.3f} [" in text
    assert "Not run: whether training and test share" in text
    assert "Article 5(1)(f)" in text
    assert "vouch for" in text
    assert all(f"| {encoder} | {encoder} | " in text for encoder in ("audio", "video", "text"))
    assert str(project.root) not in (copied / "README.md").read_text()
    monkeypatch.setattr(sys, "argv", ["card.py"])
    make_bundle(project.profile, project.profile.run_dir / "bundle")
    write_its_card(config=str(project.root / "tiny.yaml"))
    assert open_bundle(project.profile.run_dir / "bundle").digest == open_bundle(copied).digest
    write_its_card(config=str(project.root / "tiny.yaml"), out=tmp_path / "card.md")
    assert (tmp_path / "card.md").read_bytes() == (copied / "README.md").read_bytes()
    with pytest.raises(UserError, match=r"--out card\.txt: name a \.md file"):
        write_its_card(config=str(project.root / "tiny.yaml"), out=Path("card.txt"))
    (copied / "bundle.json").write_text(
        (copied / "bundle.json").read_text().replace('"split": "test"', '"split": "val"')
    )
    write_sums(copied)
    with pytest.raises(UserError, match="measured anew since the bundle was made: make it again"):
        add_to_bundle(copied, lambda fresh: write_card(project.profile, fresh))


def test_what_comes_from_data_breaks_no_table_of_the_card() -> None:
    assert _as_text("a|b\n<b>") == "a\\|b &lt;b>"


def test_parts_that_do_not_belong_together_make_no_bundle(project, tmp_path, monkeypatch):
    shutil.copytree(project.root / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    table = project.profile.head_path("words") / "predictions.parquet"
    rows = pl.read_parquet(table)
    names = [name for name in rows.columns if name.startswith("logit_")]
    rows.drop(name for name in rows.columns if name.startswith("p_")).with_columns(
        pl.col(names[0]) + 1, pl.col(names[1]) - 1
    ).write_parquet(table)
    with pytest.raises(UserError, match=r"predictions\.parquet: not what was written"):
        make_bundle(project.profile, tmp_path / "bundle")
    write_sums(table.parent)
    with pytest.raises(UserError, match="does not follow from the heads' predictions"):
        make_bundle(project.profile, tmp_path / "bundle")
    shutil.rmtree(project.profile.head_path("words"))
    with pytest.raises(UserError, match=r"words/model/head\.json: not there"):
        make_bundle(project.profile, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.fixture(scope="module")
def simple(project: Project) -> Iterator[Path]:
    """The folder of a project whose fusion is the plain baseline of the head "joint": the head "sound" stands for it.
    Out of fold it is always right, which no head is."""
    root = project.root / "simple"
    shutil.copytree(project.root / "runs", root / "runs", symlinks=True)
    with contextlib.chdir(root):
        head = project.profile.head_path("joint")
        shutil.rmtree(head / "baseline")
        shutil.copytree(project.profile.head_path("sound"), head / "baseline")
        (head / "baseline" / "SHA256SUMS").unlink()
        path = head / "baseline" / "predictions.parquet"
        rows = pl.read_parquet(path).drop("^logit_.*$")
        names, right = project.units.classes, 1 - 0.01 * (len(project.units.classes) - 1)
        rows.with_columns(
            pl.when(split="oof")
            .then(pl.when(label=name).then(right).otherwise(0.01))
            .otherwise(f"p_{name}")
            .alias(f"p_{name}")
            for name in names
        ).write_parquet(path)
        write_sums(head)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fusion.stack.write_charts", lambda *_: None)
            stack(config=str(project.root / "tiny.yaml"), overrides=["fusion.strategies=[mean]", "fusion.choice=best"])
        make_bundle(project.profile, root / "bundle")
        yield root


def test_a_fusion_that_is_a_baseline_answers_as_the_batch_does(project, predict, simple):
    fusion = simple / project.profile.fusion_path
    assert json.loads((fusion / "headline.json").read_text())["strategy"] == "baseline:joint"
    opened = open_bundle(simple / "bundle")
    assert [head.name for head in opened.baselines] == ["joint"]
    code, answers, _ = predict(str(project.root / "data" / "test.json"), bundle=simple / "bundle")
    assert code == 0
    fused = pl.read_parquet(fusion / "predictions.parquet").filter(pl.col("split") == "test")
    for answer in answers[:3]:
        row = fused.filter(pl.col("unit_id") == answer["unit"])
        expected = row.select(f"p_{name}" for name in answer["probabilities"]).to_numpy()[0]
        np.testing.assert_allclose(probabilities(answer), expected, atol=1e-5)
        own = answer["heads"]["baseline joint"]
        np.testing.assert_allclose(probabilities(own), expected, atol=1e-5)
        assert own["contribution"] != 0
        assert {head["contribution"] for name, head in answer["heads"].items() if name != "baseline joint"} <= {0, None}
    text = answers[3]  # nothing for the baseline to read: the mean of the others answers
    assert text["heads"]["baseline joint"]["prediction"] is None
    assert text["prediction"]


def test_a_bundle_lacks_no_baseline_that_its_fusion_reads(project, simple, tmp_path):
    shutil.copytree(simple / "runs", tmp_path / "runs", symlinks=True)
    with contextlib.chdir(tmp_path):
        head = project.profile.head_path("joint")
        (head / "baseline" / "model" / "head.json").unlink()
        with pytest.raises(UserError, match=r"joint/baseline/model/head\.json: not there: make it with"):
            make_bundle(project.profile, tmp_path / "bundle")


def test_a_contribution_is_what_the_fusion_loses_without_the_head():
    p = np.array([[[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]], [[0.3, 0.7], [np.nan] * 2, [np.nan] * 2]])
    outputs = HeadOutputs(np.log(p), ~np.isnan(p[..., 0]))
    mean = FittedMean([[1.0, 0.0]] * 3)
    fused = mean.predict_logits(outputs)
    np.testing.assert_allclose(np.exp(fused), [[0.5, 0.5], [0.3, 0.7]])
    fused[0, 0] += 1e-9  # the first class wins
    expected = [np.log(0.5 / 0.35), np.log(0.5 / 0.45), np.log(0.5 / 0.7)]
    found = contributions(mean, outputs, fused)
    np.testing.assert_allclose(found[0], expected, atol=1e-8)
    assert np.isnan(found[1]).all()  # absent, or all there is


def test_a_second_bundle_at_once_is_refused(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def amid(folder: Path) -> Any:
        with pytest.raises(StoreError, match=rf"twice: another process makes it .*\(process {os.getpid()}\)") as caught:
            make_bundle(project.profile, tmp_path / "twice")
        refused.append(caught)
        return open_bundle(folder)

    monkeypatch.chdir(project.root)
    monkeypatch.setattr(fusion.serving.bundle, "open_bundle", amid)
    make_bundle(project.profile, tmp_path / "twice")
    assert len(refused) == 1
    assert open_bundle(tmp_path / "twice").digest == open_bundle(project.bundle).digest
    assert {path.name for path in tmp_path.iterdir()} == {"twice"}
