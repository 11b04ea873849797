"""Heads at AvaMERG's size, and fine-tuning from the cache against end to end."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks import fine_tuning
from benchmarks.fine_tuning import CACHED, CASES, CHECKPOINTING, END_TO_END, Case
from benchmarks.heads import HEADS, NETWORK, epoch_seconds, make_conversations, make_store
from benchmarks.on_gpu.report import Notes
from configs.schema import Head
from heads.data.batches import UnitData

UNITS, LONGEST = 33_048, 8  # dialogues of 1 to 8 clips: about AvaMERG's 152,021 in all
PUBLISHED = ("audio", "video")
FOLDS, TRAINED = 5, 0.8  # each fold is fitted on so much of what was timed
MOST_CLIPS, SEARCH_SECONDS = 2048, 5.0  # of the search for the largest batch, for each way


def measure_heads(setting: Any, notes: Notes) -> None:
    """An epoch over all units, resident on the device, in main memory, and read by the batch."""
    rng = np.random.default_rng(0)
    manifest = make_conversations(64 if setting.tiny else UNITS, rng, LONGEST)
    notes.add("units of an epoch", len(manifest.units()))
    notes.add("clips", len(manifest.clips))
    names = sorted({store for name in PUBLISHED for store in HEADS[name][1].values()})
    stores = {name: make_store(setting.folder / name, manifest, name, rng) for name in names}

    def data_of(name: str, **more: Any) -> UnitData:
        settings, inputs = HEADS[name]
        sources = {modality: stores[store] for modality, store in inputs.items()}
        return UnitData(manifest, manifest.units(), sources, settings["metadata"], **more)

    def epoch(name: str, data: UnitData, precision: str) -> float:
        return epoch_seconds(data, Head.model_validate(NETWORK | HEADS[name][0] | {"precision": precision}))

    epochs = Head.model_fields["epochs"].default
    for name in PUBLISHED:
        data = data_of(name)
        for precision in ("float32", "bfloat16"):
            seconds = epoch(name, data, precision)
            notes.add(f"{name} head, {precision}, features resident on the device, s an epoch", seconds)
            folds = FOLDS * TRAINED * epochs * seconds
            notes.add(f"{name} head, {precision}, {FOLDS} folds of {epochs} epochs, s (projected)", folds)
    elsewhere: dict[str, dict[str, Any]] = {
        "in main memory": {"device": torch.device("cpu")},
        "read by the batch": {"resident_bytes": 0},
    }
    for name in PUBLISHED:
        for place, more in elsewhere.items():
            seconds = epoch(name, data_of(name, **more), "float32")
            notes.add(f"{name} head, float32, features {place}, s an epoch", seconds)


def measure_fine_tuning(setting: Any, notes: Notes) -> None:
    place = torch.device(setting.device)
    cases = [
        replace(case, batch=1, length=case.length // 10) if setting.tiny else replace(case, batch=32)
        for case in CASES[:2]
    ]
    for number, case in enumerate(cases):
        for precision in ("bfloat16",) if setting.tiny else ("bfloat16", "float32"):
            folder = setting.folder / f"{number}{precision}"
            found = fine_tuning.time_case(case, 1 if setting.tiny else 5, precision, place, folder)
            what = f"{case.title}, {precision}"
            for way in (END_TO_END, CACHED):
                notes.add(f"{what}, {case.batch} clips, {way}, s a step", found[way])
            notes.add(f"{what}, from the cache, times as fast", found[END_TO_END] / found[CACHED])
    for case in cases:
        for way in (END_TO_END, CACHED, CHECKPOINTING):
            largest_batch(setting, notes, case, way, "bfloat16")


class Constant:
    """A store of whose clips all are alike: memory does not depend on values."""

    def __init__(self, n_steps: int) -> None:
        self._clip = np.ones((n_steps, 768), dtype=np.float16)

    def __getitem__(self, clip_id: str) -> np.ndarray:
        return self._clip


def largest_batch(setting: Any, notes: Notes, case: Case, way: str, precision: str) -> None:
    """Doubled until a step does not fit, up to ``MOST_CLIPS``, within some seconds."""
    place = torch.device(setting.device)
    n_steps = case.length if case.family == "transformer" else case.length // 320 - 1
    most = 2 if setting.tiny else MOST_CLIPS
    case = replace(case, batch=most // 2)  # a case makes inputs for two batches
    if way == END_TO_END:
        step = fine_tuning.end_to_end(case, case.network(), place, precision)
    else:
        tail = case.tail(checkpointing=way == CHECKPOINTING)
        step = fine_tuning.from_cache(tail, Constant(n_steps), place, precision)  # type: ignore[arg-type]
    fits, peaks, ended = 0, [], "nothing larger was tried"
    end = time.monotonic() + SEARCH_SECONDS
    size = 1 if setting.tiny else 16
    while size <= most and time.monotonic() < end:
        try:
            if place.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            step(size)
            fine_tuning.synchronize(place)
        except torch.OutOfMemoryError:
            ended = f"{size} do not fit"
            break
        fits = size
        peaks.append(fine_tuning.peak(place))
        size *= 2
    notes.add(f"{case.title}, {precision}, {way}, largest batch tried that fits", f"{fits} ({ended})")
    if peaks:
        notes.add(f"{case.title}, {precision}, {way}, MB at {fits} clips", peaks[-1])
    if len(peaks) > 1:
        notes.add(f"{case.title}, {precision}, {way}, MB for each clip", (peaks[-1] - peaks[-2]) / (fits / 2))
    del step
    if place.type == "cuda":
        torch.cuda.empty_cache()
