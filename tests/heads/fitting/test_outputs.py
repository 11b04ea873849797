"""What a training leaves behind, apart from predictions: scores beside a baseline, summary, curves, logs, profile."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread
from sklearn.metrics import f1_score

from configs.profiles import load
from extract.corpora.manifest import read_manifest, write_manifest
from heads.data.folds import Record
from heads.fitting import cross_validation
from heads.fitting.cross_validation import cross_validate
from heads.fitting.curves import draw_curves, mean_curve
from heads.fitting.outputs import verdict, write_live

HEADS = Path("runs/tiny/heads")
KINDS = ["both", "words", "pooled", "fixed"]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace) -> Path:
    manifest, arrays = tools.dataset(
        60, splits=("train", "train", "test", "val"), columns=lambda c: {"meta_age": ["young", "old", None][c % 3]}
    )
    heads = {
        "both": tools.head_settings(metadata=["age"], epochs=4, patience=2, seeds=2),
        "words": {"kind": "bag_of_words", "inputs": ["text"]},
        "pooled": {"kind": "linear", "inputs": ["audio", "text"]},
        "fixed": {"kind": "linear", "inputs": ["audio"], "c": 0.01},
    }
    tools.write_workspace(tmp_path, manifest, arrays, heads)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(head: str, *overrides: str) -> Path:
    profile = load("profile.yaml", list(overrides))
    cross_validate(profile, read_manifest(profile.manifest_path), head)
    return HEADS / head


@pytest.mark.parametrize("head", KINDS)
def test_everything_is_there_for_every_kind(
    workspace: Path, head: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: asked.append(arguments) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: asked.append(arguments))
    monkeypatch.setenv("DVC_STUDIO_TOKEN", "of somebody who uses it elsewhere")
    monkeypatch.setenv("DVC_STUDIO_REPO_URL", "https://example.org/repository")
    monkeypatch.setenv("DVC_STUDIO_OFFLINE", "false")
    subprocess.run(["git", "init", "--quiet"], check=True)  # without a commit
    folder = train(head)
    assert asked == []  # nothing is sent anywhere
    printed = capsys.readouterr()
    assert printed.err == ""
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
        "baseline",
        "curves.png",
        "headline.json",
        "live",
        "metrics.json",
        "model",
        "predictions.parquet",
        "summary.txt",
        "training_history.json",
    ]
    assert [path.name for path in HEADS.iterdir()] == [head]

    metrics = json.loads((folder / "metrics.json").read_text())
    for split in ("oof", "val", "test"):
        assert 0 <= metrics[split]["baseline"]["macro_f1"]["value"] <= 1
        gain = metrics[split]["over_baseline"]["macro_f1"]
        expected = metrics[split]["macro_f1"]["value"] - metrics[split]["baseline"]["macro_f1"]["value"]
        assert gain["value"] == pytest.approx(expected)
        assert gain["low"] <= gain["value"] <= gain["high"]
    live = json.loads((folder / "live/metrics.json").read_text())
    assert live["oof"]["macro_f1"] == metrics["oof"]["macro_f1"]["value"]
    headline = json.loads((folder / "headline.json").read_text())
    assert list(headline) == ["oof", "test"]
    for split, scores in headline.items():
        assert scores.pop("baseline_macro_f1") == metrics[split]["baseline"]["macro_f1"]["value"]
        assert scores == {name: metrics[split][name]["value"] for name in ("accuracy", "macro_f1")}
    assert not (workspace / ".dvc").exists()
    assert load(str(folder / "model/profile.yaml")) == load("profile.yaml")

    text = (folder / "summary.txt").read_text()
    lines = printed.out.splitlines()
    assert text.startswith("\n".join(lines[:-1]))
    assert sum(line.startswith("  majority") for line in lines) == 3
    assert sum(line.startswith("  baseline") for line in lines) == 3
    assert "baseline" in lines[-2]
    assert lines[-1].startswith(f"written to {folder} in ")
    for word in ("angry", "happy", "sad", "runs/tiny/manifest.parquet", "3 folds", f"fold 2{'':<12}"):
        assert word in text
    image = imread(folder / "curves.png")
    assert image.shape[0] > 400
    assert image.shape[1] > 900


def test_summary_says_what_the_files_say(workspace: Path) -> None:
    folder = train("both")
    table = pl.read_parquet(folder / "predictions.parquet").filter(pl.col("split") == "test")
    classes = read_manifest("runs/tiny/manifest.parquet").classes
    p = table.select([f"p_{name}" for name in classes]).to_numpy()
    f1 = f1_score(table["label"], [classes[i] for i in p.argmax(1)], labels=classes, average=None)
    text = (folder / "summary.txt").read_text()
    for name, value in zip(classes, f1, strict=True):
        row = next(line for line in text.splitlines() if line.startswith(f"{name} "))
        assert row.split()[-2:] == [f"{value:.3f}", str((table["label"] == name).sum())]
    history = json.loads((folder / "training_history.json").read_text())
    best = next(record for record in history if record["best"] and record["fold"] == 2 and record["seed"] == 1)
    assert f"fold 2, seed 1    epoch {best['epoch']}, inner_macro_f1 {best['inner_macro_f1']:.3f}" in text
    curve = pl.read_csv(folder / "live/plots/metrics/inner_macro_f1.tsv", separator="\t")
    first = [record["inner_macro_f1"] for record in history if record["epoch"] == 0]
    assert curve["inner_macro_f1"][0] == pytest.approx(np.mean(first))
    assert len(first) == 6


def test_a_class_without_a_unit_is_none(workspace: Path) -> None:
    manifest = read_manifest("runs/tiny/manifest.parquet")
    angry = manifest.clips.filter((pl.col("split") == "test") & (pl.col("label") == "angry"))["conversation_id"]
    clips = manifest.clips.filter(~pl.col("conversation_id").is_in(angry.to_list()))
    write_manifest(replace(manifest, clips=clips), Path("runs/tiny/manifest.parquet"))
    folder = train("fixed")
    text = (folder / "summary.txt").read_text()
    row = next(line for line in text.splitlines() if line.startswith("angry "))
    assert row.split()[-2:] == ["none", "0"]
    assert "none: the split has none" in text
    assert json.loads((folder / "metrics.json").read_text())["test"]["per_class"]["angry"]["f1"] is None


def test_a_head_that_reads_nothing_else_has_no_baseline(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/tiny/stores/text").rename("elsewhere")
    folder = train("words")
    assert "no baseline: the head reads neither" in capsys.readouterr().out
    assert "baseline" not in json.loads((folder / "metrics.json").read_text())["oof"]


def test_the_baseline_is_scored_on_the_same_units(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A baseline that says what the head says is neither better nor worse."""
    kept: dict[str, Any] = {}
    predict = cross_validation.predict_all

    def keep(*arguments: Any) -> Any:
        found = predict(*arguments)
        kept.setdefault("head", found)
        return found

    monkeypatch.setattr(cross_validation, "predict_all", keep)
    train_it = cross_validation.train_baseline
    same = lambda *all_: replace(train_it(*all_), predictions=kept["head"])  # noqa: E731
    monkeypatch.setattr(cross_validation, "train_baseline", same)
    metrics = json.loads((train("pooled") / "metrics.json").read_text())
    for split in ("oof", "val", "test"):
        assert metrics[split]["over_baseline"]["macro_f1"] == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
        assert metrics[split]["baseline"]["accuracy"] == metrics[split]["accuracy"]


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.01, 0.2, "beats the baseline"),
        (-0.2, -0.01, "WORSE"),
        (-0.1, 0.1, "neither"),
        (np.nan, np.nan, "too few groups"),
    ],
)
def test_the_verdict_goes_by_the_interval(low: float, high: float, says: str) -> None:
    gain = {"macro_f1": {"value": 0.05, "low": low, "high": high}}
    assert says in verdict(gain, "audio", "sequence")
    assert ("try heads.audio.kind=linear" in verdict(gain, "audio", "sequence")) == (says == "WORSE")
    assert "try" not in verdict(gain, "audio", "linear")


RUNS: list[list[Record]] = [[{"epoch": i, "loss": float(i)} for i in range(n)] for n in (3, 5)]


def test_mean_curve_ends_where_the_first_model_ends() -> None:
    assert mean_curve(RUNS, "loss") == [0.0, 1.0, 2.0]
    assert mean_curve(RUNS, "nothing") == []


@pytest.mark.parametrize("step", ["epoch", "c"])
def test_curves_show_what_there_is(tmp_path: Path, step: str) -> None:
    def image(**more: Callable[[int], float]) -> np.ndarray:
        history = [
            {"fold": fold, "seed": 0, step: i + 1, "best": i == 2} | {name: value(i) for name, value in more.items()}
            for fold in range(2)
            for i in range(4)
        ]
        draw_curves(history, "costs $1 $2", tmp_path / "curves.png")
        return imread(tmp_path / "curves.png")[..., :3]

    empty, loss, watched = (
        image(),
        image(train_loss=lambda i: 3.0 - i),
        image(inner_loss=lambda i: 2.0 - i, inner_macro_f1=lambda i: i / 4),
    )
    both = image(train_loss=lambda i: 3.0 - i, inner_loss=lambda i: 2.0 - i, inner_macro_f1=lambda i: i / 4)
    orange, blue = np.array([0xE6, 0x9F, 0x00]) / 255, np.array([0x00, 0x72, 0xB2]) / 255

    def share(picture: np.ndarray, colour: np.ndarray) -> float:
        return (np.abs(picture - colour).max(2) < 0.02).mean()

    assert share(empty, blue) == share(empty, orange) == share(watched, orange) == 0
    half = watched.shape[1] // 2
    assert empty.shape[0] < watched.shape[0] / 2  # no empty panels
    assert loss.shape[1] == half
    assert share(watched[:, :half], blue) > 0.001
    assert share(watched[:, half:], blue) > 0.001
    assert share(both[:, :half], orange) > 0.001


def test_without_dvclive_its_logs_are_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a GPU machine that has what computing needs, and no more."""
    monkeypatch.setitem(sys.modules, "dvclive", None)
    write_live(tmp_path / "live", None)  # type: ignore[arg-type]
    assert not (tmp_path / "live").exists()
    assert "warning: dvclive is not installed: the head is whole, but has no live/" in capsys.readouterr().err
