"""From windows that wait to lines: who speaks, what the bundle says, what that is when it is smoothed, what it cost."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from math import exp
from typing import Any

from configs.schema import Profile
from extract.media.damage import ClipError, MediaError
from extract.media.streaming.cutting import ALL_SOUND, Window
from extract.media.tasks import Decoded, VideoTask
from fusion.serving.live import Predictor
from fusion.serving.windows import NO_SPEECH, answers_of
from fusion.streaming.captions import Captions
from fusion.streaming.speech import LEAST_SPEECH, Ear
from fusion.streaming.waiting import Arrival

STAGES = ("decode", "vad", "encode", "fuse")
NOBODY: dict[str, Any] = {"prediction": None, "probability": None, "probabilities": None, "heads": {}, "missing": []}
NOBODY |= {"set": None}
Line = dict[str, Any]


class Answering:
    """Answers windows, and counts.

    A window without speech is not heard: its sound is withheld from heads. What its pictures say stands beside that;
    without pictures it gets no emotion.

    Args:
        metadata: of all windows.
        captions: of the one file there is; what is said in a window is given to heads, whoever is heard.
        ear: None: whatever sounds is taken for speech.
        is_timed: the source has times of its own to keep up with.
        smooth: seconds after which an earlier answer has lost all but 1/e of its weight; 0: none.
    """

    def __init__(
        self,
        predictor: Predictor,
        profile: Profile,
        metadata: Mapping[str, str],
        ear: Ear | None,
        smooth: float,
        is_timed: bool = True,
        captions: Captions | None = None,
    ) -> None:
        self._captions = captions
        self._is_timed = is_timed
        self._predictor, self._profile, self._metadata = predictor, profile, metadata
        self._ear, self._smooth = ear, smooth
        self._smoothed: tuple[str, float, dict[str, float]] | None = None  # of which file, when, what
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.counts = Counter[str]()
        self.covered = 0.0  # seconds of the source that were answered or dropped

    def answer(self, arrivals: Sequence[Arrival]) -> list[Line]:
        """A line for each: the answer of ``predict``, and what a stream adds.

        ``file`` (of a folder), ``window`` (number), ``start``, ``stop`` (seconds), ``speech`` (seconds of it, None:
        not looked for), ``pause`` (nobody speaks: its sound was withheld), ``smoothed`` (class: probability), ``lag``
        (seconds from when the window was complete to now, None of a file that is read as fast as it goes).
        """
        windows = {_name(arrival): arrival.window for arrival in arrivals if arrival.window}
        speech = {name: self._speech(window) for name, window in windows.items()}
        unheard = {name for name, window in windows.items() if _is_pause(speech[name], window)}
        spans = {name: (window.start, window.stop) for name, window in windows.items()}
        texts = {name: said for name, span in spans.items() if (said := self._said(*span))}
        asked = {n: each for n, each in windows.items() if n not in unheard or n in texts or _is_seen(each)}
        began, encoding = time.perf_counter(), self._predictor.encoding
        given = self._predictor, self._profile, asked, self._metadata
        answers = answers_of(*given, texts=texts, unheard=unheard) if asked else []
        encoding = self._predictor.encoding - encoding
        self.seconds["encode"] += encoding
        self.seconds["fuse"] += time.perf_counter() - began - encoding
        found = {answer["unit"]: answer for answer in answers}
        now, lines = time.monotonic(), []
        for arrival in arrivals:
            name = _name(arrival)
            reason = NO_SPEECH if name in unheard else arrival.fault
            line = found.get(name, {"unit": name} | NOBODY | {"error": reason, "centred_on": None})
            lines.append(self._line(line, arrival, speech.get(name), name in unheard, now))
        return lines

    def _line(self, answer: Line, arrival: Arrival, speech: float | None, is_unheard: bool, now: float) -> Line:
        window = arrival.window
        self.counts["windows"] += 1
        self.counts["without speech"] += is_unheard
        self.counts["without an answer"] += answer["prediction"] is None and not is_unheard
        if window:
            self.seconds["decode"] += window.spent
            self.covered = self.covered + window.stop if arrival.name else window.stop
        times = {
            "file": arrival.name or None,
            "window": window and window.number,
            "start": window and round(window.start, 3),
            "stop": window and round(window.stop, 3),
        }
        smoothed = self._smooth_over(arrival.name, window, answer["probabilities"]) if window else None
        lag = round(max(0.0, now - arrival.at), 3) if self._is_timed else None
        heard = {"speech": speech and round(speech, 3), "pause": is_unheard}
        return answer | times | heard | {"smoothed": smoothed, "lag": lag}

    def _smooth_over(self, name: str, window: Window, given: dict[str, float] | None) -> dict[str, float] | None:
        """An earlier answer counts the less the longer it is ago; between files nothing is carried over."""
        if given is None or not self._smooth:
            return given
        if self._smoothed and self._smoothed[0] == name:
            _, then, former = self._smoothed
            kept = exp(-(window.start - then) / self._smooth)
            given = {each: kept * former[each] + (1 - kept) * p for each, p in given.items()}
        self._smoothed = name, window.start, given
        return given

    def _said(self, start: float, stop: float) -> str | None:
        return self._captions.within(start, stop) if self._captions else None

    def _speech(self, window: Window) -> float | None:
        if self._ear is None:
            return None
        began = time.perf_counter()
        try:
            samples = window.decode(ALL_SOUND).data
            assert samples is not None
            return self._ear.speech_seconds(samples)
        except (MediaError, ClipError):  # there is no sound: heads say so
            return None
        finally:
            self.seconds["vad"] += time.perf_counter() - began


def _name(arrival: Arrival) -> str:
    window = arrival.window
    return arrival.name or (f"{window.start:.2f}-{window.stop:.2f}" if window else "")


def _is_pause(speech: float | None, window: Window) -> bool:
    return speech is not None and speech < min(LEAST_SPEECH, (window.stop - window.start) / 2)


def _is_seen(window: Window) -> bool:
    return any(isinstance(task, VideoTask) and isinstance(found, Decoded) for task, found in window.taken)
