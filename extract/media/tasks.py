"""What a child does with a media file: a sound or pictures, in one piece or as a stream."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from extract.media.damage import Damage, Heard, MediaError, Seen, SilentError
from extract.media.framing import MIDDLE_SQUARE, Framing, resize_and_crop
from extract.media.opening import length_in_header
from extract.media.reading import SAMPLE_RATE, Beat, audio_blocks, frames_at, middles, time_span

if TYPE_CHECKING:
    from configs.schema import FaceCrop

BLOCK_SAMPLES = 10 * SAMPLE_RATE  # of long audio, sent at a time


@dataclass(frozen=True)
class Decoded:
    """A clip. ``seconds``: duration covered; ``n``: samples (audio) or segments (video) in all.

    ``data``: audio (n,) float32, video (n, n_frames, size, size, 3) uint8, or None: the clip is long, stream it.
    Decoding long audio stops when that is known: ``seconds`` and ``n`` are then a lower bound.
    """

    seconds: float
    n: int
    data: np.ndarray | None
    damage: Damage | None = None


@dataclass(frozen=True)
class Streamed:
    """What is known of a long clip before its pieces come; ``mean`` and ``variance`` are of audio's samples."""

    seconds: float
    n: int
    mean: float | None = None
    variance: float | None = None


class Look(Protocol):
    """What a child does with a file. ``beat`` is called while it gets on."""

    def decode(self, path: Path, beat: Beat) -> Decoded: ...


class Streams(Protocol):
    """What a child does with what is long. ``beat`` is called while it gets on."""

    def stream(self, path: Path, beat: Beat) -> Iterator[Any]:
        """Of a clip ``Streamed``, then arrays; where it is damaged, a ``Damage`` comes last."""


class Task(Look, Streams, Protocol):
    """That, and long clips as streams."""


@dataclass(frozen=True)
class AudioTask:
    """Mono audio; a clip of at most ``short_samples`` at 16 kHz comes in one piece.

    What cannot be decoded is left out, up to the share ``max_damage`` of a clip. ``channel``: take this one alone,
    counted from 1; by default all are averaged, or where they cancel each other out, the first is taken.
    """

    short_samples: int
    max_damage: float = 1
    channel: int | None = None
    silence: bool = True  # may pass; False: a sound track that is silent from end to end is refused

    def decode(self, path: Path, beat: Beat) -> Decoded:
        blocks, n = [], 0
        heard = Heard()
        for block in audio_blocks(path, beat, self.channel, heard):
            blocks.append(block)
            n += len(block)
            if n > self.short_samples:
                return Decoded(n / SAMPLE_RATE, n, None)
        if self.channel is None and heard.cancels:
            decoded = replace(self, channel=1).decode(path, beat)
            return replace(decoded, damage=_cancelled(decoded.damage))
        return Decoded(n / SAMPLE_RATE, n, np.concatenate(blocks), self._judged(heard))

    def stream(self, path: Path, beat: Beat) -> Iterator[Streamed | np.ndarray | Damage]:
        """``Streamed``, from a first pass over the whole file, then blocks (samples,) float32 of ten seconds."""
        n, mean, squares = 0, 0.0, 0.0  # squares: summed squared deviations (Chan et al. 1983, updating formulae)
        heard = Heard()
        for block in audio_blocks(path, beat, self.channel, heard):
            share = len(block) / (n + len(block))
            shift = float(block.mean(dtype=np.float64)) - mean
            squares += float(block.var(dtype=np.float64)) * len(block) + shift**2 * n * share
            mean += shift * share
            n += len(block)
        if self.channel is None and heard.cancels:
            *items, last = replace(self, channel=1).stream(path, beat)
            damage = last if isinstance(last, Damage) else None
            yield from items if damage else [*items, last]
            yield _cancelled(damage)
            return
        damage = self._judged(heard)
        yield Streamed(n / SAMPLE_RATE, n, mean, squares / n)
        held: list[np.ndarray] = []
        n_held = n_sent = 0
        for block in audio_blocks(path, beat, self.channel):
            held.append(block)
            n_held += len(block)
            if n_held >= BLOCK_SAMPLES:
                yield np.concatenate(held)
                n_sent += n_held
                held, n_held = [], 0
        if n_held:
            yield np.concatenate(held)
        if n_sent + n_held != n:
            raise MediaError("it changed while it was read")
        if damage:
            yield damage

    def _judged(self, heard: Heard) -> Damage | None:
        if heard.is_silent and not self.silence:
            raise SilentError("its sound track is silent from end to end")
        return allowed(heard.damage, self.max_damage)


@dataclass(frozen=True)
class VideoTask:
    """``n_frames`` a segment, ``size`` pixels square, cut out as ``framing`` says, of the face where there is a
    ``face_crop``.

    A clip longer than ``segment_seconds`` is cut into ceil(seconds / segment_seconds) equal segments; one of at most
    ``short_segments`` comes in one piece. Of the frames, a share of ``max_damage`` may be damaged.
    """

    n_frames: int
    size: int
    segment_seconds: float
    short_segments: int
    face_crop: "FaceCrop | None"
    max_damage: float = 1
    framing: Framing = MIDDLE_SQUARE

    def decode(self, path: Path, beat: Beat) -> Decoded:
        seen = Seen()
        first, seconds = time_span(path, beat, seen)
        n = self._segments(seconds)
        if n > self.short_segments:
            return Decoded(seconds, n, None)
        images = np.stack(list(self._images(path, first, seconds, beat, seen)))
        return Decoded(seconds, n, images, allowed(seen.damage, self.max_damage))

    def stream(self, path: Path, beat: Beat) -> Iterator[Streamed | np.ndarray | Damage]:
        """``Streamed``, then segment after segment: (n_frames, size, size, 3) uint8."""
        seen = Seen()
        first, seconds = time_span(path, beat, seen)
        yield Streamed(seconds, self._segments(seconds))
        yield from self._images(path, first, seconds, beat, seen)
        damage = allowed(seen.damage, self.max_damage)
        if damage:
            yield damage

    def _segments(self, seconds: float) -> int:
        return max(1, math.ceil(seconds / self.segment_seconds - 1e-9))

    def _images(self, path: Path, first: float, seconds: float, beat: Beat, seen: Seen) -> Iterator[np.ndarray]:
        frames = frames_at(path, self.times(first, seconds), beat, seen)
        for _ in range(self._segments(seconds)):
            yield self.framed(islice(frames, self.n_frames))

    def times(self, first: float, seconds: float) -> list[float]:
        """When the frames of a clip are on screen, in seconds, those of all its segments."""
        return middles(first, seconds, self._segments(seconds) * self.n_frames)

    def framed(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """What a network sees of a segment: (height, width, 3) each -> (n, size, size, 3). Raises ClipError."""
        if self.face_crop:
            from extract.media.faces import crop_face

            images = crop_face(images, self.face_crop)
        return resize_and_crop(images, self.size, self.framing)


@dataclass(frozen=True)
class ExcerptTask:
    """The first ``seconds`` of a sound, mono; how long all of it is stays unknown."""

    seconds: float

    def decode(self, path: Path, beat: Beat) -> Decoded:
        most, n = round(self.seconds * SAMPLE_RATE), 0
        taken = []
        for block in audio_blocks(path, beat):
            taken.append(block)
            n += len(block)
            if n >= most:
                break
        samples = np.concatenate(taken)[:most]
        return Decoded(len(samples) / SAMPLE_RATE, len(samples), samples)


@dataclass(frozen=True)
class LengthTask:
    """How long files say they are: ``seconds``, NaN where they do not. ``kind``: audio or video."""

    kind: str

    def decode(self, path: Path, beat: Beat) -> Decoded:
        seconds = length_in_header(path, self.kind)
        return Decoded(math.nan if seconds is None else seconds, 0, None)


def allowed(damage: Damage | None, most: float) -> Damage | None:
    if damage and damage.share > most:
        raise MediaError(f"damaged: {damage.share:.1%} of it, more than max_damage = {most:g} ({damage.reason})")
    return damage


def _cancelled(damage: Damage | None) -> Damage:
    note = "its channels cancel each other out: the first one is taken"
    return Damage(damage.share, f"{damage.reason}; {note}") if damage else Damage(0, note)
