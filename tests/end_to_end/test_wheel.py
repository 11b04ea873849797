"""What is installed from a wheel does without the checkout: it finds what comes along, and predicts."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from shells import REPOSITORY
from small_project import PROFILE, make, of_profile, run

BUILT = ["cache", "configs", "emocache", "extract", "fusion", "heads"]
NEEDED = ["LICENSE", "MANIFEST.in", "README.md", "dvc.yaml", "pyproject.toml", "setup.py"]
ONE_HEAD = {"heads": {"words": PROFILE["heads"]["words"]}}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in BUILT:
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in NEEDED:
        shutil.copy(REPOSITORY / name, folder / name)
    line = "from setuptools.build_meta import build_wheel; print(build_wheel('dist'))"
    built = subprocess.run([sys.executable, "-c", line], cwd=folder, capture_output=True, text=True, check=True)
    return folder / "dist" / built.stdout.split()[-1]


def installed(target: Path, line: str, cwd: Path) -> str:
    """What a command line says with the wheel's packages first, and the checkout's nowhere."""
    code = f"import sys; sys.argv = {line.split('|')!r}; from emocache.__main__ import main; main()"
    keep = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and Path(path) != REPOSITORY]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), *keep]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_predicts_from_a_bundle_as_the_checkout_does(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, ["manifest"], changes=ONE_HEAD)
    for script, *arguments in (("heads/train", "--head", "words"), ("fusion/stack",), ("fusion/bundle",)):
        assert of_profile(script, *arguments).code == 0
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    bundle = tmp_path / "runs" / "small" / "bundle"
    line = f"emocache|predict|--text|so happy|--bundle|{bundle}|--json"
    answer = json.loads(installed(tmp_path / "site", line, tmp_path / "elsewhere"))
    here = run("fusion/predict", "--text", "so happy", "--bundle", str(bundle), "--json")
    assert answer == json.loads(here.out)
    assert answer["prediction"] == "happy"
