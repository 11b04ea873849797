"""Video encoders: TimeSformer, VideoMAE, and an image backbone run on each frame. A time step is a frame (or tube)."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs import UserError
from configs.schema import Encoder
from extract.encoder import (
    LoadedEncoder,
    Prepared,
    choose_hidden,
    drop_unused_layers,
    fingerprint_fields,
    load_network,
    try_out,
)
from extract.faces import crop_face, face_detector
from extract.media import DECODING, decode_frames, resize_and_crop
from extract.packaged import EFFICIENTNET_LITE0, efficientnet_lite0
from extract.weights import find_folder, model_files

DEFAULT_IMAGE_FRAMES = 8  # frames for image backbones, which have no number of their own

Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ImageFormat:
    """What a network wants an image to be: ``size`` pixels square, and per channel ``(x / 255 - mean) / std``."""

    size: int
    mean: list[float]
    std: list[float]


LITE0_FORMAT = ImageFormat(size=224, mean=[127 / 255] * 3, std=[128 / 255] * 3)


def load_video_encoder(spec: Encoder, device: torch.device) -> LoadedEncoder:
    """Args: spec, a ``video`` encoder of a profile. Raises UserError where it cannot be loaded."""
    if spec.face_crop:
        face_detector()  # where it is not installed, that is said now and not after the first clips
    states, image_format, n_frames, files = (
        _packaged(spec, device) if spec.model == EFFICIENTNET_LITE0 else _from_folder(spec, device)
    )
    mean = torch.tensor(image_format.mean, device=device).view(3, 1, 1)
    std = torch.tensor(image_format.std, device=device).view(3, 1, 1)

    def prepare(path: Path) -> Prepared:
        frames = decode_frames(path, n_frames)
        images = crop_face(frames.images, spec.face_crop) if spec.face_crop else frames.images
        return Prepared({"images": resize_and_crop(images, image_format.size)}, frames.seconds)

    def hidden(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        pixels = inputs["images"].permute(0, 1, 4, 2, 3).float() / 255  # (batch, frames, 3, height, width)
        return states((pixels - mean) / std)

    blank = np.zeros((n_frames, image_format.size, image_format.size, 3), dtype=np.uint8)
    dim = try_out(hidden, Prepared({"images": blank}), spec, device)
    fields = fingerprint_fields(
        spec,
        files,
        n_frames=n_frames,
        decoding=DECODING,
        processor=asdict(image_format),
        face_crop=spec.face_crop.model_dump() if spec.face_crop else None,
    )
    return LoadedEncoder(dim, fields, prepare, hidden, spec.pooling, device)


def _packaged(spec: Encoder, device: torch.device) -> tuple[Network, ImageFormat, int, list[Path]]:
    if spec.family != "image" or spec.layer != -1:
        raise UserError(f"model {spec.model!r}: is of the family image, and gives its last layer (-1) only")
    network, files = efficientnet_lite0()
    extract_features: Any = network.eval().requires_grad_(False).to(device).extract_features

    def states(pixels: torch.Tensor) -> torch.Tensor:
        return _per_frame(pixels, extract_features)

    return states, LITE0_FORMAT, spec.n_frames or DEFAULT_IMAGE_FRAMES, files


def _from_folder(spec: Encoder, device: torch.device) -> tuple[Network, ImageFormat, int, list[Path]]:
    folder = find_folder(spec)
    types = () if spec.family == "image" else (spec.family,)
    network, config = load_network(spec, folder, types, device)
    drop_unused_layers(network, spec.layer)
    n_frames: int = spec.n_frames or getattr(config, "num_frames", None) or DEFAULT_IMAGE_FRAMES
    if spec.family != "image" and n_frames != config.num_frames:
        raise UserError(f"n_frames = {n_frames}: {spec.model} takes {config.num_frames} frames")

    def chosen(pixels: torch.Tensor) -> torch.Tensor:
        return choose_hidden(network(pixel_values=pixels, output_hidden_states=True).hidden_states, spec)

    def states(pixels: torch.Tensor) -> torch.Tensor:
        if spec.family == "image":
            return _per_frame(pixels, chosen)
        return _pool_patches(chosen(pixels), spec.family, config)

    return states, _image_format(folder, config), n_frames, model_files(folder)


def _image_format(folder: Path, config: Any) -> ImageFormat:
    """Input size and normalisation from the model's own ``preprocessor_config.json``."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise UserError(f"{path}: missing; it says how images are scaled and normalised")
    stated = json.loads(path.read_text(encoding="utf-8"))
    size = stated["crop_size"] if stated.get("do_center_crop", True) and "crop_size" in stated else stated.get("size")
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    size = size or getattr(config, "image_size", None)
    if not isinstance(size, int) or "image_mean" not in stated or "image_std" not in stated:
        raise UserError(f"{path}: must give image_mean, image_std, and one size for both sides")
    if not stated.get("do_normalize", True) or stated.get("rescale_factor", 1 / 255) != 1 / 255:
        raise UserError(f"{path}: only images scaled by 1/255 and normalised are supported")
    return ImageFormat(size, stated["image_mean"], stated["image_std"])


def _per_frame(pixels: torch.Tensor, backbone: Network) -> torch.Tensor:
    """(batch, frames, 3, h, w) -> (batch, frames, dim): each frame alone, averaged over its tokens or its map.

    A class token counts as one token among the patches.
    """
    batch, frames = pixels.shape[:2]
    out = backbone(pixels.flatten(0, 1))  # (batch * frames, tokens, dim) or (batch * frames, dim, h, w)
    pooled = out.mean(dim=(2, 3)) if out.ndim == 4 else out.mean(dim=1)
    return pooled.view(batch, frames, -1)


def _pool_patches(tokens: torch.Tensor, family: str, config: Any) -> torch.Tensor:
    """Average over the patches of each frame (TimeSformer) or tube of frames (VideoMAE): (batch, time, dim).

    TimeSformer's tokens are a class token, then patch after patch with time running fastest; VideoMAE's are tube
    after tube, without a class token.
    """
    batch, _, dim = tokens.shape
    if family == "timesformer":
        return tokens[:, 1:].reshape(batch, -1, config.num_frames, dim).mean(dim=1)
    return tokens.reshape(batch, config.num_frames // config.tubelet_size, -1, dim).mean(dim=2)
