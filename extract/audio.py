"""Audio encoders: Wav2Vec2, HuBERT, WavLM, and the encoder of Whisper."""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor

from configs import UserError
from configs.schema import Encoder
from extract.encoder import (
    ClipError,
    LoadedEncoder,
    Prepared,
    cannot_be_loaded,
    choose_hidden,
    drop_unused_layers,
    fingerprint_fields,
    load_network,
    try_out,
)
from extract.media import DECODING, SAMPLE_RATE, decode_audio
from extract.packaged import WHISPER_TINY, whisper_tiny
from extract.weights import find_folder, model_files

SAMPLES_PER_STEP = 320  # of all four families: 50 time steps a second
MIN_SAMPLES = 400  # receptive field of the convolutions of Wav2Vec2 and its kin: 25 ms


def load_audio_encoder(spec: Encoder, device: torch.device) -> LoadedEncoder:
    """Args: spec, an ``audio`` encoder of a profile. Raises UserError where it cannot be loaded."""
    if spec.model == WHISPER_TINY and spec.family == "whisper":
        network, extractor, files = whisper_tiny()
        network = network.eval().requires_grad_(False).to(device)
    else:
        folder = find_folder(spec)
        files = model_files(folder)
        network, _ = load_network(spec, folder, (spec.family,), device)
        if spec.family == "whisper":
            network = network.encoder
        try:
            extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise cannot_be_loaded(spec, error) from error
    drop_unused_layers(network, spec.layer)
    if extractor.sampling_rate != SAMPLE_RATE:
        raise UserError(f"model {spec.model!r}: wants {extractor.sampling_rate} Hz, only {SAMPLE_RATE} Hz is supported")
    is_whisper = spec.family == "whisper"
    if is_whisper and spec.max_seconds * SAMPLE_RATE > extractor.n_samples:
        longest = extractor.n_samples / SAMPLE_RATE
        raise UserError(f"max_seconds = {spec.max_seconds:g}: {spec.model} hears no more than {longest:g} s")

    def prepare(path: Path) -> Prepared:
        return prepare_samples(decode_audio(path, spec.max_seconds))

    def prepare_samples(samples: np.ndarray) -> Prepared:
        if len(samples) < MIN_SAMPLES:
            raise ClipError(f"{len(samples)} samples, shorter than {MIN_SAMPLES / SAMPLE_RATE * 1000:.0f} ms")
        seconds = len(samples) / SAMPLE_RATE
        name = "input_features" if is_whisper else "input_values"
        array = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np")[name][0].astype(np.float32)
        # Whisper sees 30 s whatever the clip's length; the steps past the clip's end are not its own.
        n_steps = -(-len(samples) // SAMPLES_PER_STEP) if is_whisper else None
        return Prepared({name: array}, seconds, n_steps)

    def hidden(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return choose_hidden(network(**inputs, output_hidden_states=True).hidden_states, spec)  # (batch, time, dim)

    dim = try_out(hidden, prepare_samples(np.zeros(MIN_SAMPLES, dtype=np.float32)), spec, device)
    processor = json.loads(extractor.to_json_string())
    fields = fingerprint_fields(spec, files, max_seconds=spec.max_seconds, decoding=DECODING, processor=processor)
    return LoadedEncoder(dim, fields, prepare, hidden, spec.pooling, device)
