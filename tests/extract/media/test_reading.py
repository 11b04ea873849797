"""From files to arrays: audio keeps its pitch, level and length, and frames are those on screen at their time."""

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from media_tools import decode_audio, decode_frames, greys, write_audio, write_mp4, write_video

from extract.media.damage import Damage, Heard
from extract.media.framing import resize_and_crop
from extract.media.reading import (
    SAMPLE_RATE,
    MediaError,
    audio_blocks,
    frames_at,
    middles,
    time_span,
)

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


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize(
    ("channels", "kind"),
    [(1, "PCM_16"), (2, "PCM_16"), (2, "PCM_U8"), (2, "PCM_24"), (1, "PCM_32"), (2, "FLOAT"), (1, "DOUBLE")],
)
def test_a_sine_in_a_wav_keeps_pitch_level_and_length(tmp_path: Path, rate: int, channels: int, kind: str) -> None:
    soundfile.write(tmp_path / "a.wav", sine(rate, channels=channels), rate, subtype=kind)
    check_sine(decode_audio(tmp_path / "a.wav"))


@pytest.mark.parametrize(("suffix", "length"), [("flac", 4), ("ogg", 600), ("mp3", 4)])
def test_a_sine_in_other_formats(tmp_path: Path, suffix: str, length: int) -> None:
    """Vorbis works in blocks, and may leave part of one."""
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, sine(44100, channels=2), 44100)
    check_sine(decode_audio(path), level=0.05, length=length)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("a.mp3", "libmp3lame", 22050, "mono"),
        ("a.m4a", "aac", 44100, "stereo"),  # planar
        ("a.m4a", "alac", 44100, "stereo"),
        ("a.mp4", "aac", 48000, "mono"),
        ("a.mkv", "aac", 48000, "5.1"),
        ("a.mkv", "libmp3lame", 44100, "stereo"),
        ("a.opus", "libopus", 48000, "stereo"),
        ("a.webm", "libopus", 48000, "mono"),
        ("a.flac", "flac", 96000, "stereo"),
        ("a.aiff", "pcm_s16be", 22050, "stereo"),
        ("a.avi", "pcm_s16le", 44100, "stereo"),  # packed
        ("a.wav", "pcm_mulaw", 8000, "mono"),
        ("a.wav", "pcm_f64le", 44100, "5.1"),
    ],
)
def test_a_sine_from_many_codecs_begins_where_it_began(
    tmp_path: Path, name: str, codec: str, rate: int, layout: str
) -> None:
    """What encoders put before the sound is taken away: the phase is that of the sine that was written."""
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    write_audio(tmp_path / name, sine(rate, channels=channels), rate, codec, layout)
    samples = decode_audio(tmp_path / name)
    check_sine(samples, level=0.06, length=350)  # AAC fills its last block
    at = np.arange(2000, 10000)
    found = np.sum(samples[at] * np.exp(-2j * np.pi * PITCH * at / SAMPLE_RATE)) * 1j
    assert abs(np.angle(found)) / (2 * np.pi * PITCH) * SAMPLE_RATE < 0.1  # samples


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_the_samples_are_those_of_another_reader(tmp_path: Path, suffix: str) -> None:
    """libsndfile reads the same, with silence at the start and the end."""
    speech = np.random.default_rng(0).normal(scale=0.1, size=40_000)
    speech[:8000] = speech[-8000:] = 0
    soundfile.write(tmp_path / f"a.{suffix}", speech, SAMPLE_RATE)
    expected, _ = soundfile.read(tmp_path / f"a.{suffix}", dtype="float32")
    samples = decode_audio(tmp_path / f"a.{suffix}")
    assert abs(len(samples) - 40_000) <= 4
    np.testing.assert_allclose(samples[:39_000], expected[:39_000], atol=2e-4)
    assert np.abs(samples[:7000]).max() < 0.01


def test_the_low_frequency_channel_is_left_out(tmp_path: Path) -> None:
    channels = np.zeros((8000, 6), dtype=np.float32)
    channels[:, 3] = 0.9  # LFE, by the order that the header states
    channels[:, 2] = 0.5  # centre: speech
    soundfile.write(tmp_path / "a.wav", channels, SAMPLE_RATE, format="WAVEX", subtype="FLOAT")
    np.testing.assert_allclose(decode_audio(tmp_path / "a.wav"), 0.1, atol=1e-6)
    soundfile.write(tmp_path / "b.wav", channels, SAMPLE_RATE, format="WAV", subtype="FLOAT")  # channels without names
    np.testing.assert_allclose(decode_audio(tmp_path / "b.wav"), 1.4 / 6, atol=1e-6)


def test_the_rate_and_the_channels_may_change_on_the_way(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.aac", sine(44100), 44100, "aac")
    write_audio(tmp_path / "b.aac", sine(22050, channels=2), 22050, "aac", "stereo")
    parts = [len(decode_audio(tmp_path / name)) for name in ("a.aac", "b.aac")]
    (tmp_path / "both.aac").write_bytes((tmp_path / "a.aac").read_bytes() + (tmp_path / "b.aac").read_bytes())
    samples = decode_audio(tmp_path / "both.aac")
    assert abs(len(samples) - sum(parts)) < 1500
    for start in (2000, parts[0] + 2000):
        spectrum = np.abs(np.fft.rfft(samples[start : start + 8000])) / 4000
        assert spectrum.argmax() * SAMPLE_RATE / 8000 == PITCH
        assert spectrum.max() == pytest.approx(LEVEL, rel=0.05)


def test_samples_at_the_right_rate_are_not_touched(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(scale=0.1, size=5000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_array_equal(decode_audio(tmp_path / "a.wav"), samples)


def test_channels_are_averaged(tmp_path: Path) -> None:
    both = np.random.default_rng(0).normal(scale=0.1, size=(4000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", both, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(decode_audio(tmp_path / "a.wav"), both.mean(axis=1), atol=1e-7)


def test_what_the_new_rate_cannot_carry_is_gone(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 11_000 * np.arange(33_075) / 44_100)  # would fold back to 5 kHz
    soundfile.write(tmp_path / "a.wav", tone, 44_100, subtype="FLOAT")
    assert np.abs(decode_audio(tmp_path / "a.wav")[500:-500]).max() < 1e-4


def test_audio_and_video_of_one_file(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", greys(range(0, 240, 24)), sine(SAMPLE_RATE))
    check_sine(decode_audio(tmp_path / "a.mp4"), level=0.05, length=2100)  # AAC's blocks hold 1024 samples
    assert numbers(decode_frames(tmp_path / "a.mp4", 10).images, 24) == list(range(10))


# Video


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


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mkv", "ffv1", "bgra"),
        ("a.mov", "qtrle", "argb"),
        ("a.mov", "png", "rgba"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_transparency_is_dropped(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    images = np.concatenate([greys([60, 120, 180]), np.full((3, 32, 48, 1), 128, dtype=np.uint8)], axis=3)
    write_video(tmp_path / name, images, codec=codec, pixels=pixels)
    frames = decode_frames(tmp_path / name, 3)
    assert frames.images.shape == (3, 32, 48, 3)
    assert numbers(frames.images, 60) == [1, 2, 3]


def test_frames_that_an_edit_list_hides_are_not_seen(tmp_path: Path) -> None:
    """Cutting without encoding again keeps frames from the last key frame on, and says from when to show them."""
    path = tmp_path / "a.mp4"
    write_video(path, greys(range(0, 240, 12)), sc_threshold="0", bf="2")
    content = bytearray(path.read_bytes())
    at = content.index(b"elst") + 4 + 8  # one entry: duration in ms, first time in the track's own clock, rate
    duration, start = struct.unpack(">Ii", content[at : at + 8])
    with av.open(str(path)) as container:
        clock = container.streams.video[0].time_base
        assert clock is not None
    content[at : at + 8] = struct.pack(">Ii", duration - 500, start + round(0.5 / clock))
    path.write_bytes(content)
    frames = decode_frames(path, 15)
    assert numbers(frames.images, 12) == list(range(5, 20))
    assert frames.seconds == pytest.approx(1.5)


def test_the_cover_of_a_song_is_no_video(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.mp3", sine(44100), 44100, "libmp3lame")
    write_video(tmp_path / "cover.mov", greys([100]), codec="png", pixels="rgb24")
    with av.open(str(tmp_path / "cover.mov")) as container:
        picture = next(bytes(packet) for packet in container.demux(video=0))
    content = b"\0image/png\0\3\0" + picture
    tag = b"APIC" + len(content).to_bytes(4, "big") + b"\0\0" + content  # ID3v2.3
    size = bytes(len(tag) >> shift & 127 for shift in (21, 14, 7, 0))
    (tmp_path / "b.mp3").write_bytes(b"ID3\3\0\0" + size + tag + (tmp_path / "a.mp3").read_bytes())
    with av.open(str(tmp_path / "b.mp3")) as container:
        assert len(container.streams.video) == 1
    assert reason(as_video, tmp_path / "b.mp3") == "it has no video stream"
    check_sine(decode_audio(tmp_path / "b.mp3"), level=0.06)


def test_a_picture_that_changes_size(tmp_path: Path) -> None:
    for name, height, start in (("a.ts", 32, 0), ("b.ts", 64, 1)):
        write_video(tmp_path / name, greys([60] * 10, height, 48), [start + i / 10 for i in range(10)])
    whole = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    (tmp_path / "both.ts").write_bytes(whole)
    first, seconds = time_span(tmp_path / "both.ts")
    images = list(frames_at(tmp_path / "both.ts", middles(first, seconds, 4)))
    assert {image.shape for image in images} == {(32, 48, 3), (64, 48, 3)}
    assert resize_and_crop(images, 16).shape == (4, 16, 16, 3)
    assert reason(as_video, tmp_path / "both.ts") == "its picture changes size"


def show_as(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write a matrix into an MP4's track header, as a phone held upright or its mirroring front camera does.

    It takes a point (x, y) to (a x + c y, b x + d y), with y pointing down.
    """
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd") + 4
    at = header + (36 if content[header] == 0 else 48) + 4  # version 1 has 64-bit times; 4 bytes of version and flags
    assert struct.unpack(">9i", content[at : at + 36])[0] == 1 << 16  # the identity stands there
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    content[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((0, 1, -1, 0), (0, -1)),  # a quarter turn clockwise: what is on the right goes to the bottom
        ((-1, 0, 0, -1), (-1, -1)),
        ((0, -1, 1, 0), (-1, 0)),
        ((-1, 0, 0, 1), (0, -1)),  # mirrored
        ((1, 0, 0, -1), (-1, 0)),
        ((0, 1, 1, 0), (0, 0)),
        ((0, -1, -1, 0), (-1, -1)),
    ],
)
def test_frames_are_turned_upright(tmp_path: Path, matrix: tuple[int, int, int, int], corner: tuple[int, int]) -> None:
    image = np.zeros((1, 32, 64, 3), dtype=np.uint8)
    image[:, :16, :16] = 250  # at the top left as it is stored
    write_video(tmp_path / "a.mp4", image)
    show_as(tmp_path / "a.mp4", *matrix)
    (upright,) = decode_frames(tmp_path / "a.mp4", 1).images
    assert upright.shape == ((32, 64, 3) if matrix[0] else (64, 32, 3))
    corners = {(y, x): int(upright[y, x, 0]) for y in (0, -1) for x in (0, -1)}
    assert max(corners, key=corners.__getitem__) == corner
    assert sorted(corners.values())[-2] < 50 < 200 < corners[corner]


def test_a_matrix_without_sense_turns_nothing(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", greys([60]))
    show_as(tmp_path / "a.mp4", 0, 0, 0, 0)
    assert decode_frames(tmp_path / "a.mp4", 1).images.shape == (1, 32, 48, 3)


# What cannot be read

Decode = Callable[[Path], Any]


def as_audio(path: Path) -> Any:
    return decode_audio(path)


def as_video(path: Path) -> Any:
    return decode_frames(path, 4)


def damage_of(path: Path, channel: int | None = None) -> Damage | None:
    heard = Heard()
    assert sum(len(block) for block in audio_blocks(path, channel=channel, heard=heard)) > 0
    return heard.damage


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
    assert reason(decode, tmp_path / "empty.wav") == "the file is empty"
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    for not_a_file in (tmp_path / "folder.mp4", tmp_path / "pipe.mp4", Path("/dev/zero")):
        assert reason(decode, not_a_file) == "not a regular file"
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


def as_written(path: Path) -> bytes:
    """20 s of noise in the container that the suffix names."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=(20 * SAMPLE_RATE, 1))
    if path.suffix in (".wav", ".flac", ".ogg", ".aiff"):
        soundfile.write(path, noise, SAMPLE_RATE)
    else:
        codec = {".mp3": "libmp3lame", ".opus": "libopus", ".mka": "flac", ".m4a": "aac", ".avi": "pcm_s16le"}
        write_audio(path, noise, SAMPLE_RATE, codec[path.suffix], movflags="faststart")
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["wav", "aiff", "flac", "ogg", "opus", "mp3", "mka", "m4a", "avi"])
def test_audio_that_was_cut(tmp_path: Path, suffix: str) -> None:
    """Wherever: in the middle, or with just a few bytes missing."""
    path = tmp_path / f"a.{suffix}"
    whole = as_written(path)
    assert abs(len(decode_audio(path)) - 20 * SAMPLE_RATE) < 2100
    for n_bytes in (len(whole) // 3, len(whole) * 9 // 10, len(whole) - 300):
        path.write_bytes(whole[:n_bytes])
        text = reason(as_audio, path)
        assert "cut short" in text or (suffix == "flac" and "Invalid data" in text)


def test_an_ogg_whose_last_page_does_not_end_the_stream(tmp_path: Path) -> None:
    """Some writers forget the flag; or it was cut between two pages. It is taken, and said so."""
    path = tmp_path / "a.ogg"
    whole = as_written(path)
    path.write_bytes(whole[: whole.index(b"OggS", len(whole) // 2)])
    assert damage_of(path) == Damage(0, "its last page does not end the stream: it may be cut short there")


def test_an_mp3_without_a_header_cannot_be_judged(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    write_audio(path, sine(44100, seconds=3), 44100, "libmp3lame", write_xing="0")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 1.3 < len(decode_audio(path)) / SAMPLE_RATE < 1.7


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x7FFFFFDB, 0xFFFFFFFF, 0xFFFFFFDB])
def test_a_wav_whose_writer_did_not_know_its_length(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(SAMPLE_RATE), SAMPLE_RATE)
    content = bytearray(path.read_bytes())
    assert content[36:40] == b"data"
    content[4:8] = content[40:44] = size.to_bytes(4, "little")
    path.write_bytes(content)
    check_sine(decode_audio(path))


def test_a_large_wav_of_64_bit_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(SAMPLE_RATE), SAMPLE_RATE, format="RF64")
    check_sine(decode_audio(path))
    content = bytearray(path.read_bytes())
    at = content.index(b"ds64") + 16
    content[at : at + 8] = (10 << 30).to_bytes(8, "little")
    path.write_bytes(content)
    assert "cut short" in reason(as_audio, path)


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "FLOAT"), (np.inf, "FLOAT"), (1e300, "DOUBLE")])
def test_samples_that_are_not_finite(tmp_path: Path, value: float, kind: str) -> None:
    for rate in (SAMPLE_RATE, 44100):
        samples = sine(rate).astype(np.float64)
        samples[1000] = value
        soundfile.write(tmp_path / "a.wav", samples, rate, subtype=kind)
        assert reason(as_audio, tmp_path / "a.wav") == "its samples are not all finite numbers"


def test_headers_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(SAMPLE_RATE), SAMPLE_RATE)
    content = bytearray(path.read_bytes())
    content[40:44] = (3 << 30).to_bytes(4, "little")  # 3 GiB of samples
    path.write_bytes(content)
    assert "cut short" in reason(as_audio, path)
    soundfile.write(path, np.zeros(100), 1)
    assert reason(as_audio, path) == "its sample rate of 1 Hz is outside 1000 to 768000 Hz"

    write_video(tmp_path / "a.mkv", greys([60, 120]), times=[0, 200_000], codec="ffv1", pixels="bgr0")
    assert "more than 24 hours" in reason(as_video, tmp_path / "a.mkv")


def test_times_may_be_negative(tmp_path: Path) -> None:
    times = [-1.5, -1.0, -0.5, 0.0]
    write_video(tmp_path / "a.ts", greys([60, 120, 180, 240]), times)
    first, _ = time_span(tmp_path / "a.ts")
    assert first == pytest.approx(-1.5)
    images = list(frames_at(tmp_path / "a.ts", [time + 0.1 for time in times]))
    assert numbers(np.stack(images), 60) == [1, 2, 3, 4]


# What must not be opened


PLAYLISTS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{there}\n#EXT-X-ENDLIST\n",
    "script.ffconcat": "ffconcat version 1.0\nfile '{there}'\n",
    "script.mp4": "ffconcat version 1.0\nfile '{there}'\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 {host}\ns=x\nc=IN IP4 {host}\nt=0 0\nm=audio {port} RTP/AVP/TCP 0\n",
    "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="audio/wav"><Representation id="1" '
    'bandwidth="9"><BaseURL>{there}</BaseURL></Representation></AdaptationSet></Period></MPD>',
}


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("decode", [as_audio, as_video])
def test_no_file_makes_the_decoder_open_another_or_the_network(tmp_path: Path, name: str, decode: Decode) -> None:
    soundfile.write(tmp_path / "other.wav", sine(SAMPLE_RATE), SAMPLE_RATE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        host, port = server.getsockname()
        for there in ("other.wav", f"http://{host}:{port}/other.wav", "subfile,,start,0,end,0,,:other.wav"):
            (tmp_path / name).write_text(PLAYLISTS[name].format(there=there, host=host, port=port))
            assert reason(decode, tmp_path / name)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_such_a_script_would_open_another_file_otherwise(tmp_path: Path) -> None:
    """So that the test above can fail."""
    soundfile.write(tmp_path / "other.wav", sine(SAMPLE_RATE), SAMPLE_RATE)
    (tmp_path / "script.mp4").write_text(PLAYLISTS["script.mp4"].format(there="other.wav"))
    with av.open(str(tmp_path / "script.mp4")) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == round(SECONDS * SAMPLE_RATE)


@pytest.mark.parametrize(
    "name",
    ["-x", "http:a", "a:b.wav", "%03d.png", "concat:a|b", "data:a", "pipe:0", "file:a", " ", "ä\n.wav", "\udcff.wav"],
)
def test_a_name_is_nothing_but_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("plain.wav", sine(SAMPLE_RATE), SAMPLE_RATE)
    Path("plain.wav").rename(name)
    check_sine(decode_audio(Path(name)))
