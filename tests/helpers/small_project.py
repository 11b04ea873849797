"""A small project, all of it made by the real stages in this process: a table of texts, an encoder, heads, a bundle."""

import contextlib
import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from checkpoints import save_checkpoints

from configs.command_line import command

WORDS = {"happy": "i am so happy today !", "sad": "i am not happy , so sad ."}
PROFILE: dict[str, Any] = {
    "name": "small",
    "folds": 2,
    "dataset": {
        "adapter": "table",
        "root": "data",
        "table": "clips.csv",
        "columns": {"clip_id": "id", "label": "label", "text": "text", "split": "split"},
    },
    "encoders": {"text": {"family": "transformer", "model": "./models/distilbert", "pooling": "mean"}},
    "store": {"chunk_mb": 0.0005},
    "heads": {
        "words": {"kind": "bag_of_words", "inputs": ["text"], "c": 1.0},
        "pooled": {"kind": "linear", "inputs": ["text"], "c": 0.1},
        "trees": {"kind": "xgboost", "inputs": ["text"], "trees": 3},
        "net": {"inputs": ["text"], "hidden": 4, "attention_heads": 1, "epochs": 1, "patience": 0},
    },
    "fusion": {"bootstrap": 100, "strategies": ["mean", "weighted"]},
}


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def run(script: str, *arguments: str) -> Done:
    """A script of the project as a command line, in this process; anything but an error of one line is raised."""
    module = __import__(script.replace("/", "."), fromlist=["main"])
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = [f"{script}.py", *arguments]
        try:
            command(module.main)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.argv = argv
    return Done(code, out.getvalue(), err.getvalue())


def of_profile(script: str, *arguments: str) -> Done:
    return run(script, "--config", "small.yaml", *arguments)


STAGES: dict[str, list[tuple[str, ...]]] = {  # in order, as dvc.yaml runs them
    "manifest": [("extract/manifest",)],
    "extract": [("extract/run", "--device", "cpu")],
    "inputs": [("heads/inputs",)],
    "heads": [("heads/train", "--head", head) for head in PROFILE["heads"]],
    "audit": [("fusion/audit", "--no-permutation", "--exit-zero")],
    "fuse": [("fusion/stack",)],
    "bundle": [("fusion/bundle",)],
}


def make(folder: Path, stages: Iterable[str] = STAGES, clips: int = 24, changes: dict[str, Any] | None = None) -> None:
    """The project in ``folder``, which must be the working directory, with ``changes`` of its profile."""
    save_checkpoints(folder / "models", ["distilbert"])
    (folder / "data").mkdir()
    rows = ["id,label,text,split"]
    for number in range(clips):
        label = ("happy", "sad")[number % 2]
        split = "test" if number >= clips * 3 // 4 else "train"
        rows.append(f'c{number},{label},"{WORDS[label]}{" so" * (number // 2 % 3)}",{split}')
    (folder / "data" / "clips.csv").write_text("\n".join(rows) + "\n")
    (folder / "small.yaml").write_text(yaml.safe_dump(PROFILE | (changes or {}), sort_keys=False))
    for stage in stages:
        for script, *arguments in STAGES[stage]:
            done = of_profile(script, *arguments)
            assert done.code == 0, done.err
