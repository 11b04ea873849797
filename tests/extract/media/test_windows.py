"""Windows of what passes by: the same samples and pictures as of clips cut there, from files and from what is live."""

import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from math import inf
from pathlib import Path

import numpy as np
import pytest
from media_tools import write_audio, write_mp4, write_video

import extract.media.streaming.incoming as incoming
from extract.media.damage import Damage, MediaError
from extract.media.reading import SAMPLE_RATE
from extract.media.streaming.cutting import Cut, FileWindows, Window
from extract.media.streaming.incoming import Address, LiveWindows
from extract.media.tasks import AudioTask, Decoded, VideoTask

SOUND = AudioTask(10**7)
PICTURES = VideoTask(n_frames=4, size=16, segment_seconds=30, short_segments=2, face_crop=None)


def nothing() -> None:
    pass


def windows_of(path: Path, cut: Cut) -> list[Window]:
    return [each for each in FileWindows(cut).stream(path, nothing) if isinstance(each, Window)]


def spans(windows: list[Window]) -> list[tuple[float, float]]:
    return [(round(each.start, 3), round(each.stop, 3)) for each in windows]


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(scale=0.1, size=(round(seconds * SAMPLE_RATE), 1)).astype(np.float32)


def images(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, 24, 32, 3), dtype=np.uint8)


def same(task: AudioTask | VideoTask, window: Window, clip: Path) -> bool:
    found, expected = window.decode(task), task.decode(clip, nothing)
    assert found.n == expected.n
    assert found.seconds == pytest.approx(expected.seconds)
    return np.array_equal(found.data, expected.data)


def test_a_window_is_what_a_clip_cut_there_decodes_to(tmp_path: Path) -> None:
    sound, shown = noise(6.5), images(70)
    write_audio(tmp_path / "all.wav", sound, SAMPLE_RATE, "pcm_f32le")
    write_video(tmp_path / "all.mkv", shown, codec="ffv1", pixels="bgr0")
    heard, seen = (
        windows_of(tmp_path / f"all.{end}", Cut(2.0, 1.5, (task,))) for end, task in (("wav", SOUND), ("mkv", PICTURES))
    )
    assert spans(heard) == [(0, 2), (1.5, 3.5), (3, 5), (4.5, 6.5)]
    assert spans(seen) == [*spans(heard), (6, 7)]
    for window in heard:
        first, last = round(window.start * SAMPLE_RATE), round(window.stop * SAMPLE_RATE)
        write_audio(tmp_path / "cut.wav", sound[first:last], SAMPLE_RATE, "pcm_f32le")
        assert same(SOUND, window, tmp_path / "cut.wav")
    for window in seen:
        write_video(
            tmp_path / "cut.mkv",
            shown[round(window.start * 10) : round(window.stop * 10)],
            codec="ffv1",
            pixels="bgr0",
        )
        assert same(PICTURES, window, tmp_path / "cut.mkv")


def test_a_file_as_one_window_is_the_clip(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", images(21), noise(2))
    (window,) = windows_of(tmp_path / "a.mp4", Cut(inf, inf, (SOUND, PICTURES)))
    assert same(SOUND, window, tmp_path / "a.mp4")
    assert same(PICTURES, window, tmp_path / "a.mp4")


def test_what_a_track_lacks_is_said(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", images(10), noise(3))
    *_, last = windows_of(tmp_path / "a.mp4", Cut(1.0, 1.0, (SOUND, PICTURES)))
    assert last.decode(SOUND).n
    with pytest.raises(MediaError, match="its pictures end before"):
        last.decode(PICTURES)
    write_audio(tmp_path / "b.wav", noise(1.24), SAMPLE_RATE, "pcm_s16le")  # so little is no second window
    (window,) = windows_of(tmp_path / "b.wav", Cut(1.0, 1.0, (SOUND, PICTURES)))
    with pytest.raises(MediaError, match="no video stream"):
        window.decode(PICTURES)
    with pytest.raises(MediaError, match="no video stream"):
        windows_of(tmp_path / "b.wav", Cut(1.0, 1.0, (PICTURES,)))


def test_a_file_that_is_cut_short_says_so_behind_its_windows(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", noise(4), SAMPLE_RATE, "flac")
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) * 3 // 4])
    found = []
    with pytest.raises(MediaError, match="cut short"):
        found.extend(FileWindows(Cut(1.0, 1.0, (SOUND,))).stream(tmp_path / "a.flac", nothing))
    assert len(found) >= 2


def test_channels_that_cancel_each_other_out_are_heard_as_of_a_clip(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", noise(1) * [[1, -1]], SAMPLE_RATE, "pcm_s16le", "stereo")
    window, damage = FileWindows(Cut(1.0, 1.0, (SOUND,))).stream(tmp_path / "a.wav", nothing)
    assert isinstance(damage, Damage)
    assert isinstance(window, Window)
    assert same(SOUND, window, tmp_path / "a.wav")


def live(address: Address, cut: Cut, path: Path = Path("/dev/null")) -> list[Window]:
    return list(LiveWindows(cut, address).stream(path, nothing))


def test_a_device_gives_windows_of_both_tracks() -> None:
    """A generator stands for the camera with its microphone: the same library opens both."""
    graph = "testsrc=rate=10:size=32x32:duration=3[out0];sine=frequency=440:duration=2.5[out1]"
    found = live(Address(graph, "lavfi", is_device=True), Cut(1.0, 1.0, (SOUND, PICTURES)))
    assert spans(found)[:2] == [(0, 1), (1, 2)]
    assert found[0].decode(SOUND).n == SAMPLE_RATE
    assert found[2].decode(SOUND).n == SAMPLE_RATE // 2
    assert len(np.unique(found[0].decode(PICTURES).data, axis=1)) == 1
    assert found[0].decode(PICTURES).data.shape == (1, 4, 16, 16, 3)  # type: ignore[union-attr]


def test_a_pipe_gives_the_windows_of_its_file(tmp_path: Path) -> None:
    sound = noise(2.5)
    write_audio(tmp_path / "a.wav", sound, SAMPLE_RATE, "pcm_s16le")
    (tmp_path / "a.raw").write_bytes(np.round(sound * 2**15).clip(-(2**15), 2**15 - 1).astype("<i2").tobytes())
    cut = Cut(1.0, 0.5, (SOUND,))
    piped = live(Address("", "s16le", {"sample_rate": "16000", "ch_layout": "mono"}), cut, tmp_path / "a.raw")
    expected = windows_of(tmp_path / "a.wav", cut)
    assert spans(piped) == spans(expected)
    for one, other in zip(piped, expected, strict=True):
        np.testing.assert_allclose(one.decode(SOUND).data, other.decode(SOUND).data, atol=2**-15)


def test_an_address_is_read_as_it_comes_and_its_end_is_said(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", noise(2), SAMPLE_RATE, "pcm_s16le")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if self.path == "/b.wav" else 200)
            content = (tmp_path / "a.wav").read_bytes()
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:50000] if self.path == "/dies.wav" else content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        cut = Cut(1.0, 1.0, (SOUND,))
        assert spans(live(Address(f"{url}/a.wav"), cut)) == [(0, 1), (1, 2)]
        found = []
        with pytest.raises(MediaError, match="Input/output error"):
            found.extend(LiveWindows(cut, Address(f"{url}/dies.wav")).stream(Path("/dev/null"), nothing))
        assert spans(found)[0] == (0, 1)
        assert 1.5 < found[1].stop < 1.6
        with pytest.raises(MediaError, match="404"):
            live(Address(f"{url}/b.wav"), Cut(1.0, 1.0, (SOUND,)))
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (Address("/dev/video99", "v4l2", is_device=True), "No such file"),
        (Address("http://127.0.0.1:9/x"), "refused"),
        (Address("file:///etc/passwd"), "."),
        (Address(), "Invalid data"),
    ],
)
def test_what_cannot_be_opened_ends_in_one_line(address: Address, said: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no media " * 1000)
    with pytest.raises(MediaError, match=said) as error:
        live(address, Cut(1.0, 1.0, (SOUND,)), tmp_path / "text")
    assert "\n" not in str(error.value)


def test_an_address_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "OPEN_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(MediaError, match=r"no answer for 0\.2 s"):
        live(Address(f"http://127.0.0.1:{server.getsockname()[1]}/x"), Cut(1.0, 1.0, (SOUND,)))


def test_a_film_that_cannot_be_piped_says_why(tmp_path: Path) -> None:
    """Its index lies behind all that it tells of, and a pipe cannot be wound back."""
    write_mp4(tmp_path / "a.mp4", None, noise(20))
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(
        target=lambda: (tmp_path / "pipe").write_bytes((tmp_path / "a.mp4").read_bytes()), daemon=True
    ).start()
    with pytest.raises(MediaError, match="index lies at its end"):
        live(Address(), Cut(1.0, 1.0, (SOUND,)), tmp_path / "pipe")


def test_silence_of_a_source_is_its_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pipe that stays open and gives nothing more."""
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(incoming, "SILENCE_SECONDS", 0.1)

    def write() -> None:
        with (tmp_path / "pipe").open("wb") as pipe:
            pipe.write(bytes(2 * SAMPLE_RATE * 2))
            pipe.flush()
            ended.wait(10)

    ended = threading.Event()
    threading.Thread(target=write, daemon=True).start()
    found = []
    address = Address("", "s16le", {"sample_rate": "16000", "ch_layout": "mono"})
    with pytest.raises(MediaError, match=r"nothing came from it for 0\.1 s"):
        found.extend(LiveWindows(Cut(1.0, 1.0, (SOUND,)), address).stream(tmp_path / "pipe", ended_soon(ended)))
    assert len(found) >= 1


def ended_soon(ended: threading.Event) -> object:
    return ended.is_set


@pytest.mark.soak
def test_an_hour_takes_no_more_memory_than_a_minute() -> None:
    """Of sound and pictures, through the child's own code; resident memory in MB."""
    import resource

    graph = "testsrc=rate=10:size=64x64:duration={0}[out0];sine=frequency=440:duration={0}[out1]"
    cut, most = Cut(4.0, 2.0, (SOUND, PICTURES)), []
    for seconds, n in ((60, 29), (3600, 1799)):
        stream = LiveWindows(cut, Address(graph.format(seconds), "lavfi", is_device=True)).stream(
            Path("/dev/null"), nothing
        )
        assert sum(isinstance(each.taken[0][1], Decoded) for each in islice(stream, n)) == n
        most.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    assert most[1] < most[0] + 50
