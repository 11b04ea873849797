"""Several encoders give what one gives, in the same order, whoever of them is lost on the way."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from passes import plan_alone, run_alone

from cache import Store
from configs import UserError
from configs.schema import Encoder, StoreSettings
from extract.encoders.loading import load
from extract.media.child import LostError
from extract.media.sources import Clip
from extract.passes.blocks import Block, Job, Mark, Result
from extract.passes.devices import DeviceWorker
from extract.passes.engine import open_writer
from extract.passes.spread import MAX_LOSSES, NoPlaceError, spread

SOON = Encoder(family="spectrum", kind="mel")  # its processes start soon


class Flaky:
    """Computes two results a clip; ``fate`` says before which of all its results it is lost, ``lives`` how often it
    can be started again."""

    def __init__(self, fate: set[int], lives: float = float("inf")) -> None:
        self.name = "flaky"
        self._lives = lives
        self._fate, self._given, self._life = fate, 0, 0
        self._given_out, self._last = 0, (0, 0)

    def submit(self, block: Block) -> Iterator[Result | Mark]:
        turn = self._given_out, self._life
        self._given_out += 1
        return self._results(block, *turn)

    def _results(self, block: Block, turn: int, life: int) -> Iterator[Result | Mark]:
        assert (turn, life) >= self._last, "blocks come out of a worker in the order in which they went in"
        self._last = turn, life
        for job in block.jobs:
            for part in range(2):
                self._given += 1
                if self._given in self._fate or life != self._life:
                    raise LostError("gone")
                yield job.place, np.full((1, 1), job.place * 10 + part)
        yield Mark.END

    def restart(self) -> None:
        self._life += 1
        if self._life > self._lives:
            raise NoPlaceError("flaky: no place")

    def close(self) -> None:
        pass


def blocks_of(sizes: list[int]) -> list[Block]:
    places = iter(range(sum(sizes)))
    return [Block([Job(Clip(f"c{place}", ""), "", place) for place in islice(places, n)]) for n in sizes]


def kept(items: Iterator[Result | Mark]) -> list[int]:
    """What a writer keeps of results: those of blocks that ended, without what a restart undid."""
    done: list[int] = []
    block: list[int] = []
    for item in items:
        if item is Mark.END:
            done, block = done + block, []
        elif item is Mark.RESTART:
            block = []
        else:
            block.append(int(item[1][0, 0]))  # type: ignore[index]
    return done


@given(
    sizes=st.lists(st.integers(1, 4), max_size=9),
    fates=st.lists(st.sets(st.integers(1, 60), max_size=2), min_size=1, max_size=3),
)
def test_results_come_once_and_in_order_whoever_is_lost(sizes: list[int], fates: list[set[int]]) -> None:
    found = kept(spread(blocks_of(sizes), [Flaky(fate) for fate in fates]))
    assert found == [place * 10 + part for place in range(sum(sizes)) for part in range(2)]


@given(
    sizes=st.lists(st.integers(1, 4), max_size=9),
    fates=st.lists(st.sets(st.integers(1, 30), max_size=1), min_size=1, max_size=3),
)
def test_who_finds_no_place_any_more_is_done_without(sizes: list[int], fates: list[set[int]]) -> None:
    """One machine stays; the work of the others goes to whoever is left."""
    found = kept(spread(blocks_of(sizes), [Flaky(set()), *(Flaky(fate, lives=0) for fate in fates)]))
    assert found == [place * 10 + part for place in range(sum(sizes)) for part in range(2)]


def test_without_any_place_the_pass_ends() -> None:
    with pytest.raises(NoPlaceError, match="no place"):
        kept(spread(blocks_of([1, 1]), [Flaky({1}, lives=0), Flaky(set(), lives=0)]))


def test_a_block_that_kills_its_workers_ends_the_pass() -> None:
    with pytest.raises(UserError, match=f"flaky: lost {MAX_LOSSES} times on the same clips"):
        kept(spread(blocks_of([1, 1]), [Flaky(set(range(1, 100)))]))


@pytest.fixture(params=["devices", pytest.param("ray", marks=pytest.mark.soak)])
def two_workers(request: pytest.FixtureRequest) -> Iterator[tuple[list[Any], Callable[[], None]]]:
    """Two workers, and what kills the second one's process."""
    settings = SOON
    if request.param == "ray":
        pytest.importorskip("ray")
        from extract.passes.on_ray import ray_workers

        with ray_workers([settings], 2, 1) as workers:
            process = workers[1].wait()
            yield workers, lambda: os.kill(process, signal.SIGKILL)
        return
    children = [DeviceWorker([settings], "cpu", 1) for _ in range(2)]
    yield children, children[1]._child.process.kill
    for child in children:
        child.close()


def test_a_killed_worker_is_started_again(
    two_workers: tuple[list[Any], Callable[[], None]], media: dict[str, list[Any]], tmp_path: Path
) -> None:
    workers, kill = two_workers
    encoder = load(SOON, torch.device("cpu"))
    clips = [Clip(f"clip{i}", path) for i, path in enumerate(media["audio"] * 3)]
    restarts = 0

    def with_a_kill(items: Iterator[Result | Mark]) -> Iterator[Result | Mark]:
        nonlocal restarts
        for n, item in enumerate(items):
            if n == 0:
                kill()
            restarts += item is Mark.RESTART
            yield item

    with open_writer(tmp_path / "audio", encoder, StoreSettings(dtype="float32")) as writer:
        plan = plan_alone(clips, {}, 2)
        assert run_alone(plan, with_a_kill(spread(plan.blocks, workers)), writer) == []
    assert restarts >= 1
    store = Store(tmp_path / "audio")
    assert store.clip_ids == [clip.clip_id for clip in clips]
    for clip in clips:
        np.testing.assert_allclose(store[clip.clip_id], encoder.alone(clip.source), rtol=1e-4, atol=1e-5)


LARGE = """
import sys, resource
from pathlib import Path
import numpy as np, torch
from configs.schema import Encoder, StoreSettings
from extract.passes.blocks import BlockComputer
from extract.encoders.encoder import LoadedEncoder, Prepared, Window
from extract.passes.engine import hash_clips, open_writer, plan_pass, run_pass
from extract.media.sources import Clip, Sources

def prepare(text):
    return Prepared([Window({"ids": np.zeros(1000, dtype=np.int64)}, slice(0, 1000), 1000)], 1000)

def hidden(inputs, lengths):
    return torch.rand(*inputs["ids"].shape, 64)  # a quarter of a megabyte a clip

spec = Encoder(family="transformer", model="./x")
encoder = LoadedEncoder(64, {}, None, prepare, None, hidden, spec, torch.device("cpu"))
clips = [Clip(f"clip{i}", f"text {i}") for i in range(int(sys.argv[2]))]
settings = StoreSettings(chunk_mb=4)
with open_writer(Path(sys.argv[1]), encoder, settings) as writer, BlockComputer([encoder], 1) as computer:
    plan = plan_pass(clips, *hash_clips(clips, Sources(None), 1), [{}], 16)
    assert run_pass(plan, computer.compute(plan.blocks), [writer], 1) == [[]]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path: Path) -> None:
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", LARGE, str(tmp_path / str(n)), str(n)]))  # KiB
        for n in (40, 1000)  # 10 and 250 MB of features
    ]
    assert peaks[1] - peaks[0] < 60_000
