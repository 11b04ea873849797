"""What passes by, cut into overlapping windows: of each, what an encoder would decode of a clip cut there.

Window k lasts from ``k * hop`` to ``k * hop + window`` seconds, of the sound and of the pictures each counted from its
own begin, as encoders count a clip. Its sound is the samples of the whole sound at 16 kHz between these times; its
pictures are those on screen at the times at which frames of a clip from there to there would be taken. The last window
is shorter where the source ends in it; there is none of which less than a quarter of a hop would be new.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from extract.media.damage import SILENCE, ClipError, Damage, Heard, MediaError, Seen, SilentError
from extract.media.framing import resize_and_crop
from extract.media.reading import SAMPLE_RATE, Beat, audio_blocks, frames_at, time_span
from extract.media.tasks import AudioTask, Decoded, VideoTask

Wanted = AudioTask | VideoTask
Fault = MediaError | ClipError
LEAST_NEW = 0.25  # of a hop, behind a window's end, that make a further one
JUST = 1e-6  # seconds by which times that are equal may differ
MOST_SECONDS = 600  # of a window, and of a clip that is taken whole: what is in memory at a time
TOO_LONG = f"longer than {MOST_SECONDS} s, which is too much at once: stream the file itself"
ALL_SOUND = AudioTask(short_samples=MOST_SECONDS * SAMPLE_RATE)  # for who listens beside the encoders


@dataclass(frozen=True)
class Window:
    """A piece of a source, decoded: seconds ``start`` to ``stop``, and what each task takes of it, or why nothing.

    ``spent``: processor seconds that went into it, what was read ahead among them.
    """

    number: int
    start: float
    stop: float
    taken: tuple[tuple[Wanted, Decoded | Fault], ...]
    spent: float

    def decode(self, task: Any) -> Decoded:
        """Raises MediaError and ClipError, as decoding a clip does."""
        found = next(found for known, found in self.taken if known == task)
        if isinstance(found, Decoded):
            return found
        raise found


@dataclass(frozen=True)
class Cut:
    """``window`` seconds every ``hop`` seconds, for so many encoders; without a window, all of a file at once."""

    window: float
    hop: float
    wanted: tuple[Wanted, ...]

    @property
    def channels(self) -> list[int | None]:
        return list(dict.fromkeys(task.channel for task in self.wanted if isinstance(task, AudioTask)))

    @property
    def video_tasks(self) -> list[VideoTask]:
        return [task for task in self.wanted if isinstance(task, VideoTask)]

    def span(self, number: int) -> tuple[float, float]:
        """From when to when a window lasts, in seconds."""
        start = float(number * self.hop) if number else 0.0
        return start, start + self.window


class Sounds:
    """A sound that comes in ``blocks`` (samples,) at 16 kHz, of which what is old is forgotten."""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._blocks = iter(blocks)
        self._held: list[np.ndarray] = []
        self._first = 0  # number of the first sample that is held
        self.n = 0  # samples that came
        self.fault: Fault | None = None  # why no more come

    def reaches(self, sample: float) -> bool:
        """Whether there are so many samples, if need be by waiting for them."""
        while self.n < sample:
            try:
                block = next(self._blocks, None)
            except (MediaError, ClipError) as error:
                self.fault, block = error, None
            if block is None:
                self._blocks = iter(())
                return False
            self._held.append(block)
            self.n += len(block)
            if self.n - self._first > (MOST_SECONDS + 60) * SAMPLE_RATE:
                raise MediaError(TOO_LONG)
        return True

    def between(self, start: int, stop: float) -> np.ndarray:
        """(samples,), as far as they go; what lies before is forgotten. Raises the track's fault, or MediaError."""
        self.reaches(stop)
        held = np.concatenate(self._held) if self._held else np.empty(0, dtype=np.float32)
        self._held, self._first = [held[start - self._first :]], min(max(start, self._first), self.n)
        samples = self._held[0][: None if stop == inf else int(stop) - start]
        if not len(samples):
            raise self.fault if self.fault and not self.n else MediaError("its sound ends before")
        return samples


class Pictures:
    """Pictures that pass by, of which each window keeps those that its tasks want.

    Args:
        images_at: what is on screen at ascending times, of which the next is asked for when an image has been taken.
        seconds: how long they last, ``inf`` where that is not known yet.
        reach: whether there are some behind a time.
    """

    def __init__(
        self,
        cut: Cut,
        images_at: Callable[[Iterator[float]], Iterator[np.ndarray]],
        seconds: Callable[[], float],
        reach: Callable[[float], bool],
    ) -> None:
        self._cut, self._tasks, self._seconds, self.reach = cut, cut.video_tasks, seconds, reach
        self._asked: deque[tuple[int, int]] = deque()  # (window, task) of each time that was asked for
        self._kept: dict[tuple[int, int], list[np.ndarray]] = {}
        self._images = images_at(self._times())
        self._last: tuple[Any, dict[int, np.ndarray]] = None, {}  # an image may be wanted several times
        self.came = False
        self.fault: Fault | None = None

    def window(self, number: int) -> list[tuple[VideoTask, Decoded | Fault]]:
        """What each task takes of a window; windows are asked for in their order."""
        return [(task, self._taken(number, t, task)) for t, task in enumerate(self._tasks)]

    def _taken(self, number: int, t: int, task: VideoTask) -> Decoded | Fault:
        start, stop = self._span(number)
        n = len(task.times(start, stop - start)) if stop > start else 0
        if not n or (self.fault and not self.came):
            return self.fault or MediaError("its pictures end before")
        while len(self._kept.get((number, t), [])) < n:
            try:
                image = next(self._images, None)
            except MediaError as error:
                self.fault, image = error, None
            if image is None:
                self._images = iter(())
                return self.fault or MediaError("its pictures end before")
            self.came = True
            self._keep(image, *self._asked.popleft())
        images = self._kept.pop((number, t))
        each = [images[i : i + task.n_frames] for i in range(0, n, task.n_frames)]
        try:
            data = np.stack([task.framed(part) if task.face_crop else np.stack(part) for part in each])
        except ClipError as error:
            return error
        return Decoded(self._span(number)[1] - start, len(each), data)

    def _span(self, number: int) -> tuple[float, float]:
        """As far as the pictures go."""
        start, stop = self._cut.span(number)
        return start, min(stop, self._seconds())

    def _keep(self, image: np.ndarray, number: int, t: int) -> None:
        """A face is looked for in all pictures of a window; others are made small at once."""
        if image is not self._last[0]:
            self._last = image, {}
        if t not in self._last[1]:
            task = self._tasks[t]
            small = image if task.face_crop else resize_and_crop([image], task.size, task.framing)[0]
            self._last[1][t] = small
        self._kept.setdefault((number, t), []).append(self._last[1][t])

    def _times(self) -> Iterator[float]:
        """All that is wanted, in ascending order: windows overlap."""
        waiting: list[tuple[float, int, int]] = []

        def until(start: float) -> Iterator[float]:
            while waiting and waiting[0][0] < start:
                when, number, t = heappop(waiting)
                self._asked.append((number, t))
                yield when

        for number in count():
            start, stop = self._span(number)
            yield from until(start if stop > start else inf)
            if stop <= start or (number and self._cut.window == inf):
                return
            for t, task in enumerate(self._tasks):
                for when in task.times(start, stop - start):
                    heappush(waiting, (when, number, t))


@dataclass(frozen=True)
class FileWindows:
    """A child's task: a file in windows, with the same decoding as that of a clip.

    ``Window`` after ``Window``, then ``Damage`` of what was left out. Raises MediaError: before the first one where
    there is neither sound nor pictures, behind the last one where the file turns out to be cut short.
    """

    cut: Cut

    def stream(self, path: Path, beat: Beat) -> Iterator[Window | Damage]:
        heard, seen = {channel: Heard() for channel in self.cut.channels}, Seen()
        sounds = {channel: Sounds(audio_blocks(path, beat, channel, heard[channel])) for channel in heard}
        first_channel = Sounds(audio_blocks(path, beat, 1))  # decoded only where it is needed

        def sound(channel: int | None) -> Sounds:
            return first_channel if channel is None and heard[channel].cancels else sounds[channel]

        pictures = _pictures_of(path, self.cut, beat, seen)
        yield from windows(self.cut, sound, pictures)
        for channel, each in heard.items():
            if sounds[channel].n:
                if channel is None and each.cancels:
                    yield Damage(0, "its channels cancel each other out: the first one is taken")
                yield from filter(None, [each.damage])
        yield from filter(None, [seen.damage])
        heard_of = [each for each in (*sounds.values(), first_channel) if each.n]
        for fault in (*(each.fault for each in heard_of), pictures.fault if pictures.came else None):
            if fault:
                raise fault


def _pictures_of(path: Path, cut: Cut, beat: Beat, seen: Seen) -> Pictures:
    try:
        first, seconds = time_span(path, beat, seen) if cut.video_tasks else (0.0, 0.0)
    except MediaError as error:
        return no_pictures(cut, error)
    if cut.window == inf and seconds > MOST_SECONDS:
        raise MediaError(TOO_LONG)
    return Pictures(
        cut,
        lambda times: frames_at(path, (first + each for each in times), beat, seen),
        lambda: seconds,
        lambda time: time <= seconds + JUST,
    )


def no_pictures(cut: Cut, fault: MediaError) -> Pictures:
    pictures = Pictures(cut, lambda _: iter(()), lambda: 0.0, lambda _: False)
    pictures.fault = fault
    return pictures


def windows(cut: Cut, sound: Callable[[int | None], Sounds], pictures: Pictures) -> Iterator[Window]:
    """The windows of what comes, each when it is complete.

    Raises MediaError before the first one, where neither sound nor pictures come.
    """
    spent = time.process_time()
    for number in count():
        start, stop = cut.span(number)
        if number:
            new = cut.span(number - 1)[1] + LEAST_NEW * cut.hop
            if not (any(sound(each).reaches(_sample(new)) for each in cut.channels) or pictures.reach(new)):
                return
        for channel in cut.channels:
            sound(channel).reaches(_sample(stop))  # then it is known which one is to be taken
        heard = {channel: _heard(sound(channel), start, stop) for channel in cut.channels}
        taken: list[tuple[Wanted, Decoded | Fault]] = [
            (task, _judged(task, heard[task.channel])) for task in cut.wanted if isinstance(task, AudioTask)
        ]
        taken += pictures.window(number)
        lengths = [each.seconds for _, each in taken if isinstance(each, Decoded)]
        if not lengths and not number:
            raise MediaError("; ".join(dict.fromkeys(str(each) for _, each in taken)) or "nothing of it is wanted")
        now = time.process_time()
        yield Window(number, start, start + max(lengths, default=cut.window), tuple(taken), now - spent)
        spent = now
        if stop == inf:
            return


def _sample(seconds: float) -> float:
    return seconds if seconds == inf else round(seconds * SAMPLE_RATE)


def _heard(sounds: Sounds, start: float, stop: float) -> np.ndarray | Fault:
    try:
        return sounds.between(int(_sample(start)), _sample(stop))
    except (MediaError, ClipError) as error:
        return error


def _judged(task: AudioTask, samples: np.ndarray | Fault) -> Decoded | Fault:
    if not isinstance(samples, np.ndarray):
        return samples
    if not task.silence and float(samples.max()) - float(samples.min()) <= SILENCE:
        return SilentError("its sound track is silent from end to end")
    return Decoded(len(samples) / SAMPLE_RATE, len(samples), samples)


def wanted_of(tasks: Sequence[Any]) -> tuple[Wanted, ...]:
    """What encoders want of media, each once."""
    return tuple(dict.fromkeys(task for task in tasks if isinstance(task, AudioTask | VideoTask)))
