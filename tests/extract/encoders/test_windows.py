"""Clips longer than a window: every time step once, in its place, and seams that do not show."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from checkpoints import N_FRAMES, WORDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_tools import Load, relative_error, write_video

from configs.schema import Encoder
from extract.encoders.audio import SAMPLES_PER_STEP, WindowCutter
from extract.encoders.encoder import LoadedEncoder
from extract.encoders.networks import steps_after
from extract.media.sources import Clip
from extract.passes.blocks import Block, BlockComputer, Failure, Job, Mark

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # of Wav2Vec2 and kin


def computed(encoder: LoadedEncoder, sources: list[Path | str]) -> list[np.ndarray]:
    """Features of clips as a pass computes them, decoded in child processes."""
    block = Block([Job(Clip(f"clip{i}", source), "", i) for i, source in enumerate(sources)])
    parts: dict[int, list[np.ndarray]] = {}
    with BlockComputer([encoder], workers=2) as computer:
        for result in computer.compute([block]):
            if not isinstance(result, Mark):
                place, values = result
                assert not isinstance(values, Failure)
                parts.setdefault(place, []).append(values)
    return [np.concatenate(parts[i]) for i in range(len(sources))]


@given(
    n_samples=st.integers(400, 200_000),
    seconds=st.floats(1, 4),
    overlap=st.floats(0, 0.5),
    blocks=st.lists(st.integers(1, 50_000), max_size=5),
)
def test_windows_keep_each_step_once_and_see_the_samples_it_is_made_of(
    n_samples: int, seconds: float, overlap: float, blocks: list[int]
) -> None:
    def n_steps(n: int) -> int:
        return steps_after(n, KERNELS, STRIDES)

    spec = Encoder(family="wav2vec2", model="./none", window_seconds=seconds, overlap=overlap)
    samples = np.arange(n_samples, dtype=np.float32)
    pieces = np.split(samples, [cut for cut in np.cumsum(blocks) if cut < n_samples])
    cut = WindowCutter(spec, n_steps)
    step = 0
    for window, keep in cut(iter(pieces), n_samples):
        assert len(window) <= seconds * 16000
        assert keep.stop <= n_steps(len(window))  # the network gives all steps that are kept
        # Step i of a window begins at its sample 320 i, which is where the clip's next step begins.
        assert window[keep.start * SAMPLES_PER_STEP] == step * SAMPLES_PER_STEP
        step += keep.stop - keep.start
    assert step == n_steps(n_samples)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five and a bit seconds of noise that changes its loudness, as audio files do."""
    rng = np.random.default_rng(0)
    n = 5 * 16000 + 1234
    loudness = 0.05 + 0.1 * np.sin(np.arange(n) / 5000) ** 2
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, rng.normal(size=n) * loudness + 0.02, 16000, subtype="FLOAT")
    return path


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("name", ["wav2vec2-layer", "hubert", "wavlm"])
def test_windows_of_audio_agree_with_the_whole(name: str, layer: int, load: Load, speech: Path) -> None:
    """Random weights of large variance: away from the seams, and at them, windows differ little from the whole clip.

    Before the first layer a step depends on its neighbourhood only (and, where the first norm runs over time, on the
    window's loudness): there, with norms that do not, windows are the whole clip, seams included.
    """
    whole = load(name, layer=layer, window_seconds=30).alone(speech)
    windows = load(name, layer=layer, window_seconds=2, overlap=0.3).alone(speech)
    assert whole.shape == windows.shape
    if name == "wav2vec2-layer" and layer == 0:
        assert relative_error(windows, whole) <= 1e-5
    else:
        shuffled = np.roll(whole, 1, axis=0)
        assert np.abs(windows - whole).mean() < 0.5 * np.abs(shuffled - whole).mean()  # each step stands in its place


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2-layer", "whisper"])
def test_long_audio_streamed_from_a_child_equals_the_same_windows_held_at_once(
    name: str, load: Load, speech: Path, media: dict[str, Any]
) -> None:
    long = load(name, window_seconds=1)
    assert long.task.decode(speech, lambda: None).data is None  # too long to be held
    (streamed,) = computed(long, [speech])
    n_samples = soundfile.info(speech).frames
    assert len(streamed) == (steps_after(n_samples, KERNELS, STRIDES) if name != "whisper" else -(-n_samples // 320))
    np.testing.assert_array_equal(streamed, long.alone(speech))
    # The same windows, prepared from samples that are all at hand.
    samples, _ = soundfile.read(speech, dtype="float32")
    held = long.prepare(type(long.task.decode(media["audio"][0], lambda: None))(5.0, n_samples, samples))
    pieces = np.concatenate([kept for (kept,) in long.encode([window] for window in held.windows)])
    assert relative_error(streamed, pieces) <= 1e-5


def test_long_and_short_clips_share_a_block(load: Load, speech: Path, media: dict[str, Any]) -> None:
    encoder = load("wav2vec2", window_seconds=1, pooling=10.0)
    sources = [media["audio"][0], speech, media["audio"][1], speech]
    for features, source in zip(computed(encoder, sources), sources, strict=True):
        assert relative_error(features, encoder.alone(source)) <= 1e-5
    assert len(encoder.alone(speech)) == round(soundfile.info(speech).duration * 10)


@pytest.mark.parametrize("name", ["timesformer", "videomae", "resnet"])
def test_long_video_is_cut_into_equal_segments(name: str, load: Load, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (40, 1, 1, 3), dtype=np.uint8)
    images = np.broadcast_to(colours, (40, 32, 32, 3))
    write_video(tmp_path / "whole.mkv", images, codec="ffv1", pixels="bgr0")  # four seconds
    for part in range(4):
        write_video(tmp_path / f"{part}.mkv", images[part * 10 : part * 10 + 10], codec="ffv1", pixels="bgr0")
    encoder = load(name, window_seconds=1, n_frames=N_FRAMES)
    (whole,) = computed(encoder, [tmp_path / "whole.mkv"])
    parts = np.concatenate(computed(encoder, [tmp_path / f"{part}.mkv" for part in range(4)]))
    assert relative_error(whole, parts) <= 1e-5
    assert len(load(name, window_seconds=2, n_frames=N_FRAMES).alone(tmp_path / "whole.mkv")) == len(whole) / 2


@pytest.mark.parametrize(("name", "longest"), [("bert", 24), ("roberta", 20)])
def test_a_text_may_be_as_long_as_the_network_has_positions_and_is_then_cut(
    name: str, longest: int, load: Load
) -> None:
    encoder = load(name)
    (only,) = encoder.prepare("happy " * (longest - 2)).windows
    assert len(only.inputs["input_ids"]) == longest
    first, _ = encoder.prepare("happy " * (longest - 1)).windows
    assert len(first.inputs["input_ids"]) == longest
    assert encoder.alone("happy " * (longest - 1)).shape == (longest + 1, 16)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from(WORDS[5:17]), min_size=1, max_size=120), overlap=st.floats(0, 0.5))
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_windows_of_text_keep_each_token_once_and_in_its_place(
    name: str, words: list[str], overlap: float, load: Load
) -> None:
    encoder = load(name, overlap=overlap)
    prepared = encoder.prepare(" ".join(words))
    kept = np.concatenate([window.inputs["input_ids"][window.keep] for window in prepared.windows])
    assert kept.tolist() == [WORDS.index("[CLS]"), *map(WORDS.index, words), WORDS.index("[SEP]")]
    assert prepared.n_steps == len(kept)
    for window in prepared.windows:  # each is a text of its own to the network
        ids = window.inputs["input_ids"].tolist()
        assert (ids[0], ids[-1]) == (WORDS.index("[CLS]"), WORDS.index("[SEP]"))


def test_a_long_text_is_what_its_windows_say(load: Load) -> None:
    encoder = load("bert", overlap=0.25)
    text = " ".join(np.random.default_rng(0).choice(WORDS[5:17], 60))
    (whole,) = computed(encoder, [text])
    expected = []
    for window in encoder.prepare(text).windows:
        inputs = {name: torch.from_numpy(array)[None] for name, array in window.inputs.items()}
        with torch.inference_mode():
            expected.append(encoder.hidden(inputs, None)[0].numpy()[window.keep])
    assert relative_error(whole, np.concatenate(expected)) <= 1e-5


def test_texts_may_be_prepared_by_several_threads(load: Load) -> None:
    encoder = load("bert")
    texts = ["happy " * (1 + i % 60) for i in range(600)]
    with ThreadPoolExecutor(8) as pool:
        prepared = list(pool.map(encoder.prepare, texts))
    assert [clip.n_steps for clip in prepared] == [len(text.split()) + 2 for text in texts]
