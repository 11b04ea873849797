"""Audio encoders: Wav2Vec2 and its kin, w2v-BERT, and the encoder of Whisper."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

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
    does_not_take,
    fingerprint_fields,
    run_by,
    try_out,
)
from extract.encoders.layers import HiddenStates, keep_needed_layers
from extract.encoders.networks import ReadyNetwork, steps_after
from extract.media.reading import DECODING, SAMPLE_RATE, ClipError, MediaError
from extract.media.tasks import AudioTask, Decoded

SAMPLES_PER_STEP = 320  # of all families: 50 time steps a second
MIN_SAMPLES = 400  # receptive field of the convolutions of Wav2Vec2 and its kin: 25 ms
MEL_SAMPLES = (400, 160)  # window and hop of w2v-BERT's spectrum, two of whose time steps make one
# Clips of several lengths in one batch: these give each what it gives alone. Data2Vec's stacked convolutions over
# positions see the padding behind a clip, and Whisper and w2v-BERT are not given a mask.
TAKES_PADDING = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
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
    is_whisper, is_bert = spec.family == "whisper", spec.family == "wav2vec2-bert"
    by_window = is_whisper or is_bert  # these read a spectrum, and scale that of each window by itself
    if is_whisper and spec.window_seconds * SAMPLE_RATE > extractor.n_samples:
        longest = extractor.n_samples / SAMPLE_RATE
        raise UserError(f"window_seconds = {spec.window_seconds:g}: {spec.model} hears no more than {longest:g} s")
    if not by_window and np.prod(network.config.conv_stride) != SAMPLES_PER_STEP:
        raise UserError(f"model {spec.model!r}: its convolutions do not step by {SAMPLES_PER_STEP} samples")
    ready = ReadyNetwork(network, spec.precision, device, spec.runtime)

    def n_steps(n_samples: int) -> int:
        if is_whisper:  # it sees 30 s whatever a window's length; the steps past its end are not its own
            return -(-n_samples // SAMPLES_PER_STEP)
        if is_bert:
            return steps_after(n_samples, MEL_SAMPLES[:1], MEL_SAMPLES[1:]) // 2
        return steps_after(n_samples, network.config.conv_kernel, network.config.conv_stride)

    cut, states = WindowCutter(spec, n_steps), HiddenStates(spec)
    least = sum(MEL_SAMPLES) if is_bert else MIN_SAMPLES

    def prepare(clip: Decoded) -> Prepared:
        samples = clip.data
        assert samples is not None
        if clip.n < least:
            raise ClipError(f"{clip.n} samples, shorter than {least / SAMPLE_RATE * 1000:.0f} ms")
        if not by_window:  # scaled as a whole
            samples = extract_features(samples)
        return Prepared(list(windows(iter([samples]), clip.n)), n_steps(clip.n), clip.seconds)

    def prepare_long(stream: Stream) -> Prepared:
        about = next(stream)
        if getattr(extractor, "do_normalize", False) and not by_window:
            # As transformers' feature extractor scales a clip, with statistics of all of it.
            scale = 1 / np.sqrt(about.variance + 1e-7)
            stream = (((block - about.mean) * scale).astype(np.float32) for block in stream)
        return Prepared(windows(stream, about.n), n_steps(about.n), about.seconds)

    def extract_features(samples: np.ndarray, **more: Any) -> np.ndarray:
        name = extractor.model_input_names[0]
        return extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np", **more)[name][0].astype(np.float32)

    def windows(blocks: Iterator[np.ndarray], n_samples: int) -> Iterator[Window]:
        for samples, keep in cut(blocks, n_samples):
            steps = n_steps(len(samples))
            if is_bert:  # of an odd number of time steps of the spectrum, one is left over
                yield Window({"input_features": extract_features(samples)[:steps]}, keep, steps)
            elif spec.context == "clip":
                features = extract_features(samples, max_length=steps * SAMPLES_PER_STEP)
                yield Window({"input_features": features}, keep, steps)
            elif is_whisper:
                yield Window({"input_features": extract_features(samples)}, keep, network.config.max_source_positions)
            else:
                yield Window({"input_values": samples}, keep, len(samples) // SAMPLES_PER_STEP)

    def hidden(inputs: dict[str, torch.Tensor], lengths: list[int] | None) -> torch.Tensor:
        if spec.context == "clip":
            given = ready.call(lambda **cast: whisper_states(ready.network, cast["input_features"]), **inputs)
        else:
            given = ready.hidden_states(inputs, lengths)
        return states.choose(given)  # (batch, time, dim)

    def noise(n_samples: int) -> Window:
        samples = np.random.default_rng(0).normal(scale=0.1, size=n_samples).astype(np.float32)
        try:
            return next(iter(prepare(Decoded(n_samples / SAMPLE_RATE, n_samples, samples)).windows))
        except FAULTS as error:
            raise does_not_take(spec, error) from error

    takes_padding = spec.family in TAKES_PADDING
    padded = takes_padding and device.type == "cuda"  # batches of several lengths are made there only
    steps, dim = try_out(hidden, [noise(2 * least), noise((2 - padded) * least)], spec, device)
    wanted = network.config.max_source_positions if is_whisper and spec.context == "full" else n_steps(2 * least)
    if steps != wanted:
        raise UserError(f"model {spec.model!r}: gives {steps} time steps where its convolutions make {wanted}")
    run, runtime = run_by(hidden, ready.network, spec, [(noise(least), 2), (noise(16000), 3)])
    processor = json.loads(extractor.to_json_string())
    context = {"context": spec.context} if spec.context == "clip" else {}
    fields = fingerprint_fields(
        spec, files, processor=processor, **heard_fields(spec), **context, **runtime, **states.fields
    )
    pad_values = {"input_values": 0} if takes_padding else None
    width, task = states.stored_width(dim), audio_task(spec, cut)
    return LoadedEncoder(width, fields, task, prepare, prepare_long, run, spec, device, pad_values)


def whisper_states(encoder: Any, mels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Hidden states of Whisper's encoder for spectra of any length up to its 30 s, first to last.

    transformers' own ``forward`` takes 30 s only; for these it gives the same.

    Args:
        mels: (batch, mel filters, 2 * time).
    """
    hidden = torch.nn.functional.gelu(encoder.conv1(mels))
    hidden = torch.nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)  # (batch, time, dim)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    states = []
    for layer in encoder.layers:
        states.append(hidden)
        hidden = layer(hidden, None)
    return (*states, encoder.layer_norm(hidden))


def heard_fields(spec: Encoder) -> dict[str, Any]:
    """What enters a fingerprint of how a sound is decoded and cut; settings only where they are not the default."""
    heard = {} if spec.channel_number is None else {"downmix": f"channel {spec.channel_number}"}
    silence = {"silent_audio": "kept"} if spec.silent_audio == "kept" else {}
    cutting = {"window_seconds": spec.window_seconds, "overlap": spec.overlap}
    return {"decoding": DECODING | heard, **cutting, **silence}


def audio_task(spec: Encoder, cut: "WindowCutter") -> AudioTask:
    """How a sound is decoded; encoders with the same windows share it."""
    return AudioTask(
        short_samples=cut.window + (SHORT_WINDOWS - 1) * cut.hop,
        max_damage=spec.max_damage,
        channel=spec.channel_number,
        silence=spec.silent_audio == "kept",
    )


class WindowCutter:
    """Cuts a clip into overlapping windows whose kept time steps follow each other without gap or repetition.

    Window k begins at sample ``k * hop``, a multiple of a time step, so step i of it is step ``k * hop / step + i`` of
    the clip: the same samples as if the clip were seen at once. Of the steps that two windows share, the first half
    is taken from the earlier and the second half from the later one, where each has more context.

    Args:
        n_steps: time steps of so many samples.
        step: samples from one time step to the next.
        margin: time steps at a window's edge that are never taken from it, where the clip goes on.

    Raises:
        UserError: the margins leave nothing of a window.
    """

    def __init__(
        self, spec: Encoder, n_steps: Callable[[int], int], step: int = SAMPLES_PER_STEP, margin: int = 1
    ) -> None:
        steps = int(spec.window_seconds * SAMPLE_RATE) // step
        self._half_overlap = max(margin, round(steps * spec.overlap / 2))  # steps
        if steps <= 2 * self._half_overlap:
            raise UserError(f"window_seconds = {spec.window_seconds:g}: too short to be cut: {steps} time steps")
        self.window = steps * step  # samples
        self.hop = (steps - 2 * self._half_overlap) * step
        self._n_steps, self._step = n_steps, step

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
            hop_steps, first = self.hop // self._step, self._half_overlap if k else 0
            stop = self._n_steps(n_samples) - k * hop_steps if is_last else hop_steps + self._half_overlap
            yield held[:length], slice(first, stop)
            held = held[self.hop :]
