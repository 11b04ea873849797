"""By what means blocks are computed: this process, one for each of several devices, or a Ray cluster."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from configs import Profile, UserError
from configs.schema import Encoder, Modality
from extract.audio import load_audio_encoder
from extract.blocks import Block, BlockComputer, Mark, Result
from extract.encoder import LoadedEncoder
from extract.spread import spread
from extract.text import load_text_encoder
from extract.video import load_video_encoder

LOADERS = {"audio": load_audio_encoder, "video": load_video_encoder, "text": load_text_encoder}


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
    means: Means, settings: Encoder, modality: Modality, encoder: LoadedEncoder
) -> Iterator[Callable[[list[Block]], Iterator[Result | Mark]]]:
    """Give what computes blocks; ``encoder`` is the one that this process has loaded from ``settings``."""
    devices = means.device.split(",")
    if means.engine == "ray":
        try:
            from extract.on_ray import ray_workers
        except ImportError as error:
            raise UserError("--engine ray: needs Ray; install it with: pip install -e .[ray]") from error
        with ray_workers(settings, modality, means.actors, means.workers) as on_cluster:
            yield lambda blocks: spread(blocks, on_cluster)
    elif len(devices) == 1:
        with BlockComputer(encoder, means.workers) as computer:
            yield computer.compute
    else:
        from extract.devices import DeviceWorker

        with ExitStack() as stack:
            own = max(1, means.workers // len(devices))
            several = [DeviceWorker(settings, modality, name, own) for name in devices]
            for worker in several:
                stack.callback(worker.close)
            yield lambda blocks: spread(blocks, several)


def load_encoder(profile: Profile, modality: Modality, device: str) -> LoadedEncoder:
    """The profile's encoder for a modality on a device (``auto``: a GPU if there is one).

    Of several devices (``cuda:0,cuda:1``) all are tried; the encoder is loaded on the CPU, for its settings, and the
    processes of the devices load their own.
    """
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    for name in chosen.split(","):
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from error
    chosen = "cpu" if "," in chosen else chosen
    return LOADERS[modality](profile.encoders[modality], torch.device(chosen))
