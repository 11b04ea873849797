"""No head sees what it must not: each leak is planted, and the same head must find it where it may look."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from extract.corpora.manifest import Manifest, make_manifest
from heads.fitting.kinds import KINDS
from heads.train import main

Train = Callable[..., int]
CLASSES = ("angry", "happy", "sad")
CHANCE, LUCK = 1 / 3, 0.17  # of 120 units, four standard deviations
NETWORK = {"hidden": 8, "attention_heads": 2, "dropout": 0.0, "modality_dropout": 0.0, "epochs": 8, "lr": 0.03}
HEADS: dict[str, dict[str, Any]] = {
    "sequence": {"kind": "sequence", "inputs": ["audio", "text"], "patience": 0} | NETWORK,
    "transformer": {"kind": "transformer", "inputs": ["audio", "text"], "patience": 0}
    | NETWORK
    | {"base": "none", "epochs": 4},
    "cross_modal": {"kind": "cross_modal", "inputs": ["audio", "text"], "patience": 0} | NETWORK,
    "linear": {"kind": "linear", "inputs": ["audio", "text"], "c": 0.1},
    "xgboost": {"kind": "xgboost", "inputs": ["audio", "text"], "trees": 10, "eta": 0.3},
    "bag_of_words": {"kind": "bag_of_words", "inputs": ["text"], "c": 1.0},
}
WITH_METADATA = ("sequence", "cross_modal", "linear", "xgboost")


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace) -> Train:
    """Write a workspace in a new folder and train one of its heads there; returns the exit code."""
    rooms = iter(range(100))

    def call(manifest: Manifest, arrays: Any, head: str, **settings: Any) -> int:
        folder = tmp_path / str(next(rooms))
        folder.mkdir()
        tools.write_workspace(folder, manifest, arrays, {head: HEADS[head] | settings}, folds=2)
        monkeypatch.chdir(folder)
        monkeypatch.setattr("heads.fitting.outputs.draw_curves", lambda *arguments: None)  # a third of the time
        return int(tools.exit_code(monkeypatch, main, "--head", head))

    return call


def accuracy(head: str) -> float:
    """Of training units out of fold and of test units together."""
    metrics = json.loads(Path(f"runs/tiny/heads/{head}/metrics.json").read_text())
    scores = [metrics[split] for split in ("oof", "test")]
    right = sum(score["accuracy"]["value"] * score["n_units"] for score in scores)
    return float(right / sum(score["n_units"] for score in scores))


def logits(head: str) -> pl.DataFrame:
    table = pl.read_parquet(f"runs/tiny/heads/{head}/predictions.parquet")
    return table.select("unit_id", "split", *(f"logit_{name}" for name in CLASSES)).sort("unit_id")


def conversations(
    plant: str, turns: int, shuffled: bool = False, columns: Callable[[int, str], dict[str, Any]] = lambda c, label: {}
) -> tuple[Manifest, dict[str, dict[str, np.ndarray]]]:
    """120 units whose features and texts are noise, but for one plant of a unit's label.

    A turn is a clip of the speaker's, the labelled one, and the listener's reply; after the last turn the speaker
    goes on. ``plant`` is ``labelled``: in the labelled clip; ``later``: in every clip after it up to the next turn.
    ``shuffled`` deals the labels out again after planting. ``columns`` gives further columns of a unit's clips.
    """
    rng = np.random.default_rng(0)
    n = 120 // turns
    labels = rng.integers(3, size=(n, turns))
    dealt = rng.permutation(labels.ravel()).reshape(labels.shape) if shuffled else labels
    rows: list[dict[str, Any]] = []
    arrays: dict[str, dict[str, np.ndarray]] = {"audio": {}, "text": {}}
    for c in range(n):
        for t in range(turns):
            roles = ["speaker", "speaker", "listener_response"] + ["speaker"] * (t == turns - 1)
            for place, role in enumerate(roles):
                planted = place == 1 if plant == "labelled" else place > 1
                clip = f"c{c:03}t{t}u{place}"
                words = [CLASSES[labels[c, t]]] * planted + [f"word{i}" for i in rng.integers(20, size=4)]
                for features in arrays.values():
                    features[clip] = rng.normal(size=(3, 4)).astype(np.float32)
                    features[clip][:, labels[c, t]] += 6 * planted
                rows.append(
                    {
                        "clip_id": clip,
                        "conversation_id": f"c{c:03}",
                        "index": 4 * t + place,
                        "role": role,
                        "text": " ".join(words),
                        "split": "test" if c % 4 == 3 else "train",
                        "label": CLASSES[dealt[c, t]] if place == 1 else None,
                        "group": f"c{c:03}",
                    }
                    | columns(c, CLASSES[dealt[c, t]])
                )
    return make_manifest(pl.DataFrame(rows), Path(), CLASSES, {}, "planted"), arrays


def test_every_kind_is_tested() -> None:
    assert set(HEADS) == set(KINDS)


@pytest.mark.parametrize("head", HEADS)
def test_what_comes_after_the_labelled_clip_and_what_tells_of_the_label_stays_out(train: Train, head: str) -> None:
    """The label stands in all later clips, the listener's reply first, and in a privileged field that is not named."""
    manifest, arrays = conversations("later", 2, columns=lambda c, label: {"privileged_cause": f"for being {label}"})
    assert train(manifest, arrays, head) == 0
    assert abs(accuracy(head) - CHANCE) < LUCK


@pytest.mark.parametrize("head", HEADS)
def test_the_same_heads_find_it_in_the_labelled_clip(train: Train, head: str) -> None:
    assert train(*conversations("labelled", 1), head) == 0
    assert accuracy(head) > 0.8


@pytest.mark.parametrize("head", HEADS)
def test_shuffled_labels_are_not_predicted(train: Train, head: str) -> None:
    assert train(*conversations("labelled", 1, shuffled=True), head) == 0
    assert abs(accuracy(head) - CHANCE) < LUCK


@pytest.mark.parametrize("head", WITH_METADATA)
def test_privileged_fields_are_refused_by_name_and_found_where_allowed(
    train: Train, head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, arrays = conversations("later", 1, columns=lambda c, label: {"privileged_cause": f"for being {label}"})
    assert train(manifest, arrays, head, metadata=["cause"]) == 2
    printed = capsys.readouterr().err
    assert "metadata names 'cause', which is derived from the label" in printed
    assert printed.count("\n") == 1
    assert not Path(f"runs/tiny/heads/{head}").exists()
    assert train(manifest, arrays, head, metadata=["cause"], privileged=True) == 0
    assert accuracy(head) > 0.8
    assert "PRIVILEGED" in capsys.readouterr().out


@pytest.mark.parametrize("head", ["bag_of_words"])
def test_heads_without_metadata_refuse_it(train: Train, head: str, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, arrays = conversations("later", 1, columns=lambda c, label: {"privileged_cause": f"for being {label}"})
    assert train(manifest, arrays, head, metadata=["cause"], privileged=True) == 2
    assert "no metadata" in capsys.readouterr().err


@pytest.mark.parametrize("head", WITH_METADATA)
def test_categories_that_only_test_has_shift_no_ids(train: Train, head: str) -> None:
    """Every field of test is disjoint from training's: other unseen words, before, between and after the known ones
    in the alphabet, change no prediction at all; a known word does."""

    def fields(unseen: Callable[[int], str | None]) -> Callable[[int, str], dict[str, Any]]:
        def columns(c: int, label: str) -> dict[str, Any]:
            known = {"meta_age": ["old", "young"][c % 2], "meta_topic": f"topic about {label}", "speaker": f"s{c % 5}"}
            return {name: unseen(c) if c % 4 == 3 else value for name, value in known.items()}

        return columns

    settings: dict[str, Any] = {"metadata": ["age", "topic"]}
    if HEADS[head]["kind"] not in ("linear", "xgboost"):
        settings["speaker_identity"] = True
    predicted = []
    for unseen in (
        lambda c: f"never heard {c}",
        lambda c: f"a{c}" if c % 8 == 3 else None,
        lambda c: "topic about angry",
    ):
        assert train(*conversations("later", 1, columns=fields(unseen)), head, **settings) == 0
        predicted.append(logits(head))
    first, second, known = predicted
    assert first.equals(second)
    training = pl.col("split") == "oof"
    assert first.filter(training).equals(known.filter(training))
    assert not first.filter(~training).equals(known.filter(~training))
