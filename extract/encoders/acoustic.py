"""Encoders of sound that have no weights: spectra, by torchaudio, and openSMILE's sets of acoustic features."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from configs import UserError
from configs.schema import Encoder
from extract.encoders.audio import WindowCutter, audio_task, heard_fields
from extract.encoders.encoder import ENCODER_VERSION, LoadedEncoder, Prepared, Stream, Window
from extract.media.reading import SAMPLE_RATE, ClipError
from extract.media.tasks import Decoded

FLOOR = 1e-6  # added to mel energies before their logarithm, as torchaudio's MFCC does with log_mels
KALDI_SCALE = 32768.0  # its features are of 16-bit integers
SLOPE_REACH = 2  # time steps on each side that a slope is taken over
LLD_STEP = 160  # samples between openSMILE's low-level descriptors: 10 ms

Cut = Callable[[Iterable[np.ndarray], int], Iterator[tuple[np.ndarray, slice]]]


def load_spectrum_encoder(spec: Encoder, device: torch.device) -> LoadedEncoder:
    """MFCC, Kaldi's filter banks or log-mel spectra, (time, dim), with slopes beside them if wanted.

    A time step is computed from ``window_ms`` of sound and nothing else (slopes from a few steps around it): no padding
    at the ends, no scaling by a clip's loudest moment. n samples give ``1 + (n - window) // hop`` steps.

    Raises:
        UserError: torchaudio does not import, or the settings do not fit together.
    """
    window, hop = (_samples(spec, name) for name in ("window_ms", "hop_ms"))
    transform, version = _transform(spec, window, hop, device)

    def n_steps(n_samples: int) -> int:
        return 1 + (n_samples - window) // hop

    def hidden(inputs: dict[str, torch.Tensor], lengths: list[int] | None) -> torch.Tensor:
        return _with_slopes(transform(inputs["samples"]), spec.deltas)  # (batch, time, dim)

    def made(samples: np.ndarray, keep: slice) -> Window:
        return Window({"samples": samples}, keep, n_steps(len(samples)))

    cut = WindowCutter(spec, n_steps, hop, -(-window // hop) + SLOPE_REACH * spec.deltas)
    own = {"window": window, "hop": hop, "n_mels": spec.n_mels, "deltas": spec.deltas, "floor": FLOOR}
    own |= {"n_mfcc": spec.n_mfcc} if spec.kind == "mfcc" else {}
    dim = (spec.n_mfcc if spec.kind == "mfcc" else spec.n_mels) * (1 + spec.deltas)
    fields = _fields(spec, torchaudio=version, **own)
    prepare, prepare_long = _prepared(cut, n_steps, made, window, f"a window of {spec.window_ms:g} ms")
    return LoadedEncoder(dim, fields, audio_task(spec, cut), prepare, prepare_long, hidden, spec, device)


def _samples(spec: Encoder, name: str) -> int:
    milliseconds = getattr(spec, name)
    samples = milliseconds * SAMPLE_RATE / 1000
    if samples != int(samples):
        raise UserError(f"{name} = {milliseconds:g}: is no whole number of samples at {SAMPLE_RATE} Hz")
    return int(samples)


def _transform(
    spec: Encoder, window: int, hop: int, device: torch.device
) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    """(batch, samples) -> (batch, time, dim), and torchaudio's version."""
    try:
        import torchaudio
    except ModuleNotFoundError as error:
        raise UserError(
            "family: spectrum needs torchaudio: pip install -r requirements.txt, then run python "
            "extract/mend_torchaudio.py"
        ) from error
    from torchaudio.compliance import kaldi
    from torchaudio.transforms import MFCC, MelSpectrogram

    mels = {"n_fft": window, "win_length": window, "hop_length": hop, "n_mels": spec.n_mels, "center": False}
    if spec.kind == "fbank":
        padded = 1 << (window - 1).bit_length()  # as Kaldi pads windows: to a power of two
        filters = kaldi.get_mel_banks(spec.n_mels, padded, SAMPLE_RATE, 20.0, 0.0, 100.0, -500.0, 1.0)[0].T
    else:
        filters = torchaudio.functional.melscale_fbanks(window // 2 + 1, 0.0, SAMPLE_RATE / 2, spec.n_mels, SAMPLE_RATE)
    empty = int((filters.sum(dim=0) == 0).sum())
    if empty:
        raise UserError(
            f"n_mels = {spec.n_mels}: {empty} of its filters would hear nothing in windows of {spec.window_ms:g} ms: "
            "fewer filters, or longer windows"
        )
    network = (
        MFCC(SAMPLE_RATE, spec.n_mfcc, log_mels=True, melkwargs=mels)
        if spec.kind == "mfcc"
        else MelSpectrogram(SAMPLE_RATE, **mels)
    ).to(device)

    def fbank(samples: torch.Tensor) -> torch.Tensor:  # it takes one clip at a time
        settings: dict[str, Any] = {"frame_length": spec.window_ms, "frame_shift": spec.hop_ms, "dither": 0.0}
        rows = [
            kaldi.fbank(row[None] * KALDI_SCALE, num_mel_bins=spec.n_mels, sample_frequency=SAMPLE_RATE, **settings)
            for row in samples
        ]
        return torch.stack(rows)

    def mel(samples: torch.Tensor) -> torch.Tensor:
        return torch.log(network(samples) + FLOOR).transpose(1, 2)

    def mfcc(samples: torch.Tensor) -> torch.Tensor:
        return network(samples).transpose(1, 2)

    return {"fbank": fbank, "mel": mel, "mfcc": mfcc}[str(spec.kind)], str(torchaudio.__version__)


def _with_slopes(values: torch.Tensor, order: int) -> torch.Tensor:
    """(batch, time, dim) -> (batch, time, dim * (1 + order)): values, their slopes, and the slopes of these.

    A slope is that of the line through five time steps; at the clip's ends the first and last value go on.
    """
    from torchaudio.functional import compute_deltas

    parts = [values.transpose(1, 2)]
    for _ in range(order):
        parts.append(compute_deltas(parts[-1], 2 * SLOPE_REACH + 1))
    return torch.cat(parts, dim=1).transpose(1, 2)


def load_functionals_encoder(spec, device):
    raise NotImplementedError
