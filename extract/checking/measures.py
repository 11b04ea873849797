"""What is measured of one clip's sound, pictures and text. Files are measured in a child process, as a stream."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from configs.schema import FaceCrop
from extract.media.damage import Damage, Heard, Seen
from extract.media.reading import SAMPLE_RATE, Beat, audio_blocks, frames_at, middles, time_span
from extract.media.tasks import Decoded, allowed

VERSION = 1  # of what is measured: raise it when a change alters values
WINDOW = 320  # samples, 20 ms: the level of a sound is that of such windows
LOUD = 95  # percentile of windows that a clip is as loud as
SOFT = 5  # percentile that stands for what lies behind the voice
BELOW_LOUD = 40.0  # dB: a window that far below the loud ones is silence, however loud the clip is
NOTHING = -90.0  # dBFS: the last bit of 16; no window counts as lower
TOP = 0.98  # of full scale: flat tops that high are clipping. mu-law and 8 bits end at 0.98 and 0.992
FLAT = 2 / 2**15  # two steps of 16 bits: a flat top's samples differ by less, those of a tone's crest by more
PER_SECOND = 4.0  # frames looked at
FEWEST_FRAMES, MOST_FRAMES = 2, 240  # of a clip, whatever its length
FACE_FRAMES = 4  # of those, in which a face is looked for, until one is found: it takes longer than all the rest
CELLS = 32  # a frame is seen as 32 x 32 means: coding noise is averaged away, a moving mouth is not
BLACK = 32.0  # grey level of 255 that no cell of a black frame exceeds
PLAIN = 4.0  # grey levels by which the cells of a frame of one colour differ
SAME = 1.0  # grey level by which no cell changes while a picture stands still


@dataclass(frozen=True)
class Measured(Decoded):
    """``values``: by the names of ``SOUND`` or ``PICTURES``."""

    values: dict[str, float] = field(default_factory=dict)


# What is measured, with what it means; columns get the modality as a prefix.
SOUND = {
    "seconds": "duration of what could be decoded",
    "rate": "sample rate of the file, Hz",
    "channels": "channels of the file",
    "level": "dBFS, of the windows that are not silent",
    "peak": "largest sample of any channel, 1 is full scale",
    "loudest": "dBFS of the loudest window",
    "silence": "share of windows 40 dB or more below the clip's own loud ones",
    "range": "dB between loud and soft windows: steady noise has next to none",
    "clipped": "share of samples in flat tops at full scale, or beyond it",
    "dead_channels": "channels that are silent, or lost in the mix because they cancel each other out",
}
PICTURES = {
    "seconds": "duration by the times of frames",
    "fps": "frames a second, counted",
    "width": "pixels, upright",
    "height": "pixels, upright",
    "blank": "share of frames looked at that are black or of one colour",
    "frozen": "share of steps between frames looked at in which nothing moves",
    "face": "whether one of four frames shows a face; null where none was looked for",
}


class _Listening(Heard):
    """Sees the frames of a file as they are, before they are mixed and resampled."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = self.n_channels = 0
        self.peak, self.n_samples, self.n_clipped = 0.0, 0, 0
        self._energies: np.ndarray | None = None

    def take(self, frame: av.AudioFrame, claimed: float = 0) -> None:
        if not self.rate:
            self.rate, self.n_channels = frame.sample_rate, len(frame.layout.channels)
        super().take(frame, claimed)

    def mix(self, channels: np.ndarray, mono: np.ndarray) -> None:
        super().mix(channels, mono)
        size = np.abs(channels)
        self.peak = max(self.peak, float(size.max(initial=0)))
        self.n_samples += size.size
        if self.peak >= TOP:
            self.n_clipped += int(clipped(channels).sum())
        energies = np.square(channels - channels.mean(axis=1, keepdims=True), dtype=np.float64).sum(axis=1)
        if self._energies is None or len(self._energies) == len(energies):
            self._energies = energies if self._energies is None else self._energies + energies

    @property
    def dead_channels(self) -> int:
        """Where one channel has sound, those without; where they cancel, all but the one that is taken."""
        if self._energies is None or self._energies.max() == 0:
            return 0
        if self.cancels:
            return len(self._energies) - 1
        return int((self._energies < 1e-4 * self._energies.max()).sum())


def clipped(channels: np.ndarray) -> np.ndarray:
    """Of samples (channels, n) those, as booleans, that stand in a flat top of three or more near full scale, or lie
    beyond it, which is what lossy codecs make of flat tops."""
    flat = np.zeros(channels.shape, dtype=bool)
    steady = np.abs(np.diff(channels, axis=1)) < FLAT
    three = steady[:, 1:] & steady[:, :-1] & (np.abs(channels[:, 1:-1]) >= TOP)
    for shift in range(3):
        flat[:, shift : shift + three.shape[1]] |= three
    return flat | (np.abs(channels) > 1)


def _windows(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Mean squares of windows of ``WINDOW`` samples; a last one that is shorter counts if nothing else is there."""
    rest, any_came = np.empty(0, np.float32), False
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) // WINDOW * WINDOW
        if whole:
            yield np.square(rest[:whole], dtype=np.float64).reshape(-1, WINDOW).mean(axis=1)
            any_came, rest = True, rest[whole:]
    if len(rest) and not any_came:
        yield np.square(rest[None], dtype=np.float64).mean(axis=1)


def sound_values(blocks: Iterator[np.ndarray]) -> dict[str, float]:
    """Level, silence and range of mono samples at 16 kHz that come in pieces."""
    squares = np.concatenate(list(_windows(blocks)))
    levels = np.maximum(10 * np.log10(np.maximum(squares, 1e-12)), NOTHING)
    loud, soft = np.percentile(levels, [LOUD, SOFT])
    silent = levels <= max(loud - BELOW_LOUD, NOTHING)
    return {
        "level": float(10 * np.log10(squares[~silent].mean())) if not silent.all() else NOTHING,
        "loudest": float(levels.max()),
        "silence": float(silent.mean()),
        "range": float(loud - soft),
    }


@dataclass(frozen=True)
class SoundLook:
    """What a child measures of a sound. ``max_damage``: as the encoders of the profile have it."""

    max_damage: float

    def decode(self, path: Path, beat: Beat) -> Measured:
        heard = _Listening()
        n, values = _heard(path, beat, None, heard)
        if heard.cancels:  # the passes then take the first channel, too
            n, values = _heard(path, beat, 1, Heard())
        damage = allowed(heard.damage, self.max_damage)
        values |= {
            "seconds": n / SAMPLE_RATE,
            "rate": heard.rate,
            "channels": heard.n_channels,
            "peak": heard.peak,
            "clipped": heard.n_clipped / max(1, heard.n_samples),
            "dead_channels": heard.dead_channels,
        }
        return Measured(n / SAMPLE_RATE, n, None, damage, values)


def _heard(path: Path, beat: Beat, channel: int | None, heard: Heard) -> tuple[int, dict[str, float]]:
    """How many samples came, and what they say."""
    n = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal n
        for block in audio_blocks(path, beat, channel, heard):
            n += len(block)
            yield block

    values = sound_values(counted())
    return n, values


class _Watching(Seen):
    """Counts the frames that come, and from when to when."""

    n, first, last = 0, 0.0, 0.0

    def decoded(self, packet: av.Packet, codec: Any) -> Iterator[av.VideoFrame]:
        for frame in super().decoded(packet, codec):
            if frame.time is not None:
                self.first = frame.time if self.n == 0 else self.first
                self.n, self.last = self.n + 1, frame.time
            yield frame


@dataclass(frozen=True)
class PictureLook:
    """What a child measures of a video. ``faces``: how a face is looked for, None: not at all."""

    max_damage: float
    faces: FaceCrop | None = None

    def decode(self, path: Path, beat: Beat) -> Measured:
        seen = _Watching()
        first, seconds = time_span(path, beat, seen)
        n = min(MOST_FRAMES, max(FEWEST_FRAMES, round(seconds * PER_SECOND)))
        shown = {int((k + 0.5) * n / FACE_FRAMES) for k in range(FACE_FRAMES)} if self.faces else set()
        has_face = False
        n_blank = n_still = n_steps = 0
        shape: tuple[int, ...] = ()
        before: np.ndarray | None = None
        for number, image in enumerate(frames_at(path, middles(first, seconds, n), beat, seen)):
            shape = image.shape
            cells = frame_cells(image)
            n_blank += is_blank(cells)
            if before is not None:
                n_steps += 1
                n_still += bool(np.abs(cells - before).max() < SAME)
            before = cells
            if number in shown and not has_face:
                has_face = _shows_face(image, self.faces)
                beat()
        rate = (seen.n - 1) / (seen.last - seen.first) if seen.n > 1 and seen.last > seen.first else 0.0
        values: dict[str, float] = {
            "seconds": seconds,
            "fps": round(rate, 2),
            "width": shape[1],
            "height": shape[0],
            "blank": n_blank / n,
            "frozen": n_still / max(1, n_steps),
        }
        if self.faces:
            values["face"] = has_face
        damage: Damage | None = allowed(seen.damage, self.max_damage)
        return Measured(seconds, n, None, damage, values)


def frame_cells(image: np.ndarray) -> np.ndarray:
    """(CELLS, CELLS) float32 grey means of (height, width, 3) uint8 RGB."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA)


def is_blank(cells: np.ndarray) -> bool:
    return bool(cells.max() < BLACK or cells.max() - cells.min() < PLAIN)


def _shows_face(image: np.ndarray, settings: FaceCrop | None) -> bool:
    from extract.media.faces import face_detector

    assert settings is not None
    return len(face_detector()(np.ascontiguousarray(image), settings.upsample)) > 0
