"""Stores that do not hold what a head is to read: half of an extraction, or a modality of which every clip failed."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from cache import attach, write_sealed_json
from cache.disk.locks import locked
from configs.schema import Head
from extract.corpora.manifest import write_manifest
from fusion.audit import main as audit
from fusion.stack import main as stack
from heads import search
from heads.fitting.coverage import wide_inputs
from heads.fitting.saved import load_head
from heads.train import main

Run = Callable[..., int]
HEADS = {"audio": {"inputs": ["audio"]}, "both": {"inputs": ["audio", "text"]}, "text": {"inputs": ["text"]}}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace) -> Run:
    return lambda *arguments: tools.exit_code(monkeypatch, main, *arguments)


@pytest.fixture
def extracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace) -> Callable[..., list[str]]:
    """A workspace as an extraction leaves it: of the audio clips some are stored, some failed, the rest were not tried;
    gives the ids of all of them."""

    def make(stored: float, failed: float, family: str | None = "wav2vec2") -> list[str]:
        manifest, arrays = tools.dataset(40, splits=("train", "train", "train", "test"))
        manifest = manifest.__class__(
            manifest.clips.with_columns(audio=pl.col("clip_id") + ".wav"), manifest.root, manifest.classes, {}
        )
        heads = {
            name: {"kind": "linear", "c": 0.1} | more if name == "text" else tools.head_settings(epochs=2) | more
            for name, more in HEADS.items()
        }
        tools.write_workspace(tmp_path, manifest, {"text": arrays["text"]}, heads)
        write_manifest(manifest, tmp_path / "runs/tiny/manifest.parquet")
        read = [clip for unit in manifest.units() for clip in unit.clip_ids]
        clips = list(dict.fromkeys(read))
        n_stored, n_failed = round(stored * len(clips)), round(failed * len(clips))
        path = tmp_path / "runs/tiny/stores/audio"
        fields = {"family": family} if family else {}
        kept = {clip: arrays["audio"][clip] for clip in clips[:n_stored]}
        tools.write_store(path, kept or arrays["audio"], **fields)
        if not kept:
            tools.empty_store(path)
        rows = [(clip, "decode", "no sound" if i else "cut") for i, clip in enumerate(clips[n_stored:][:n_failed])]
        errors = pl.DataFrame(rows, schema=["clip_id", "stage", "reason"], orient="row")
        attach(path, "errors.parquet", errors.write_parquet)
        receipt = {"clips": len(clips), "stored": n_stored, "failed": n_failed}
        (tmp_path / "runs/tiny/extracted").mkdir()
        write_sealed_json(tmp_path / "runs/tiny/extracted/audio.json", receipt)
        monkeypatch.chdir(tmp_path)
        return clips

    return make


def test_half_an_extraction_is_refused_with_the_command_that_ends_it(
    extracted: Callable[..., list[str]],
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tools: SimpleNamespace,
) -> None:
    clips = extracted(0.5, 0.1)
    untried = len(clips) - round(0.5 * len(clips)) - round(0.1 * len(clips))
    for head in ("audio", "both"):
        assert run("--head", head) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{untried} of {len(clips)} clips were not tried" in line
        assert "python extract/run.py" in line
        assert "--encoder audio" in line
    assert tools.exit_code(monkeypatch, search.main, "--head", "audio") == 2
    assert "were not tried" in capsys.readouterr().err
    assert run("--head", "text") == 0  # it does not read it
    with locked(Path("runs/tiny/stores/audio")):
        assert run("--head", "audio") == 2
    assert "is at it: wait for it" in capsys.readouterr().err

    assert run("--head", "audio", "--unfinished") == 0
    folder = Path("runs/tiny/heads/audio")
    second = (folder / "summary.txt").read_text().splitlines()[1]
    assert second.startswith("! UNFINISHED: runs/tiny/stores/audio: the extraction has not finished")
    assert json.loads((folder / "metrics.json").read_text())["notes"][0].startswith("UNFINISHED")


def test_what_failed_is_no_half_and_a_large_share_is_said(
    extracted: Callable[..., list[str]], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = extracted(0.5, 0.5)
    assert run("--head", "both") == 0
    printed = capsys.readouterr().out
    assert f"of {len(clips)} clips of encoders.audio failed, most often with 'decode: no sound'" in printed
    assert "! audio is missing in " in printed


@pytest.mark.parametrize(("kind", "says"), [("xgboost", True), ("linear", False)])
def test_trees_that_read_every_layer_say_so(kind: str, says: bool) -> None:
    several = {"layers": {"taken": [[0, 6], [1, 6]], "statistics": ["mean", "deviation"]}}
    stores: Any = {"audio": SimpleNamespace(fields=several, dim=24), "text": SimpleNamespace(fields={}, dim=6)}
    notes = wide_inputs(Head.model_validate({"kind": kind, "inputs": ["audio", "text"]}), stores)
    assert [note.partition(", which is slow")[0] for note in notes] == [
        "Reads all 2 layers of audio side by side (24 values a clip)"
    ] * says


def test_features_from_elsewhere_hold_what_they_hold(
    extracted: Callable[..., list[str]], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    extracted(0.5, 0.0, family=None)
    assert run("--head", "audio") == 0
    assert "! audio is missing in " in capsys.readouterr().out


def test_where_every_clip_failed_heads_say_so_or_go_on_with_the_rest(
    extracted: Callable[..., list[str]],
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tools: SimpleNamespace,
) -> None:
    clips = extracted(0.0, 1.0)
    says = f"all {len(clips)} clips of encoders.audio failed, most often with 'decode: no sound': see "
    assert run("--head", "audio") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: head audio: nothing to read: {says}")
    assert line.endswith("stores/audio/errors.parquet")
    assert run("--head", "both") == 0
    assert f"! Trained without audio: {says}" in capsys.readouterr().out
    assert load_head(Path("runs/tiny/heads/both/model")).settings.inputs == ["text"]
    assert run("--head", "text") == 0
    capsys.readouterr()

    small = ("fusion.strategies=[mean]", "fusion.bootstrap=100")
    assert tools.exit_code(monkeypatch, audit, "--exit-zero", *small) == 0
    assert "Head audio is left out" in Path("runs/tiny/audit/audit.txt").read_text()
    capsys.readouterr()
    assert tools.exit_code(monkeypatch, stack, *small) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"! Head audio is left out: all {len(clips)} clips of encoders.audio failed (see ")
    html = Path("runs/tiny/fusion/report.html").read_text()
    assert "Head audio is left out" in html
    assert "Head both: Trained without audio" in html
    metrics = json.loads(Path("runs/tiny/fusion/metrics.json").read_text())
    assert list(metrics["heads"]) == ["both", "text"]
    assert len(metrics["choice"]["warnings"]) >= 2


def test_a_search_wants_inputs_that_are_there(
    extracted: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tools: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    extracted(0.0, 1.0)
    assert tools.exit_code(monkeypatch, search.main, "--head", "both") == 2
    assert "out of heads.both.inputs" in capsys.readouterr().err


def test_a_head_is_not_trained_on_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tools: SimpleNamespace,
    run: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest, arrays = tools.dataset(24, splits=("train", "train", "train", "test"))
    tested = {unit.unit_id for unit in manifest.units() if unit.split == "test"}
    heads = {kind: {"kind": kind, "inputs": ["text"]} for kind in ("linear", "xgboost")}
    kept = {clip: values for clip, values in arrays["text"].items() if clip in tested}
    tools.write_workspace(tmp_path, manifest, {"text": kept}, heads)
    monkeypatch.chdir(tmp_path)
    for head in heads:
        assert run("--head", head) == 2
        assert f"head {head}: no training unit has anything that it reads: text" in capsys.readouterr().err
