"""Small synthetic datasets: manifests by the real writer, stores by the real cache."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from s3_server import s3, server  # noqa: F401

from cache import Header, StoreWriter
from configs.command_line import command
from configs.schema import Head
from extract.corpora.manifest import Manifest, make_manifest, write_manifest
from heads.data import folds
from heads.data.folds import FoldTask

CLASSES = ("angry", "happy", "sad")
DIMS = {"audio": 6, "text": 5}
Arrays = dict[str, dict[str, np.ndarray]]  # modality: clip id: (time, dim)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _two_inner_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two the tests learn what they learn of four, in half the time."""
    monkeypatch.setattr(folds, "INNER_FOLDS", 2)


def dataset(
    conversations: int = 60,
    seed: int = 0,
    splits: tuple[str, ...] = ("train", "train", "train", "test"),
    signal: float = 3.0,
    missing: float = 0.0,
    most_clips: int = 4,
    columns: Callable[[int], dict[str, Any]] = lambda conversation: {},
) -> tuple[Manifest, Arrays]:
    """Conversations of 1 .. most_clips clips and one more after the labelled one; features and texts show the class.

    ``columns`` gives further columns of a conversation's clips. Conversations take the splits in turn.
    """
    rng = np.random.default_rng(seed)
    directions = {name: rng.normal(size=(len(CLASSES), dim)) for name, dim in DIMS.items()}
    clips: list[dict[str, Any]] = []
    arrays: Arrays = {name: {} for name in DIMS}
    for conversation in range(conversations):
        label = int(rng.integers(len(CLASSES)))
        n_clips = int(rng.integers(1, most_clips + 1))
        for index in range(n_clips + 1):
            clip_id = f"c{conversation:03}u{index}"
            labelled = index == n_clips - 1
            clip = {
                "clip_id": clip_id,
                "conversation_id": f"c{conversation:03}",
                "index": index,
                "role": "speaker" if labelled or index % 2 == 0 else "listener",
                "text": f"it feels {CLASSES[label]} number{int(rng.integers(9))}" if labelled else "well then",
                "split": splits[conversation % len(splits)],
                "label": CLASSES[label] if labelled else None,
                "group": f"c{conversation:03}",
            }
            clips.append(clip | columns(conversation))
            for name, dim in DIMS.items():
                if rng.random() >= missing:
                    noise = rng.normal(size=(int(rng.integers(1, 8)), dim))
                    arrays[name][clip_id] = (noise + signal * labelled * directions[name][label]).astype(np.float32)
    return make_manifest(pl.DataFrame(clips), Path(), CLASSES, {}, "synthetic"), arrays


def write_store(path: Path, arrays: dict[str, np.ndarray], **fields: Any) -> None:
    dim = next(iter(arrays.values())).shape[1]
    with StoreWriter(path, {"encoder": "synthetic"} | fields, dim=dim, dtype="float32") as writer:
        for clip_id, values in arrays.items():
            writer.append(clip_id, values, f"hash of {clip_id}")


def empty_store(path: Path) -> None:
    """Let a store forget its clips, as one that no clip came into."""
    header = Header.read(path)
    with StoreWriter(path, header.fields, dim=header.dim, dtype=header.dtype) as writer:
        for clip_id in list(writer.content_hashes):
            writer.drop(clip_id)


def head_settings(**settings: Any) -> dict[str, Any]:
    """A head that trains in a second."""
    return {
        "inputs": ["audio", "text"],
        "hidden": 16,
        "attention_heads": 2,
        "dropout": 0.1,
        "epochs": 8,
        "patience": 0,
        "batch_size": 16,
        "lr": 0.01,
        "base": "none",
        "time": "attentive",
    } | settings


def small_head(**settings: Any) -> Head:
    return Head.model_validate(head_settings(**settings))


def task(
    data: Any,
    fit: np.ndarray,
    watch: np.ndarray,
    head: Head,
    n_classes: int = 3,
    seed: int = 0,
    train: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    **more: Any,
) -> FoldTask:
    """A fold whose units are given as index arrays; labels are those of ``data`` unless they are given."""
    labels = data.labels.numpy() if labels is None else labels
    inner = ((fit, watch),) if len(watch) else ()
    groups = np.arange(len(labels))
    return FoldTask(head, data, labels, fit if train is None else train, inner, n_classes, seed, groups, **more)


def write_workspace(folder: Path, manifest: Manifest, arrays: Arrays, heads: dict[str, Any], **settings: Any) -> None:
    """profile.yaml, the manifest and the stores, as the steps before training leave them."""
    profile = {
        "name": "tiny",
        "folds": 3,
        "dataset": {"adapter": "avamerg", "root": "."},
        "encoders": {
            "audio": {"family": "wav2vec2", "model": "./none"},
            "text": {"family": "transformer", "model": "./none"},
        },
        "heads": heads,
    }
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile | settings, sort_keys=False))
    write_manifest(manifest, folder / "runs/tiny/manifest.parquet")
    for name, values in arrays.items():
        write_store(folder / "runs/tiny/stores" / name, values)


def exit_code(monkeypatch: pytest.MonkeyPatch, script: Callable[..., None], *arguments: str) -> int:
    """Run a script's ``main`` as a command line on profile.yaml, in this process."""
    monkeypatch.setattr(sys, "argv", ["script.py", "--config", "profile.yaml", *arguments])
    try:
        command(script)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """The builders above; tests of several rooms run together, so their helpers are not imported by name."""
    return SimpleNamespace(
        CLASSES=CLASSES,
        dataset=dataset,
        write_store=write_store,
        empty_store=empty_store,
        head_settings=head_settings,
        small_head=small_head,
        task=task,
        exit_code=exit_code,
        write_workspace=write_workspace,
    )
