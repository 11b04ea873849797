"""What is computed on a Ray cluster is what is computed without one, byte for byte, also where a machine dies."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from shells import REPOSITORY
from small_project import PROFILE, make, of_profile

pytest.importorskip("ray")
RUN = Path("runs/small")
TIMED = {"summary.txt", "SHA256SUMS"}  # of a head: says how long it took


def results(*folders: str) -> dict[str, bytes]:
    """The content of the files below some folders of the run, followed where they are links."""
    files = [file for folder in folders for file in sorted((RUN / folder).resolve().rglob("*")) if file.is_file()]
    return {str(file): file.read_bytes() for file in files if file.name not in TIMED}


SEARCH = ("heads/search", "--head", "pooled", "--trials", "3")


@pytest.mark.parametrize(
    "commands",
    [
        [("heads/train", "--head", "net")],
        pytest.param([*(("heads/train", "--head", head) for head in PROFILE["heads"]), SEARCH], marks=pytest.mark.soak),
    ],
    ids=["one head", "all kinds, and a search"],
)
def test_on_one_cluster_a_pass_and_heads_give_what_they_give_without(
    commands: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from extract.passes.cluster import connected

    def kept() -> dict[str, bytes]:
        found = results("stores/text", "heads", "search")
        # A study holds times, and skops notes where objects lay in memory: there it is predictions that are compared.
        return {name: content for name, content in found.items() if not name.endswith(("study.db", ".skops"))}

    monkeypatch.chdir(tmp_path)
    make(tmp_path, ["manifest", "extract"])
    for command in commands:
        assert of_profile(*command).code == 0
    alone = kept()
    shutil.rmtree("runs/stores")
    for name in ("stores", "heads", "search"):
        shutil.rmtree(RUN / name, ignore_errors=True)
    monkeypatch.setenv("RAY_ADDRESS", "local")  # whatever else runs on this machine
    with connected():
        for command in [("extract/run", "--actors", "2"), *commands]:
            done = of_profile(*command, "--engine", "ray")
            assert (done.code, done.err) == (0, "")
    assert kept() == alone


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, ["manifest"])
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    for command in (("heads/train", "--head", "words"), ("heads/search", "--head", "words", "--trials", "2")):
        done = of_profile(*command, "--engine", "ray")
        assert done.code == 2
        assert done.err == "error: --engine ray: no cluster at RAY_ADDRESS=127.0.0.1:9: Connection refused\n"


def test_without_ray_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, ["manifest"])
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("extract.passes.cluster", "heads.cluster.on_ray"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    done = of_profile("heads/train", "--head", "words", "--engine", "ray")
    assert (done.code, done.err) == (2, "error: --engine ray: needs Ray; install it with: pip install -e .[ray]\n")


@contextmanager
def two_machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A cluster of two nodes with a CPU each, which ``RAY_ADDRESS`` names; gives what kills the second."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets allow no long paths
    port = random.randrange(7000, 9900)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_USAGE_STATS_ENABLED": "0"}
    nodes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> str:
        """The address that the node says it has."""
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", *arguments]
        said = Path(folder, f"{len(nodes)}.log")
        with said.open("w") as log:
            nodes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))
        for _ in range(300):
            time.sleep(0.2)
            if "Ray runtime started" in said.read_text():
                break
        return said.read_text().split("Local node IP: ")[1].split()[0]

    def kill() -> None:
        children = Path(f"/proc/{nodes[1].pid}/task/{nodes[1].pid}/children").read_text().split()
        (raylet,) = [pid for pid in children if "raylet/raylet" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(int(raylet), signal.SIGKILL)

    try:
        address = start("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")
        start(f"--address={address}:{port}", "--node-ip-address=127.0.0.2")
        monkeypatch.setenv("RAY_ADDRESS", f"{address}:{port}")
        yield kill
    finally:
        for node in nodes:
            node.terminate()
            try:
                node.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()
        shutil.rmtree(folder, ignore_errors=True)


def killed_in_the_middle(begun: Callable[[], Any], kill: Callable[[], None], work: Callable[[], None]) -> Any:
    """Do the work, and kill as soon as something of it has begun; what had."""
    seen = []

    def watch() -> None:
        while not seen and not over.is_set():
            time.sleep(0.05)
            with suppress(OSError, pl.exceptions.PolarsError):  # what is looked at is being replaced
                if found := begun():
                    kill()
                    seen.append(found)

    over = threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        over.set()
        thread.join()
    return seen[0] if seen else None


@pytest.mark.soak
def test_a_machine_that_dies_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    n = 600
    encoder = PROFILE["encoders"]["text"] | {"block_clips": 2, "batch_tokens": 1}
    heads = {"net": PROFILE["heads"]["net"] | {"epochs": 40, "seeds": 6}}
    changes = {"encoders": {"text": encoder}, "heads": heads, "store": {"chunk_mb": 0.0005, "commit_seconds": 0}}
    make(tmp_path, ["manifest", "extract"], n, changes)
    train = ("heads/train", "--head", "net")
    assert of_profile(*train).code == 0
    alone = results("stores/text", "heads/net")
    shutil.rmtree("runs/stores")
    for name in ("stores", "heads"):
        shutil.rmtree(RUN / name)

    def stored() -> int:
        return sum(len(pl.read_parquet(path)) for path in Path("runs/stores").glob("[!.]*/index.parquet"))

    def fitted() -> int:
        return len(list((RUN / "heads").glob(".net.progress/*.done")))

    def on_ray(*command: str) -> None:
        started = time.monotonic()
        done = of_profile(*command, "--engine", "ray")
        assert (done.code, done.err) == (0, ""), done.err
        print(f"{command[0]}: {time.monotonic() - started:.1f} s with a machine lost")

    with two_machines(monkeypatch) as kill:
        done = killed_in_the_middle(stored, kill, lambda: on_ray("extract/run", "--actors", "2"))
        assert 0 < done < n
    with two_machines(monkeypatch) as kill:
        done = killed_in_the_middle(fitted, kill, lambda: on_ray(*train))
        assert 0 < done < 12
    assert results("stores/text", "heads/net") == alone
