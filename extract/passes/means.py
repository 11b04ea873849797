"""By what means blocks are computed: this process, one for each of several devices, or a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

from extract.encoders.encoder import LoadedEncoder
from extract.passes.blocks import Block, BlockComputer, Mark, Result
from extract.passes.spread import spread


@dataclass(frozen=True)
class Means:
    """``device``: auto, one, or several (``cuda:0,cuda:1``). ``workers``: decoders, shared by the devices of this
    machine, or of each actor. ``actors``: encoders on a Ray cluster; default: one a GPU, or one for two CPUs."""

    device: str = "auto"
    workers: int = 1
    engine: Literal["local", "ray"] = "local"
    actors: int | None = None


@contextmanager
def computing(
    means: Means, encoders: Sequence[LoadedEncoder]
) -> Iterator[Callable[[list[Block]], Iterator[Result | Mark]]]:
    """Give what computes blocks; ``encoders`` are those that this process has loaded."""
    devices = means.device.split(",")
    settings = [encoder.spec for encoder in encoders]
    if means.engine == "ray":
        from extract.passes.on_ray import ray_workers

        with ray_workers(settings, means.actors, means.workers) as on_cluster:
            yield lambda blocks: spread(blocks, on_cluster)
    elif len(devices) == 1:
        with BlockComputer(encoders, means.workers) as computer:
            yield computer.compute
    else:
        from extract.passes.devices import DeviceWorker

        with ExitStack() as stack:
            own = max(1, means.workers // len(devices))
            several = [DeviceWorker(settings, name, own) for name in devices]
            for worker in several:
                stack.callback(worker.close)
            yield lambda blocks: spread(blocks, several)
