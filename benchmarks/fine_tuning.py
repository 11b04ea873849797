"""A fine-tuning step fed from cached boundary states, beside the same step end to end, and what arithmetic allows.

Networks are of base size with random weights: speed and memory do not depend on them, and nothing is learned here. Both
steps train the same layers, with dropout, the same classifier and AdamW. End to end, everything below the boundary is
frozen and in evaluation mode; fed from the cache, the clips' boundary states are read from a float16 store.
"""

# ruff: noqa: E402
import sys

sys.path[:] = [path for path in sys.path if not path.endswith("benchmarks")]  # there is an extract.py, too

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers as hf
import typer
from torch import Tensor, nn
from tqdm import tqdm

from cache import Store, StoreWriter
from configs.command_line import command
from configs.schema import Encoder, Tail
from extract.encoders.layers import keep_needed_layers, places_of_tail
from extract.encoders.tail import build_tail

DROPOUT, CLASSES = 0.1, 7
Step = Callable[[int], None]  # trains once, on so many clips


@dataclass(frozen=True)
class Case:
    """``batch`` clips of ``length`` tokens, or samples of sound at 16 kHz."""

    title: str
    family: str
    boundary: int
    batch: int
    length: int

    @property
    def config(self) -> Any:
        if self.family == "wav2vec2":
            return hf.Wav2Vec2Config(hidden_dropout=DROPOUT, attention_dropout=0.0, activation_dropout=0.0)
        return hf.BertConfig(hidden_dropout_prob=DROPOUT, attention_probs_dropout_prob=0.0)

    @property
    def encoder(self) -> Encoder:
        return Encoder(family=self.family, model="./random", boundary=self.boundary)

    def inputs(self, device: torch.device) -> tuple[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        if self.family == "wav2vec2":
            return "input_values", torch.randn(2 * self.batch, self.length, generator=generator).to(device)
        return "input_ids", torch.randint(1000, 30_000, (2 * self.batch, self.length), generator=generator).to(device)

    def network(self) -> Any:
        torch.manual_seed(0)
        return hf.AutoModel.from_config(self.config).eval().requires_grad_(False)

    def tail(self, checkpointing: bool = False) -> Any:
        settings = Tail(dropout=DROPOUT, checkpointing=checkpointing)
        about = {"encoder": self.encoder.model_dump(), "settings": settings.model_dump()}
        tail = build_tail(about | {"config": self.config.to_diff_dict()}).train()
        for parameter in tail.parameters():
            nn.init.normal_(parameter, std=0.02)
        return tail


CASES = [
    Case("BERT, the upper 6 of 12 layers", "transformer", 6, batch=8, length=128),
    Case("Wav2Vec2, the upper 6 of 12 layers", "wav2vec2", 6, batch=4, length=80_000),
    Case("BERT, the upper 2 of 12 layers", "transformer", 10, batch=8, length=128),
]
END_TO_END, CACHED, CHECKPOINTING = "end to end", "from the cache", "from the cache, checkpointing"
LARGE_BATCH = 32


def trained(hidden: Callable[[int], Tensor], parameters: list[nn.Parameter], device: torch.device, how: str) -> Step:
    """A step on the (clips, time, dim) that ``hidden`` gives of so many clips: mean over time, classifier, AdamW."""
    linear = nn.Linear(768, CLASSES).to(device)
    optimizer = torch.optim.AdamW([*parameters, *linear.parameters()], lr=1e-5, fused=True)

    def step(batch: int) -> None:
        optimizer.zero_grad()
        with autocast(device, how):
            logits = linear(hidden(batch).mean(dim=1))
        loss = nn.functional.cross_entropy(logits.float(), torch.arange(batch, device=device) % CLASSES)
        loss.backward()
        optimizer.step()

    return step


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")


def end_to_end(case: Case, network: Any, device: torch.device, precision: str) -> Step:
    network.to(device)
    for layer in upper_layers(case, network):
        layer.train().requires_grad_(True)
    key, x = case.inputs(device)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return trained(lambda batch: network(**{key: x[:batch]}).last_hidden_state, parameters, device, precision)


def from_cache(tail: Any, store: Store, device: torch.device, precision: str) -> Step:
    tail.to(device)
    return trained(lambda batch: tail(*read(store, batch, device))[0], list(tail.parameters()), device, precision)


def read(store: Store, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    hidden = torch.from_numpy(np.stack([store[str(i)] for i in range(batch)])).to(device)
    return hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=device)


def upper_layers(case: Case, network: Any) -> nn.ModuleList:
    layers: nn.ModuleList = network.get_submodule(places_of_tail(network, case.encoder)[0])[case.boundary :]
    return layers


def write_store(path: Path, states: np.ndarray) -> Store:
    with StoreWriter(path, {"benchmark": "fine_tuning"}, states.shape[-1]) as writer:
        for i, clip in enumerate(states):
            writer.append(str(i), clip, f"{i}")
    return Store(path)


def time_case(case: Case, rounds: int, precision: str, device: torch.device, folder: Path) -> dict[str, float]:
    """Interleaved rounds of the two steps, and of the forward passes of what is below the boundary and above it.

    Returns the median seconds of each.
    """
    network, below, tail = case.network(), case.network(), case.tail()
    tail.layers.load_state_dict(upper_layers(case, network).state_dict())
    keep_needed_layers(below, case.encoder)
    below.to(device)
    key, x = case.inputs(device)

    def forward_below() -> Tensor:
        with torch.no_grad(), autocast(device, precision):
            states: Tensor = below(**{key: x[: case.batch]}).last_hidden_state
            return states

    def forward_above() -> None:
        with torch.no_grad(), autocast(device, precision):
            tail(*read(store, case.batch, device))

    store = write_store(folder, forward_below().float().cpu().numpy())
    whole, cached = end_to_end(case, network, device, precision), from_cache(tail, store, device, precision)
    runs: dict[str, Callable[[], Any]] = {
        END_TO_END: lambda: whole(case.batch),
        CACHED: lambda: cached(case.batch),
        "below": forward_below,
        "above": forward_above,
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in tqdm(range(rounds + 1), case.title, disable=None, leave=False):
        for name, run in runs.items():
            synchronize(device)
            started = time.perf_counter()
            run()
            synchronize(device)
            if i:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = statistics.median(a / b for a, b in zip(seconds[END_TO_END], seconds[CACHED], strict=True))
    bound = 1 + medians["below"] / (3 * medians["above"])
    print(f"  {END_TO_END:31} {medians[END_TO_END]:6.3f} s a step")
    print(f"  {CACHED:31} {medians[CACHED]:6.3f} s a step: {ratio:.2f} x as fast")
    print(
        f"  forward only: below the boundary {medians['below']:.3f} s, above it {medians['above']:.3f} s; with a "
        f"backward of twice what is trained, {bound:.2f} x is possible: {ratio / bound:.2f} of it"
    )
    return medians


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory(case: Case, way: str, batches: list[int], precision: str, device: str, threads: int) -> list[float]:
    """The most memory, in MB, that this process has needed after a step of each of these batches, from small to large:
    weights, gradients, AdamW's moments and what the step keeps."""
    torch.set_num_threads(threads)
    place = torch.device(device)
    before, found = peak(place), []
    with tempfile.TemporaryDirectory() as folder:
        if way == END_TO_END:
            step = end_to_end(case, case.network(), place, precision)
        else:
            n_steps = case.length if case.family == "transformer" else case.length // 320 - 1
            store = write_store(Path(folder) / "store", np.ones((batches[-1], n_steps, 768), dtype=np.float32))
            step = from_cache(case.tail(checkpointing=way == CHECKPOINTING), store, place, precision)
        for batch in [1, *batches]:  # AdamW makes its moments in the first step
            step(batch)
            found.append(peak(place) - before)
    return found[1:]


def peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 2**10


def measure_memory(case: Case, precision: str, device: str, threads: int) -> None:
    """What is needed grows on a line with the batch, once it keeps more than the gradients of weights take: two sizes
    tell how many clips fit in how much."""
    batches = [case.batch, 2 * case.batch]
    context = multiprocessing.get_context("spawn")  # a process of its own for each, with nothing left of the others
    fixed, per_clip = {}, {}
    for way in (END_TO_END, CACHED, CHECKPOINTING):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            small, large = pool.submit(peak_memory, case, way, batches, precision, device, threads).result()
        per_clip[way] = (large - small) / (batches[1] - batches[0])
        fixed[way] = large - per_clip[way] * batches[1]
        print(f"  {way:31} {fixed[way]:6.0f} MB, and {per_clip[way]:5.1f} MB for each clip of a batch")
    needed = fixed[END_TO_END] + per_clip[END_TO_END] * LARGE_BATCH
    fits = [f"{(needed - fixed[way]) / per_clip[way]:.0f} {way}" for way in (CACHED, CHECKPOINTING)]
    print(f"  so what {LARGE_BATCH} clips need end to end is enough for {' and '.join(fits)}")


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved; medians are printed.")] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 for autocast.")] = "float32",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU; default: as torch chooses.")] = None,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, too; without a GPU on Linux only.")] = True,
) -> None:
    """Compare a fine-tuning step fed from cached boundary states with the same step end to end.

    Base-size networks with random weights: speed and memory only. Ratios of one run can be compared; seconds depend on
    the machine and on who else uses it.
    """
    hf.logging.set_verbosity_error()
    if threads:
        torch.set_num_threads(threads)
    threads = torch.get_num_threads()
    print(f"random weights: speed and memory only; {device}, {precision}, {threads} threads, median of {rounds} rounds")
    for case in CASES:
        of = f"{case.length} tokens" if case.family == "transformer" else f"{case.length / 16000:g} s"
        print(f"\n{case.title}: batches of {case.batch} clips of {of}")
        with tempfile.TemporaryDirectory() as folder:
            time_case(case, rounds, precision, torch.device(device), Path(folder) / "store")
        if memory:
            measure_memory(case, precision, device, threads)


if __name__ == "__main__":
    command(main)
