"""The script, from a profile to predictions, metrics and a model that loads again."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from cache import Store, verify_whole
from configs import UserError
from extract.corpora.manifest import read_manifest, write_manifest
from heads.fitting import cross_validation
from heads.fitting.cross_validation import score
from heads.fitting.saved import load_head, predict
from heads.train import main

Train = Callable[..., Path]
HEAD = Path("runs/tiny/heads")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace) -> Callable[..., int]:
    """The command line in this process; returns its exit code."""
    return lambda *arguments: tools.exit_code(monkeypatch, main, *arguments)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace) -> Path:
    columns = {"meta_age": ["young", "old", None], "privileged_cause": ["exam", "dog", "rain"]}
    manifest, arrays = tools.dataset(
        60,
        missing=0.1,
        splits=("train", "train", "test", "val"),
        columns=lambda c: {name: values[c % 3] for name, values in columns.items()},
    )
    heads = {
        "both": tools.head_settings(metadata=["age"], epochs=3, patience=2),
        "words": {"kind": "bag_of_words", "inputs": ["text"]},
        "pooled": {"kind": "linear", "inputs": ["audio", "text"]},
        "cause": tools.head_settings(inputs=[], metadata=["cause"], epochs=2),
        "wrong": tools.head_settings(metadata=["shoe_size"]),
    }
    tools.write_workspace(tmp_path, manifest, arrays, heads)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stores() -> dict[str, Any]:
    return {name: Store(Path("runs/tiny/stores") / name) for name in ("audio", "text")}


@pytest.mark.parametrize("head", ["both", "words", "pooled"])
def test_outputs_keep_their_contract(
    workspace: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str], head: str
) -> None:
    assert run("--head", head) == 0
    printed = capsys.readouterr().out
    assert "majority" in printed
    assert "macro_f1" in printed
    manifest = read_manifest("runs/tiny/manifest.parquet")
    units = {unit.unit_id: unit for unit in manifest.units()}
    table = pl.read_parquet(HEAD / head / "predictions.parquet")
    assert sorted(table["unit_id"]) == sorted(units)  # every unit, once
    for row in table.iter_rows(named=True):
        unit = units[row["unit_id"]]
        assert (row["label"], row["group"]) == (unit.label, unit.group)
        assert row["split"] == {"train": "oof"}.get(unit.split, unit.split)
        assert (row["fold"] in (0, 1, 2)) == (row["split"] == "oof")
    p = table.select([f"p_{name}" for name in manifest.classes]).to_numpy()
    logits = table.select([f"logit_{name}" for name in manifest.classes]).to_numpy()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(np.exp(logits), p, atol=1e-12)

    metrics = json.loads((HEAD / head / "metrics.json").read_text())
    test = table.filter(pl.col("split") == "test")
    hits = p[(table["split"] == "test").to_numpy()].argmax(1) == [manifest.classes.index(x) for x in test["label"]]
    assert metrics["test"]["accuracy"]["value"] == pytest.approx(hits.mean())
    assert set(metrics) == {"privileged", "transductive", "notes", "oof", "val", "test"}
    assert "accuracy" in metrics["oof"]["majority_class"]
    history = json.loads((HEAD / head / "training_history.json").read_text())
    assert {record["fold"] for record in history} == {0, 1, 2}
    assert all({"inner_loss", "inner_macro_f1", "best"} <= set(record) for record in history)


@pytest.mark.parametrize("head", ["both", "words", "pooled"])
def test_loaded_head_predicts_what_was_written(workspace: Path, run: Callable[..., int], head: str) -> None:
    run("--head", head)
    manifest, trained = read_manifest("runs/tiny/manifest.parquet"), load_head(HEAD / head / "model")
    test = [unit for unit in manifest.units() if unit.split == "test"]
    table = pl.read_parquet(HEAD / head / "predictions.parquet").filter(pl.col("split") == "test")
    assert table["unit_id"].to_list() == [unit.unit_id for unit in test]
    written = table.select([f"logit_{name}" for name in manifest.classes]).to_numpy()
    assert np.array_equal(predict(trained, manifest, test, stores()), written)

    folds = pl.read_parquet(HEAD / head / "predictions.parquet").filter(pl.col("fold") == 1)
    units = {unit.unit_id: unit for unit in manifest.units()}
    members = [units[unit_id] for unit_id in folds["unit_id"]]
    data = trained.read(manifest, members, stores())
    out_of_fold = trained.log_probabilities(1, data, np.arange(len(members)))
    np.testing.assert_array_equal(out_of_fold, folds.select([f"logit_{name}" for name in manifest.classes]).to_numpy())


def test_live_arrays_equal_an_fp32_store(workspace: Path, run: Callable[..., int]) -> None:
    run("--head", "both")
    manifest, trained = read_manifest("runs/tiny/manifest.parquet"), load_head(HEAD / "both/model")
    live = {name: {clip: np.array(store[clip]) for clip in store.clip_ids} for name, store in stores().items()}
    units = manifest.units()
    assert np.array_equal(predict(trained, manifest, units, live), predict(trained, manifest, units, stores()))


def test_same_seed_same_bytes_and_other_seed_other_numbers(workspace: Path, run: Callable[..., int]) -> None:
    def train(*overrides: str) -> pl.DataFrame:
        run("--head", "both", *overrides)
        return pl.read_parquet(HEAD / "both/predictions.parquet")

    first, again, other = train(), train(), train("seed=7")
    assert first.equals(again)
    assert not first.equals(other)


@pytest.mark.parametrize("other", [[], ["seed=7"]])
def test_a_second_training_of_a_head_at_once_is_refused(
    workspace: Path,
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    other: list[str],
) -> None:
    run("--head", "words")
    expected = (HEAD / "words/predictions.parquet").read_bytes()
    second: list[int] = []

    def amid(*arguments: Any, **settings: Any) -> Any:
        if not second:
            second.append(run("--head", "words", *other))
            assert (HEAD / "words/predictions.parquet").read_bytes() == expected
        return score(*arguments, **settings)

    monkeypatch.setattr(cross_validation, "score", amid)
    capsys.readouterr()
    assert run("--head", "words") == 0
    assert second == [2]
    printed = capsys.readouterr().err
    assert "error: runs/tiny/heads/words: another process makes it at this moment" in printed
    assert f"(process {os.getpid()})" in printed
    assert (HEAD / "words/predictions.parquet").read_bytes() == expected
    verify_whole(HEAD / "words", "")
    assert {path.name for path in HEAD.iterdir()} == {"words"}


def test_training_never_sees_val_or_test_labels(workspace: Path, run: Callable[..., int]) -> None:
    def test_and_oof() -> np.ndarray:
        run("--head", "both", "heads.both.patience=0")
        table = pl.read_parquet(HEAD / "both/predictions.parquet")
        return table.select(pl.col("^logit_.*$")).to_numpy()

    before = test_and_oof()
    manifest = read_manifest("runs/tiny/manifest.parquet")
    flipped = pl.when((pl.col("split") != "train") & pl.col("label").is_not_null()).then(pl.lit("sad"))
    clips = manifest.clips.with_columns(label=flipped.otherwise("label"))
    write_manifest(
        type(manifest)(clips, manifest.root, manifest.classes, manifest.counts), Path("runs/tiny/manifest.parquet")
    )
    assert np.array_equal(before, test_and_oof())


def test_another_store_is_refused(workspace: Path, run: Callable[..., int], tools: SimpleNamespace) -> None:
    run("--head", "both")
    manifest, trained = read_manifest("runs/tiny/manifest.parquet"), load_head(HEAD / "both/model")
    given = stores()
    tools.write_store(Path("other"), {clip: given["audio"][clip] for clip in given["audio"].clip_ids}, layer=3)
    with pytest.raises(UserError, match=r"audio store is not the one .*they differ in layer"):
        predict(trained, manifest, manifest.units(), given | {"audio": Store("other")})
    with pytest.raises(UserError, match="reads the audio store, which was not given"):
        predict(trained, manifest, manifest.units(), {"text": given["text"]})


def test_damaged_head_is_refused(workspace: Path, run: Callable[..., int]) -> None:
    run("--head", "both")
    weights = HEAD / "both/model/fold1.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"fold1\.safetensors: not what was written, .*: train it again"):
        load_head(HEAD / "both/model")
    weights.unlink()
    with pytest.raises(UserError, match=r"fold1\.safetensors: not there"):
        load_head(HEAD / "both/model")


def test_damaged_bag_of_words_is_refused(workspace: Path, run: Callable[..., int]) -> None:
    run("--head", "words")
    pipeline = HEAD / "words/model/fold0.skops"
    pipeline.write_bytes(pipeline.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"fold0\.skops: not what was written"):
        load_head(HEAD / "words/model")


def test_killed_run_leaves_the_old_result(
    workspace: Path, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--head", "cause", "heads.cause.privileged=true")
    before = (HEAD / "cause/predictions.parquet").read_bytes()
    monkeypatch.setattr(pl.DataFrame, "write_parquet", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("--head", "cause", "heads.cause.privileged=true", "seed=3") == 130
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    assert (workspace / HEAD / "cause/predictions.parquet").read_bytes() == before
    assert json.loads((workspace / HEAD / "cause/model/head.json").read_text())["seed"] == 0


def test_privileged_runs_say_so(workspace: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--head", "cause", "heads.cause.privileged=true") == 0
    assert "PRIVILEGED" in capsys.readouterr().out
    assert json.loads((HEAD / "cause/metrics.json").read_text())["privileged"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "voice"], "--head voice: no such head in the profile; it has: both, words, pooled, cause, wrong"),
        (["--head", "wrong"], "metadata names 'shoe_size', which the manifest lacks; it has: age, cause"),
        (["--head", "cause"], "metadata names 'cause', which is derived from the label"),
        (["--head", "both", "folds=40"], "folds = 40: the training units have"),
        (["--head", "both", "name=other"], "runs/other/manifest.parquet: no such manifest"),
    ],
)
def test_mistakes_end_in_one_line(
    workspace: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(HEAD.glob("[!.]*"))


def test_missing_and_foreign_stores(
    workspace: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str], tools: SimpleNamespace
) -> None:
    Path("runs/tiny/stores/audio").rename("elsewhere")
    assert run("--head", "both") == 2
    assert "make it with 'python extract/run.py --config profile.yaml --encoder audio'" in capsys.readouterr().err
    tools.write_store(Path("runs/tiny/stores/audio"), {"nobody": np.ones((2, 6), np.float32)})
    assert run("--head", "both") == 2
    assert "holds none of this manifest's clips" in capsys.readouterr().err


def test_class_without_training_units_is_reported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tools: SimpleNamespace,
) -> None:
    manifest, arrays = tools.dataset(40)
    unseen = (pl.col("split") == "train") & (pl.col("label") == "sad")
    clips = manifest.clips.with_columns(label=pl.when(unseen).then(pl.lit("happy")).otherwise("label"))
    manifest = type(manifest)(clips, manifest.root, manifest.classes, manifest.counts)
    heads = {"both": tools.head_settings(epochs=2), "words": {"kind": "bag_of_words", "inputs": ["text"], "c": 1.0}}
    tools.write_workspace(tmp_path, manifest, arrays, heads)
    monkeypatch.chdir(tmp_path)
    for head in heads:
        assert run("--head", head) == 0
        assert "warning: class 'sad' has no training unit" in capsys.readouterr().err
        p = pl.read_parquet(HEAD / head / "predictions.parquet").select(pl.col("^(p|logit)_.*$")).to_numpy()
        assert np.isfinite(p).all()


def test_the_largest_seed_trains(workspace: Path, run: Callable[..., int]) -> None:
    assert run("--head", "pooled", f"seed={2**32 - 1}") == 0


def test_folds_that_the_data_gives_are_those_of_every_head(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tools: SimpleNamespace,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [c // 2 % 3 for c in range(24)]
    manifest, arrays = tools.dataset(24, splits=("train", "train"), columns=lambda c: {"fold": given[c]})
    heads = {"pooled": {"kind": "linear", "inputs": ["audio"], "c": 1.0}}
    tools.write_workspace(tmp_path, manifest, arrays, heads)
    monkeypatch.chdir(tmp_path)
    assert run("--head", "pooled") == 0
    assert "(mean and standard deviation of 3 folds)" in capsys.readouterr().out
    table = pl.read_parquet(HEAD / "pooled" / "predictions.parquet")
    of_unit = {unit.unit_id: unit.fold for unit in manifest.units()}
    assert dict(table.select("unit_id", "fold").iter_rows()) == of_unit
    assert set(of_unit.values()) == {0, 1, 2}
    metrics = json.loads((HEAD / "pooled" / "metrics.json").read_text())
    assert [each["fold"] for each in metrics["oof"]["by_fold"]["folds"]] == [0, 1, 2]
    assert len(list((HEAD / "pooled" / "model").glob("fold*"))) % 3 == 0
