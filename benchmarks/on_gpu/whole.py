"""The CUDA tests, and one pipeline from files to a fused answer by the scripts: with the card, and without it."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from benchmarks.extract import FAMILY, make_audio, make_text, make_video, save_network
from benchmarks.on_gpu.report import Notes
from cache import Store
from configs import UserError

ROOT = Path(__file__).resolve().parents[2]
CLIPS = 32
MAKE = {"audio": make_audio, "video": make_video, "text": make_text}
WITHOUT = {"CUDA_VISIBLE_DEVICES": ""}
POOLING = {"audio": 4.0, "video": "none", "text": "mean"}
HEADS: dict[str, Any] = {
    "network": {  # nothing drawn on the device: both runs then learn from the same numbers
        "inputs": list(MAKE),
        "hidden": 64,
        "epochs": 4,
        "patience": 0,
        "dropout": 0.0,
        "modality_dropout": 0.0,
    },
    "linear": {"kind": "linear", "inputs": list(MAKE), "c": 1.0},
}


def run_tests(setting: Any, notes: Notes) -> None:
    """The tests that are skipped where there is no card, and no others."""
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=--import-mode=importlib",
    ]
    line += ["--strict-markers", "-q", "-rfE", "--tb=short", "tests/extract/encoders/test_networks.py"]
    line += ["tests/extract/passes/test_gpu_queue.py", "tests/heads/models/test_networks.py"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    said = [text for text in (done.stdout + done.stderr).splitlines() if text.strip()]
    for text in said:
        if text.startswith(("FAILED", "ERROR")):
            notes.add(text[:150], "failed")
    notes.add("pytest -m gpu", said[-1] if said else f"exit code {done.returncode}")
    if done.returncode:
        print("\n".join(said[-60:]))
        raise UserError(f"pytest -m gpu: exit code {done.returncode}: {said[-1] if said else ''}")


def run_pipeline(setting: Any, notes: Notes) -> None:
    """Files -> stores -> heads -> fusion, twice; how far the two are apart."""
    on_card, without = setting.folder / "card", setting.folder / "cpu"
    make_project(on_card, setting.tiny)
    make_project(without, setting.tiny)
    stages(notes, on_card, {}, "with the card" if setting.device != "cpu" else "once")
    script(on_card, "fusion/stack.py", ["--out", "fused_without_the_card"], WITHOUT)
    fused = [
        pl.read_parquet(on_card / f"{name}/predictions.parquet")
        for name in ("runs/whole/fusion", "fused_without_the_card")
    ]
    notes.add("fusion gives the same with the card and without", fused[0].equals(fused[1]))
    stages(notes, without, WITHOUT, "on the CPU" if setting.device != "cpu" else "and again")
    for name in MAKE:
        one, other = (Store(folder / f"runs/whole/stores/{name}") for folder in (on_card, without))
        if one.clip_ids != other.clip_ids:
            raise UserError(f"{name}: the stores hold different clips")
        apart = max(relative(one[clip_id], other[clip_id]) for clip_id in one.clip_ids)
        notes.add(f"{name} store, float32: largest relative difference of a clip", apart)
    for name in HEADS:
        tables = [
            pl.read_parquet(folder / f"runs/whole/heads/{name}/predictions.parquet") for folder in (on_card, without)
        ]
        notes.add(f"{name} head: largest difference of a probability", most_apart(*tables))
    tables = [pl.read_parquet(folder / "runs/whole/fusion/predictions.parquet") for folder in (on_card, without)]
    notes.add("fusion: largest difference of a probability", most_apart(*tables))


def relative(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def most_apart(one: pl.DataFrame, other: pl.DataFrame) -> float:
    columns = [name for name in one.columns if name.startswith("p_")]
    one, other = (table.sort("unit_id", "split").select(columns) for table in (one, other))
    return float(np.abs(one.to_numpy() - other.to_numpy()).max())


def make_project(folder: Path, tiny: bool) -> None:
    """Conversations of one clip, with a sound, a video and a text each, and a profile."""
    n = 12 if tiny else CLIPS
    rng = np.random.default_rng(0)
    made = {}
    for name, make in MAKE.items():
        (folder / "data" / name).mkdir(parents=True)
        made[name] = make(folder / "data" / name, n, rng)
        save_network(name, folder / "models" / name, tiny)  # type: ignore[arg-type]
    pl.DataFrame(
        {
            "id": [f"c{i}" for i in range(n)],
            "audio": [f"audio/{Path(path).name}" for path in made["audio"]],
            "video": [f"video/{Path(path).name}" for path in made["video"]],
            "text": made["text"],
            "label": [("happy", "sad")[i % 2] for i in range(n)],
            "split": ["test" if i % 4 == 3 else "train" for i in range(n)],
        }
    ).write_csv(folder / "data" / "clips.csv")
    columns = {"clip_id": "id", **{name: name for name in ("audio", "video", "text", "label", "split")}}
    profile = {
        "name": "whole",
        "folds": 2,
        "dataset": {"adapter": "table", "root": "data", "table": "clips.csv", "columns": columns},
        "store": {"dtype": "float32"},
        "encoders": {
            name: {"family": FAMILY[name], "model": f"./models/{name}", "pooling": POOLING[name]}  # type: ignore[index]
            for name in MAKE
        },
        "heads": HEADS,
        "fusion": {"bootstrap": 100, "strategies": ["mean", "weighted"]},
    }
    (folder / "whole.yaml").write_text(yaml.safe_dump(profile, sort_keys=False), encoding="utf-8")


def stages(notes: Notes, folder: Path, environment: dict[str, str], which: str) -> None:
    for name, path, options in [
        ("manifest", "extract/manifest.py", []),
        ("extraction", "extract/run.py", []),
        *((f"{head} head", "heads/train.py", ["--head", head]) for head in HEADS),
        ("fusion", "fusion/stack.py", []),
    ]:
        started = time.perf_counter()
        script(folder, path, options, environment)
        notes.add(f"{name}, {which}, s", time.perf_counter() - started)


def script(folder: Path, path: str, options: list[str], environment: dict[str, str]) -> None:
    line = [sys.executable, str(ROOT / path), "--config", "whole.yaml", *options]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    own = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths, **environment}
    done = subprocess.run(line, cwd=folder, env=own, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:])
        said = [text for text in done.stderr.splitlines() if text.strip()] or [f"exit code {done.returncode}"]
        raise UserError(f"{path}: {said[-1]}")
