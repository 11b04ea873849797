"""Sounds, changed: speed, pitch, noise, what is damped, level."""

from typing import Any

import av
import numpy as np
import soxr
from av.filter import Graph

from configs.schema import Augment
from extract.media.damage import ClipError
from extract.media.reading import SAMPLE_RATE

ORDER = 2  # of the Butterworth filters: 12 dB an octave
QUALITY = "HQ"


def changed_sound(samples: np.ndarray, augment: Augment, draws: np.random.Generator) -> np.ndarray:
    """Mono samples at 16 kHz, (n,) float32, as one drawn version of them; speed makes them more or fewer.

    Raises:
        ClipError: too short to be played at another speed.
    """
    speed = _drawn(augment.speed, draws, 1.0)
    pitch = 2 ** (_drawn(augment.pitch, draws, 0.0) / 12)
    if speed * pitch != 1:
        samples = soxr.resample(samples, SAMPLE_RATE * speed * pitch, SAMPLE_RATE, QUALITY)
    if pitch != 1:
        samples = _at_tempo(samples, 1 / pitch)
    if not len(samples):
        raise ClipError("too short to be played at another speed")
    if augment.noise_db:
        power = float(np.mean(np.square(samples, dtype=np.float64)))
        level = np.sqrt(power / 10 ** (_drawn(augment.noise_db, draws) / 10))
        samples = samples + draws.standard_normal(len(samples), dtype=np.float32) * np.float32(level)
    for kind, hertz in (("highpass", augment.highpass), ("lowpass", augment.lowpass)):
        if hertz:
            at = np.exp(_drawn([float(np.log(end)) for end in hertz], draws))
            samples = _filtered(samples, kind, float(at))
    if augment.gain_db:
        samples = samples * np.float32(10 ** (_drawn(augment.gain_db, draws) / 20))
    return np.ascontiguousarray(samples, dtype=np.float32)


def _drawn(between: list[float] | None, draws: np.random.Generator, otherwise: float = 0.0) -> float:
    return otherwise if between is None else float(draws.uniform(between[0], between[1]))


def _at_tempo(samples: np.ndarray, factor: float) -> np.ndarray:
    """So many times faster at the same pitch, by FFmpeg's ``atempo``: pieces of a sound overlap more, or less."""
    graph = Graph()
    source = graph.add_abuffer(sample_rate=SAMPLE_RATE, format="fltp", layout="mono")
    tempo, sink = graph.add("atempo", f"{factor:.9f}"), graph.add("abuffersink")
    source.link_to(tempo)
    tempo.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = SAMPLE_RATE, 0
    source.push(frame)
    source.push(None)
    pieces = [samples[:0]]
    while True:
        try:
            piece: Any = sink.pull()
        except (av.EOFError, av.BlockingIOError):
            return np.concatenate(pieces)
        pieces.append(piece.to_ndarray()[0])


def _filtered(samples: np.ndarray, kind: str, hertz: float) -> np.ndarray:
    from scipy.signal import butter, sosfilt  # a second to import, and most passes have no views

    return sosfilt(butter(ORDER, hertz, kind, fs=SAMPLE_RATE, output="sos"), samples).astype(np.float32)
