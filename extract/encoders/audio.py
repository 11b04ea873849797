"""Audio encoders: Wav2Vec2, HuBERT, WavLM, and the encoder of Whisper."""

import json
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from transformers import AutoFeatureExtractor

from configs import UserError
from configs.schema import Encoder
from extract.encoders.checkpoints.network import FAULTS, cannot_be_loaded, load_network
from extract.encoders.checkpoints.packaged import WHISPER_TINY, whisper_tiny
from extract.encoders.checkpoints.weights import find_folder, model_files
from extract.encoders.encoder import (
    LoadedEncoder,
    Prepared,
    Stream,
    Window,
    choose_hidden,
    does_not_take,
    fingerprint_fields,
    run_by,
    try_out,
)
from extract.encoders.layers import keep_needed_layers
from extract.encoders.networks import ReadyNetwork, steps_after
from extract.media.reading import DECODING, SAMPLE_RATE, ClipError, MediaError
from extract.media.tasks import AudioTask, Decoded

SAMPLES_PER_STEP = 320  # of all four families: 50 time steps a second
MIN_SAMPLES = 400  # receptive field of the convolutions of Wav2Vec2 and its kin: 25 ms
SHORT_WINDOWS = 2  # a clip of more windows is streamed, and never held as a whole


def load_audio_encoder(spec: Encoder, device: torch.device) -> LoadedEncoder:
    """Args: spec, an ``audio`` encoder of a profile. Raises UserError where it cannot be loaded."""
    if spec.model == WHISPER_TINY and spec.family == "whisper":
        network, extractor, files = whisper_tiny()
    else:
        folder = find_folder(spec)
        files = model_files(folder)
        network, _ = load_network(spec, folder, (spec.family,))
        if spec.family == "whisper":
            network = network.encoder
        try:
            extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except FAULTS as error:
            raise cannot_be_loaded(spec, error) from error
    keep_needed_layers(network, spec)
    if extractor.sampling_rate != SAMPLE_RATE:
        raise UserError(f"model {spec.model!r}: wants {extractor.sampling_rate} Hz, only {SAMPLE_RATE} Hz is supported")
    is_whisper = spec.family == "whisper"
    if is_whisper and spec.window_seconds * SAMPLE_RATE > extractor.n_samples:
        longest = extractor.n_samples / SAMPLE_RATE
        raise UserError(f"window_seconds = {spec.window_seconds:g}: {spec.model} hears no more than {longest:g} s")
    if not is_whisper and np.prod(network.config.conv_stride) != SAMPLES_PER_STEP:
        raise UserError(f"model {spec.model!r}: its convolutions do not step by {SAMPLES_PER_STEP} samples")
    ready = ReadyNetwork(network, spec.precision, device, spec.runtime)

    def n_steps(n_samples: int) -> int:
        if is_whisper:  # it sees 30 s whatever a window's length; the steps past its end are not its own
            return -(-n_samples // SAMPLES_PER_STEP)
        return steps_after(n_samples, network.config.conv_kernel, network.config.conv_stride)

    cut = WindowCutter(spec, n_steps)

    def prepare(clip: Decoded) -> Prepared:
        samples = clip.data
        assert samples is not None
        if clip.n < MIN_SAMPLES:
            raise ClipError(f"{clip.n} samples, shorter than {MIN_SAMPLES / SAMPLE_RATE * 1000:.0f} ms")
        if not is_whisper:  # scaled as a whole; Whisper's extractor scales each of its windows
            samples = extract_features(samples)
        return Prepared(list(windows(iter([samples]), clip.n)), n_steps(clip.n), clip.seconds)

    def prepare_long(stream: Stream) -> Prepared:
        about = next(stream)
        if getattr(extractor, "do_normalize", False) and not is_whisper:
            # As transformers' feature extractor scales a clip, with statistics of all of it.
            scale = 1 / np.sqrt(about.variance + 1e-7)
            stream = (((block - about.mean) * scale).astype(np.float32) for block in stream)
        return Prepared(windows(stream, about.n), n_steps(about.n), about.seconds)

    def extract_features(samples: np.ndarray) -> np.ndarray:
        name = extractor.model_input_names[0]
        return extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np")[name][0].astype(np.float32)

    def windows(blocks: Iterator[np.ndarray], n_samples: int) -> Iterator[Window]:
        for samples, keep in cut(blocks, n_samples):
            if is_whisper:
                yield Window({"input_features": extract_features(samples)}, keep, network.config.max_source_positions)
            else:
                yield Window({"input_values": samples}, keep, len(samples) // SAMPLES_PER_STEP)

    def hidden(inputs: dict[str, torch.Tensor], lengths: list[int] | None) -> torch.Tensor:
        return choose_hidden(ready.hidden_states(inputs, lengths), spec)  # (batch, time, dim)

    def noise(n_samples: int) -> Window:
        samples = np.random.default_rng(0).normal(scale=0.1, size=n_samples).astype(np.float32)
        try:
            return next(iter(prepare(Decoded(n_samples / SAMPLE_RATE, n_samples, samples)).windows))
        except FAULTS as error:
            raise does_not_take(spec, error) from error

    padded = not is_whisper and device.type == "cuda"  # batches of several lengths are made there only
    steps, dim = try_out(hidden, [noise(2 * MIN_SAMPLES), noise((2 - padded) * MIN_SAMPLES)], spec, device)
    if not is_whisper and steps != n_steps(2 * MIN_SAMPLES):
        wanted = n_steps(2 * MIN_SAMPLES)
        raise UserError(f"model {spec.model!r}: gives {steps} time steps where its convolutions make {wanted}")
    run, runtime = run_by(hidden, ready.network, spec, [(noise(MIN_SAMPLES), 2), (noise(16000), 3)])
    processor = json.loads(extractor.to_json_string())
    cutting = {"window_seconds": spec.window_seconds, "overlap": spec.overlap}
    heard = {} if spec.channel_number is None else {"downmix": f"channel {spec.channel_number}"}
    silence = {"silent_audio": "kept"} if spec.silent_audio == "kept" else {}
    more = cutting | silence | runtime
    fields = fingerprint_fields(spec, files, decoding=DECODING | heard, processor=processor, **more)
    task = AudioTask(
        short_samples=cut.window + (SHORT_WINDOWS - 1) * cut.hop,
        max_damage=spec.max_damage,
        channel=spec.channel_number,
        silence=spec.silent_audio == "kept",
    )
    pad_values = None if is_whisper else {"input_values": 0}
    return LoadedEncoder(dim, fields, task, prepare, prepare_long, run, spec, device, pad_values)


class WindowCutter:
    """Cuts a clip into overlapping windows whose kept time steps follow each other without gap or repetition.

    Window k begins at sample ``k * hop``, a multiple of a time step, so step i of it is step ``k * hop / 320 + i`` of
    the clip: the same samples as if the clip were seen at once. Of the steps that two windows share, the first half
    is taken from the earlier and the second half from the later one, where each has more context.

    Args:
        n_steps: time steps of so many samples.
    """

    def __init__(self, spec: Encoder, n_steps: Callable[[int], int]) -> None:
        steps = int(spec.window_seconds * SAMPLE_RATE) // SAMPLES_PER_STEP
        self._half_overlap = max(1, round(steps * spec.overlap / 2))  # steps
        self.window = steps * SAMPLES_PER_STEP  # samples
        self.hop = (steps - 2 * self._half_overlap) * SAMPLES_PER_STEP
        self._n_steps = n_steps

    def __call__(self, blocks: Iterable[np.ndarray], n_samples: int) -> Iterator[tuple[np.ndarray, slice]]:
        """Yield each window's samples and which of its steps to keep, holding about a window at a time.

        Args:
            blocks: (samples,) arrays that follow each other, ``n_samples`` in all.
        """
        n_windows = 1 + max(0, -(-(n_samples - self.window) // self.hop))
        blocks = iter(blocks)
        held = np.empty(0, dtype=np.float32)
        for k in range(n_windows):
            start, is_last = k * self.hop, k == n_windows - 1
            length = n_samples - start if is_last else self.window
            while len(held) < length:
                more = next(blocks, None)
                if more is None:
                    raise MediaError("it changed while it was read")
                held = np.concatenate([held, more])
            hop_steps, first = self.hop // SAMPLES_PER_STEP, self._half_overlap if k else 0
            stop = self._n_steps(n_samples) - k * hop_steps if is_last else hop_steps + self._half_overlap
            yield held[:length], slice(first, stop)
            held = held[self.hop :]
