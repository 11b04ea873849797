"""Features without weights: what torchaudio and openSMILE give of a clip alone, whatever it is batched or cut with."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
import yaml
from media_tools import relative_error
from passes import batched
from pydantic import ValidationError
from shells import REPOSITORY

from cache import fingerprint
from configs import UserError
from configs.schema import Encoder, Profile
from extract.encoders.checkpoints import network
from extract.encoders.encoder import LoadedEncoder
from extract.encoders.loading import load as load_by_settings
from extract.media.reading import ClipError

SPECTRA: list[dict[str, Any]] = [
    {"kind": "mfcc", "deltas": 2},
    {"kind": "fbank", "n_mels": 23, "deltas": 1},
    {"kind": "mel", "window_ms": 32, "hop_ms": 12.5},
]
SETS: list[dict[str, Any]] = [{"kind": "eGeMAPSv02"}, {"kind": "eGeMAPSv02", "level": "lld"}]


def load(**settings: Any) -> LoadedEncoder:
    return load_by_settings(Encoder(**settings), torch.device("cpu"))


def spectrum(**settings: Any) -> LoadedEncoder:
    return load(family="spectrum", **settings)


def functionals(**settings: Any) -> LoadedEncoder:
    pytest.importorskip("opensmile")
    return load(family="functionals", **settings)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Noise whose loudness changes; two clips are of one length, the last is longer than two windows of a second."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for i, n in enumerate((3200, 5000, 3200, 40_123)):
        loudness = 0.02 + 0.2 * np.sin(np.arange(n) / 3000) ** 2
        soundfile.write(folder / f"{i}.wav", rng.normal(size=n) * loudness, 16000, subtype="FLOAT")
    return sorted(folder.iterdir())


def by_hand(samples: torch.Tensor, kind: str) -> np.ndarray:
    """(time, dim) without slopes, for the settings above."""
    if kind == "fbank":
        return torchaudio.compliance.kaldi.fbank(samples[None] * 2**15, num_mel_bins=23, dither=0.0).numpy()
    if kind == "mfcc":
        mels = {"n_fft": 400, "hop_length": 160, "n_mels": 40, "center": False}
        return torchaudio.transforms.MFCC(16000, 13, log_mels=True, melkwargs=mels)(samples).T.numpy()
    mel = torchaudio.transforms.MelSpectrogram(16000, n_fft=512, hop_length=200, n_mels=40, center=False)
    return (mel(samples) + 1e-6).log().T.numpy()


@pytest.mark.parametrize("settings", SPECTRA, ids=str)
def test_a_spectrum_is_torchaudios_with_slopes_behind_it(settings: dict[str, Any], clips: list[Path]) -> None:
    encoder = spectrum(**settings)
    window, hop = (512, 200) if settings["kind"] == "mel" else (400, 160)
    for path in clips:
        samples = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        own = by_hand(samples, settings["kind"])
        parts = [own]
        for _ in range(settings.get("deltas", 0)):  # the slope of the line through five steps
            around = np.pad(parts[-1], ((2, 2), (0, 0)), mode="edge")
            parts.append((around[3:-1] - around[1:-3] + 2 * (around[4:] - around[:-4])) / 10)
        features = encoder.alone(path)
        assert len(features) == 1 + (len(samples) - window) // hop
        assert encoder.dim == features.shape[1]
        assert relative_error(features, np.concatenate(parts, axis=1)) <= 1e-5


@pytest.mark.parametrize("settings", SPECTRA, ids=str)
def test_spectra_are_the_same_alone_batched_and_in_windows(settings: dict[str, Any], clips: list[Path]) -> None:
    whole = [spectrum(**settings).alone(path) for path in clips]
    together = batched(spectrum(**settings), clips)
    cut = batched(spectrum(**settings, window_seconds=1, overlap=0), clips)
    for features, *others in zip(whole, together, cut, strict=True):
        assert [relative_error(other, features) <= 1e-5 for other in others] == [True, True]


@pytest.mark.parametrize("settings", SETS, ids=str)
def test_functionals_are_opensmiles_alone_and_batched(settings: dict[str, Any], clips: list[Path]) -> None:
    encoder = functionals(**settings)
    import opensmile

    level = "LowLevelDescriptors" if "level" in settings else "Functionals"
    smile = opensmile.Smile("eGeMAPSv02", getattr(opensmile.FeatureLevel, level))
    for path, features in zip(clips, batched(encoder, clips), strict=True):
        samples = soundfile.read(path, dtype="float32")[0]
        wanted = smile.process_signal(samples, 16000)
        assert len(features) == (2 + (len(samples) - 960) // 160 if "level" in settings else 1)
        np.testing.assert_array_equal(features, wanted.to_numpy(np.float32))
        assert encoder.fields["columns"] == list(wanted.columns)


def test_longer_clips_give_a_vector_for_each_of_equal_pieces(clips: list[Path], tmp_path: Path) -> None:
    long = functionals(kind="eGeMAPSv02", window_seconds=1)
    features = long.alone(clips[3])
    samples = soundfile.read(clips[3], dtype="float32")[0]
    assert features.shape == (3, 88)
    for row, (start, stop) in zip(features, ((0, 13374), (13374, 26748), (26748, 40123)), strict=True):
        soundfile.write(tmp_path / "piece.wav", samples[start:stop], 16000, subtype="FLOAT")
        np.testing.assert_array_equal(functionals(kind="eGeMAPSv02").alone(tmp_path / "piece.wav")[0], row)


def test_descriptors_of_longer_clips_stand_where_they_would(clips: list[Path]) -> None:
    settings = {"kind": "eGeMAPSv02", "level": "lld"}
    whole = functionals(**settings).alone(clips[3])
    cut = functionals(**settings, window_seconds=1).alone(clips[3])
    assert cut.shape == whole.shape
    same = np.isclose(cut, whole, rtol=1e-3, atol=1e-3).all(axis=1)
    assert same.mean() > 0.9  # its pitch is chosen with the rest of the clip in view


def test_what_is_too_loud_for_opensmile_is_cut_off_and_does_not_wrap_around(tmp_path: Path) -> None:
    loud = 1.2 * np.sin(np.arange(8000) / 20)
    given = []
    for name, samples in (("loud", loud), ("cut", loud.clip(-1, 1 - 2**-15))):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000, subtype="FLOAT")
        given.append(functionals(kind="eGeMAPSv02").alone(tmp_path / f"{name}.wav"))
    np.testing.assert_array_equal(*given)


def test_a_clip_that_opensmile_refuses_costs_that_clip(clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = functionals(kind="eGeMAPSv02")
    import opensmile

    def refuses(*_: Any) -> None:
        raise opensmile.core.lib.OpenSmileException(6)

    monkeypatch.setattr(opensmile.Smile, "__call__", refuses)
    with pytest.raises(ClipError, match="openSMILE says: "):
        encoder.alone(clips[0])


def test_sounds_that_are_too_short_are_a_clip_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "blip.wav", np.linspace(-0.1, 0.1, 399), 16000)
    with pytest.raises(ClipError, match="399 samples, shorter than a window of 25 ms"):
        spectrum(kind="mfcc").alone(tmp_path / "blip.wav")
    with pytest.raises(ClipError, match="399 samples, shorter than the 60 ms that openSMILE needs"):
        functionals(kind="eGeMAPSv02").alone(tmp_path / "blip.wav")


def test_every_setting_and_the_librarys_version_enter_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[dict[str, Any]] = [
        *({}, {"kind": "mel"}, {"kind": "fbank"}, {"window_ms": 20}, {"hop_ms": 5}, {"n_mels": 30}, {"n_mfcc": 12}),
        *({"deltas": 1}, {"pooling": "mean"}, {"window_seconds": 10}, {"overlap": 0.2}, {"channel": "left"}),
        *({"max_damage": 0.1}, {"silent_audio": "kept"}),
    ]
    prints = [fingerprint(spectrum(**({"kind": "mfcc"} | change)).fields) for change in changes]
    assert spectrum(kind="mfcc").fields["torchaudio"] == torchaudio.__version__
    monkeypatch.setattr(torchaudio, "__version__", "another")
    prints.append(fingerprint(spectrum(kind="mfcc").fields))
    assert len(set(prints)) == len(prints)
    assert fingerprint(spectrum(kind="mfcc", batch_tokens=9).fields) == prints[-1]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"family": "spectrum"}, "kind: of the family spectrum it is mfcc or fbank or mel"),
        ({"family": "spectrum", "kind": "eGeMAPSv02"}, "kind: of the family spectrum it is mfcc or fbank or mel"),
        ({"family": "functionals", "kind": "mfcc"}, "kind: of the family functionals it is eGeMAPSv02 or ComParE_2016"),
        ({"family": "spectrum", "kind": "chroma"}, "Input should be 'mfcc', 'fbank', 'mel'"),
        ({"family": "spectrum", "kind": "mfcc", "model": "./x"}, "model: spectrum has no weights: leave it out"),
        ({"family": "spectrum", "kind": "mfcc", "layer": 3}, "layer: spectrum has no weights"),
        ({"family": "functionals", "kind": "eGeMAPSv02", "precision": "bfloat16"}, "precision: functionals has no"),
        ({"family": "functionals", "kind": "eGeMAPSv02", "deltas": 1}, "deltas: is for the family spectrum"),
        ({"family": "spectrum", "kind": "mel", "level": "lld"}, "level: is for the family functionals"),
        ({"family": "spectrum", "kind": "mel", "n_mfcc": 12}, "n_mfcc: is for kind: mfcc"),
        ({"family": "spectrum", "kind": "mfcc", "n_mfcc": 50}, "n_mfcc = 50: more than the 40 mel filters"),
        ({"family": "spectrum", "kind": "mfcc", "hop_ms": 30}, "hop_ms = 30: leaves sound out between windows of 25"),
        ({"family": "spectrum", "kind": "mfcc", "deltas": 3}, "deltas"),
        ({"family": "wav2vec2", "model": "./x", "kind": "mfcc"}, "kind: is for the family spectrum or functionals"),
        ({"family": "wav2vec2", "model": "./x", "context": "clip"}, "context: is for the family whisper"),
        ({"family": "wav2vec2"}, "model: missing, and it has no default"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        Encoder(**settings)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"window_ms": 25.01}, "window_ms = 25.01: is no whole number of samples at 16000 Hz"),
        ({"n_mels": 128}, r"n_mels = 128: \d+ of its filters would hear nothing in windows of 25 ms"),
        ({"n_mels": 128, "kind": "fbank"}, r"n_mels = 128: \d+ of its filters would hear nothing in windows of 25 ms"),
        (
            {"window_ms": 250, "hop_ms": 250, "window_seconds": 1, "deltas": 2},
            "window_seconds = 1: too short to be cut",
        ),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_together_end_when_it_is_loaded(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        spectrum(**({"kind": "mfcc"} | settings))


def test_compare_wants_a_store_that_holds_its_values() -> None:
    profile = {
        "name": "p",
        "dataset": {"adapter": "avamerg", "root": "x"},
        "encoders": {"a": {"family": "functionals", "kind": "ComParE_2016"}},
        "heads": {"a": {"inputs": ["a"]}},
    }
    with pytest.raises(ValidationError, match=r"encoders.a: ComParE_2016 exceeds float16: write store: \{dtype: float"):
        Profile.model_validate(profile)
    Profile.model_validate(profile | {"store": {"dtype": "float32"}})


@pytest.mark.parametrize(
    ("missing", "family", "kind"), [("torchaudio", "spectrum", "mfcc"), ("opensmile", "functionals", "eGeMAPSv02")]
)
def test_what_is_not_installed_is_named_with_its_command(
    missing: str, family: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"^family: {family} needs .*: pip install -"):
        load(family=family, kind=kind)


def test_a_torchaudio_that_does_not_import_ends_in_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before transformers looks for it, which would fail with a traceback."""
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("raise OSError('Could not load this library: x.so')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: CompletedProcess([], 2, "", "error: that is not why"))
    again = spec_from_file_location("again", network.__file__)
    assert again is not None
    assert again.loader is not None
    with pytest.raises(
        UserError, match=r"^torchaudio does not import here: run python extract/mend_torchaudio.py \(Co"
    ):
        again.loader.exec_module(module_from_spec(again))


def test_the_encoders_of_the_documentation_are_valid() -> None:
    text = (REPOSITORY / "docs" / "acoustic.md").read_text()
    profile = yaml.safe_load(text.partition("```yaml")[2].partition("```")[0])
    profile |= {"name": "p", "dataset": {"adapter": "avamerg", "root": "x"}}
    assert {encoder.family for encoder in Profile.model_validate(profile).encoders.values()} == {
        "spectrum",
        "functionals",
        "whisper",
    }
