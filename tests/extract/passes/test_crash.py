"""SIGKILL at any moment of an extraction costs no more than what was not committed yet, a busy machine nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from passes import plan_alone, run_alone

from cache import Store
from cache.checks import inspect
from configs.schema import Encoder, StoreSettings
from extract.encoders.loading import LOADERS
from extract.media.sources import Clip
from extract.passes.blocks import BlockComputer
from extract.passes.engine import open_writer

N_CLIPS, BLOCK = 48, 4
CPU = torch.device("cpu")

# A pass over a folder of sounds, as an extraction does it; it logs each clip that goes through the network.
PASS = """
import sys, time
from dataclasses import replace
from pathlib import Path
import torch
from configs.schema import Encoder, StoreSettings
from extract.encoders.loading import load
from extract.passes.blocks import BlockComputer
from extract.passes.engine import hash_clips, open_writer, plan_pass, run_pass, write_errors
from extract.media.sources import Clip, Sources

media, store, backend, log = sys.argv[1:]
encoder = load(Encoder(family="spectrum", kind="mel"), torch.device("cpu"))  # it starts soon

def hidden(inputs, lengths):
    time.sleep(0.01)
    with open(log, "a") as file:
        file.write(f"{len(inputs['samples'])}\\n")
    return encoder.hidden(inputs, lengths)

clips = [Clip(path.stem, path) for path in sorted(Path(media).iterdir())]
settings = StoreSettings(dtype="float32", chunk_mb=0.005, backend=backend)
print("go", flush=True)
with open_writer(Path(store), encoder, settings) as writer:
    sources = Sources(Path(store).with_name("sources.parquet"))
    plan = plan_pass(clips, *hash_clips(clips, sources, 2), [writer.content_hashes], 4)
    sources.save()
    with BlockComputer([replace(encoder, hidden=hidden)], workers=1) as computer:
        (failures,) = run_pass(plan, computer.compute(plan.blocks), [writer], commit_seconds=0)
write_errors(Path(store), failures)
"""


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of many lengths, one of them broken."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for i in range(N_CLIPS - 1):
        samples = rng.normal(scale=0.1, size=rng.integers(500, 9000))
        soundfile.write(folder / f"{i:03d}.wav", samples, 16000, subtype="PCM_16")
    (folder / "020b.wav").write_text("not a sound")
    return folder


def start(sounds: Path, store: Path, backend: str, log: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PASS, str(sounds), str(store), backend, str(log)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    assert child.stdout.readline() == "go\n"
    return child


def kill_and_resume(backend: str, kills: int, sounds: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole" / "audio"
    child = start(sounds, whole, backend, tmp_path / "whole.log")
    started = time.monotonic()
    assert child.wait() == 0
    seconds = time.monotonic() - started
    at_once = n_logged(tmp_path / "whole.log")
    assert len(Store(whole)) == at_once == N_CLIPS - 1
    expected = stored_bytes(whole)

    killed = finished = 0
    while killed < kills:
        store, log = tmp_path / f"cut{finished}" / "audio", tmp_path / f"cut{finished}.log"
        own = 0
        while True:
            child = start(sounds, store, backend, log)
            if killed < kills:
                time.sleep(random.uniform(0, seconds))
                child.send_signal(signal.SIGKILL)
            if child.wait() == 0:
                break
            killed, own = killed + 1, own + 1
            if (store / "store.json").is_file():
                committed = Store(store)  # whole, whenever the process was killed
                for clip_id in committed.clip_ids:
                    np.testing.assert_array_equal(committed[clip_id], Store(whole)[clip_id])
        assert stored_bytes(store) == expected
        report = inspect(store)
        assert (report.damaged_files, report.damaged_clips, report.strangers) == ({}, {}, [])
        # A kill costs the block that is being stored, and what was computed ahead of it meanwhile.
        assert n_logged(log) <= at_once + own * 3 * BLOCK
        finished += 1
    print(f"{backend}: killed {killed} times, finished {finished} times; a whole pass takes {seconds:.1f} s")


def n_logged(log: Path) -> int:
    return sum(int(line) for line in log.read_text().split())


def stored_bytes(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_a_killed_pass_goes_on_to_the_same_bytes(sounds: Path, tmp_path: Path) -> None:
    random.seed(0)
    kill_and_resume("zarr", 1, sounds, tmp_path)


BUSY = "import os\nwhile os.getppid() == {}: pass"  # it ends with who started it, too


def test_beside_six_busy_processes_a_pass_writes_the_same_bytes(
    checkpoints: Path, sounds: Path, tmp_path: Path
) -> None:
    def a_pass(store: Path) -> dict[str, bytes]:
        torch.set_num_threads(2)
        try:
            encoder = LOADERS["audio"](Encoder(family="wav2vec2", model=str(checkpoints / "wav2vec2")), CPU)
            clips = [Clip(path.stem, path) for path in sorted(sounds.iterdir())[12:32]]
            with (
                open_writer(store, encoder, StoreSettings(dtype="float32", chunk_mb=0.005)) as writer,
                BlockComputer([encoder], workers=2) as computer,
            ):
                plan = plan_alone(clips, {}, BLOCK)
                assert len(run_alone(plan, computer.compute(plan.blocks), writer)) == 1  # the broken one
        finally:
            torch.set_num_threads(1)
        return stored_bytes(store)

    quiet = a_pass(tmp_path / "quiet")
    busy = [subprocess.Popen([sys.executable, "-c", BUSY.format(os.getpid())]) for _ in range(6)]
    try:
        assert a_pass(tmp_path / "busy") == quiet
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("given", "threads"),
    [({"OMP_DYNAMIC": "true"}, "2"), ({"OMP_THREAD_LIMIT": "1"}, "1"), ({"OMP_MAX_ACTIVE_LEVELS": "0"}, "2")],
)
def test_neither_load_nor_limit_takes_threads_away_that_torch_counts_on(given: dict[str, str], threads: str) -> None:
    """oneDNN's convolutions would be wrong: a third off, or NaN."""
    torch_folder = Path(torch.__file__).parent / "lib"
    (openmp,) = torch_folder.glob("libgomp*.so*")
    code = f"""
import configs, ctypes
openmp = ctypes.CDLL({str(openmp)!r})
print(openmp.omp_get_dynamic(), openmp.omp_get_max_threads(), openmp.omp_get_thread_limit() > 99,
      openmp.omp_get_max_active_levels() > 0)
"""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    environment = plain | ({} if threads == "1" else {"OMP_NUM_THREADS": threads}) | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", threads, "True", "True"]


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["zarr", "hdf5"])
def test_a_hundred_kills(backend: str, sounds: Path, tmp_path: Path) -> None:
    random.seed(1)
    kill_and_resume(backend, 100, sounds, tmp_path)
