"""Children that decode: the same arrays as in this process, and a clip that takes one down costs that clip alone."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from faulty_tasks import FaultyTask, MeasuredAudio, MeasuredVideo
from media_tools import decode_audio, decode_frames, greys, write_audio, write_mp4, write_video
from shells import REPOSITORY

from configs import UserError
from configs.schema import FaceCrop
from extract.media.child import Child
from extract.media.decoding import Decoders
from extract.media.framing import resize_and_crop
from extract.media.reading import SAMPLE_RATE, ClipError, MediaError
from extract.media.tasks import AudioTask, Decoded, Streamed, Task, VideoTask

HELPERS = REPOSITORY / "tests" / "helpers"
AUDIO = AudioTask(short_samples=30 * SAMPLE_RATE)
VIDEO = VideoTask(n_frames=4, size=16, segment_seconds=30, short_segments=1, face_crop=None)


@pytest.fixture(autouse=True)
def _children_find_the_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HELPERS))


@pytest.fixture
def start() -> Iterator[Callable[..., Decoders]]:
    started: list[Decoders] = []

    def make(task: Task, workers: int = 1, timeout: float = 60) -> Decoders:
        started.append(Decoders(task, workers, timeout))
        return started[-1]

    yield make
    for decoders in started:
        decoders.close()


Start = Callable[..., Decoders]


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.01, scale=0.1, size=round(seconds * SAMPLE_RATE)).astype(np.float32)


def pid_of(decoded: Decoded) -> int:
    assert decoded.data is not None
    return int(decoded.data[0])


# What comes


def test_a_short_clip_comes_in_one_piece(tmp_path: Path, start: Start) -> None:
    soundfile.write(tmp_path / "a.wav", noise(2), SAMPLE_RATE, subtype="FLOAT")
    decoded = start(AUDIO).decode(tmp_path / "a.wav")
    assert (decoded.seconds, decoded.n) == (2, 2 * SAMPLE_RATE)
    np.testing.assert_array_equal(decoded.data, noise(2))

    pictures = np.random.default_rng(0).integers(0, 256, (10, 40, 50, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mkv", pictures, codec="ffv1", pixels="bgr0")
    decoded = start(VIDEO).decode(tmp_path / "a.mkv")
    assert (decoded.seconds, decoded.n) == (1, 1)
    expected = resize_and_crop(decode_frames(tmp_path / "a.mkv", 4).images, 16)
    np.testing.assert_array_equal(decoded.data, expected[None])


def test_the_length_up_to_which_a_clip_is_short(tmp_path: Path, start: Start) -> None:
    decoders = start(AudioTask(short_samples=8000))
    for n, is_short in ((8000, True), (8001, False), (50_000, False)):
        soundfile.write(tmp_path / "a.wav", noise(4)[:n], SAMPLE_RATE)
        decoded = decoders.decode(tmp_path / "a.wav")
        assert (decoded.data is not None) == is_short
        assert decoded.n == n if is_short else 8000 < decoded.n <= n


def test_long_audio_comes_in_blocks(tmp_path: Path, start: Start) -> None:
    samples = noise(33)
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    first, *blocks = start(AUDIO).stream(tmp_path / "a.wav")
    assert isinstance(first, Streamed)
    assert (first.seconds, first.n) == (33, len(samples))
    assert first.mean == pytest.approx(samples.mean(dtype=np.float64), rel=1e-12)
    assert first.variance == pytest.approx(samples.var(dtype=np.float64), rel=1e-9)
    assert len(blocks) == 4
    assert all(len(block) < 11 * SAMPLE_RATE for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), samples)


def test_long_video_comes_in_equal_segments(tmp_path: Path, start: Start) -> None:
    write_video(tmp_path / "a.mkv", greys(range(0, 240, 20)), codec="ffv1", pixels="bgr0")  # 12 frames, 1.2 s
    task = VideoTask(n_frames=4, size=16, segment_seconds=0.5, short_segments=2, face_crop=None)
    decoders = start(task)
    assert decoders.decode(tmp_path / "a.mkv") == Decoded(pytest.approx(1.2), 3, None)
    first, *segments = decoders.stream(tmp_path / "a.mkv")
    assert first == Streamed(pytest.approx(1.2), 3)
    assert [segment.shape for segment in segments] == [(4, 16, 16, 3)] * 3
    shown = [round(float(image.mean()) / 20) for segment in segments for image in segment]
    assert shown == list(range(12))

    whole = start(VideoTask(4, 16, 0.5, 3, None)).decode(tmp_path / "a.mkv")
    np.testing.assert_array_equal(whole.data, np.stack(segments))
    at_the_edge = start(VideoTask(4, 16, 0.6, 2, None)).decode(tmp_path / "a.mkv")
    assert at_the_edge.n == 2  # not three, by a rounding error of the clock


def test_a_clip_without_a_face(tmp_path: Path, start: Start) -> None:
    pytest.importorskip("dlib")
    write_video(tmp_path / "a.mkv", greys([60, 120], 100, 100), codec="ffv1", pixels="bgr0")
    decoders = start(VideoTask(4, 16, 30, 1, FaceCrop()))
    with pytest.raises(ClipError, match="no face found in any of 4 frames"):
        decoders.decode(tmp_path / "a.mkv")


def test_damaged_long_audio_is_refused_before_anything_comes(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(60), SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    decoders = start(AUDIO)
    assert decoders.decode(path).data is None
    with pytest.raises(MediaError):
        next(decoders.stream(path))


def test_several_threads_share_the_children(tmp_path: Path, start: Start) -> None:
    paths = [tmp_path / f"{i}.wav" for i in range(12)]
    for i, path in enumerate(paths):
        soundfile.write(path, noise(0.5 + i / 10, seed=i), SAMPLE_RATE, subtype="FLOAT")
    decoders = start(AUDIO, workers=2)
    with ThreadPoolExecutor(5) as pool:
        for path, decoded in zip(paths, pool.map(decoders.decode, paths), strict=True):
            np.testing.assert_array_equal(decoded.data, decode_audio(path))


def test_a_stream_that_is_left_early_costs_nothing_else(tmp_path: Path, start: Start) -> None:
    decoders = start(FaultyTask())
    next(decoders.stream(Path("any")))
    assert decoders.decode(Path("any")).n == 1


# What goes wrong


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("crash", r"^the decoder crashed \(SIGSEGV\)$"),
        ("abort", r"^the decoder crashed \(SIGABRT\)$"),
        ("leave", r"^the decoder ended \(3\)$"),
        ("hang", r"^no sign of life from the decoder for 1 s$"),
        ("memory", r"^decoding it takes more than 4 GiB of memory$"),
    ],
)
def test_a_clip_that_takes_the_decoder_down(start: Start, name: str, reason: str) -> None:
    decoders = start(FaultyTask(), timeout=1)
    before = pid_of(decoders.decode(Path("good")))
    with pytest.raises(MediaError, match=reason):
        decoders.decode(Path(name))
    after = pid_of(decoders.decode(Path("good")))
    assert (before == after) == (name == "memory")
    assert pid_of(decoders.decode(Path("good"))) == after


def test_a_clip_is_tried_again_when_somebody_killed_its_decoder(tmp_path: Path, start: Start) -> None:
    assert start(FaultyTask()).decode(tmp_path / "killed once").n == 1


def test_a_child_that_gets_no_processor_is_not_silent(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = start(FaultyTask(), timeout=0.4)
    decoders.decode(Path("good"))
    monkeypatch.setattr(Child, "queued_seconds", lambda _: 0.9 * time.monotonic())
    assert decoders.decode(Path("silent")).n == 1  # for a second, of which it could run for a tenth
    monkeypatch.setattr(Child, "queued_seconds", lambda _: 0.0)
    with pytest.raises(MediaError, match=r"no sign of life from the decoder for 0\.4 s"):
        list(decoders._answers("decode", Path("silent"), None))


@pytest.mark.parametrize("side", [24_000, 65_535])
def test_pictures_larger_than_any_memory(tmp_path: Path, start: Start, side: int) -> None:
    write_video(tmp_path / "a.gif", greys([60, 120]), codec="gif", pixels="rgb8")
    content = bytearray((tmp_path / "a.gif").read_bytes())
    content[6:10] = side.to_bytes(2, "little") * 2
    (tmp_path / "large.gif").write_bytes(content)
    decoders = start(VIDEO)
    with pytest.raises(MediaError):
        decoders.decode(tmp_path / "large.gif")
    assert decoders.decode(tmp_path / "a.gif").n == 1


def test_other_clips_go_on_beside_one_that_hangs(start: Start) -> None:
    decoders = start(FaultyTask(), workers=2, timeout=1.5)
    with ThreadPoolExecutor(2) as pool:
        hanging = pool.submit(decoders.decode, Path("hang"))
        for _ in range(20):
            decoders.decode(Path("good"))
        assert not hanging.done()
        with pytest.raises(MediaError, match="no sign of life"):
            hanging.result()


def test_slow_is_not_dead(start: Start) -> None:
    """As long as packets come, a clip may take longer than the limit; and so may whoever reads the pieces."""
    decoders = start(FaultyTask(), timeout=2)
    assert decoders.decode(Path("slow")).n == 1  # 2.4 s
    pieces = decoders.stream(Path("any"))
    next(pieces)
    time.sleep(2.2)
    assert len(list(pieces)) == 39


@pytest.mark.parametrize("fault", [signal.SIGSEGV, signal.SIGSTOP, signal.SIGKILL])
def test_a_child_that_is_lost_in_the_middle_of_a_stream(start: Start, fault: signal.Signals) -> None:
    decoders = start(FaultyTask(), timeout=1)
    pieces = decoders.stream(Path("any"))
    os.kill(int(next(pieces)[0]), fault)
    reason = "no sign of life" if fault == signal.SIGSTOP else rf"crashed \({fault.name}\)"
    with pytest.raises(MediaError, match=reason):
        list(pieces)
    assert decoders.decode(Path("good")).n == 1


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_child_that_is_lost_in_its_sleep_costs_no_clip(start: Start, fault: signal.Signals) -> None:
    decoders = start(FaultyTask(), timeout=1)
    for _ in range(1 if fault == signal.SIGSTOP else 3):
        pid = pid_of(decoders.decode(Path("good")))
        os.kill(pid, fault)
        assert pid_of(decoders.decode(Path("good"))) != pid


def test_a_fault_of_the_program_is_no_broken_clip(start: Start) -> None:
    decoders = start(FaultyTask())
    with pytest.raises(KeyError, match="no such key") as caught:
        decoders.decode(Path("bug"))
    assert "faulty_tasks.py" in caught.value.__notes__[0]
    assert decoders.decode(Path("good")).n == 1


def test_a_child_that_cannot_start_ends_the_pass(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")  # the task cannot be found
    with pytest.raises(UserError, match=r"no decoder can be started: the decoder ended .* before it began"):
        start(FaultyTask()).decode(Path("good"))


def test_no_clip_is_missing_because_the_system_gave_no_process(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", no_more)
    with pytest.raises(UserError, match=r"no decoder can be started: .*Resource temporarily unavailable"):
        start(FaultyTask()).decode(Path("good"))


def test_children_import_no_networks_and_leave_ctrl_c_to_the_parent(start: Start) -> None:
    decoders = start(FaultyTask())
    pid = pid_of(decoders.decode(Path("torch")))
    os.kill(pid, signal.SIGINT)
    assert pid_of(decoders.decode(Path("good"))) == pid


def test_closing_ends_what_is_under_way(start: Start) -> None:
    decoders = start(FaultyTask(), workers=1)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(decoders.decode, Path("hang")) for _ in range(3)]
        time.sleep(0.2)
        decoders.close()
        for call in calls:
            with pytest.raises(RuntimeError, match="closed"):
                call.result(timeout=20)
    with pytest.raises(RuntimeError, match="closed"):
        decoders.decode(Path("good"))


def state(pid: int) -> str:
    """Of a process: Z has ended, and so has one that is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


PARENT = """
import os, sys, threading
from pathlib import Path
from extract.media.decoding import Decoders
from extract.media.tasks import AudioTask, Decoded, Streamed, Task, VideoTask
from faulty_tasks import FaultyTask
decoders = Decoders(FaultyTask(), 2, 600)
print(int(decoders.decode(Path("good")).data[0]), flush=True)
pieces = decoders.stream(Path("any"))
print(int(next(pieces)[0]), flush=True)
decoders.decode(Path("hang"))
"""


def test_no_child_outlives_its_parent() -> None:
    """Killed without a chance to clean up, with one child hanging and one waiting to be read."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        first, second = int(parent.stdout.readline()), int(parent.stdout.readline())
        assert first == second
        time.sleep(1)  # the second child starts, and hangs
        (children,) = Path(f"/proc/{parent.pid}/task").glob(f"{parent.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()]
        assert len(pids) == 2
        parent.kill()
    deadline = time.monotonic() + 20
    while any(state(pid) != "Z" for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Memory


def measure(start: Start, task: Task, path: Path) -> tuple[Streamed, int, float]:
    """What is streamed first, how much comes after it, and the child's peak memory in MiB."""
    first, *_, last = pieces = list(start(task).stream(path))
    return first, len(pieces) - 2, last


def check_memory_of_long_clips(folder: Path, start: Start, suffix: str, minutes: int, margin_mib: float) -> None:
    """A clip of so many minutes takes hardly more memory than one of a second."""
    quiet = np.random.default_rng(0).normal(scale=1e-3, size=60 * SAMPLE_RATE)
    with soundfile.SoundFile(folder / f"long{suffix}", "w", SAMPLE_RATE, 1) as file:
        for _ in range(minutes):
            file.write(quiet)
    soundfile.write(folder / f"short{suffix}", quiet[:SAMPLE_RATE], SAMPLE_RATE)
    audio = MeasuredAudio(short_samples=30 * SAMPLE_RATE)
    *_, base = measure(start, audio, folder / f"short{suffix}")
    first, n_blocks, peak = measure(start, audio, folder / f"long{suffix}")
    assert first.n == pytest.approx(minutes * 60 * SAMPLE_RATE, abs=4)
    assert n_blocks == pytest.approx(minutes * 6, abs=1)
    print(f"audio, {minutes} minutes: {peak:.0f} MiB; a second: {base:.0f} MiB")
    assert peak - base < margin_mib

    picture = greys([100], 360, 640)
    for name, n in (("short.mp4", 2), ("long.mp4", minutes * 60)):  # one frame a second
        write_video(folder / name, np.broadcast_to(picture, (n, 360, 640, 3)), range(n), preset="ultrafast")
    video = MeasuredVideo(n_frames=8, size=112, segment_seconds=10, short_segments=1, face_crop=None)
    *_, base = measure(start, video, folder / "short.mp4")
    first, n_segments, peak = measure(start, video, folder / "long.mp4")
    assert first.n == n_segments == minutes * 6
    print(f"video, {minutes} minutes: {peak:.0f} MiB; a second: {base:.0f} MiB")
    assert peak - base < margin_mib


def test_memory_does_not_grow_with_a_clip(tmp_path: Path, start: Start) -> None:
    """Held at once, the samples would take 29 MiB, and the frames 253 MiB."""
    check_memory_of_long_clips(tmp_path, start, ".wav", minutes=8, margin_mib=20)


@pytest.mark.soak
def test_memory_does_not_grow_with_an_hour(tmp_path: Path, start: Start) -> None:
    check_memory_of_long_clips(tmp_path, start, ".mp3", minutes=60, margin_mib=20)


# Fuzz


def write_kinds(folder: Path) -> list[Path]:
    """A small file of every kind."""
    samples = noise(1.5)[:, None]
    for suffix in ("wav", "flac", "ogg", "aiff"):
        soundfile.write(folder / f"a.{suffix}", samples, SAMPLE_RATE)
    soundfile.write(folder / "float.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    codecs = {
        "a.mp3": "libmp3lame",
        "a.opus": "libopus",
        "a.m4a": "aac",
        "b.m4a": "alac",
        "a.aac": "aac",
        "a.mka": "aac",
    }
    for name, codec in codecs.items():
        write_audio(folder / name, samples, SAMPLE_RATE, codec)
    pictures = np.random.default_rng(0).integers(0, 256, (12, 6, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    write_mp4(folder / "a.mp4", pictures, samples)
    write_mp4(folder / "fast.mp4", pictures, samples, movflags="faststart")
    write_mp4(folder / "parts.mp4", pictures, samples, movflags="frag_keyframe+empty_moov")
    for name, codec, pixels in [
        ("a.mkv", "ffv1", "bgr0"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mov", "qtrle", "rgb24"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
    ]:
        write_video(folder / name, pictures, codec=codec, pixels=pixels)
    return sorted(folder.iterdir())


def mutate(content: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """Flip bits, overwrite or repeat runs, cut, splice with another file, or lie about a length."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        end = len(data) if rng.random() < 0.5 else min(len(data), 600)  # headers matter more than their size
        at = int(rng.integers(0, max(1, end)))
        run = int(rng.integers(1, 64))
        match int(rng.integers(0, 7)):
            case 0:
                for place in rng.integers(0, max(1, len(data)), size=int(rng.integers(1, 8))):
                    data[place : place + 1] = bytes([data[place] ^ 1 << int(rng.integers(0, 8))]) if data else b""
            case 1:
                data[at : at + run] = rng.bytes(run)
            case 2:
                data[at : at + run] = bytes([int(rng.choice([0, 255]))]) * run
            case 3:
                del data[at:]
            case 4:
                other = others[int(rng.integers(0, len(others)))]
                data[at:] = other[int(rng.integers(0, len(other))) :]
            case 5:
                lie = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFF0, 65535, 10 << 20]))
                data[at : at + 4] = lie.to_bytes(4, str(rng.choice(["little", "big"])))  # type: ignore[arg-type]
            case 6:
                data[at:at] = data[at : at + run] * int(rng.integers(1, 40))
    return bytes(data)


def fuzz(folder: Path, n_files: int) -> dict[str, int]:
    """Decode mutated files as audio and as video; how many ended how."""
    kinds = [path.read_bytes() for path in write_kinds(folder)]
    suffixes = [path.suffix for path in write_kinds(folder)]
    ended = {"decoded": 0, "refused": 0, "crashed": 0, "hung": 0}

    def attempt(i: int) -> list[str]:
        rng = np.random.default_rng(i)
        path = folder / f"mutated{i}{suffixes[i % len(kinds)]}"
        path.write_bytes(mutate(kinds[i % len(kinds)], kinds, rng))
        ends = []
        for decoders, what in ((audio, "audio"), (video, "video")):
            try:
                data = decoders.decode(path).data
                pieces = [data] if data is not None else list(decoders.stream(path))[1:]
            except (MediaError, ClipError) as error:
                text = str(error)
                assert text
                assert "\n" not in text
                ends.append("crashed" if "crashed" in text else "hung" if "no sign" in text else "refused")
                continue
            for piece in pieces:
                check(piece, what)
            ends.append("decoded")
        path.unlink()
        return ends

    def check(piece: Any, what: str) -> None:
        assert len(piece) > 0
        if what == "audio":
            assert piece.dtype == np.float32
            assert np.isfinite(piece).all()
        else:
            assert piece.dtype == np.uint8
            assert piece.shape[-4:] == (4, 16, 16, 3)

    with (
        closing(Decoders(AUDIO, 2, 20)) as audio,
        closing(Decoders(VIDEO, 2, 20)) as video,
        ThreadPoolExecutor(2) as pool,
    ):
        for ends in pool.map(attempt, range(n_files)):
            for end in ends:
                ended[end] += 1
    return ended


def test_mutated_files_end_in_arrays_or_in_one_line(tmp_path: Path) -> None:
    ended = fuzz(tmp_path, 120)
    assert sum(ended.values()) == 240
    assert ended["decoded"] > 20
    assert ended["refused"] > 60


@pytest.mark.soak
def test_many_mutated_files(tmp_path: Path) -> None:
    ended = fuzz(tmp_path, 3000)
    print(ended)
    assert sum(ended.values()) == 6000
