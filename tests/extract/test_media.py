"""From files to arrays: audio keeps its pitch, level and length, and frames are those on screen at their time."""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from media_tools import write_video

from extract.media import SAMPLE_RATE, MediaError, decode_audio, decode_frames, resize_and_crop

PITCH, LEVEL, SECONDS = 440.0, 0.4, 0.75


def sine(rate: int, seconds: float = SECONDS, channels: int = 1) -> np.ndarray:
    """(samples, channels) float32, all channels alike."""
    wave = LEVEL * np.sin(2 * np.pi * PITCH * np.arange(round(seconds * rate)) / rate)
    return wave.astype(np.float32)[:, None].repeat(channels, axis=1)


def check_sine(samples: np.ndarray, level: float = 1e-2, length: int = 4) -> None:
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - SECONDS * SAMPLE_RATE) <= length
    middle = samples[2000:10000].astype(np.float64)  # a whole number of periods, far from the ends
    spectrum = np.abs(np.fft.rfft(middle)) / len(middle) * 2
    peak = int(spectrum.argmax())
    assert peak * SAMPLE_RATE / len(middle) == PITCH
    assert spectrum[peak] == pytest.approx(LEVEL, rel=level)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(LEVEL / np.sqrt(2), rel=level)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize(
    ("channels", "kind"), [(1, "PCM_16"), (2, "PCM_16"), (2, "PCM_24"), (1, "PCM_32"), (2, "FLOAT")]
)
def test_a_sine_in_a_wav_keeps_pitch_level_and_length(tmp_path: Path, rate: int, channels: int, kind: str) -> None:
    soundfile.write(tmp_path / "a.wav", sine(rate, channels=channels), rate, subtype=kind)
    check_sine(decode_audio(tmp_path / "a.wav", 30))


@pytest.mark.parametrize(("suffix", "length"), [("flac", 4), ("ogg", 600), ("mp3", 1200)])
def test_a_sine_in_other_formats(tmp_path: Path, suffix: str, length: int) -> None:
    """The lossy codecs work in blocks, and may leave part of one at the end."""
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, sine(44100, channels=2), 44100)
    check_sine(decode_audio(path, 30), level=0.05, length=length)


def test_samples_at_the_right_rate_are_not_touched(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(scale=0.1, size=5000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_array_equal(decode_audio(tmp_path / "a.wav", 30), samples)


def test_channels_are_averaged(tmp_path: Path) -> None:
    both = np.random.default_rng(0).normal(scale=0.1, size=(4000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", both, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(decode_audio(tmp_path / "a.wav", 30), both.mean(axis=1), atol=1e-7)


def test_what_the_new_rate_cannot_carry_is_gone(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 11_000 * np.arange(33_075) / 44_100)  # would fold back to 5 kHz
    soundfile.write(tmp_path / "a.wav", tone, 44_100, subtype="FLOAT")
    assert np.abs(decode_audio(tmp_path / "a.wav", 30)[500:-500]).max() < 1e-4


def write_mp4(path: Path, images: np.ndarray | None, samples: np.ndarray | None, **container_options: str) -> None:
    """10 images a second, and (samples, 1) at 16 kHz as AAC."""
    with av.open(str(path), "w", options=container_options) as container:
        if images is not None:
            video = container.add_stream("libx264", rate=10)
            video.height, video.width = images.shape[1:3]
        if samples is not None:
            audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for image in images if images is not None else ():
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        if images is not None:
            container.mux(video.encode(None))
        if samples is not None:
            frame = av.AudioFrame.from_ndarray(samples.T.copy(), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


def test_audio_and_video_of_one_file(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", greys(range(0, 240, 24)), sine(SAMPLE_RATE))
    check_sine(decode_audio(tmp_path / "a.mp4", 30), level=0.05, length=2100)  # AAC's blocks hold 1024 samples
    assert numbers(decode_frames(tmp_path / "a.mp4", 10).images, 24) == list(range(10))


# Video


def greys(levels: Any, height: int = 32, width: int = 48) -> np.ndarray:
    return np.stack([np.full((height, width, 3), level, dtype=np.uint8) for level in levels])


def numbers(images: np.ndarray, step: int) -> list[int]:
    """The number of each frame, from its grey level; codecs are off by less than half a step."""
    return [round(float(image.mean()) / step) for image in images]


def on_screen(times: list[float], end: float, n_frames: int) -> list[int]:
    """By the definition: the last frame whose time is not after the middle of each part."""
    middles = [times[0] + (k + 0.5) * (end - times[0]) / n_frames for k in range(n_frames)]
    return [max(i for i, time in enumerate(times) if time <= middle + 1e-9) for middle in middles]


@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "3", "b_strategy": "0"}], ids=["no B-frames", "B-frames"])
@pytest.mark.parametrize("n_frames", [1, 4, 8, 20, 33])
def test_frames_at_a_constant_rate(tmp_path: Path, options: dict[str, str], n_frames: int) -> None:
    write_video(tmp_path / "a.mp4", greys(range(0, 240, 12)), sc_threshold="0", **options)
    if "b_strategy" in options:
        with av.open(str(tmp_path / "a.mp4")) as container:
            shown = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
        assert shown != sorted(shown)  # packets are out of order indeed
    frames = decode_frames(tmp_path / "a.mp4", n_frames)
    assert frames.images.shape == (n_frames, 32, 48, 3)
    assert frames.seconds == pytest.approx(2.0, abs=0.1)
    assert numbers(frames.images, 12) == on_screen([i / 10 for i in range(20)], frames.seconds, n_frames)


@settings(max_examples=15, deadline=None)
@given(
    gaps=st.lists(st.integers(10, 900), min_size=1, max_size=19), n_frames=st.integers(1, 25), late=st.integers(0, 3000)
)
def test_frames_at_a_variable_rate(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[int], n_frames: int, late: int
) -> None:
    """Whatever the gaps between frames, and wherever the clip's clock starts."""
    path = tmp_path_factory.mktemp("video") / "a.mkv"
    times = [late / 1000, *((late + int(sum(gaps[: i + 1]))) / 1000 for i in range(len(gaps)))]
    write_video(path, greys(range(0, 12 * len(times), 12), 8, 8), times, codec="ffv1", pixels="bgr0")
    with av.open(str(path)) as container:  # what the container says, packet by packet
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
        shown = [float(packet.pts * packet.time_base) for packet in packets]
        end = max(float((packet.pts + (packet.duration or 0)) * packet.time_base) for packet in packets)
    assert shown == pytest.approx(times)
    frames = decode_frames(path, n_frames)
    assert numbers(frames.images, 12) == on_screen(shown, end, n_frames)
    assert frames.seconds == pytest.approx(end - shown[0])


def test_a_single_frame_is_repeated(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", greys([120]))
    assert numbers(decode_frames(tmp_path / "a.mp4", 5).images, 12) == [10] * 5


@pytest.mark.parametrize(("height", "width"), [(33, 47), (17, 64), (64, 17)])
def test_odd_sizes(tmp_path: Path, height: int, width: int) -> None:
    write_video(tmp_path / "a.mkv", greys([60, 120], height, width), codec="ffv1", pixels="bgr0")
    frames = decode_frames(tmp_path / "a.mkv", 2)
    assert frames.images.shape == (2, height, width, 3)
    np.testing.assert_array_equal(frames.images, greys([60, 120], height, width))


def turn(path: Path, clockwise: int) -> None:
    """Write a rotation into an MP4's track header, as a phone held upright does.

    The display matrix (a b u; c d v; x y w) maps a point to (a x + c y, b x + d y), with y pointing down: a = d = 0,
    b = 1, c = -1 takes what is on the right to the bottom, a quarter turn clockwise.
    """
    sine_cosine = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
    a, b, c, d = sine_cosine[clockwise]
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd") + 4
    at = header + (36 if content[header] == 0 else 48) + 4  # version 1 has 64-bit times; 4 bytes of version and flags
    assert struct.unpack(">9i", content[at : at + 36])[0] == 1 << 16  # the identity stands there
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    content[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


@pytest.mark.parametrize(("clockwise", "corner"), [(90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_frames_are_turned_upright(tmp_path: Path, clockwise: int, corner: tuple[int, int]) -> None:
    image = np.zeros((1, 32, 64, 3), dtype=np.uint8)
    image[:, :16, :16] = 250  # at the top left as it is stored
    write_video(tmp_path / "a.mp4", image)
    turn(tmp_path / "a.mp4", clockwise)
    (upright,) = decode_frames(tmp_path / "a.mp4", 1).images
    assert upright.shape == ((32, 64, 3) if clockwise == 180 else (64, 32, 3))
    corners = {(y, x): int(upright[y, x, 0]) for y in (0, -1) for x in (0, -1)}
    assert max(corners, key=corners.__getitem__) == corner
    assert sorted(corners.values())[-2] < 50 < 200 < corners[corner]


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 64), grey=st.integers(0, 255))
def test_the_crop_is_square_and_a_constant_stays(height: int, width: int, size: int, grey: int) -> None:
    cropped = resize_and_crop(np.full((2, height, width, 3), grey, dtype=np.uint8), size)
    assert cropped.shape == (2, size, size, 3)
    assert cropped.dtype == np.uint8
    assert (cropped == grey).all()


def test_the_crop_is_the_middle_of_the_picture_undistorted() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (2, 40, 100, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_and_crop(picture, 40), picture[:, :, 30:70])
    tall = picture.transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(resize_and_crop(tall, 40), tall[:, 30:70])
    blocks = picture[:, :20, :50].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(resize_and_crop(blocks, 20), picture[:, :20, 15:35])


# What cannot be read

Decode = Callable[[Path], Any]


def as_audio(path: Path) -> Any:
    return decode_audio(path, 30)


def as_video(path: Path) -> Any:
    return decode_frames(path, 4)


def reason(decode: Decode, path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        decode(path)
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert "Errno" not in text
    assert str(path.parent) not in text  # the table of errors names the clip; it may be published
    return text


@pytest.mark.parametrize("decode", [as_audio, as_video])
def test_files_that_hold_no_media(tmp_path: Path, decode: Decode) -> None:
    assert "No such file" in reason(decode, tmp_path / "missing.mp4")
    (tmp_path / "empty.wav").touch()
    assert reason(decode, tmp_path / "empty.wav")
    (tmp_path / "text.mp4").write_text("I am a text. " * 50)
    assert "Invalid data" in reason(decode, tmp_path / "text.mp4")
    (tmp_path / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(4000))
    assert reason(decode, tmp_path / "noise.mp3")


def test_the_other_kind_of_stream(tmp_path: Path) -> None:
    write_mp4(tmp_path / "silent.mp4", greys([10, 20]), None)
    assert reason(as_audio, tmp_path / "silent.mp4") == "it has no audio stream"
    soundfile.write(tmp_path / "a.wav", sine(SAMPLE_RATE), SAMPLE_RATE)
    assert reason(as_video, tmp_path / "a.wav") == "it has no video stream"


def test_audio_without_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.empty(0, dtype=np.float32), SAMPLE_RATE)
    assert reason(as_audio, tmp_path / "a.wav")


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_an_mp4_that_was_cut(tmp_path: Path, kind: str) -> None:
    path, decode = tmp_path / "a.mp4", as_video if kind == "video" else as_audio
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    media = (noise, None) if kind == "video" else (None, sine(SAMPLE_RATE, seconds=8))

    write_mp4(path, *media)  # its index stands at the end
    path.write_bytes(path.read_bytes()[:-500])
    assert reason(decode, path)

    # With the index at the start, everything up to the cut decodes without complaint.
    write_mp4(path, *media, movflags="faststart")
    decode(path)
    whole = path.read_bytes()
    with av.open(str(path)) as container:
        starts = [packet.pos for packet in container.demux() if packet.pos]
    path.write_bytes(whole[: starts[len(starts) * 2 // 3]])
    assert "cut short" in reason(decode, path)


def test_a_flac_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=30_000), SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[:20_000])
    assert reason(as_audio, path)


def test_audio_that_is_too_long(tmp_path: Path) -> None:
    for rate in (8000, 16000):
        soundfile.write(tmp_path / "a.wav", np.full(rate * 3, 0.1), rate)
        with pytest.raises(MediaError, match=r"^longer than max_seconds = 2.5$"):
            decode_audio(tmp_path / "a.wav", 2.5)
        assert len(decode_audio(tmp_path / "a.wav", 3)) == 3 * SAMPLE_RATE
