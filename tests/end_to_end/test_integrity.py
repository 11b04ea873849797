"""Whatever bit changes below runs/, whatever the disk refuses: no result changes in silence, and nothing is lost."""

import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from small_project import STAGES, Done, make, of_profile, run

pytestmark = pytest.mark.xdist_group("integrity")  # one small project, one worker
RUN = Path("runs/small")
# What reads a file, by what its path begins or ends with: the first that fits.
READERS: list[tuple[str, tuple[str, ...]]] = [
    ("runs/small/bundle/", ("fusion/predict", "--text", "so happy", "--bundle", "runs/small/bundle", "--json")),
    ("manifest.parquet", ("heads/train", "--head", "pooled")),
    (".sources.parquet", ("extract/run", "--device", "cpu")),
    ("runs/small/extracted/", ("heads/inputs",)),
    ("runs/stores/", ("heads/train", "--head", "pooled")),
    ("/training_history.json", ("fusion/stack",)),
    ("/metrics.json", ("fusion/stack",)),
    ("/predictions.parquet", ("fusion/stack",)),
    ("audit/audit.json", ("fusion/stack",)),
    ("runs/small/heads/", ("fusion/bundle",)),
    ("runs/small/fusion/", ("fusion/bundle",)),
]
RESULTS = {  # what a reader leaves
    "heads/train": ["heads/pooled/predictions.parquet"],
    "extract/run": ["extracted/text.json"],
    "heads/inputs": ["inputs"],
    "fusion/stack": ["fusion/predictions.parquet", "fusion/metrics.json"],
    "fusion/bundle": ["bundle"],
    "fusion/predict": [],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("integrity")
    before = Path.cwd()
    os.chdir(folder)
    make(folder)
    shutil.copytree("runs", "whole", symlinks=True)
    yield folder
    os.chdir(before)


def restore() -> None:
    shutil.rmtree("runs")
    shutil.copytree("whole", "runs", symlinks=True)


def results(script: str) -> dict[str, bytes]:
    """The content of all that a script leaves."""
    paths = [RUN / name for name in RESULTS[script]]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return {str(file): file.read_bytes() for file in files if file.is_file()}


def reader_of(file: Path) -> tuple[str, ...] | None:
    return next((reader for part, reader in READERS if part in str(file)), None)


def call(reader: tuple[str, ...]) -> Done:
    return run(*reader) if reader[0] == "fusion/predict" else of_profile(*reader)


def flip(n: int, seed: int) -> dict[str, int]:
    """Change one random bit, ``n`` times, of a random file that something reads; every kind of file has its turn.

    Returns:
        How many were refused, and how many changed nothing.
    """
    rng = np.random.default_rng(seed)
    files = sorted(file for file in Path("runs").rglob("*") if file.is_file() and not file.is_symlink())
    files = [file for file in files if file.stat().st_size and "/stores/text/" not in str(file) and reader_of(file)]
    order = np.concatenate([rng.permutation(len(files)) for _ in range(-(-n // len(files)))])[:n]
    expected = {}
    for reader in {reader_of(file) or () for file in files}:
        restore()
        expected[reader] = call(reader).out, results(reader[0])
    restore()
    found = {"refused": 0, "the same": 0}
    for number in order:
        file = files[number]
        reader = reader_of(file) or ()
        content = bytearray(file.read_bytes())
        place, bit = int(rng.integers(len(content))), int(rng.integers(8))
        content[place] ^= 1 << bit
        file.write_bytes(content)
        where = f"bit {bit} of byte {place} of {file}"
        done = call(reader)
        if done.code:
            (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
            assert "runs/" in line, f"{where}: {line}"
            found["refused"] += 1
        else:
            out, files_after = expected[reader]
            assert results(reader[0]) == files_after, f"{where}: another result"
            assert reader[0] != "fusion/predict" or done.out == out, f"{where}: another answer"
            found["the same"] += 1
        restore()
    return found


def test_a_changed_bit_changes_no_result_in_silence(project: Path) -> None:
    assert flip(40, seed=0)["refused"] > 20


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_many_changed_bits(project: Path, seed: int) -> None:
    print(flip(120, seed=100 + seed))


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """No file may grow beyond this: what a quota or a full disk says, to this process alone."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def contents(folder: Path) -> dict[str, bytes]:
    """All files that a reader may look at: locks and notes of what is unfinished begin with a dot."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file): file.read_bytes() for file in files if not any(part.startswith(".") for part in file.parts)}


def refused(done: Done) -> str:
    """The line that a command was refused with."""
    assert done.code == 2, done.out + done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.err
    return line


CHANGED = {  # by stage: a setting that makes it write again
    "manifest": "seed=1",
    "extract": "encoders.text.layer=1",
    "heads": "seed=1",
    "fuse": "fusion.bootstrap=101",
}
ONE_EACH = [(stage, stage_commands[0]) for stage, stage_commands in STAGES.items()]


@pytest.mark.parametrize("n_bytes", [100, 700])
@pytest.mark.parametrize(("stage", "line"), ONE_EACH, ids=[stage for stage, _ in ONE_EACH])
def test_a_quota_ends_every_stage_in_one_line_and_loses_nothing(
    project: Path, stage: str, line: tuple[str, ...], n_bytes: int
) -> None:
    restore()
    before = contents(RUN)
    changed = [CHANGED[stage]] if stage in CHANGED else []
    with largest_file(n_bytes):
        done = of_profile(*line, *changed)
    message = refused(done)
    assert "File too large" in message
    assert "runs/" in message
    after = contents(RUN)
    assert {name: after.get(name) for name in before} == before
    assert of_profile(*line, *changed).code == 0  # and once there is room, it goes on
    restore()


@pytest.mark.parametrize(("stage", "line"), ONE_EACH, ids=[stage for stage, _ in ONE_EACH])
def test_a_folder_that_cannot_be_made_is_named(project: Path, stage: str, line: tuple[str, ...]) -> None:
    restore()
    target = {
        "manifest": RUN,
        "extract": RUN / "extracted",
        "inputs": RUN / "inputs",
        "heads": RUN / "heads",
        "audit": RUN / "audit",
        "fuse": RUN / "fusion",
        "bundle": RUN / "bundle",
    }[stage]
    shutil.rmtree(target)
    target.write_text("a file stands here")
    done = of_profile(*line)
    assert "runs/" in refused(done)
    assert target.read_text() == "a file stands here"
    target.unlink()
    restore()


@pytest.fixture
def small_disk(project: Path) -> Iterator[Path]:
    """A disk of 3 MB in place of runs/."""
    shutil.move("runs", "elsewhere")
    Path("runs").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", "runs"], capture_output=True, check=False
    )
    if mounted.returncode:
        Path("runs").rmdir()
        shutil.move("elsewhere", "runs")
        pytest.skip("needs the right to mount a disk")
    yield Path("runs")
    subprocess.run(["umount", "--lazy", "runs"], check=True)
    Path("runs").rmdir()
    shutil.move("elsewhere", "runs")


def test_a_full_disk_ends_every_stage_in_one_line(small_disk: Path) -> None:
    lines = [line for stage in STAGES.values() for line in stage]
    ballast, said = small_disk / "ballast", []
    for line in lines:
        free = os.statvfs(small_disk)
        ballast.write_bytes(bytes(free.f_bavail * free.f_bsize))
        said.append(refused(of_profile(*line)))
        ballast.unlink()
        assert of_profile(*line).code == 0
    assert all("No space left on device" in line for line in said)


def follow(line: str) -> None:
    """Do what an error's line says: remove the folder that it names, then run the command that it ends in."""
    if found := re.search(r"remove the folder (\S+)|(\S+): (?:a folder, where a file|not of this kind|stands)", line):
        path = Path(found[1] or found[2])
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
    if found := re.search(r"python (\S+)\.py((?: [-\w./=]+)*)'?$", line):
        done = run(found[1], *found[2].split())
        if done.code:
            follow(done.err.strip().splitlines()[-1])


OTHER_DAMAGE = [pytest.param(how, marks=pytest.mark.soak) for how in ("a folder", "a link that goes round")]


@pytest.mark.parametrize("how", ["cut short", *OTHER_DAMAGE])
@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("stores/text/store.json", ("heads/train", "--head", "pooled")),
        ("stores/text/index.parquet", ("heads/train", "--head", "pooled")),
        ("stores/text/checksums.json", ("heads/train", "--head", "pooled")),
        ("stores/text/values.zarr/zarr.json", ("heads/train", "--head", "pooled")),
        ("stores/text/values.zarr/c/0/0", ("heads/train", "--head", "pooled")),
        ("stores/text/errors.parquet", ("extract/run", "--device", "cpu")),
        ("manifest.parquet", ("heads/train", "--head", "pooled")),
        ("extracted/text.json", ("heads/inputs",)),
        ("heads/net/metrics.json", ("fusion/stack",)),
        ("heads/net/SHA256SUMS", ("fusion/bundle",)),
        ("fusion/model/inputs.json", ("fusion/bundle",)),
        ("fusion/SHA256SUMS", ("fusion/stack",)),
    ],
)
def test_what_a_line_proposes_brings_the_result_back(
    project: Path, name: str, reader: tuple[str, ...], how: str
) -> None:
    restore()
    assert call(reader).code == 0
    whole = {file: content for file, content in results(reader[0]).items() if file.endswith((".parquet", "text.json"))}
    restore()
    file = RUN / name
    content = file.read_bytes()
    file.unlink()
    if how == "cut short":
        file.write_bytes(content[: len(content) // 2])
    elif how == "a folder":
        file.mkdir()
    elif how == "a link that goes round":
        file.symlink_to(file.name)
    lines = []
    for _ in range(4):
        done = call(reader)
        if done.code == 0:
            break
        lines.append(refused(done))
        follow(lines[-1])
    after = results(reader[0])
    assert done.code == 0, lines
    assert {name: after.get(name) for name in whole} == whole
    restore()


def test_the_project_is_what_it_was_made_as(project: Path) -> None:
    headline = json.loads((RUN / "fusion" / "headline.json").read_text())
    assert headline["fused"]["accuracy"] == 1.0
