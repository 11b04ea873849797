"""A modality's extraction: the encoder alone, the program around it, plain loops, and what limits it."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.extract import (
    AVAMERG_CLIPS,
    FAMILY,
    alone,
    fresh,
    make_audio,
    make_text,
    make_video,
    plain_loop,
    program,
    save_network,
    timed,
)
from benchmarks.on_gpu.decoding import prepared
from benchmarks.on_gpu.report import Notes
from cache import StoreWriter
from configs.schema import Encoder, Modality
from extract.encoders.encoder import LoadedEncoder, Window
from extract.encoders.loading import load
from extract.passes.blocks import batches_of

MAKE = {"audio": make_audio, "video": make_video, "text": make_text}
FILES = {"audio": 512, "video": 24, "text": 8192}  # made; clips are these files, several times
ALONE = {"audio": 2, "video": 4, "text": 1}  # times, for each batch_tokens
PASS = {"audio": 8, "video": 8, "text": 3}  # times, for the program: the first block's decoding must not count for much
PLAIN = {"audio": 256, "video": 24, "text": 2048}  # clips of the plain loops
BLOCKS = {"audio": 512, "video": 16, "text": 256}  # as the profile of AvaMERG has them
TOKENS = (8192, 16_384, 32_768, 65_536, 131_072)
POOLING = {"audio": 4.0, "video": "none", "text": "mean"}  # as in that profile, too


def measure(setting: Any, notes: Notes, modality: Modality) -> None:
    files = 4 if setting.tiny else FILES[modality]
    sources = MAKE[modality](fresh(setting.folder / "media"), files, np.random.default_rng(0))
    alone_times, times = (1, 1) if setting.tiny else (ALONE[modality], PASS[modality])
    checkpoint = save_network(modality, setting.folder / "network", setting.tiny)
    place = torch.device(setting.device)
    notes.add("clips of a pass", times * len(sources))
    notes.add("TF32", "off in this program's float32; plain loops run as torch comes")
    plain_loops(setting, notes, modality, checkpoint, sources)  # first: this program turns TF32 off for all
    windows: list[Window] = []
    best: dict[str, tuple[LoadedEncoder, float]] = {}
    for precision in ("float32", "bfloat16"):
        spec = Encoder(family=FAMILY[modality], model=str(checkpoint), precision=precision, pooling=POOLING[modality])
        encoder = load(spec, place)
        if not windows:
            windows, prepared_rate = prepared(encoder, sources, setting.workers)
        best[precision] = sweep(setting, notes, encoder, windows * alone_times)
    sources = sources * times
    rates = {}
    for precision, (encoder, rate) in best.items():
        rates[precision] = whole(setting, notes, modality, encoder, sources, rate)
    plain = [value for label, value in notes.figures.items() if "padded" in label and isinstance(value, float)]
    if plain:
        notes.add("program over the faster padded plain loop, times", max(rates.values()) / max(plain))
    encoder, alone_rate = best["bfloat16"]
    steps = {
        "encoding": alone_rate,
        "decoding and preparing": prepared_rate,
        "storing": stored_per_second(encoder, setting.folder / "stored", sources[:4]),
    }
    what_limits(notes, steps, rates["bfloat16"])


def plain_loops(setting: Any, notes: Notes, modality: Modality, checkpoint: Path, sources: list[Any]) -> None:
    some = sources[: PLAIN[modality]]
    for precision in ("float32", "bfloat16"):
        run = plain_loop(modality, checkpoint, setting.device, 8, precision)
        run(some[:8], fresh(setting.folder / "warm"))
        label = f"plain loop, padded batches of 8, {precision}, clips/s"
        notes.add(label, len(some) / timed(run, some, setting.folder))


def sweep(setting: Any, notes: Notes, encoder: LoadedEncoder, windows: list[Window]) -> tuple[LoadedEncoder, float]:
    """The encoder alone, on windows that lie ready, with several batch_tokens; the fastest, with its clips/s."""
    found: list[tuple[float, LoadedEncoder]] = []
    for tokens in TOKENS[:2] if setting.tiny else TOKENS:
        sized = replace(encoder, spec=encoder.spec.model_copy(update={"batch_tokens": tokens}))
        batches = [[windows[i] for i in batch] for batch in batches_of(windows, sized)]

        def rate(sized: LoadedEncoder = sized, batches: list[list[Window]] = batches) -> float:
            timed(alone(sized, batches[:1]), [], setting.folder)  # kernels are chosen, memory is asked for
            found.append((len(windows) / timed(alone(sized, batches), [], setting.folder), sized))
            return found[-1][0]

        notes.attempt(f"encoder alone, {encoder.spec.precision}, batch_tokens {tokens:,}, clips/s", rate)
    fastest, sized = max(found, key=lambda each: each[0])
    return sized, fastest


def whole(
    setting: Any, notes: Notes, modality: Modality, encoder: LoadedEncoder, sources: list[Any], alone_rate: float
) -> float:
    """The program from files to a committed store: clips/s, and for which share of it the encoder worked."""
    spans: list[Callable[[], float]] = []
    run = program([watched(encoder, spans)], modality, setting.workers, BLOCKS[modality])
    run(sources[: setting.workers], fresh(setting.folder / "warm"))  # its decoders start
    spans.clear()
    seconds = timed(run, sources, setting.folder)
    rate, what = len(sources) / seconds, f"program, {encoder.spec.precision}"
    notes.add(f"{what}, batch_tokens {encoder.spec.batch_tokens:,}, clips/s", rate)
    notes.add(f"{what}, share of the pass in which the encoder is busy", sum(span() for span in spans) / seconds)
    notes.add(f"{what}, share of the encoder's own speed", rate / alone_rate)
    notes.add(f"{what}, hours for AvaMERG's {AVAMERG_CLIPS:,} clips (projected)", AVAMERG_CLIPS / rate / 3600)
    return rate


def watched(encoder: LoadedEncoder, spans: list[Callable[[], float]]) -> LoadedEncoder:
    """An encoder that notes, of each batch, how to ask for the seconds its network took on the device."""

    def hidden(inputs: dict[str, torch.Tensor], lengths: list[int] | None) -> torch.Tensor:
        if encoder.device.type != "cuda":
            started = time.perf_counter()
            states = encoder.hidden(inputs, lengths)
            took = time.perf_counter() - started
            spans.append(lambda: took)
            return states
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        states = encoder.hidden(inputs, lengths)
        done.record()
        spans.append(lambda: begun.elapsed_time(done) / 1000)
        return states

    return replace(encoder, hidden=hidden)


def what_limits(notes: Notes, steps: dict[str, float], rate: float) -> None:
    """Clips/s of each step by itself; the slowest limits, or the program where it is far below all of them."""
    for name, value in steps.items():
        notes.add(f"{name} alone, clips/s", value)
    slowest = min(steps, key=lambda name: steps[name])
    below = rate < 0.8 * steps[slowest]
    notes.add("what limits, in bfloat16", "what is between the steps, in Python" if below else slowest)


def stored_per_second(encoder: LoadedEncoder, folder: Path, sources: list[Any], times: int = 100) -> float:
    arrays = [encoder.alone(source) for source in sources]
    with ExitStack() as stack:
        writer = stack.enter_context(StoreWriter(folder, encoder.fields, encoder.dim))
        started = time.perf_counter()
        for i in range(times):
            for k, array in enumerate(arrays):
                writer.append(f"{i}.{k}", array, "content")
        writer.commit()
        return times * len(arrays) / (time.perf_counter() - started)
