"""A clip through transformers by hand, as one would without this program."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers as hf
from checkpoints import FURTHER, MODALITIES, N_FRAMES, SIZE, network_of
from media_tools import decode_frames

from extract.media.framing import MIDDLE_SQUARE, Framing, resize_and_crop


def plain_call(name: str, folder: Path, source: Any, layer: int, framing: Framing = MIDDLE_SQUARE) -> np.ndarray:
    """The same clip through transformers by hand: (time, dim)."""
    modality, family = (MODALITIES | FURTHER)[name]
    network = network_of(name, folder).eval()
    with torch.inference_mode():
        if modality == "text":
            tokens = hf.AutoTokenizer.from_pretrained(folder)(source, return_tensors="pt")
            return network(**tokens, output_hidden_states=True).hidden_states[layer][0].numpy()
        if modality == "audio":
            samples, rate = soundfile.read(source, dtype="float32")
            inputs = hf.AutoFeatureExtractor.from_pretrained(folder)(samples, sampling_rate=rate, return_tensors="pt")
            states = network(**inputs, output_hidden_states=True).hidden_states[layer][0].numpy()
            if family == "wav2vec2-bert":  # a step that is half padding is masked
                return states[: int(inputs["attention_mask"].sum())]
            return states[: int(np.ceil(len(samples) / 320))] if family == "whisper" else states
        frames = resize_and_crop(decode_frames(source, 8 if family == "image" else N_FRAMES).images, SIZE, framing)
        pixels = (frames / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]
        batch = torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)
        batch = batch if family == "image" else batch[None]
        states = network(pixel_values=batch, output_hidden_states=True).hidden_states[layer].numpy()
    patches = (SIZE // 16) ** 2
    if family == "timesformer":
        return np.stack([states[0, [1 + p * N_FRAMES + t for p in range(patches)]].mean(0) for t in range(N_FRAMES)])
    if family == "videomae":
        return np.stack([states[0, t * patches : (t + 1) * patches].mean(0) for t in range(N_FRAMES // 2)])
    return states.mean(axis=(2, 3)) if states.ndim == 4 else states.mean(axis=1)
