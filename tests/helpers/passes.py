"""A pass of one encoder, as an extraction does it, for tests of what it leaves."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import Store, StoreWriter
from configs.schema import StoreSettings
from extract.encoders.encoder import LoadedEncoder
from extract.media.sources import Clip, Sources
from extract.passes.blocks import BlockComputer, Failure, Mark, Result, batches_of
from extract.passes.engine import Plan, hash_clips, open_writer, plan_pass, run_pass


def plan_alone(clips: list[Clip], stored: Mapping[str, str], block_clips: int, sources: Sources | None = None) -> Plan:
    contents, unreadable = hash_clips(clips, sources or Sources(None), 2)
    return plan_pass(clips, contents, unreadable, [stored], block_clips)


def run_alone(
    plan: Plan, results: Iterable[Result | Mark], writer: StoreWriter, commit_seconds: float = 0
) -> list[Failure]:
    (failures,) = run_pass(plan, results, [writer], commit_seconds)
    return failures


def store_of(encoder: LoadedEncoder, sources: list[Any], path: Path) -> Store:
    """The store of some files or texts, in float32, as ``clip0``, ``clip1`` ...; all of them can be read."""
    clips = [Clip(f"clip{i}", source) for i, source in enumerate(sources)]
    with open_writer(path, encoder, StoreSettings(dtype="float32")) as writer, BlockComputer([encoder], 2) as computer:
        plan = plan_alone(clips, {}, len(clips))
        assert run_alone(plan, computer.compute(plan.blocks), writer) == []
    return Store(path)


def batched(encoder: LoadedEncoder, sources: list[Any], as_on: str = "cpu") -> list[np.ndarray]:
    """Features of clips that share batches where they can, in this process; long ones are streamed, one by one.

    Args:
        as_on: ``cuda``: in the batches that a GPU gets, which may hold clips of several lengths.
    """
    decoded = [encoder.task.decode(source, lambda: None) if encoder.task else source for source in sources]
    found = {i: encoder.alone(sources[i]) for i, clip in enumerate(decoded) if getattr(clip, "data", clip) is None}
    prepared = {i: encoder.prepare(clip) for i, clip in enumerate(decoded) if i not in found}
    places = [(i, window) for i, clip in prepared.items() for window in clip.windows]
    batches = batches_of([window for _, window in places], replace(encoder, device=torch.device(as_on)))
    pieces: dict[int, list[np.ndarray]] = {i: [] for i in prepared}
    for batch, values in zip(batches, encoder.encode([places[k][1] for k in each] for each in batches), strict=True):
        for k, piece in zip(batch, values, strict=True):
            pieces[places[k][0]].append(piece)
    found |= {i: np.concatenate(list(encoder.pooled(clip, pieces[i]))) for i, clip in prepared.items()}
    assert any(len(batch) > 1 for batch in batches)
    return [found[i] for i in range(len(sources))]
