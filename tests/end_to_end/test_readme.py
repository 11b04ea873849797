"""Every command in the README, and in what it refers to first, runs, and means what they say."""

import pickle
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from foreign_features import mmsa
from shells import REPOSITORY, Shell

from configs.schema import Encoder, Head
from emocache.commands import COMMANDS as COMMANDS_BY_WORD

pytestmark = pytest.mark.xdist_group("project")  # one project folder, one worker

README = (REPOSITORY / "README.md").read_text()
GUIDES = ("data", "choosing_encoders", "heads_and_fusion", "prediction", "installing")
GUIDE = README + "".join((REPOSITORY / "docs" / f"{name}.md").read_text() for name in GUIDES)
FEATURES = (REPOSITORY / "docs" / "features.md").read_text()


def blocks_of(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands_of(text: str) -> list[str]:
    return [line for language, block in blocks_of(text) if not language for line in block.strip().splitlines()]


BLOCKS, COMMANDS = blocks_of(GUIDE), list(dict.fromkeys(commands_of(GUIDE)))
# What runs around the tests and not within them: .ci/run calls both targets on a clean clone, and they install.
BY_CI = {
    "make demo",
    "make test",
    "source .venv/bin/activate",
    "python3 -m venv .venv && source .venv/bin/activate",
    "pip install -r requirements.txt",
    "pip install -e '.[sample]'",
    "pip install -e '.[live]'",
}


@pytest.fixture(scope="module")
def foreign(project: Path) -> None:
    """Somebody's own clips, and the prediction tables that the README's last example fuses."""
    (project / "data" / "mine").mkdir(parents=True)
    mine = {"text": [f"so it goes {i}" for i in range(30)], "label": ["happy", "sad", "angry"] * 10}
    pl.DataFrame(mine).write_csv(project / "data" / "mine" / "clips.csv")
    rng = np.random.default_rng(0)
    labels = rng.choice(["happy", "sad"], 60)
    for name, strength in (("a", 2.0), ("b", 1.0)):
        score = np.where(labels == "happy", strength, -strength) + rng.normal(size=60)
        p = 1 / (1 + np.exp(-score))
        table = {"unit_id": np.arange(60), "label": labels, "fold": np.arange(60) % 5, "p_happy": p, "p_sad": 1 - p}
        pl.DataFrame(table).write_csv(project / f"{name}.csv")


def test_the_four_commands_are_there():
    for line in ("dvc repro", "extract/run.py --modality video", "heads/train.py --head audio", "fusion/stack.py"):
        assert any(line in command for command in COMMANDS)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line not in BY_CI])
def test_a_command_of_the_readme_runs(line: str, foreign: None, shell: Shell):
    try:
        assert shell(line.replace("--trials 20", "--trials 3")).stdout  # a trial is like another
    finally:
        if "configs/use.py" in line:
            shell("python configs/use.py sample")  # the other commands are about it


@pytest.fixture(scope="module")
def brought(project: Path, shell: Shell) -> None:
    """What docs/features.md brings in: OpenFace's CSVs of all clips, and a pickle."""
    shell("dvc repro extract")
    clips = pl.read_parquet(project / "runs" / "sample" / "manifest.parquet")["clip_id"]
    (project / "openface").mkdir()
    for clip in clips:
        (project / "openface" / f"{clip}.csv").write_text("frame, success, AU01_r, AU01_c\n1, 1, 0.5, 1\n2, 0, 0, 0\n")
    (project / "aligned_50.pkl").write_bytes(pickle.dumps(mmsa()))


@pytest.mark.parametrize("line", commands_of(FEATURES))
def test_a_command_about_features_runs(line: str, brought: None, shell: Shell):
    assert shell(line).stdout


def test_commands_in_the_text_exist():
    scripts = {module for module, _ in COMMANDS_BY_WORD.values()}  # whose help is looked at elsewhere
    for folder, name in set(re.findall(r"`python (\w+)/(\w+)\.py", GUIDE)):
        assert f"{folder}.{name}" in scripts


def test_the_examples_are_valid():
    encoders, heads = [yaml.safe_load(block) for language, block in BLOCKS if language == "yaml"]
    for encoder in encoders["encoders"].values():
        Encoder.model_validate(encoder)
    for head in heads["heads"].values():
        Head.model_validate(head)
    (features,) = [yaml.safe_load(block) for language, block in blocks_of(FEATURES) if language == "yaml"]
    for encoder in features["encoders"].values():
        Encoder.model_validate(encoder)


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"[`(]((?:configs|docs)/[\w./]+|[A-Z]+\.(?:md|cff)|requirements[\w-]*\.txt)[`)]", GUIDE):
        assert (REPOSITORY / name).exists() or name in ("configs/mine.yaml", "configs/NAME.yaml"), name
