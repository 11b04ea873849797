"""Streams: who waits and what is dropped, who speaks, what is smoothed, what a folder gives, what is shown."""

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from math import exp, inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_tools import write_audio
from shells import REPOSITORY

import fusion.streaming.sources as sources
from configs import UserError
from extract.media.damage import MediaError
from extract.media.reading import SAMPLE_RATE, audio_blocks
from extract.media.streaming.cutting import ALL_SOUND, Cut, Window
from extract.media.tasks import Decoded, VideoTask
from fusion.streaming.answering import Answering
from fusion.streaming.captions import read_captions
from fusion.streaming.showing import bars, plain, summary
from fusion.streaming.sources import arrivals, source_of
from fusion.streaming.speech import LEAST_SPEECH, Ear
from fusion.streaming.waiting import Arrival, Waiting

PICTURES = VideoTask(n_frames=1, size=2, segment_seconds=30, short_segments=2, face_crop=None)
SPEECH = REPOSITORY / "extract/sample/test_audio/dia00394utt0_52.ogg"


def window(number: int, samples: np.ndarray | None = None, seen: bool = False) -> Window:
    sound = MediaError("no sound") if samples is None else Decoded(len(samples) / SAMPLE_RATE, len(samples), samples)
    shown = Decoded(1, 1, np.zeros((1, 1, 2, 2, 3), np.uint8)) if seen else MediaError("no pictures")
    return Window(number, number, number + 1, ((ALL_SOUND, sound), (PICTURES, shown)), 0.01)


def arrival(number: int, **about: Any) -> Arrival:
    return Arrival("", window(number, **about), time.monotonic())


def take_all(waiting: Waiting, most: int = 3) -> list[int]:
    taken = iter(lambda: waiting.take(most), [])
    return [each.window.number for batch in taken for each in batch if each.window]


def test_a_file_waits_and_loses_nothing() -> None:
    given = (arrival(n) for n in range(50))
    assert take_all(Waiting(given, 2, is_live=False)) == list(range(50))


def test_a_live_source_loses_its_oldest_windows_and_says_how_many() -> None:
    """Windows that come when their time has passed by far: nobody took them for so long."""
    now, all_there = time.monotonic(), threading.Event()

    def late() -> Iterator[Arrival]:
        for n in range(10):
            yield Arrival("", Window(n, 0.0, 0.0, (), 0.0), now)
        all_there.set()

    waiting = Waiting(late(), 4, is_live=True)
    assert all_there.wait(10)
    assert take_all(waiting) == [6, 7, 8, 9]
    assert waiting.dropped == 6


def test_a_pipe_that_runs_ahead_of_the_clock_waits() -> None:
    given = (Arrival("", Window(n, n, n + 1, (), 0.0), time.monotonic()) for n in range(50))
    waiting = Waiting(given, 2, is_live=True)
    assert take_all(waiting) == list(range(50))
    assert waiting.dropped == 0


def test_what_ends_a_source_is_raised_behind_its_windows() -> None:
    def dying() -> Iterator[Arrival]:
        yield arrival(0)
        raise MediaError("gone")

    waiting = Waiting(dying(), 4, is_live=True)
    assert [each.window.number for each in waiting.take(5) if each.window] == [0]
    with pytest.raises(MediaError, match="gone"):
        waiting.take(5)


def test_a_reader_stops_when_nobody_wants_more() -> None:
    closed = threading.Event()

    def endless() -> Iterator[Arrival]:
        try:
            for n in itertools.count():
                yield arrival(n)
        finally:
            closed.set()

    waiting = Waiting(endless(), 2, is_live=False)
    waiting.take(1)
    waiting.stop()
    assert closed.wait(10)


def test_speech_is_told_from_silence_and_noise() -> None:
    ear, speech = Ear(0.5), np.concatenate(list(audio_blocks(SPEECH)))
    assert ear.speech_seconds(speech) > 1
    assert ear.speech_seconds(np.zeros(2 * SAMPLE_RATE, np.float32)) == 0
    noise = np.random.default_rng(0).normal(scale=0.05, size=2 * SAMPLE_RATE).astype(np.float32)
    assert ear.speech_seconds(noise) < LEAST_SPEECH
    assert ear.speech_seconds(speech[:100]) <= 512 / SAMPLE_RATE


def test_what_listens_is_asked_for_where_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.streaming.speech.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[live\]', or give --vad off"):
        Ear(0.5)


class Said:
    """Stands for a predictor: what it is asked is noted, and the answers follow a plan."""

    encoding = 0.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch, plan: dict[str, float]) -> None:
        self.asked: list[tuple[list[str], set[str]]] = []

        def answers(
            _: Any, __: Any, windows: dict[str, Window], ___: Any, texts: dict[str, str], unheard: set[str]
        ) -> list[dict[str, Any]]:
            self.asked.append(([*windows], unheard))
            self.texts = texts
            return [self.answer(name, plan.get(name, 0.5), name in unheard) for name in windows]

        monkeypatch.setattr("fusion.streaming.answering.answers_of", answers)

    @staticmethod
    def answer(name: str, p: float, unheard: bool) -> dict[str, Any]:
        missing = [{"what": "audio", "clip": name, "why": "no speech"}] * unheard
        probabilities = {"happy": p, "sad": 1 - p}
        about = {"prediction": "happy", "probability": p, "probabilities": probabilities, "error": None}
        return {"unit": name, "missing": missing, "heads": {}, "centred_on": None, **about}


class Deaf:
    def speech_seconds(self, samples: np.ndarray) -> float:
        return float(samples.max())


def answering(said: Said, smooth: float = 0, ear: Any = None) -> Answering:
    profile: Any = None
    predictor: Any = said
    return Answering(predictor, profile, {}, ear, smooth)


def test_a_window_without_speech_names_no_emotion_but_what_its_pictures_say(monkeypatch: pytest.MonkeyPatch) -> None:
    said, loud, quiet = Said(monkeypatch, {}), np.ones(16, np.float32), np.zeros(16, np.float32)
    asks = answering(said, ear=Deaf())
    given = [arrival(0, samples=loud), arrival(1, samples=quiet), arrival(2, samples=quiet, seen=True), arrival(3)]
    spoken, silent, seen, soundless = asks.answer(given)
    assert said.asked == [(["0.00-1.00", "2.00-3.00", "3.00-4.00"], {"1.00-2.00", "2.00-3.00"})]
    assert (spoken["prediction"], spoken["speech"]) == ("happy", 1)
    assert (silent["prediction"], silent["error"], silent["speech"]) == (None, "no speech", 0)
    assert plain(silent, 0) == "      1.0-2.0 s  no speech"
    assert plain(seen, 3).startswith("      2.0-3.0 s  no speech; without its sound: happy 50%")
    assert plain(seen, 3).endswith("dropped 3")
    assert soundless["speech"] is None
    assert asks.counts == {"windows": 4, "without speech": 2, "without an answer": 0}
    assert summary(asks, 3, 2.0).startswith("4 windows, 3 dropped, 2 without speech; 4.0 s of it in 2.0 s\n")


def test_captions_are_given_to_the_windows_in_which_they_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    path.write_text(
        "1\n00:00:00,000 --> 00:00:01,200\nI <i>did</i>\nit &amp; so\n\n2\n00:00:01,600 --> 00:00:02,000\nyes\n"
    )
    captions = read_captions(path)
    assert captions.said == ((0.0, 1.2, "I did it & so"), (1.6, 2.0, "yes"))
    assert [captions.within(*span) for span in ((0, 1), (1, 2), (0, 2), (2, 3))] == [
        *("I did it & so", "yes", "I did it & so yes"),
        None,
    ]
    profile: Any = None
    said, quiet = Said(monkeypatch, {}), np.zeros(16, np.float32)
    predictor: Any = said
    ear: Any = Deaf()
    asks = Answering(predictor, profile, {}, ear, 0, captions=captions)
    asks.answer([arrival(1, samples=quiet), arrival(2, samples=quiet)])
    assert said.asked == [(["1.00-2.00"], {"1.00-2.00", "2.00-3.00"})]
    assert said.texts == {"1.00-2.00": "yes"}
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.500 align:left\nhello\n")
    assert read_captions(tmp_path / "a.vtt").said == ((1.0, 2.5, "hello"),)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"1", "name a file of captions"),
        ("a.srt", b"no times", "no captions in it"),
        ("a.srt", b"00:00:02,000 --> 00:00:01,000\nx", "line 1: ends before it begins"),
        ("a.srt", b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_what_are_no_captions_is_said(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_captions(tmp_path / name)


def test_smoothing_weighs_by_time_and_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"0.00-1.00": 1.0, "1.00-2.00": 0.0, "5.00-6.00": 0.0}
    smooth = answering(Said(monkeypatch, plan), smooth=2.0)
    lines = smooth.answer([arrival(n) for n in (0, 1, 5)])
    assert [line["probabilities"]["happy"] for line in lines] == [1, 0, 0]
    found = [line["smoothed"]["happy"] for line in lines]
    assert found == pytest.approx([1, exp(-1 / 2), exp(-5 / 2)])
    lines = answering(Said(monkeypatch, plan)).answer([arrival(n) for n in (0, 1)])
    assert [line["smoothed"] for line in lines] == [line["probabilities"] for line in lines]


def test_clips_of_a_folder_are_not_smoothed_into_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asks = answering(Said(monkeypatch, {"a.wav": 1.0, "b.wav": 0.0}), smooth=3600.0)
    given = [Arrival(name, window(0), 0.0) for name in ("a.wav", "b.wav")]
    first, second, broken = asks.answer([*given, Arrival("c.wav", None, 0.0, "the file is empty")])
    assert (first["smoothed"]["happy"], second["smoothed"]["happy"]) == (1, 0)
    assert plain(broken, 0).split() == ["c.wav", "no", "answer:", "the", "file", "is", "empty", *broken_lag(broken)]


def broken_lag(line: dict[str, Any]) -> list[str]:
    return ["lag", f"{line['lag']:.1f}", "s"] if line["lag"] >= 1 else []


def test_bars_show_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = answering(Said(monkeypatch, {"0.00-1.00": 0.75})).answer([arrival(0)])
    head, happy, sad = bars(line, 2, ("happy", "sad"))
    assert head.startswith("0.0-1.0 s: happy 75% (sad 25%)")
    assert "2 windows dropped" in head
    assert (happy.count("█"), sad.count("█")) == (22, 8)


def test_a_folder_gives_each_file_once_when_it_is_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that grows is not taken; one that is renamed into place is, and so is one that comes again, changed."""
    monkeypatch.setattr(sources, "SETTLED", 0.05)
    monkeypatch.setattr(sources, "GLANCE", 0.01)
    read: list[bytes] = []

    def windows(path: Path, *_: Any) -> Iterator[Window]:
        read.append(path.read_bytes())
        if read[-1] == b"bad":
            raise MediaError("not media")
        yield window(0)

    monkeypatch.setattr(sources, "windows_of", windows)
    (tmp_path / "a.wav").write_bytes(b"bad")
    (tmp_path / "notes.txt").write_bytes(b"text")
    (tmp_path / "b.wav.part").write_bytes(b"half")
    (tmp_path / ".c.wav").write_bytes(b"hidden")
    (tmp_path / "empty.wav").write_bytes(b"")
    cut = Cut(inf, inf, ())
    stream = arrivals(source_of(str(tmp_path), None), cut, print, cut)
    first = next(stream)
    assert (first.name, first.window, first.fault) == ("a.wav", None, "not media")
    (tmp_path / "b.wav.part").rename(tmp_path / "b.wav")
    assert next(stream).name == "b.wav"
    done = threading.Event()

    def grow() -> None:
        with (tmp_path / "d.wav").open("wb") as file:
            for _ in range(10):
                file.write(b"more")
                file.flush()
                time.sleep(0.01)
        done.set()

    threading.Thread(target=grow).start()
    assert next(stream).name == "d.wav"
    assert done.is_set()
    assert read[-1] == b"more" * 10
    (tmp_path / "b.wav").write_bytes(b"another")
    assert next(stream).name == "b.wav"
    assert read == [b"bad", b"half", b"more" * 10, b"another"]


@pytest.mark.parametrize(
    ("given", "pcm", "said"),
    [
        ("nothing.mp4", None, r"nothing\.mp4: no such file or folder; a source may also be camera"),
        ("camera:99", None, "camera:99: no such camera: /dev has"),
        ("camera:x", None, "camera:x: write camera, or camera:N"),
        ("microphone:99", None, "microphone:99: no such microphone"),
        ("file:///etc/passwd", None, "not an address that is read here: rtsp, "),
        ("concat://a|b", None, "not an address that is read here"),
        ("a.mp4", "s16le:16000:1", "--pcm: says what comes through standard input"),
        ("/dev/null", None, "neither a file nor a folder"),
    ],
)
def test_sources_that_are_none_end_in_one_line(given: str, pcm: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        source_of(given, pcm)
    assert "\n" not in str(error.value)


def test_an_address_is_shown_without_its_password() -> None:
    source = source_of("rtsp://me:secret@10.0.0.1/cam", None)
    assert source.name == "rtsp://me:***@10.0.0.1/cam"
    assert source.is_live


@pytest.mark.parametrize("pcm", ["s16le", "s16le:16000", "mp3:16000:1", "s16le:10:1", "s16le:16000:99"])
def test_raw_sound_is_said_in_full(pcm: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with (tmp_path / "x").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        with pytest.raises(UserError, match="write FORMAT:RATE:CHANNELS"):
            source_of("-", pcm)


def test_a_file_given_to_standard_input_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.zeros((SAMPLE_RATE, 1)), SAMPLE_RATE, "pcm_s16le")
    with (tmp_path / "a.wav").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        source = source_of("-", None)
        assert not source.is_live
        assert not source.is_folder
        (only,) = arrivals(source, Cut(1.0, 1.0, (ALL_SOUND,)), print, Cut(inf, inf, ()))
        assert only.window
        assert only.window.decode(ALL_SOUND).n == SAMPLE_RATE
