"""A small project folder, as a user has it after cloning, with tiny encoders in place of the sample's real ones."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from checkpoints import save_checkpoints
from shells import REPOSITORY, Shell, scripts_in, shell_in
from warm_python import warm_python

COPIED = [
    "cache",
    "configs",
    "emocache",
    "extract",
    "fusion",
    "heads",
    "dvc.yaml",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
]
TINY = {  # what the profile says of its encoders instead: two of audio, and two of video
    "audio": {"family": "wav2vec2", "model": "./models/wav2vec2", "pooling": 5.0},
    "speech": {"family": "wav2vec2", "model": "./models/wav2vec2", "layer": 1, "pooling": "mean"},
    "video": {"family": "image", "model": "./models/resnet", "n_frames": 2},
    "frames": {"family": "image", "model": "./models/vit", "n_frames": 2, "pooling": "mean"},
    "text": {"family": "transformer", "model": "./models/distilbert", "pooling": "mean"},
}
HEADS = {  # of the sample's, enough to see who reads what; and what they read
    "audio": ["audio", "speech"],
    "metadata": [],
    "video_text_metadata": ["video", "frames", "text"],
}


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files in a folder that is no git repository; profile ``sample`` with tiny random encoders."""
    root = tmp_path_factory.mktemp("project")
    for name in COPIED:
        source, target = REPOSITORY / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    save_checkpoints(root / "models", ["wav2vec2", "resnet", "vit", "distilbert"])
    pipeline = re.sub(r"- configs/\S+", "- configs/sample.yaml", (REPOSITORY / "dvc.yaml").read_text(), count=1)
    (root / "dvc.yaml").write_text(pipeline)
    path = root / "configs" / "sample.yaml"
    profile = yaml.safe_load(path.read_text())
    profile["encoders"] = TINY
    profile["folds"] = 2
    profile["heads"] = {name: profile["heads"][name] | {"inputs": inputs} for name, inputs in HEADS.items()}
    for head in profile["heads"].values():
        if head.get("kind", "sequence") in ("sequence", "cross_modal"):
            head |= {"epochs": 1, "hidden": 8}
    profile["fusion"] = {"bootstrap": 100, "strategies": ["mean", "weighted", "attention"]}
    path.write_text(yaml.safe_dump(profile, sort_keys=False))
    shell_in(root)("dvc config --local core.no_scm true")
    return root


@pytest.fixture(scope="session")
def shell(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """``shell(line, code=0)``: a command line in the project folder, as if typed there with the environment active."""
    with warm_python(tmp_path_factory.mktemp("bin")) as programs:
        yield scripts_in(project, programs)
