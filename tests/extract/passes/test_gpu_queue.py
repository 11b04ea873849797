"""On a GPU a block waits in the queue while the one before it is stored; the store is the same."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from media_tools import Load, relative_error
from passes import plan_alone, run_alone

from cache import Store
from configs.schema import StoreSettings
from extract.encoders.encoder import Begun, LoadedEncoder, Window
from extract.encoders.loading import LOADERS
from extract.media.sources import Clip
from extract.passes.blocks import BlockComputer
from extract.passes.engine import open_writer


def numbered(paths: list[Any]) -> list[Clip]:
    return [Clip(f"clip{i}", path) for i, path in enumerate(paths)]


def do_pass(clips: list[Clip], encoder: LoadedEncoder, path: Path, block_clips: int = 3) -> None:
    settings = StoreSettings(dtype="float32")
    with open_writer(path, encoder, settings) as writer, BlockComputer([encoder], 2) as computer:
        plan = plan_alone(clips, {}, block_clips)
        run_alone(plan, computer.compute(plan.blocks), writer)


def queued(encoder: LoadedEncoder, told: list[tuple[str, int]]) -> Any:
    """An encoder that says it is on a GPU; ``told`` hears which batch goes into its queue and which is waited for."""

    def begin(windows: list[Window]) -> Begun:
        number = sum(what == "begun" for what, _ in told)
        told.append(("begun", number))
        done = SimpleNamespace(synchronize=lambda: told.append(("waited for", number)))
        return replace(encoder.begin(windows), done=done)

    return SimpleNamespace(**vars(encoder) | {"device": torch.device("cuda")}, pooled=encoder.pooled, begin=begin)


def test_a_gpu_has_the_next_block_in_its_queue_before_a_block_is_waited_for(
    media: dict[str, list[Any]], load: Load, tmp_path: Path
) -> None:
    encoder = load("wav2vec2", batch_tokens=10**6)  # a batch for each block
    told: list[tuple[str, int]] = []
    clips = numbered([*media["audio"][:5], tmp_path / "none.wav", *media["audio"][5:]])
    do_pass(clips, encoder, tmp_path / "plain")
    do_pass(clips, queued(encoder, told), tmp_path / "queued")
    order = [("begun", 0), ("begun", 1), ("waited for", 0), ("begun", 2), ("waited for", 1), ("waited for", 2)]
    assert told == order
    plain, other = Store(tmp_path / "plain"), Store(tmp_path / "queued")
    assert plain.clip_ids == other.clip_ids
    for clip_id in plain.clip_ids:  # as on a GPU, batches are padded
        assert relative_error(other[clip_id], plain[clip_id]) <= 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("block_clips", [1, 3, 100])
def test_a_gpu_stores_what_a_cpu_does(
    media: dict[str, list[Any]], load: Load, tmp_path: Path, block_clips: int
) -> None:
    encoder = load("wav2vec2", batch_tokens=40)
    on_gpu = LOADERS["audio"](encoder.spec, torch.device("cuda"))
    do_pass(numbered(media["audio"]), encoder, tmp_path / "cpu")
    do_pass(numbered(media["audio"]), on_gpu, tmp_path / "gpu", block_clips=block_clips)
    plain, other = Store(tmp_path / "cpu"), Store(tmp_path / "gpu")
    assert plain.clip_ids == other.clip_ids
    assert max(relative_error(other[clip_id], plain[clip_id]) for clip_id in plain.clip_ids) <= 1e-4
