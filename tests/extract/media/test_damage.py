"""What of a clip cannot be decoded is measured: up to a share it is taken and said, beyond it refused."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from media_tools import greys, write_audio, write_mp4, write_video

from extract.media.damage import Damage, Heard, MediaError, Seen, SilentError
from extract.media.reading import SAMPLE_RATE, ClipError, audio_blocks, frames_at, middles, time_span
from extract.media.tasks import AudioTask, Decoded, VideoTask

SECONDS = 4
SOUNDS = {
    "a.mp3": "libmp3lame",
    "a.flac": "flac",
    "a.opus": "libopus",
    "flac.ogg": "flac",
    "a.m4a": "aac",
    "a.aac": "aac",
    "opus.mp4": "libopus",
    "aac.mka": "aac",
    "flac.mka": "flac",
    "a.tta": "tta",
    "a.wv": "wavpack",
    "a.ts": "aac",
    "a.mpg": "mp2",
    "a.caf": "pcm_s16be",
    "a.au": "pcm_s16be",
    "a.w64": "pcm_s16le",
    "a.voc": "pcm_u8",
    "a.avi": "libmp3lame",
    "a.nut": "libmp3lame",
}
PICTURES = {
    "h264.mp4": "libx264",
    "h265.mkv": "libx265",
    "mpeg4.avi": "mpeg4",
    "a.flv": "flv",
    "a.wmv": "wmv2",
    "vp8.webm": "libvpx",
    "vp9.webm": "libvpx-vp9",
    "h264.ts": "libx264",
    "ffv1.mkv": "ffv1",
}


MOSAIC = np.random.default_rng(0).integers(0, 256, (40, 6, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """``whole(name)``: four seconds of noise or of moving pictures, written once."""
    folder = tmp_path_factory.mktemp("whole")
    noise = np.random.default_rng(0).normal(scale=0.1, size=(SECONDS * SAMPLE_RATE, 1)).astype(np.float32)
    blocks = np.random.default_rng(0).integers(0, 256, (1, 6, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    pictures = np.concatenate([np.roll(blocks, 3 * i, axis=2) for i in range(10 * SECONDS)])

    def make(name: str) -> bytes:
        path = folder / name
        if path.exists():
            return path.read_bytes()
        if name in SOUNDS:
            rate = 48_000 if SOUNDS[name] == "libopus" else SAMPLE_RATE
            samples = noise if rate == SAMPLE_RATE else noise.repeat(3, axis=0)
            write_audio(path, samples, rate, SOUNDS[name])
        elif name == "vorbis.ogg":
            soundfile.write(path, noise, SAMPLE_RATE)
        elif name in ("sound.flv", "sound.wmv"):
            write_mp4(folder / "sound.mp4", pictures[:20], noise)
            shutil.move(folder / "sound.mp4", path)
        else:
            quiet = {"x265-params": "log-level=none"} if "h265" in name else {}
            if PICTURES[name] == "libx264":  # slower presets look ahead, and do not always give the same bytes
                quiet = {"preset": "ultrafast"}
            pixels = "bgr0" if "ffv1" in name else "yuv420p"
            write_video(path, pictures, codec=PICTURES[name], pixels=pixels, g="12", **quiet)
        return path.read_bytes()

    return make


def hear(path: Path, channel: int | None = None) -> tuple[float, Damage | None]:
    heard = Heard()
    n = sum(len(block) for block in audio_blocks(path, channel=channel, heard=heard))
    return n / SAMPLE_RATE, heard.damage


def see(path: Path, n: int = 8) -> tuple[list[np.ndarray], Damage | None]:
    seen = Seen()
    first, seconds = time_span(path, seen=seen)
    return list(frames_at(path, middles(first, seconds, n), seen=seen)), seen.damage


def packets(path: Path) -> list[tuple[int, int]]:
    """Where each lies in the file, and how long it is."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(container.streams[0]) if packet.size]


def overwrite(path: Path, at: int, n: int) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + n] = np.random.default_rng(at).bytes(n)
    path.write_bytes(content)


def id3(n_bytes: int) -> bytes:
    body = b"APIC" + (n_bytes - 20).to_bytes(4, "big") + b"\0\0" + np.random.default_rng(1).bytes(n_bytes - 20)
    size = bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + size + body


# Whole files


@pytest.mark.parametrize("name", [*SOUNDS, "vorbis.ogg"])
def test_a_whole_sound_has_no_damage(tmp_path: Path, whole: Callable[[str], bytes], name: str) -> None:
    (tmp_path / name).write_bytes(whole(name))
    seconds, damage = hear(tmp_path / name)
    assert damage is None
    assert seconds == pytest.approx(SECONDS, abs=0.12)


@pytest.mark.parametrize("name", PICTURES)
def test_whole_pictures_have_no_damage(tmp_path: Path, whole: Callable[[str], bytes], name: str) -> None:
    (tmp_path / name).write_bytes(whole(name))
    assert see(tmp_path / name)[1] is None


def test_a_video_may_pause_as_it_likes(tmp_path: Path) -> None:
    times = np.cumsum([0, 0.1, 0.3, 0.1, 2.5, 0.2, 0.05, 0.4, 0.1, 0.7]).tolist()
    write_video(tmp_path / "a.mkv", greys(range(0, 200, 20)), times, codec="ffv1", pixels="bgr0")
    assert see(tmp_path / "a.mkv")[1] is None


@pytest.mark.parametrize("name", ["a.avi", "a.wmv", "a.flv"])
def test_frames_in_another_order_than_their_packets(tmp_path: Path, name: str) -> None:
    """AVI, ASF and MXF give packets the times at which they are decoded: those of frames are then shuffled."""
    write_video(tmp_path / name, np.roll(MOSAIC, 1, axis=2), codec="libx264", bf="3", b_strategy="0")
    assert see(tmp_path / name)[1] is None


@pytest.mark.parametrize("name", ["a.avi", "a.wmv"])
def test_frames_that_are_lost_among_shuffled_ones(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_video(path, MOSAIC, codec="libx264", bf="2", b_strategy="0", g="10")
    for at, size in packets(path)[10:16]:
        overwrite(path, at, size)
    damage = see(path, 40)[1]
    assert damage is not None
    assert damage.share > 0.1


@pytest.mark.parametrize("name", ["a.nut", "a.flv", "b.wma"])
def test_packets_that_hold_settings_alone(tmp_path: Path, name: str) -> None:
    """FLAC in NUT ends with an empty packet, newer FLV begins with one; ASF rounds the times."""
    samples = np.random.default_rng(0).normal(scale=0.1, size=(11025, 1))
    write_audio(tmp_path / name, samples, 11025, "flac")
    decoded = AudioTask(10**6).decode(tmp_path / name, lambda: None)
    assert decoded.damage is None
    assert decoded.n == pytest.approx(SAMPLE_RATE, abs=2)


@pytest.mark.parametrize(("name", "codec", "rate"), [("a.mkv", "wavpack", 48000), ("b.mkv", "alac", 8000)])
def test_a_last_packet_that_does_not_say_how_long_it_is(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    samples = np.random.default_rng(0).normal(scale=0.1, size=(rate * 9 // 10, 1))
    write_audio(tmp_path / name, samples, rate, codec)
    assert AudioTask(10**6).decode(tmp_path / name, lambda: None).n == pytest.approx(0.9 * SAMPLE_RATE, abs=2)


def test_a_track_that_is_shifted_against_the_other_in_fragments(tmp_path: Path) -> None:
    """Without an edit list a muxer has the first packet last longer than its sound."""
    options = {"movflags": "frag_keyframe+empty_moov"}
    write_mp4(tmp_path / "a.mp4", MOSAIC[:10], np.full((SAMPLE_RATE, 1), 0.1, dtype=np.float32), **options)
    assert AudioTask(10**6).decode(tmp_path / "a.mp4", lambda: None).damage is None


def test_a_frame_with_something_that_has_no_name(tmp_path: Path) -> None:
    """PyAV fails on a picture's EXIF as on all that it does not know."""
    write_video(tmp_path / "a.mov", greys([0, 50, 100]), codec="tiff", pixels="rgb24")
    images, damage = see(tmp_path / "a.mov", 3)
    assert [image.mean() for image in images] == [0, 50, 100]
    assert damage is None


# Damage to sound


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("a.aac", 0.01, 0.02),  # a packet of 64 ms
        ("a.m4a", 0.01, 0.02),
        ("a.mp3", 0.008, 0.03),
        ("a.flac", 0.01, 0.05),
        ("flac.mka", 0.01, 0.05),
        ("a.opus", 0.2, 0.3),  # a page of a second
        ("vorbis.ogg", 0.02, 0.6),
        ("flac.ogg", 0.2, 0.3),
        ("a.tta", 0.2, 0.3),
        ("a.mpg", 0.01, 0.1),
    ],
)
def test_the_lost_share_of_a_sound(
    tmp_path: Path, whole: Callable[[str], bytes], name: str, low: float, high: float
) -> None:
    """Forty bytes in the middle; what is decoded and what is said to be lost make up the whole."""
    path = tmp_path / name
    path.write_bytes(whole(name))
    length, _ = hear(path)
    content = bytearray(whole(name))
    at = len(content) // 2
    content[at : at + 40] = bytes(byte ^ 0x5A for byte in content[at : at + 40])
    path.write_bytes(content)
    seconds, damage = hear(path)
    assert damage is not None
    assert low < damage.share < high
    assert seconds / (1 - damage.share) == pytest.approx(length, rel=0.02)

    def task(most: float) -> AudioTask:
        return AudioTask(30 * SAMPLE_RATE, max_damage=most)

    assert task(damage.share + 1e-9).decode(path, lambda: None).damage == damage
    with pytest.raises(MediaError, match=rf"^damaged: {damage.share:.1%} of it, more than max_damage = "):
        task(damage.share - 1e-9).decode(path, lambda: None)


@pytest.mark.parametrize("name", ["a.opus", "vorbis.ogg", "flac.ogg"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_one_byte_of_an_ogg(tmp_path: Path, whole: Callable[[str], bytes], name: str, place: float) -> None:
    """FFmpeg leaves the page out without a word, wherever it lies."""
    path = tmp_path / name
    content = bytearray(whole(name))
    pages = [i for i in range(len(content)) if content[i : i + 4] == b"OggS"][2:]  # behind the headers
    at = pages[round(place * (len(pages) - 1))] + 100
    content[min(at, len(content) - 3)] ^= 1
    path.write_bytes(content)
    seconds, damage = hear(path)
    assert damage is not None
    assert damage.reason.endswith("damaged pages")
    assert seconds + damage.share * SECONDS == pytest.approx(SECONDS, abs=0.05)


@pytest.mark.parametrize("place", ["between", "inside", "end"])
@pytest.mark.parametrize("kind", ["id3", "large id3", "id3v1", "ape", "zeros"])
def test_tags_among_the_frames_of_an_mp3(tmp_path: Path, whole: Callable[[str], bytes], kind: str, place: str) -> None:
    path, content = tmp_path / "a.mp3", whole("a.mp3")
    path.write_bytes(content)
    length, at = hear(path)[0], packets(path)[50][0]
    ape = b"APETAGEX" + struct.pack("<4I", 2000, 132, 1, 0xA0000000) + bytes(8) + b"x" * 132
    tag = {"id3": id3(300), "large id3": id3(60_000), "id3v1": b"TAG" + b"x" * 125, "ape": ape, "zeros": bytes(3000)}
    both = {
        "between": content + tag[kind] + content,
        "inside": content[:at] + tag[kind] + content[at:],
        "end": content + tag[kind],
    }
    path.write_bytes(both[place])
    seconds, damage = hear(path)
    assert damage is None or damage.share < 0.01  # a frame, where a tag's bytes look like the start of one
    assert seconds == pytest.approx(length * (2 if place == "between" else 1), abs=0.25 if place == "between" else 0.05)


@pytest.mark.parametrize("name", ["a.mp3", "a.aac", "a.opus", "a.flac"])
def test_files_joined_into_one(tmp_path: Path, whole: Callable[[str], bytes], name: str) -> None:
    (tmp_path / name).write_bytes(whole(name) + whole(name))
    seconds, damage = hear(tmp_path / name)
    assert damage is None
    assert seconds == pytest.approx(2 * SECONDS, abs=0.25)


def test_sound_that_is_gone_from_an_mp3_is_measured_in_bytes(tmp_path: Path, whole: Callable[[str], bytes]) -> None:
    """The demuxer takes all up to the next frame for one."""
    path = tmp_path / "a.mp3"
    path.write_bytes(whole("a.mp3"))
    overwrite(path, packets(path)[50][0], path.stat().st_size // 10)
    assert hear(path)[1].share == pytest.approx(0.1, abs=0.02)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["a.flv", "a.wmv", "h264.mp4", "vp9.webm", "ffv1.mkv"])
def test_half_a_video_is_cut_short(tmp_path: Path, whole: Callable[[str], bytes], name: str) -> None:
    (tmp_path / name).write_bytes(whole(name)[: len(whole(name)) // 2])
    with pytest.raises(MediaError, match=r"cut short|Invalid data"):
        see(tmp_path / name)


@pytest.mark.parametrize("name", ["a.au", "a.caf", "a.w64", "a.voc", "a.tta", "aac.mka", "a.avi", "a.flac", "a.opus"])
def test_half_a_sound_is_cut_short(tmp_path: Path, whole: Callable[[str], bytes], name: str) -> None:
    (tmp_path / name).write_bytes(whole(name)[: len(whole(name)) // 2])
    with pytest.raises(MediaError, match="cut short"):
        hear(tmp_path / name)


def test_a_container_that_loses_its_way_is_cut_short(tmp_path: Path, whole: Callable[[str], bytes]) -> None:
    path = tmp_path / "aac.mka"
    path.write_bytes(whole("aac.mka"))
    at, size = packets(path)[30]
    overwrite(path, at, size + 12)  # and the header of the next
    with pytest.raises(MediaError, match="cut short"):
        hear(path)


@pytest.mark.parametrize(
    "junk", [bytes(3000), b"TAG" + b"x" * 125, b"<html>no such file</html>"], ids=["zeros", "tag", "words"]
)
@pytest.mark.parametrize("name", [*(name for name in SOUNDS if name != "a.nut"), "vorbis.ogg"])
def test_junk_behind_the_end(tmp_path: Path, whole: Callable[[str], bytes], name: str, junk: bytes) -> None:
    (tmp_path / name).write_bytes(whole(name))
    seconds, _ = hear(tmp_path / name)
    (tmp_path / name).write_bytes(whole(name) + junk)
    found, damage = hear(tmp_path / name)
    assert found == pytest.approx(seconds, abs=0.15)
    assert damage is None or damage.share < 0.02


# Damage to pictures


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi", "a.flv", "vp9.webm", "ffv1.mkv"])
def test_damaged_frames_are_counted_and_not_shown(tmp_path: Path, whole: Callable[[str], bytes], name: str) -> None:
    path = tmp_path / name
    path.write_bytes(whole(name))
    before, _ = see(path, 40)
    at, size = packets(path)[15]
    overwrite(path, at + size // 2, max(4, size // 3))
    after, damage = see(path, 40)
    assert damage is not None
    assert damage.share == pytest.approx(1 / 39, abs=0.03)
    changed = [k for k in range(40) if not np.array_equal(before[k], after[k])]
    assert changed  # at least the damaged one
    assert any(np.array_equal(after[k], before[k - 1]) for k in changed)  # the one before it stays on screen
    strict = VideoTask(8, 16, 30, 1, None, max_damage=0.001)
    with pytest.raises(MediaError, match=r"^damaged: "):
        strict.decode(path, lambda: None)
    assert VideoTask(8, 16, 30, 1, None, max_damage=0.2).decode(path, lambda: None).damage is not None


def test_frames_that_hang_on_a_lost_one_are_lost(tmp_path: Path, whole: Callable[[str], bytes]) -> None:
    path = tmp_path / "h264.mp4"
    path.write_bytes(whole("h264.mp4"))
    at, size = packets(path)[0]
    overwrite(path, at + 2, size - 2)  # the first key frame: nothing can be shown up to the next
    assert see(path)[1].share == pytest.approx(12 / 39, abs=0.05)  # type: ignore[union-attr]


def test_a_gap_in_an_even_stream_whose_bytes_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_video(path, MOSAIC, codec="ffv1", pixels="bgr0", g="1")
    (start, _), (stop, _) = packets(path)[20], packets(path)[26]
    content = path.read_bytes()
    void = b"\xec\x01" + (stop - start - 9).to_bytes(7, "big")  # an element to pass over, in place of six
    at = start - 6
    path.write_bytes(content[:at] + void + bytes(stop - 6 - at - len(void)) + content[stop - 6 :])
    damage = see(path)[1]
    assert damage is not None
    assert "a gap between its packets" in damage.reason
    assert 6 / 40 <= damage.share < 0.3  # and the frames beside it


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.flv", "a.nut"])
def test_a_pause_in_an_even_stream(tmp_path: Path, name: str) -> None:
    """As browsers and cameras record a picture that stands still, or their own start."""
    times = [i / 10 for i in range(60) if i != 1 and not 20 <= i < 40]
    codec = {"a.webm": "libvpx", "a.flv": "flv"}.get(name, "libx264")
    write_video(tmp_path / name, MOSAIC[: len(times)], times, codec=codec)
    assert see(tmp_path / name)[1] is None


# Sloppy writers


@pytest.mark.parametrize("n_bytes", [1, 2, 8, 36, 44])
def test_a_wav_whose_header_counts_too_much(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.linspace(-0.1, 0.1, 8000), SAMPLE_RATE)
    content = bytearray(path.read_bytes())
    content[40:44] = (16_000 + n_bytes).to_bytes(4, "little")
    path.write_bytes(content)
    assert hear(path) == (0.5, None)
    content[40:44] = (16_000 + 400).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(MediaError, match="cut short"):
        hear(path)


def test_a_track_without_decoder_beside_one_that_has(tmp_path: Path) -> None:
    path = tmp_path / "a.mka"
    wave = np.sin(np.arange(16_000) / 9).astype(np.float32)
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=SAMPLE_RATE, layout="mono") for codec in ("flac", "pcm_s16le")]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray((wave[None] * 9000).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, 0
            context = stream.codec_context
            for block in av.AudioResampler(format="s16", layout="mono", frame_size=context.frame_size).resample(frame):
                container.mux(stream.encode(block))
            container.mux(stream.encode(None))
    assert hear(path)[0] == pytest.approx(1, abs=0.3)
    path.write_bytes(path.read_bytes().replace(b"A_FLAC", b"A_FAKE", 1))
    assert hear(path)[0] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12345\n", "a Git LFS pointer"),
        (b"/annex/objects/MD5E-s1--ab.mp4\n", "a git-annex pointer"),
        (b"\n <!DOCTYPE HTML><html><title>Sign in</title>", "an HTML page"),
        (b"\xef\xbb\xbf<html lang=en>", "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b"PK\x03\x04" + bytes(100), "a ZIP archive"),
        (b"\0\5\x16\7" + bytes(100), "AppleDouble"),
        (bytes(100_000), "nothing but zeros"),
    ],
)
@pytest.mark.parametrize("look", [hear, see])
def test_what_is_no_media_is_said_to_be(
    tmp_path: Path, look: Callable[[Path], object], content: bytes, expected: str
) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(MediaError, match=f"^not media but .*{expected}"):
        look(tmp_path / "a.mp4")


# Channels and silence


def stereo(path: Path, left: np.ndarray, right: np.ndarray, **how: str) -> Path:
    soundfile.write(path, np.stack([left, right], axis=1), SAMPLE_RATE, **how)
    return path


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(3).normal(scale=0.1, size=SAMPLE_RATE).astype(np.float32)


def decode(path: Path, **settings: object) -> Decoded:
    """In one piece, and the same as a stream."""
    decoded = AudioTask(30 * SAMPLE_RATE, **settings).decode(path, lambda: None)  # type: ignore[arg-type]
    about, *pieces = AudioTask(100, **settings).stream(path, lambda: None)  # type: ignore[arg-type]
    damage = pieces.pop() if isinstance(pieces[-1], Damage) else None
    assert (about.n, damage) == (decoded.n, decoded.damage)
    np.testing.assert_array_equal(np.concatenate(pieces), decoded.data)
    return decoded


@pytest.mark.parametrize(("suffix", "how"), [("wav", {"subtype": "FLOAT"}), ("mp3", {}), ("ogg", {})])
def test_channels_in_opposite_phase(tmp_path: Path, noise: np.ndarray, suffix: str, how: dict[str, str]) -> None:
    wave = noise if suffix == "wav" else (np.sqrt(0.02) * np.sin(np.arange(SAMPLE_RATE) / 9)).astype(np.float32)
    path = stereo(tmp_path / f"a.{suffix}", wave, -wave, **how)
    decoded = decode(path)
    assert decoded.damage == Damage(0, "its channels cancel each other out: the first one is taken")
    assert decoded.data is not None
    assert np.std(decoded.data) == pytest.approx(0.1, rel=0.2)
    if suffix == "wav":
        np.testing.assert_array_equal(decoded.data, noise)
        assert decode(stereo(path, noise, -0.8 * noise, **how)).damage is None


@pytest.mark.parametrize("offset", [0.01, 0.3])
def test_an_offset_does_not_hide_that_channels_cancel(tmp_path: Path, noise: np.ndarray, offset: float) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([noise + offset, offset - noise], 1), SAMPLE_RATE)
    decoded = AudioTask(10**6, silence=False).decode(tmp_path / "a.wav", lambda: None)
    assert decoded.damage == Damage(0, "its channels cancel each other out: the first one is taken")


def test_one_channel_alone(tmp_path: Path, noise: np.ndarray) -> None:
    path = stereo(tmp_path / "a.wav", noise, -noise, subtype="FLOAT")
    for channel, expected in ((1, noise), (2, -noise)):
        decoded = decode(path, channel=channel)
        np.testing.assert_array_equal(decoded.data, expected)
        assert decoded.damage is None
    with pytest.raises(ClipError, match=r"^it has 2 channels, and no channel 3$"):
        decode(path, channel=3)


@pytest.mark.parametrize("level", [0.0, 0.01, 1 / 2**15])
def test_silence_from_end_to_end(tmp_path: Path, noise: np.ndarray, level: float) -> None:
    """Zeros, a constant, or the last bit of 16."""
    path = tmp_path / "a.wav"
    still = np.full(SAMPLE_RATE, level, dtype=np.float32)
    still[5000:] *= level > 1e-3  # the constant stays one
    soundfile.write(path, still, SAMPLE_RATE, subtype="FLOAT")
    for long in (False, True):
        with pytest.raises(SilentError, match=r"^its sound track is silent from end to end$"):
            list(
                AudioTask(100, silence=False).stream(path, lambda: None)
                if long
                else [AudioTask(10**6, silence=False).decode(path, lambda: None)]
            )
    np.testing.assert_array_equal(decode(path, silence=True).data, still)
    still[7000] += 0.01
    soundfile.write(path, still, SAMPLE_RATE, subtype="FLOAT")
    decode(path, silence=False)
    write_audio(tmp_path / "a.m4a", np.zeros((SAMPLE_RATE, 1)), SAMPLE_RATE, "aac")
    with pytest.raises(SilentError):
        decode(tmp_path / "a.m4a", silence=False)
