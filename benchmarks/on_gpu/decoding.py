"""Decoding's share: by so many processes, and by the card's own decoder where a library here can use it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.extract import FAMILY, fresh, make_audio, make_text, make_video, save_network
from benchmarks.on_gpu.report import Notes
from configs.schema import Encoder
from extract.encoders.encoder import LoadedEncoder, Window
from extract.encoders.loading import load
from extract.media.decoding import Decoders

WORKERS = (1, 2, 4, 8, 16)
FILES = {"audio": 256, "video": 16, "text": 4096}
MAKE = {"audio": make_audio, "video": make_video, "text": make_text}
Frames = Iterator[np.ndarray]  # (height, width, 3) uint8


def measure(setting: Any, notes: Notes) -> None:
    for modality, make in MAKE.items():
        n = 4 if setting.tiny else FILES[modality]
        sources = make(fresh(setting.folder / modality), n, np.random.default_rng(0))
        checkpoint = save_network(modality, setting.folder / f"network_{modality}", tiny=True)  # type: ignore[arg-type]
        encoder = load(Encoder(family=FAMILY[modality], model=str(checkpoint)), torch.device("cpu"))
        for workers in [1, 2] if setting.tiny else [n for n in WORKERS if n <= 2 * setting.workers]:
            some = sources[: n if workers > 2 else -(-n // 4)]
            _, rate = prepared(encoder, some * (2 if workers > 8 else 1), workers)
            notes.add(f"{modality}, {workers} workers, clips/s", rate)
        if modality == "video":
            by_the_card(setting, notes, sources)


def prepared(encoder: LoadedEncoder, sources: list[Any], workers: int) -> tuple[list[Window], float]:
    """From files, or texts, to what the network takes, by the program's own decoders: all windows, and clips/s."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        decode: Callable[[Any], Any] = lambda text: text  # noqa: E731
        if encoder.task is not None:
            decoders = stack.enter_context(closing(Decoders(encoder.task, workers, encoder.spec.decode_timeout)))
            decode = decoders.decode
            list(pool.map(decode, (sources * workers)[:workers]))  # they start
        started = time.perf_counter()
        clips = list(pool.map(lambda source: list(encoder.prepare(decode(source)).windows), sources))
        rate = len(sources) / (time.perf_counter() - started)
    return [window for clip in clips for window in clip], rate


def by_the_card(setting: Any, notes: Notes, paths: list[Any]) -> None:
    """Frames/s of every frame, and whether they are those that PyAV decodes in software."""
    ways: dict[str, Callable[[Path], Frames]] = {
        "PyAV in software": lambda path: by_pyav(path),
        "PyAV on NVDEC": lambda path: by_pyav(path, "cuda"),
        "torchcodec": lambda path: by_torchcodec(path, setting.device),
    }
    some = paths[:2] if setting.tiny else paths[:8]
    for name, way in ways.items():

        def rate(way: Callable[[Path], Frames] = way) -> float:
            list(way(some[0]))
            started = time.perf_counter()
            n = sum(1 for path in some for _ in way(path))
            return n / (time.perf_counter() - started)

        notes.attempt(f"{name}, one stream, frames/s", rate)
        if name != "PyAV in software" and isinstance(notes.figures[f"{name}, one stream, frames/s"], float):
            notes.attempt(f"{name}, frames against software's", lambda way=way: compared(way, some[0]))


def by_pyav(path: Path, card: str | None = None) -> Frames:
    import av
    from av.codec.hwaccel import HWAccel

    accelerator = None if card is None else HWAccel(card, allow_software_fallback=False)
    with av.open(str(path), hwaccel=accelerator) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def by_torchcodec(path: Path, device: str) -> Frames:
    from torchcodec.decoders import VideoDecoder

    for frame in VideoDecoder(str(path), device=device, dimension_order="NHWC"):
        yield frame.cpu().numpy()


def compared(way: Callable[[Path], Frames], path: Path) -> str:
    own, other = np.stack(list(by_pyav(path))), np.stack(list(way(path)))
    if own.shape != other.shape:
        return f"{len(other)} frames instead of {len(own)}"
    apart = np.abs(own.astype(int) - other).max()
    return "equal" if apart == 0 else f"up to {apart} grey levels apart"
