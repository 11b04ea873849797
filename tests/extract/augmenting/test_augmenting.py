"""Changed versions of clips: drawn by content, number and seed alone, within the ranges that a profile states."""

from typing import Any

import numpy as np
import pytest

from configs.schema import Encoder, View
from extract.augmenting.views import LONGEST_SECONDS, Augmenter
from extract.media.damage import ClipError
from extract.media.tasks import Decoded, Streamed
from extract.media.texts import BETWEEN_TEXTS

RATE = 16000
FAMILIES = {"audio": "wav2vec2", "video": "image", "text": "transformer"}


def augmenter(modality: str, number: int = 1, seed: int = 0, **augment: Any) -> Augmenter:
    encoder = Encoder.model_validate({"family": FAMILIES[modality], "model": "./m", "views": 9, "augment": augment})
    return Augmenter(View.of(encoder, number, seed))


def tone(hertz: float = 400, seconds: float = 1) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * hertz * np.arange(round(RATE * seconds)) / RATE)).astype(np.float32)


def heard(samples: np.ndarray, content: str = "a", number: int = 1, seed: int = 0, **augment: Any) -> np.ndarray:
    clip = Decoded(len(samples) / RATE, len(samples), samples)
    changed = augmenter("audio", number, seed, **augment)(clip, content)
    assert (changed.n, changed.seconds) == (len(changed.data), len(changed.data) / RATE)
    assert changed.data.dtype == np.float32
    return np.asarray(changed.data)


def loudest(samples: np.ndarray) -> float:
    """Hz."""
    return float(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * RATE / len(samples))


def level(samples: np.ndarray) -> float:
    """dB."""
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


def test_speed_makes_a_sound_shorter_and_higher_and_pitch_only_higher() -> None:
    faster = heard(tone(), speed=[1.2, 1.20001])
    assert len(faster) == pytest.approx(RATE / 1.2, abs=2)
    assert loudest(faster) == pytest.approx(480, rel=0.01)
    higher = heard(tone(), pitch=[2, 2.0001])
    assert len(higher) == pytest.approx(RATE, rel=0.02)
    assert loudest(higher) == pytest.approx(400 * 2 ** (2 / 12), rel=0.01)


def test_noise_gain_and_filters_do_what_they_say() -> None:
    clean = tone(seconds=2)
    assert level(heard(clean, noise_db=[10, 10.001]) - clean) == pytest.approx(level(clean) - 10, abs=0.2)
    assert level(heard(clean, gain_db=[6, 6.001])) == pytest.approx(level(clean) + 6, abs=0.01)
    assert level(heard(clean, highpass=[1600, 1601])) == pytest.approx(level(clean) - 24, abs=1)  # two octaves below
    assert level(heard(tone(4000, 2), lowpass=[1000, 1001])) < level(clean) - 24
    assert not heard(np.zeros(800, np.float32), noise_db=[10, 30]).any()  # silence has no level


def test_a_view_is_decided_by_content_number_and_seed() -> None:
    augment: dict[str, Any] = {"speed": [0.8, 1.2], "noise_db": [0, 20], "gain_db": [-6, 6]}
    one = heard(tone(), **augment)
    assert np.array_equal(one, heard(tone(), **augment))
    for other in ({"content": "b"}, {"number": 2}, {"seed": 1}):
        assert not np.array_equal(one, heard(tone(), **augment, **other))
    lengths = [len(heard(tone(), content=str(k), speed=[0.8, 1.2])) for k in range(40)]
    assert RATE / 1.2 - 2 <= min(lengths) < RATE < max(lengths) <= RATE / 0.8 + 2


def test_a_long_sound_is_changed_as_it_would_be_in_one_piece() -> None:
    sound = np.concatenate([tone(300), tone(700)])
    change = augmenter("audio", speed=[0.9, 1.1], pitch=[-2, 2], noise_db=[10, 30])
    about, samples = change.stream(iter([Streamed(2, len(sound), 0, 1), sound[:20_000], sound[20_000:]]), "a")
    assert np.array_equal(samples, change(Decoded(2, len(sound), sound), "a").data)
    assert (about.n, about.mean) == (len(samples), pytest.approx(samples.mean(), abs=1e-6))
    assert about.variance == pytest.approx(samples.var(), rel=1e-4)
    with pytest.raises(ClipError, match=r"601 s: sounds of more than 600 s have no augmented views"):
        list(change.stream(iter([Streamed(LONGEST_SECONDS + 1, 1, 0, 1)]), "a"))


def test_what_nothing_is_left_of_is_refused() -> None:
    with pytest.raises(ClipError, match="too short"):
        heard(tone()[:1], pitch=[-2, 2])


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 120, (16, 16, 3), dtype=np.uint8)
    clip = Decoded(1, 2, np.stack([np.stack([frame] * 3)] * 2))  # (segments, frames, size, size, 3)
    mirrored = augmenter("video", mirror=1.0)(clip, "a").data
    assert np.array_equal(mirrored, clip.data[:, :, :, ::-1])  # type: ignore[index]
    bright = augmenter("video", brightness=[2, 2.0001])(clip, "a").data
    assert np.array_equal(bright[0, 0], frame * 2)
    change = augmenter("video", crop=[0.5, 0.9], brightness=[0.5, 1.5], mirror=0.5)
    changed = change(clip, "a").data
    assert changed.shape == clip.data.shape  # type: ignore[union-attr]
    assert (changed == changed[0, 0]).all()
    assert not np.array_equal(changed, change(clip, "b").data)
    about, *segments = change.stream(iter([Streamed(1, 2), *clip.data]), "a")  # type: ignore[misc]
    assert about == Streamed(1, 2)
    assert np.array_equal(np.stack(segments), changed)


def test_words_are_left_out_and_never_all_of_a_text() -> None:
    first = " ".join(f"w{k}" for k in range(200))
    change = augmenter("text", word_dropout=0.3)
    kept = change(f"{first}{BETWEEN_TEXTS}one two", "a").split(BETWEEN_TEXTS)
    words = kept[0].split()
    assert [word for word in first.split() if word in words] == words
    assert 110 < len(words) < 170
    hard = augmenter("text", word_dropout=0.999)
    for k in range(20):
        parts = hard(f"one two{BETWEEN_TEXTS}three", str(k)).split(BETWEEN_TEXTS)
        assert parts[0] in ("one", "two")
        assert parts[1] == "three"
