"""Seconds an epoch of each head takes, beside the same head on tensors that are ready, and encoders inside the loop.

On a synthetic store of AvaMERG's published size: 14,817 training conversations of 1 to 10 clips, 768 values a vector.
Values are random, so scores mean nothing and are not printed. The published way (encoders inside the loop) is timed for
a few conversations and multiplied out; its networks are of base size with random weights: speed does not depend on
them.
"""

import sys

sys.path[:] = [path for path in sys.path if not path.endswith("benchmarks")]  # this file is named as the package is

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import torch
import transformers as hf
import typer

from cache import Store, StoreWriter
from configs import UserError
from configs.command_line import command
from configs.schema import Head
from extract.corpora.manifest import Manifest, make_manifest
from heads.data.batches import UnitData
from heads.data.folds import FoldTask
from heads.fitting.kinds import KINDS
from heads.fitting.training import fit_fold

CONVERSATIONS, LONGEST, DIM = 14_817, 10, 768
CLASSES = ("happy", "surprised", "angry", "fear", "sad", "disgusted", "contempt")
FIELDS = ("speaker_age", "speaker_gender", "speaker_timbre", "listener_age", "listener_gender", "listener_timbre")
CLIP_SECONDS = 5
STEPS = {  # time steps a clip: what encoders give, pooled in time
    "audio": lambda rng: 4,
    "video": lambda rng: 8,
    "text": lambda rng: 1,
    "audio_10hz": lambda rng: int(rng.integers(20, 10 * 2 * CLIP_SECONDS - 20)),
}
NETWORK = {"hidden": 256, "epochs": 2, "patience": 0, "batch_size": 64, "modality_dropout": 0.0}
HEADS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {  # name: (settings, which store is which input)
    "audio": (
        {"inputs": ["audio", "text"], "metadata": ["topic", *FIELDS]},
        {"audio": "audio", "text": "text"},
    ),
    "video": (
        {"kind": "cross_modal", "inputs": ["video", "text"], "metadata": ["topic", *FIELDS]},
        {"video": "video", "text": "text"},
    ),
    "text": ({"inputs": ["text"]}, {"text": "text"}),
    "metadata": ({"metadata": ["topic", *FIELDS]}, {}),
    "audio_statistics": ({"inputs": ["audio"], "time": "statistics"}, {"audio": "audio"}),
    "audio_10hz": ({"inputs": ["audio"]}, {"audio": "audio_10hz"}),
    "audio_10hz_statistics": ({"inputs": ["audio"], "time": "statistics"}, {"audio": "audio_10hz"}),
    "audio_10hz_lstm": ({"inputs": ["audio"], "time": "lstm"}, {"audio": "audio_10hz"}),
}
SHARES = {"audio_10hz": 0.05}  # of the conversations, beside --share: times are multiplied out


def make_conversations(n: int, rng: np.random.Generator, longest: int = LONGEST) -> Manifest:
    """``n`` training conversations of 1 to ``longest`` clips, the last one labelled."""
    rows = []
    for conversation in range(n):
        about = {f"meta_{field}": f"v{rng.integers(4)}" for field in FIELDS} | {"meta_topic": f"t{rng.integers(30)}"}
        n_clips = int(rng.integers(1, longest + 1))
        for index in range(n_clips):
            rows.append(
                {
                    "clip_id": f"c{conversation:05}u{index}",
                    "conversation_id": f"c{conversation:05}",
                    "index": index,
                    "role": ("speaker", "listener")[(n_clips - 1 - index) % 2],
                    "split": "train",
                    "label": CLASSES[int(rng.integers(len(CLASSES)))] if index == n_clips - 1 else None,
                    "group": f"c{conversation:05}",
                    **about,
                }
            )
    return make_manifest(pl.DataFrame(rows), Path(), CLASSES, {}, "synthetic")


def make_store(path: Path, manifest: Manifest, name: str, rng: np.random.Generator) -> Store:
    """A store of random float16 vectors, written as an extraction would write it."""
    pool = rng.standard_normal((4096, DIM), dtype=np.float32).astype(np.float16)
    with StoreWriter(path, {"benchmark": name}, dim=DIM, dtype="float16") as writer:
        for clip_id in manifest.clips["clip_id"]:
            writer.append(clip_id, pool[rng.integers(0, len(pool), STEPS[name](rng))], clip_id)
    return Store(path)


def epoch_seconds(data: UnitData, head: Head) -> float:
    """Of the last epoch of a training: its first one also pays for memory that is asked for the first time."""
    ends: list[float] = []

    def on_epoch(record: dict[str, Any]) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

    everything, none = np.arange(len(data.units)), np.arange(0)
    fit_fold(
        FoldTask(head, data, data.labels.numpy(), everything, everything, none, len(CLASSES), 0, on_epoch=on_epoch)
    )
    return ends[-1] - ends[-2]


def time_head(name: str, manifest: Manifest, stores: dict[str, Store]) -> tuple[float, float]:
    """Seconds of an epoch from the store, and of the same epoch on batches that are ready."""
    settings, inputs = HEADS[name]
    head = Head.model_validate(NETWORK | settings)
    data = KINDS[head.kind].read(head, manifest, manifest.units(), {m: stores[s] for m, s in inputs.items()})
    from_store = epoch_seconds(data, head)
    gathered, kept = data.batch, []
    data.batch = lambda *given, **named: kept.append(gathered(*given, **named)) or kept[-1]
    epoch_seconds(data, head)
    data.batch = lambda *given, **named: kept.pop(0)  # the same batches in the same order, at no cost
    return from_store, epoch_seconds(data, head)


def published_way(modality: str, device: torch.device, conversations: int = 2) -> float:
    """Seconds a conversation costs with the encoders inside the loop, convolutions and half of BERT frozen."""
    torch.manual_seed(0)
    text = hf.BertModel(hf.BertConfig()).train().to(device)
    for layer in text.encoder.layer[:6]:
        layer.requires_grad_(False)
    n_clips = (1 + LONGEST) // 2
    tokens = torch.randint(5, 1000, (n_clips, 24), device=device)
    if modality == "audio":
        media: Any = hf.Wav2Vec2Model(hf.Wav2Vec2Config(layerdrop=0.0)).train().to(device)
        media.feature_extractor._freeze_parameters()
        clips = torch.randn(n_clips, CLIP_SECONDS * 16000, device=device)
    else:
        media = hf.TimesformerModel(hf.TimesformerConfig()).train().to(device)
        clips = torch.randn(n_clips, 8, 3, 224, 224, device=device)
    classifier = torch.nn.Linear(2 * DIM, len(CLASSES)).to(device)
    parameters = [p for network in (text, media, classifier) for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, fused=True)

    def step() -> None:
        both = [media(clips).last_hidden_state.mean(1), text(tokens).last_hidden_state.mean(1)]
        loss = torch.nn.functional.cross_entropy(
            classifier(torch.cat(both, 1)).mean(0, keepdim=True), torch.zeros(1, dtype=torch.int64, device=device)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return seconds_of(step, conversations)


def seconds_of(step: Callable[[], None], times: int) -> float:
    step()
    started = time.perf_counter()
    for _ in range(times):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / times


def main(
    heads: Annotated[str, typer.Option(help="Heads to time, separated by commas.")] = ",".join(HEADS),
    share: Annotated[float, typer.Option(min=0.001, max=1, help="Of the conversations.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Time one epoch of each head from a store, on ready tensors, and with the encoders inside the loop."""
    names = heads.split(",")
    for name in names:
        if name not in HEADS:
            raise UserError(f"--heads: no head {name!r} here; there are: {', '.join(HEADS)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device}, {torch.get_num_threads()} threads; {CONVERSATIONS:,} conversations an epoch")
    published = {m: CONVERSATIONS * published_way(m, device) for m in ("audio", "video")}
    for modality, seconds in published.items():
        print(
            f"encoders inside the loop, {modality} + text: {seconds / 3600:.1f} h an epoch, extrapolated from 2 steps"
        )
    figures: dict[str, Any] = {"published_way": published, "heads": {}}
    print(f"{'head':<24}{'share':>7}{'epoch, s':>10}{'ready, s':>10}{'ready/epoch':>12}{'than encoders inside':>22}")
    for name in names:
        part = share * min([SHARES.get(store, 1.0) for store in HEADS[name][1].values()], default=1.0)
        with tempfile.TemporaryDirectory() as folder:
            rng = np.random.default_rng(0)
            manifest = make_conversations(round(CONVERSATIONS * part), rng)
            stores = {s: make_store(Path(folder) / s, manifest, s, rng) for s in set(HEADS[name][1].values())}
            from_store, ready = (seconds / part for seconds in time_head(name, manifest, stores))
        way = published["video" if "video" in HEADS[name][1] else "audio"]
        figures["heads"][name] = {"epoch_s": from_store, "ready_s": ready, "share": part}
        print(
            f"{name:<24}{part:>7.2f}{from_store:>10.1f}{ready:>10.1f}{ready / from_store:>12.2f}"
            f"{way / from_store:>20.0f} x"
        )
    if out is not None:
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command(main)
