"""The search for settings: what it scores, keeps, survives, writes and refuses."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import polars as pl
import pytest
import yaml
from shells import REPOSITORY

from cache import Store, claimed
from configs import UserError
from configs.profiles import load
from configs.schema import Head
from extract.corpora.manifest import Manifest, read_manifest
from heads.fitting import study
from heads.fitting.study import Search
from heads.search import main
from heads.train import main as train

Run = Callable[..., int]
FOLDER = Path("runs/tiny/search")
SPACES = {
    "net": {"lr": [0.0001, 0.01], "hidden": {"low": 4, "high": 8}, "dropout": {"low": 0.0, "high": 0.5}},
    "pooled": {"c": {"low": 0.001, "high": 1, "log": True}},
    "trees": {"depth": {"low": 1, "high": 3}, "eta": [0.1, 0.3], "inputs": [["audio"], ["audio", "text"]]},
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace) -> Run:
    """The command line in this process; returns its exit code."""
    return lambda *arguments, script=main: tools.exit_code(monkeypatch, script, *arguments)


@pytest.fixture(autouse=True)
def _few_trials_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "STARTUP_TRIALS", 2)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace) -> Path:
    write(tmp_path, tools)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, tools: SimpleNamespace, spoil: Callable[[Any, Any], Any] | None = None) -> None:
    manifest, arrays = tools.dataset(48, splits=("train", "train", "train", "val", "test"), signal=1.0)
    if spoil:
        manifest, arrays = spoil(manifest, arrays)
    heads = {
        "net": tools.head_settings(epochs=3, patience=2, attention_heads=2),
        "pooled": {"kind": "linear", "inputs": ["audio"]},
        "words": {"kind": "bag_of_words", "inputs": ["text"], "c": 1.0},
        "trees": {"kind": "xgboost", "inputs": ["audio"], "trees": 5},
    }
    tools.write_workspace(folder, manifest, arrays, heads, search=SPACES)


def trials(head: str) -> list[optuna.trial.FrozenTrial]:
    (name,) = optuna.get_all_study_names(f"sqlite:///{FOLDER}/{head}/study.db")
    return optuna.load_study(study_name=name, storage=f"sqlite:///{FOLDER}/{head}/study.db").trials


def drawn(head: str) -> list[tuple[Any, ...]]:
    """Parameters, score after each fold, and end of the trials that ended."""
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return [(t.params, t.intermediate_values, t.state, t.value) for t in trials(head) if t.state in ended]


def search(head: str) -> Search:
    profile = load("profile.yaml")
    return Search(profile, read_manifest(profile.manifest_path), head)


@pytest.mark.parametrize("head", ["net", "pooled", "trees", "words"])
def test_the_fragment_trains_a_head_with_the_score_that_was_found(
    workspace: Path, run: Run, head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--head", head, "--trials", "4") == 0
    printed = capsys.readouterr().out
    fragment = FOLDER / head / "best.yaml"
    assert f"use it: python heads/train.py --config profile.yaml --head {head} {fragment}" in printed
    best = max(trials(head), key=lambda trial: trial.value or 0)
    assert f"{best.value:.4f}" in printed
    content = fragment.read_text()
    assert content.startswith(f"# Macro-F1 {best.value:.4f} ")
    assert list(yaml.safe_load(content)) == ["heads"]
    assert list(yaml.safe_load(content)["heads"]) == [head]
    assert set(yaml.safe_load(content)["heads"][head]) == set(SPACES.get(head) or study.SPACES["bag_of_words"])

    assert run("--head", head, str(fragment), script=train) == 0
    metrics = json.loads(Path(f"runs/tiny/heads/{head}/metrics.json").read_text())
    assert metrics["oof"]["macro_f1"]["value"] == best.value  # the same folds, seeds and arithmetic
    settings = json.loads(Path(f"runs/tiny/heads/{head}/model/head.json").read_text())["settings"]
    assert settings.items() >= yaml.safe_load(content)["heads"][head].items()


def test_the_same_seed_draws_the_same_trials_and_another_seed_others(workspace: Path, run: Run) -> None:
    run("--head", "pooled", "--trials", "4")  # beyond the random ones at the start
    first = drawn("pooled")
    (FOLDER / "pooled/study.db").unlink()
    run("--head", "pooled", "--trials", "4")
    assert drawn("pooled") == first
    (FOLDER / "pooled/study.db").unlink()
    run("--head", "pooled", "--trials", "4", "seed=1")
    assert [params for params, *_ in drawn("pooled")] != [params for params, *_ in first]


def test_it_goes_on_to_the_number_of_trials_that_is_asked_for(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--head", "pooled", "--trials", "4")
    whole = drawn("pooled")
    (FOLDER / "pooled/study.db").unlink()
    for wanted in ("2", "2", "4"):
        run("--head", "pooled", "--trials", wanted)
        assert len(drawn("pooled")) == int(wanted)
    printed = capsys.readouterr().out
    assert "goes on after 2 trials" in printed
    assert printed.count("nothing to try: 2 trials are done already; for 20 more: --trials 22\n") == 1
    assert drawn("pooled") == whole


KILLED = """
import os, signal, sys
from heads.fitting import study
evaluate, calls = study.evaluate, []
def evaluate_and_die(*arguments, **more):
    calls.append(1)
    if len(calls) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(*arguments, **more)
study.evaluate, study.STARTUP_TRIALS = evaluate_and_die, 2
from heads.data import folds
folds.INNER_FOLDS = 2
from configs.command_line import command
from heads.search import main
sys.argv = ["search.py", "--config", "profile.yaml", "--head", "pooled", "--trials", "4"]
command(main)
"""


def test_a_killed_trial_is_drawn_again(workspace: Path, run: Run) -> None:
    run("--head", "pooled", "--trials", "4")
    whole = drawn("pooled")
    (FOLDER / "pooled/study.db").unlink()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED], env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert [t.state for t in trials("pooled")][-1] == optuna.trial.TrialState.RUNNING
    assert run("--head", "pooled", "--trials", "4") == 0
    assert drawn("pooled") == whole
    assert sum(t.state == optuna.trial.TrialState.FAIL for t in trials("pooled")) == 1


def test_ctrl_c_shows_the_best_so_far(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, calls = study.evaluate, []

    def interrupted(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return evaluate(*arguments, **more)

    monkeypatch.setattr(study, "evaluate", interrupted)
    assert run("--head", "pooled", "--trials", "9") == 130
    printed = capsys.readouterr()
    assert "the best of 2 trials" in printed.out
    assert "interrupted" in printed.err
    assert (FOLDER / "pooled/best.yaml").is_file()


def test_what_the_test_split_holds_does_not_matter(workspace: Path, run: Run, tools: SimpleNamespace) -> None:
    """Labels, features, texts: nothing of test is read, and no clip of it is even asked of a store."""
    found = {}
    for head in ("net", "trees", "words"):
        run("--head", head, "--trials", "3")
        found[head] = drawn(head)
        (FOLDER / head / "study.db").unlink()

    def spoil(manifest: Manifest, arrays: Any) -> Any:
        clips = manifest.clips
        test = clips["split"] == "test"
        clips = clips.with_columns(
            label=pl.when(test & clips["label"].is_not_null()).then(pl.lit("sad")).otherwise(clips["label"]),
            text=pl.when(test).then(pl.lit("sad sad")).otherwise(clips["text"]),
        )
        for features in arrays.values():
            for clip in clips.filter(test)["clip_id"]:
                if clip in features:
                    features[clip] = np.full_like(features[clip], 1e4)
        return Manifest(clips, manifest.root, manifest.classes, {}), arrays

    for name in ("audio", "text"):
        for file in sorted((workspace / "runs/tiny/stores" / name).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
    write(workspace, tools, spoil)
    manifest = read_manifest("runs/tiny/manifest.parquet")
    held_out = set(manifest.clips.filter(manifest.clips["split"] == "test")["clip_id"])
    asked: list[str] = []
    original = Store.__getitem__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "__getitem__", lambda store, clip: asked.append(clip) or original(store, clip))
        for head, before in found.items():
            run("--head", head, "--trials", "3")
            assert drawn(head) == before
    assert asked
    assert not held_out & set(asked)


def test_stores_are_read_once_where_trials_read_the_same(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Any] = []
    for kind, entry in study.KINDS.items():

        def read(head: Any, *arguments: Any, entry: Any = entry) -> Any:
            reads.append(head.inputs)
            return entry.read(head, *arguments)

        monkeypatch.setitem(study.KINDS, kind, SimpleNamespace(read=read, fit=entry.fit, load=entry.load))
    search("net").run(3)
    assert len(reads) == 1
    reads.clear()
    search("trees").run(6)  # draws inputs, too
    assert 1 < len(reads) <= 7
    assert [inputs for inputs in reads if inputs == reads[-1]]


def test_hopeless_trials_end_early(workspace: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = study.evaluate

    def scored(labels: Any, p: np.ndarray, *arguments: Any, **more: Any) -> Any:  # the last trial is the worst
        result = evaluate(labels, p, *arguments, **more)
        result["macro_f1"]["value"] = 0.9 if len(trials("pooled")) <= 5 else 0.1
        return result

    monkeypatch.setattr(study, "evaluate", scored)
    run("--head", "pooled", "--trials", "6")
    *rest, last = trials("pooled")
    assert {trial.state for trial in rest} == {optuna.trial.TrialState.COMPLETE}
    assert last.state == optuna.trial.TrialState.PRUNED
    assert list(last.intermediate_values) == [0, 1]  # of three folds


def test_combinations_that_are_not_allowed_are_passed_over_with_the_reason(workspace: Path, run: Run) -> None:
    space = "search.net={hidden: [5, 8], attention_heads: [4], epochs: [1]}"
    assert run("--head", "net", "--trials", "3", space) == 0
    invalid = [trial for trial in trials("net") if "invalid" in trial.user_attrs]
    assert invalid
    assert all("attention_heads (4) must divide 2 * hidden (10)" in trial.user_attrs["invalid"] for trial in invalid)
    assert len(trials("net")) - len(invalid) == 3
    assert yaml.safe_load((FOLDER / "net/best.yaml").read_text())["heads"]["net"]["hidden"] == 8


def test_a_space_without_anything_allowed_is_refused(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--head", "net", "--trials", "3", "search.net={hidden: [5, 7], attention_heads: [4]}") == 2
    assert "draws in a row cannot be trained: heads.net: attention_heads (4) must divide" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("search.net={c: [1]}", "search.net.c: a sequence head has no such setting"),
        ("search.net={kind: [linear]}", "search.net.kind: a search is within one kind"),
        ("search.net={nonsense: [1]}", "search.net.nonsense: heads have no such setting"),
        ("search.net={lr: []}", "search.net.lr"),
        ("heads.net.metadata=[cause]", "metadata names 'cause', which the manifest lacks"),
        ("heads.net.inputs=[audio, video]", "which is not under encoders"),
    ],
)
def test_mistakes_end_in_one_line_before_any_trial(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str], override: str, line: str
) -> None:
    assert run("--head", "net", "--trials", "3", override) == 2
    printed = capsys.readouterr()
    assert line in printed.err
    assert printed.err.count("\n") == 1
    assert not list(FOLDER.rglob("study.db"))


def test_other_data_or_another_space_is_another_study(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str], tools: SimpleNamespace
) -> None:
    run("--head", "pooled", "--trials", "2")
    capsys.readouterr()
    run("--head", "pooled", "--trials", "2", "search.pooled={c: [1, 2]}")
    assert "new study pooled-" in capsys.readouterr().out
    run("--head", "pooled", "--trials", "2", "seed=7")
    run("--head", "pooled", "--trials", "2", "heads.net.lr=1")  # of another head: nothing changes
    assert "goes on after 2 trials" in capsys.readouterr().out
    assert len(optuna.get_all_study_names(f"sqlite:///{FOLDER}/pooled/study.db")) == 3


def test_a_changed_bit_in_a_study_is_found_or_changes_nothing(workspace: Path, run: Run) -> None:
    run("--head", "pooled", "--trials", "3")
    path = FOLDER / "pooled" / "study.db"
    whole, expected = path.read_bytes(), [(trial.params, trial.value) for trial in search("pooled").best(3)]
    used = [i for i, byte in enumerate(whole) if byte]  # most of the file is empty
    rng, refused = np.random.default_rng(0), []
    for place in rng.choice(used, 25, replace=False):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            best = search("pooled").best(3)
        except UserError as error:
            refused.append(str(error))
        else:  # another study's name, a time, a page that nobody reads
            assert not best or [(trial.params, trial.value) for trial in best] == expected
    assert refused
    assert all(str(path) in line and "\n" not in line for line in refused)
    path.write_bytes(whole)


def test_a_second_search_at_once_is_refused_and_writes_nothing(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--head", "pooled", "--trials", "1")
    before = {path: path.read_bytes() for path in (FOLDER / "pooled").iterdir()}
    capsys.readouterr()
    with claimed(FOLDER / "pooled"):
        assert run("--head", "pooled", "--trials", "2") == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: runs/tiny/search/pooled: another process makes it at this moment")
    assert printed.endswith(f"(process {os.getpid()})\n")
    assert {path: path.read_bytes() for path in (FOLDER / "pooled").iterdir()} == before


def test_default_spaces_draw_what_their_kinds_accept(tools: SimpleNamespace) -> None:
    for kind, space in study.SPACES.items():
        reads = {"inputs": ["text"]} if kind == "bag_of_words" else {"inputs": ["audio"]}
        head = Head.model_validate({"kind": kind} | reads)
        assert set(space) <= head.used
        for setting, choices in space.items():
            for value in choices if isinstance(choices, list) else [choices.low, choices.high]:
                Head.model_validate({"kind": kind, setting: value} | reads)


def test_the_largest_seed_is_searched_with(workspace: Path, run: Run) -> None:
    assert run("--head", "pooled", "--trials", "1", f"seed={2**32 - 1}") == 0
