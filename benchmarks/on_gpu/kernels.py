"""A batch by other means: eager attention, fused, compiled, and as a CUDA graph. Findings, not options."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from benchmarks.extract import save_network
from benchmarks.on_gpu.report import Notes
from extract.encoders.networks import ReadyNetwork

BATCH = {"audio": 32, "text": 128, "video": 8}
SECONDS, WORDS = 5, 24  # of a clip: one bucket of shapes, as graphs and compilers want it
Forward = Callable[[], Any]


def measure(setting: Any, notes: Notes) -> None:
    place = torch.device(setting.device)
    slow: list[Callable[[], None]] = []  # compiling takes a minute: last, and in the faster precision only
    for modality, size in BATCH.items():
        checkpoint = save_network(modality, setting.folder / modality, setting.tiny)  # type: ignore[arg-type]
        inputs = {key: x.to(place) for key, x in batch(modality, 1 if setting.tiny else size, setting.tiny).items()}
        for precision in ("bfloat16",) if setting.tiny else ("float32", "bfloat16"):
            slow += measure_one(setting, notes, f"{modality}, {precision}", checkpoint, inputs, precision)
    for compile_one in slow:
        compile_one()


def batch(modality: str, n: int, tiny: bool) -> dict[str, torch.Tensor]:
    if modality == "audio":
        return {"input_values": torch.randn(n, (1 if tiny else SECONDS) * 16_000)}
    if modality == "text":
        return {"input_ids": torch.randint(4, 1000, (n, WORDS))}
    return {"pixel_values": torch.randn(n, 8, 3, 224, 224)}


def measure_one(
    setting: Any, notes: Notes, what: str, checkpoint: Path, inputs: dict[str, torch.Tensor], precision: str
) -> list[Callable[[], None]]:
    """All but the compiler; what is left to do for that."""
    place = torch.device(setting.device)

    def plain(attention: str) -> Forward:
        network = hf.AutoModel.from_pretrained(checkpoint, attn_implementation=attention).eval().to(place)
        autocast = torch.autocast(place.type, getattr(torch, precision), enabled=precision != "float32")

        def forward() -> Any:
            with autocast:
                return network(**inputs).last_hidden_state

        return forward

    ready = ReadyNetwork(hf.AutoModel.from_pretrained(checkpoint), precision, place)  # type: ignore[arg-type]

    def own() -> Any:
        return ready.hidden_states(inputs)[-1]

    def time_it(name: str, way: Callable[[], Forward]) -> None:
        notes.attempt(f"{what}: {name}, ms a batch", lambda: milliseconds(way(), place, setting.tiny))

    time_it("transformers, eager attention", lambda: plain("eager"))
    time_it("transformers, SDPA", lambda: plain("sdpa"))
    time_it("as this program runs it", lambda: own)
    if place.type != "cuda":
        return []
    time_it("as a CUDA graph", lambda: captured(own))
    late = [lambda: time_it("compiled", lambda: torch.compile(own, dynamic=False))]
    return late if precision == "bfloat16" else []


@torch.inference_mode()
def milliseconds(forward: Forward, place: torch.device, tiny: bool) -> float:
    for _ in range(1 if tiny else 3):
        forward()
    times = 1 if tiny else 10
    synchronize(place)
    started = time.perf_counter()
    for _ in range(times):
        forward()
    synchronize(place)
    return (time.perf_counter() - started) / times * 1000


@torch.inference_mode()
def captured(forward: Forward) -> Forward:
    """The launches of a batch recorded once and replayed: what a bucket of equal shapes would allow."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            forward()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    return graph.replay


def synchronize(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize()
