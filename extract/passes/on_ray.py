"""Encoders as actors of a Ray cluster: other machines, with or without GPUs.

Media must be where the actors run under the same path, or behind a URL; the driver alone writes the store.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# First: it says where Ray is missing, and has configs imported before torch.
from extract.passes.cluster import Manner, connected, raised

# isort: split
import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from configs import UserError
from configs.schema import Encoder
from extract.encoders.loading import load_several
from extract.media.child import LostError
from extract.passes.blocks import Arriving, Block, BlockComputer, Mark, Result
from extract.passes.spread import NoPlaceError

AHEAD = 64  # results of an actor that wait to be fetched
PLACE_SECONDS = 20  # in which the place of an actor that was lost must be free again, or another one
RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU"}  # as options of an actor and as the cluster counts them
START_SECONDS = 120  # in which the cluster must find a place for an actor, and the actor load its encoder


class _Actor:
    """On the cluster: encoders with their decoders. Blocks are put in; one stream of results comes out."""

    def __init__(self, settings: Sequence[Encoder], workers: int, manner: Manner) -> None:
        manner.adopt()
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._computer = BlockComputer(load_several(settings, torch.device(device)), workers)
        self._blocks = Arriving()

    def ready(self) -> int:
        """Its process."""
        return os.getpid()

    @ray.method(concurrency_group="put")
    def put(self, block: Block) -> None:
        self._blocks.put(block)

    @ray.method(concurrency_group="results")
    def results(self) -> Iterator[Result | Mark]:
        yield from self._computer.compute(self._blocks)


class RayWorker:
    """The driver's side of an actor."""

    def __init__(self, name: str, options: dict[str, Any], arguments: tuple[Any, ...]) -> None:
        self.name = name
        self._options, self._arguments = options, arguments
        self._resources = {RESOURCES[key]: n for key, n in options.items()}
        self._start()

    def wait(self) -> int:
        """The actor's process. Raises NoPlaceError, and UserError where its encoder cannot be loaded."""
        try:
            return ray.get(self._actor.ready.remote(), timeout=START_SECONDS)
        except ray.exceptions.GetTimeoutError as error:
            free = {name: left for name, left in ray.available_resources().items() if name in ("CPU", "GPU")}
            raise NoPlaceError(
                f"{self.name}: found no place within {START_SECONDS} s: it needs {self._options}, and the cluster has "
                f"{free} left"
            ) from error
        except RayActorError as error:
            said = str(error).strip()
            # Else it was not its encoder: it was put on a machine that is gone, and that the cluster did not know yet.
            kind = UserError if "creation task" in said else NoPlaceError
            raise kind(f"{self.name}: cannot start: {said.splitlines()[-1]}") from error

    def submit(self, block: Block) -> Iterator[Result | Mark]:
        self._actor.put.remote(block)
        return self._next_block()

    def restart(self) -> None:
        self.close()
        until = time.monotonic() + PLACE_SECONDS
        while True:
            if all(ray.available_resources().get(name, 0) >= n for name, n in self._resources.items()):
                self._start()
                try:
                    self.wait()
                    return
                except NoPlaceError:
                    self.close()
                    if time.monotonic() > until:
                        raise
            if time.monotonic() > until:  # its machine is gone, and the others are full
                raise NoPlaceError(f"{self.name}: was lost, and the cluster has no place for another")
            time.sleep(0.1)

    def close(self) -> None:
        ray.kill(self._actor)

    def _start(self) -> None:
        # While results are streamed, blocks must still get in; in one thread, or they would overtake each other.
        actor: Any = ray.remote(concurrency_groups={"put": 1, "results": 1})(_Actor)  # type: ignore[call-overload]
        self._actor: Any = actor.options(**self._options).remote(*self._arguments)
        stream = self._actor.results.options(num_returns="streaming", _generator_backpressure_num_objects=AHEAD)
        self._results = stream.remote()

    def _next_block(self) -> Iterator[Result | Mark]:
        for reference in self._results:
            try:
                item = ray.get(reference)
            except RayActorError as error:
                raise LostError(type(error).__name__) from error
            except RayTaskError as error:
                raise raised(error) from error
            yield item
            if item is Mark.END:
                return
        raise LostError("its results ended")


@contextmanager
def ray_workers(settings: Sequence[Encoder], actors: int | None, decoders: int) -> Iterator[list[RayWorker]]:
    """Actors on the cluster; see :func:`extract.passes.cluster.connected`.

    Args:
        actors: default: one for each GPU of the cluster, or one for each two CPUs.
        decoders: of each actor.
    """
    with connected():
        there = ray.cluster_resources()
        gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 1))
        options = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": 1}
        n = actors or gpus or max(1, cpus // 2)
        arguments = (settings, decoders, Manner.own())
        workers = [RayWorker(f"Ray actor {i}", options, arguments) for i in range(n)]
        try:
            for worker in workers:
                worker.wait()
            yield workers
        finally:
            for worker in workers:
                worker.close()
