"""Encoders of sound that have no weights: spectra, by torchaudio, and openSMILE's sets of acoustic features."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from configs import UserError, one_line
from configs.schema import MAX_DAMAGE, Encoder
from extract.encoders.audio import WindowCutter, audio_task, heard_fields
from extract.encoders.encoder import ENCODER_VERSION, LoadedEncoder, Prepared, Stream, Window
from extract.media.reading import SAMPLE_RATE, ClipError, MediaError
from extract.media.tasks import Decoded

FLOOR = 1e-6  # added to mel energies before their logarithm, as torchaudio's MFCC does with log_mels
KALDI_SCALE = 32768.0  # its features are of 16-bit integers
SLOPE_REACH = 2  # time steps on each side that a slope is taken over
LOUDEST = 1 - 2**-15  # of samples as openSMILE takes them
LLD_STEP = 160  # samples between openSMILE's low-level descriptors: 10 ms
LLD_LEAST = 960  # samples of its longest window: 60 ms; of less it says nothing
LLD_MARGIN = 25  # of its time steps at a window's edge: what smooths its pitch looks further than its windows

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
    own = {
        "window": window,
        "hop": hop,
        "steps_per_second": SAMPLE_RATE / hop,
        "n_mels": spec.n_mels,
        "deltas": spec.deltas,
        "floor": FLOOR,
    }
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
    with warnings.catch_warnings(action="ignore"):  # of filters that are empty: these are refused
        if spec.kind == "fbank":
            padded = 1 << (window - 1).bit_length()  # as Kaldi pads windows: to a power of two
            filters = kaldi.get_mel_banks(spec.n_mels, padded, SAMPLE_RATE, 20.0, 0.0, 100.0, -500.0, 1.0)[0].T
        else:
            bins, highest = window // 2 + 1, SAMPLE_RATE / 2
            filters = torchaudio.functional.melscale_fbanks(bins, 0.0, highest, spec.n_mels, SAMPLE_RATE)
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
        times = {"frame_length": spec.window_ms, "frame_shift": spec.hop_ms}
        settings: dict[str, Any] = {"num_mel_bins": spec.n_mels, "dither": 0.0, **times}
        rows = [kaldi.fbank(row[None] * KALDI_SCALE, sample_frequency=SAMPLE_RATE, **settings) for row in samples]
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


def load_functionals_encoder(spec: Encoder, device: torch.device) -> LoadedEncoder:
    """openSMILE's sets: ``functionals``, a vector of each piece of a clip, or ``lld``, low-level descriptors at 100 Hz.

    A clip is one piece; one longer than ``window_seconds`` is cut into equal pieces no longer than that. Low-level
    descriptors of longer ones come from overlapping windows. n samples give ``2 + (n - 960) // 160`` of them. Their
    names are ``columns`` of the store.

    Raises:
        UserError: opensmile is not installed.
    """
    try:
        import opensmile
        from opensmile.core.lib import OpenSmileException
    except ModuleNotFoundError as error:
        raise UserError("family: functionals needs openSMILE: pip install -e .[functionals]") from error
    levels = opensmile.FeatureLevel
    level = levels.Functionals if spec.level == "functionals" else levels.LowLevelDescriptors
    smile = opensmile.Smile(getattr(opensmile.FeatureSet, str(spec.kind)), level)

    def n_descriptors(n_samples: int) -> int:
        return 2 + (n_samples - LLD_LEAST) // LLD_STEP

    def made(samples: np.ndarray, keep: slice) -> Window:
        try:
            # It makes 16-bit integers of them, in which what is louder than they can say would turn its sign.
            values = smile(samples.clip(-1, LOUDEST), SAMPLE_RATE)[0].T  # (time, dim) float32
        except OpenSmileException as error:
            raise ClipError(f"openSMILE says: {one_line(error, 200)}") from error
        return Window({"values": np.ascontiguousarray(values)}, keep, len(values))

    windows = WindowCutter(spec, n_descriptors, LLD_STEP, LLD_MARGIN)
    whole = spec.level == "functionals"
    cut, n_steps = (_pieces(windows.window), _n_pieces(windows.window)) if whole else (windows, n_descriptors)
    rate, columns = None if whole else SAMPLE_RATE / LLD_STEP, list(smile.feature_names)
    fields = _fields(spec, level=spec.level, opensmile=opensmile.__version__, steps_per_second=rate, columns=columns)
    prepare, prepare_long = _prepared(cut, n_steps, made, LLD_LEAST, "the 60 ms that openSMILE needs")
    return LoadedEncoder(
        len(smile.feature_names), fields, audio_task(spec, windows), prepare, prepare_long, _as_they_are, spec, device
    )


def _as_they_are(inputs: dict[str, torch.Tensor], lengths: list[int] | None) -> torch.Tensor:
    return inputs["values"]  # (batch, time, dim): computed where clips are prepared, in several threads


def _n_pieces(longest: int) -> Callable[[int], int]:
    return lambda n_samples: -(-n_samples // longest)


def _pieces(longest: int) -> Cut:
    """Equal pieces of at most so many samples, each of which gives one time step."""

    def cut(blocks: Iterable[np.ndarray], n_samples: int) -> Iterator[tuple[np.ndarray, slice]]:
        edges = np.linspace(0, n_samples, _n_pieces(longest)(n_samples) + 1).astype(int)
        blocks = iter(blocks)
        held = np.empty(0, dtype=np.float32)
        for length in np.diff(edges):
            while len(held) < length:
                more = next(blocks, None)
                if more is None:
                    raise MediaError("it changed while it was read")
                held = np.concatenate([held, more])
            yield held[:length], slice(0, 1)
            held = held[length:]

    return cut


def _prepared(
    cut: Cut, n_steps: Callable[[int], int], made: Callable[[np.ndarray, slice], Window], least: int, what: str
) -> tuple[Callable[[Decoded], Prepared], Callable[[Stream], Prepared]]:
    """How a clip becomes windows, held at once or streamed. One of fewer than ``least`` samples is refused."""

    def prepare(clip: Decoded) -> Prepared:
        assert clip.data is not None
        if clip.n < least:
            raise ClipError(f"{clip.n} samples, shorter than {what}")
        windows = [made(samples, keep) for samples, keep in cut(iter([clip.data]), clip.n)]
        return Prepared(windows, n_steps(clip.n), clip.seconds)

    def prepare_long(stream: Stream) -> Prepared:
        about = next(stream)
        return Prepared((made(*window) for window in cut(stream, about.n)), n_steps(about.n), about.seconds)

    return prepare, prepare_long


def _fields(spec: Encoder, **own: Any) -> dict[str, Any]:
    """What a fingerprint is made of where there are no weights."""
    common = {"encoder_version": ENCODER_VERSION, "family": spec.family, "kind": spec.kind, "pooling": spec.pooling}
    damage = {"max_damage": spec.max_damage} if spec.max_damage != MAX_DAMAGE else {}
    return common | damage | heard_fields(spec) | own
