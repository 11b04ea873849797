"""A training that is killed goes on where it was, and gives the numbers that it would have given."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from shells import REPOSITORY

from cache import Store
from configs.profiles import load
from extract.corpora.manifest import read_manifest
from heads.data.batches import UnitData
from heads.fitting import training
from heads.fitting.cross_validation import cross_validate
from heads.fitting.progress_file import Progress, read_state, training_key, write_state
from heads.fitting.training import fit_fold

EVERYTHING = {  # that draws random numbers, or keeps something from step to step
    "dropout": 0.3,
    "modality_dropout": 0.2,
    "time_masking": 0.5,
    "noise": 0.1,
    "sampling": "balanced",
    "ema": 0.8,
    "accumulate": 2,
    "epochs": 6,
    "patience": 3,
}
PREDICTIONS = Path("runs/tiny/heads/both/predictions.parquet")
PROGRESS = Path("runs/tiny/heads/.both.progress")
CPU = torch.device("cpu")
WAYS = (signal.SIGKILL, signal.SIGHUP, signal.SIGTERM)


class Killed(Exception):
    pass


@pytest.fixture
def always_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SECONDS_BETWEEN", 0.0)


def weights_equal(a: Any, b: Any) -> bool:
    first, second = a.network.state_dict(), b.network.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def fold_task(tools: SimpleNamespace, path: Path | None, kill_at: int | None = None, **settings: Any) -> Any:
    manifest, arrays = tools.dataset(60, signal=0.7, splits=("train",))

    def on_epoch(record: dict[str, Any]) -> None:
        if record["epoch"] == kill_at:
            raise Killed

    data = UnitData(manifest, manifest.units(), arrays)
    head = tools.small_head(**EVERYTHING | settings)
    return tools.task(data, np.arange(40), np.arange(40, 60), head, progress_file=path, on_epoch=on_epoch)


@pytest.mark.parametrize(
    ("settings", "kill_at"),
    [({}, 0), ({}, 3), ({"mixup": 0.4, "ema": 0.0}, 1), ({"precision": "bfloat16", "schedule": "linear"}, 2)],
)
def test_a_fold_that_was_killed_ends_the_same(
    tools: SimpleNamespace, tmp_path: Path, always_saving: None, kill_at: int, settings: dict[str, Any]
) -> None:
    path = tmp_path / "fold.epoch"
    expected, history = fit_fold(fold_task(tools, None, **settings))
    with pytest.raises(Killed):
        fit_fold(fold_task(tools, path, kill_at, **settings))
    state = read_state(path, CPU)
    assert (state is None) == (kill_at == 0)
    assert state is None or [record["epoch"] for record in state["history"]] == list(range(kill_at))
    again, records = fit_fold(fold_task(tools, path, **settings))
    assert weights_equal(expected, again)
    assert records == history
    assert len(history) >= 4


def test_a_fold_that_had_ended_is_not_trained_on(tools: SimpleNamespace, tmp_path: Path, always_saving: None) -> None:
    path = tmp_path / "fold.epoch"
    expected, history = fit_fold(fold_task(tools, path))
    again, records = fit_fold(fold_task(tools, path))
    assert weights_equal(expected, again)
    assert records == history


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "foreign", "misfit"])
def test_a_damaged_state_is_not_used(
    tools: SimpleNamespace, tmp_path: Path, always_saving: None, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fold.epoch"
    expected, history = fit_fold(fold_task(tools, None))
    with pytest.raises(Killed):
        fit_fold(fold_task(tools, path, kill_at=2))
    content = bytearray(path.read_bytes())
    if damage == "misfit":
        state = read_state(path, CPU)
        assert state is not None
        write_state(path, state | {"network": {"other": torch.ones(2)}})
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes({"cut": content[:-9], "empty": b"", "flipped": content, "foreign": b"0" * 99}[damage])
    again, records = fit_fold(fold_task(tools, path))
    assert "warning" in capsys.readouterr().err
    assert weights_equal(expected, again)
    assert records == history


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace) -> Path:
    manifest, arrays = tools.dataset(60, missing=0.1, splits=("train", "train", "test", "val"))
    heads = {
        "both": tools.head_settings(epochs=8, patience=0, seeds=2, dropout=0.3, modality_dropout=0.2, ema=0.9),
        "words": {"kind": "bag_of_words", "inputs": ["text"]},
    }
    tools.write_workspace(tmp_path, manifest, arrays, heads)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*overrides: str, head: str = "both") -> pl.DataFrame:
    profile = load("profile.yaml", list(overrides))
    cross_validate(profile, read_manifest(profile.manifest_path), head)
    return pl.read_parquet(PREDICTIONS.parents[1] / head / PREDICTIONS.name)


def kill_at_model(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    keep, kept = Progress.keep, []

    def count(progress: Progress, *arguments: Any) -> None:
        keep(progress, *arguments)
        kept.append(arguments)
        if len(kept) == number:
            raise Killed

    monkeypatch.setattr(Progress, "keep", count)


SHORT = "heads.both.epochs=2"


@pytest.mark.parametrize("head", ["both", "words"])
def test_finished_models_are_kept(workspace: Path, monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    expected = train(SHORT, head=head)
    history = (PREDICTIONS.parents[1] / head / "training_history.json").read_text()
    with monkeypatch.context() as patch:
        kill_at_model(patch, 2)
        with pytest.raises(Killed):
            train(SHORT, head=head)
    with monkeypatch.context() as patch:
        kill_at_model(patch, 2 * 3 - 2 + 1 if head == "both" else 3 - 2 + 1)  # one more than what is left to train
        assert train(SHORT, head=head).equals(expected)
    assert (PREDICTIONS.parents[1] / head / "training_history.json").read_text() == history
    assert not PROGRESS.exists()


@pytest.mark.parametrize("name", ["fold0.done", "fold0/fold0.safetensors", "key"])
def test_damaged_progress_is_trained_again(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    expected = train(SHORT)
    with monkeypatch.context() as patch:
        kill_at_model(patch, 3)
        with pytest.raises(Killed):
            train(SHORT)
    content = bytearray((PROGRESS / name).read_bytes())
    content[len(content) // 2] ^= 1
    (PROGRESS / name).write_bytes(content)
    capsys.readouterr()
    assert train(SHORT).equals(expected)
    assert ("discarded" if name == "key" else "damaged") in capsys.readouterr().err


def test_another_training_does_not_go_on_from_it(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tools: SimpleNamespace
) -> None:
    expected = train(SHORT, "heads.both.lr=0.02")
    with monkeypatch.context() as patch:
        kill_at_model(patch, 1)
        with pytest.raises(Killed):
            train(SHORT)
    capsys.readouterr()
    assert train(SHORT, "heads.both.lr=0.02").equals(expected)
    assert "other settings, data or code: discarded" in capsys.readouterr().err


def test_the_key_holds_all_that_decides(workspace: Path, tools: SimpleNamespace) -> None:
    def key(*overrides: str) -> str:
        profile = load("profile.yaml", list(overrides))
        stores = {name: Store(profile.store_path(name)) for name in ("audio", "text")}
        return training_key(profile, profile.heads["both"], stores)

    keys = [key(), key("seed=1"), key("folds=4"), key("heads.both.lr=0.5")]
    path = Path("runs/tiny/manifest.parquet")
    tools.write_store(Path("runs/tiny/stores/audio"), {"nobody": np.ones((2, 6), np.float32)})
    assert key() == keys[0]  # a clip of another profile that uses the store
    first = pl.read_parquet(path)["clip_id"][0]
    tools.write_store(Path("runs/tiny/stores/audio"), {first: np.ones((2, 6), np.float32)})
    keys.append(key())
    table = pl.read_parquet(path).with_columns(text=pl.lit("other"))
    table.write_parquet(path)
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == key("fusion.bootstrap=200")


def kill_at_random(moments: random.Random, how: signal.Signals) -> bool:
    """Run the script until a random moment after its first state is written; whether it was killed."""
    script = REPOSITORY / "heads" / "train.py"
    often = "import runpy, sys; from heads.fitting import training; training.SECONDS_BETWEEN = 0.0; "
    code = often + f"sys.argv[0] = {str(script)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, "--config", "profile.yaml", "--head", "both"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None and not [*PROGRESS.glob("*.epoch"), *PROGRESS.glob("*.done")]:
        time.sleep(0.005)
    time.sleep(moments.uniform(0, 1))
    process.send_signal(how)
    code = process.wait()
    assert code in (0, -how, 128 + how)
    assert code != 128 + how or not PROGRESS.with_name(".both.lock").exists()  # it could clean up
    return code != 0


def killed_and_killed_again(times: int, seed: int, ways: Sequence[signal.Signals] = WAYS) -> None:
    expected = train()
    PREDICTIONS.unlink()
    moments = random.Random(seed)
    kills = 0
    while kills < times and kill_at_random(moments, ways[kills % len(ways)]):
        kills += 1
        assert not PREDICTIONS.exists()
        assert list(PROGRESS.iterdir())
    assert kills
    assert train().equals(expected)
    assert {path.name for path in PROGRESS.parent.iterdir()} == {"both"}


def test_a_killed_script_goes_on(workspace: Path) -> None:
    killed_and_killed_again(times=2, seed=0, ways=[signal.SIGKILL, signal.SIGHUP])


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_a_script_killed_many_times_goes_on(workspace: Path, seed: int) -> None:
    killed_and_killed_again(times=10, seed=seed)
