"""How long a clip is, and a long one as windows of equal length: small files that are predicted as any other clip.

What a window's file holds is what was decoded, bit for bit: sound as it is heard (16 kHz, mono), pictures at a steady
rate. So an answer for a window is that of ``fusion/predict.py`` for its file.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from configs import UserError
from extract.media.decoding import Decoders
from extract.media.reading import SAMPLE_RATE, Beat, ClipError, MediaError, audio_blocks, frames_at, middles, time_span
from extract.media.tasks import AudioTask, Decoded, Streamed

PICTURES = 8  # a second; encoders look at a few of a window
LARGEST = 640  # pixels of a picture's longer side; larger ones are made smaller
SHORTEST = 0.5  # seconds of a window, and of a hop
MOST_WINDOWS = 240


@dataclass(frozen=True)
class Window:
    """A part of a clip, in seconds from its beginning, and the files that hold it."""

    start: float
    stop: float
    audio: Path | None
    video: Path | None


def spans(seconds: float, length: float, hop: float) -> list[tuple[float, float]]:
    """Where windows of ``length`` begin and end: one every ``hop``, and a last one that ends as the clip does.

    A clip that is no longer than a window is one window, as long as the clip.

    Raises:
        UserError: windows or hops that are too short, hops that leave gaps, or too many windows.
    """
    if not (SHORTEST <= hop <= length):
        raise UserError(f"window {length:g} s, hop {hop:g} s: a hop is {SHORTEST:g} s or more, and at most a window")
    if seconds <= length:
        return [(0.0, seconds)]
    n = int((seconds - length) / hop + 1e-9) + 1
    if n + 1 > MOST_WINDOWS:
        raise UserError(f"hop {hop:g} s: more than {MOST_WINDOWS} windows in {seconds:.0f} s: take a longer one")
    found = [(k * hop, k * hop + length) for k in range(n)]
    return found if seconds - found[-1][1] < 1e-3 else [*found, (seconds - length, seconds)]


class Cutter:
    """Cuts clips, in child processes that a damaged file may take down; to be closed.

    Args:
        timeout: seconds without a sign of life after which a decoder is given up.
    """

    def __init__(self, timeout: float) -> None:
        self._sounds = Decoders(AudioTask(0), 1, timeout)
        self._pictures = Decoders(PicturesTask(PICTURES, LARGEST), 1, timeout)

    def close(self) -> None:
        self._sounds.close()
        self._pictures.close()

    def windows(
        self, audio: Path | None, video: Path | None, parts: Sequence[tuple[float, float]], folder: Path
    ) -> Generator[Window]:
        """The windows of a clip one after the other, each as files in ``folder`` that are its taker's to remove.

        What ends before a window does is missing in it, as what cannot be decoded is. ``parts`` come in order.
        """
        sound = self._sound(audio) if audio else None
        with closing(self._shown(video)) as shown:
            held: list[np.ndarray] = []
            first = 0  # number of the first picture that is held
            for number, (start, stop) in enumerate(parts):
                begin, end = round(start * PICTURES), round(stop * PICTURES)
                held, first = held[max(0, begin - first) :], max(first, begin)
                while first + len(held) < end and (picture := next(shown, None)) is not None:
                    if first + len(held) >= begin or held:
                        held.append(picture)
                    else:
                        first += 1
                samples = sound[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)] if sound is not None else ()
                yield Window(
                    start,
                    stop,
                    write_sound(folder / f"{number}.wav", np.asarray(samples)) if len(samples) else None,
                    write_pictures(folder / f"{number}.mkv", held[: end - begin]) if held else None,
                )

    def _sound(self, path: Path) -> np.ndarray | None:
        try:
            _, *blocks = self._sounds.stream(path)
        except (MediaError, ClipError):
            return None
        return np.concatenate(blocks)

    def _shown(self, path: Path | None) -> Generator[np.ndarray]:
        if path is None:
            return
        try:
            pictures = self._pictures.stream(path)
            next(pictures)
            yield from pictures
        except (MediaError, ClipError):  # what came before is shown
            return


@dataclass(frozen=True)
class PicturesTask:
    """What is on screen ``rate`` times a second, upright: (height, width, 3) uint8, no side longer than ``largest``."""

    rate: int
    largest: int

    def decode(self, path: Path, beat: Beat) -> Decoded:
        """How long it lasts; decodes nothing."""
        _, seconds = time_span(path, beat)
        return Decoded(seconds, 0, None)

    def stream(self, path: Path, beat: Beat) -> Iterator[Streamed | np.ndarray]:
        first, seconds = time_span(path, beat)
        n = max(1, round(seconds * self.rate))
        yield Streamed(seconds, n)
        for image in frames_at(path, middles(first, n / self.rate, n), beat):
            scale = self.largest / max(image.shape[:2])
            size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
            yield image if scale >= 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class LookTask:
    """How long a file is, by what is in it and not by its header; no longer than a bit more than ``most`` seconds."""

    most: float

    def decode(self, path: Path, beat: Beat) -> Decoded:
        lengths, reasons = [], []
        for measure in (self._heard, self._seen):
            try:
                lengths.append(measure(path, beat))
            except (MediaError, ClipError) as error:
                reasons.append(str(error))
        if not lengths:
            raise MediaError(", and ".join(dict.fromkeys(reasons)))
        return Decoded(max(lengths), 0, None)

    def _heard(self, path: Path, beat: Beat) -> float:
        n = 0
        for block in audio_blocks(path, beat):
            n += len(block)
            if n > self.most * SAMPLE_RATE:
                break
        return n / SAMPLE_RATE

    def _seen(self, path: Path, beat: Beat) -> float:
        return time_span(path, beat)[1]


def write_sound(path: Path, samples: np.ndarray) -> Path:
    """(samples,) float32 at 16 kHz as a WAV file that gives them back bit for bit."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="flt", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_pictures(path: Path, pictures: Sequence[np.ndarray]) -> Path:
    """(height, width, 3) uint8 each, ``PICTURES`` a second, without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=PICTURES)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return path
