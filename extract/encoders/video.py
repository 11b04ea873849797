"""Video encoders: TimeSformer, VideoMAE, and an image backbone run on each frame. A time step is a frame (or tube).

Below a ``boundary`` a time step is a token: of each segment of a clip, a class token and every patch of every frame.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs import UserError
from configs.schema import Encoder
from extract.encoders.checkpoints.expressions import expression_network
from extract.encoders.checkpoints.images import ImageFormat, framed, read_image_format
from extract.encoders.checkpoints.network import load_network
from extract.encoders.checkpoints.packaged import EFFICIENTNET_LITE0, efficientnet_lite0, lite0_states
from extract.encoders.checkpoints.weights import find_folder, model_files
from extract.encoders.encoder import (
    LoadedEncoder,
    Prepared,
    Stream,
    Window,
    fingerprint_fields,
    run_by,
    try_out,
)
from extract.encoders.layers import HiddenStates, keep_needed_layers
from extract.encoders.networks import ReadyNetwork
from extract.media.faces import face_detector
from extract.media.reading import DECODING
from extract.media.tasks import Decoded, VideoTask

PATCH = 16  # pixels, of most vision transformers: what an image costs is counted in these
SHORT_SEGMENTS = 2  # a clip of more segments is streamed, and never held as a whole
DEFAULT_IMAGE_FRAMES = 8  # frames for image backbones, which have no number of their own

Network = Callable[[torch.Tensor], torch.Tensor]


LITE0_FORMAT = ImageFormat(size=224, mean=[127 / 255] * 3, std=[128 / 255] * 3)


def load_video_encoder(spec: Encoder, device: torch.device) -> LoadedEncoder:
    """Args: spec, a ``video`` encoder of a profile. Raises UserError where it cannot be loaded."""
    if spec.face_crop:
        face_detector()  # where it is not installed, that is said now and not after the first clips
    backbone = _backbone(spec.model)
    taken = HiddenStates(spec)
    network, states, form, n_frames, files = (
        _packaged(spec, device, taken, *backbone) if backbone else _from_folder(spec, device, taken)
    )
    mean = torch.tensor(form.mean, device=device).view(3, 1, 1)
    std = torch.tensor(form.std, device=device).view(3, 1, 1)

    def prepare(clip: Decoded) -> Prepared:
        assert clip.data is not None
        return Prepared([window(images) for images in clip.data], clip.n * n_steps, clip.seconds)

    def prepare_long(stream: Stream) -> Prepared:
        about = next(stream)
        return Prepared((window(images) for images in stream), about.n * n_steps, about.seconds)

    def window(images: np.ndarray) -> Window:
        patches = n_frames * (form.size // PATCH) ** 2
        return Window({"images": images}, slice(0, n_steps), patches)

    def hidden(inputs: dict[str, torch.Tensor], lengths: list[int] | None) -> torch.Tensor:  # all of one length
        pixels = inputs["images"].permute(0, 1, 4, 2, 3).float() / 255  # (batch, frames, 3, height, width)
        return states((pixels - mean) / std)

    n_steps = 0
    blank = window(np.zeros((n_frames, form.size, form.size, 3), dtype=np.uint8))
    if spec.family == "image":  # frames go through it one by one, so that two clips of one are as good as whole ones
        one = window(blank.inputs["images"][:1])
        n_steps, dim = try_out(hidden, [one, one], spec, device)
        n_steps *= n_frames
    else:  # what these two do with a batch is known
        n_steps, dim = try_out(hidden, [blank], spec, device)
    run, runtime = run_by(hidden, network, spec, [(blank, 1), (blank, 2)])
    fields = fingerprint_fields(
        spec,
        files,
        n_frames=n_frames,
        window_seconds=spec.window_seconds,
        decoding=DECODING,
        processor=form.fields,
        face_crop=spec.face_crop.model_dump() if spec.face_crop else None,
        **runtime,
        **taken.fields,
    )
    task = VideoTask(
        n_frames, form.size, spec.window_seconds, SHORT_SEGMENTS, spec.face_crop, spec.max_damage, form.framing
    )
    return LoadedEncoder(taken.stored_width(dim), fields, task, prepare, prepare_long, run, spec, device)


def _backbone(model: str) -> tuple[Any, Network, ImageFormat, list[Path]] | None:
    """A network of an installed package, what of it gives features, its pictures, its files; None: a folder's."""
    if model == EFFICIENTNET_LITE0:
        network: Any
        network, files = efficientnet_lite0()
        return network, network.extract_features, LITE0_FORMAT, files
    found = expression_network(model)
    return (found[0], *found) if found else None


def _packaged(
    spec: Encoder,
    device: torch.device,
    taken: HiddenStates,
    network: Any,
    run: Network,
    form: ImageFormat,
    files: list[Path],
) -> tuple[Any, Network, ImageFormat, int, list[Path]]:
    if spec.family != "image" or spec.layer != -1 or (spec.layers is not None and spec.model != EFFICIENTNET_LITE0):
        raise UserError(f"model {spec.model!r}: is of the family image, and gives its last layer (-1) only")
    if spec.boundary is not None:
        raise UserError(f"boundary = {spec.boundary}: {spec.model} has no transformer layers to cut between")
    ready = ReadyNetwork(network, spec.precision, device, spec.runtime)

    def chosen(images: torch.Tensor) -> torch.Tensor:
        if spec.layers is None:
            return ready.call(lambda inputs: run(inputs), inputs=images)
        return taken.choose(ready.call(lambda inputs: lite0_states(network, inputs), inputs=images))

    def states(pixels: torch.Tensor) -> torch.Tensor:
        return _per_frame(pixels, chosen)

    form = replace(form, framing=framed(spec, form.size, form.framing))
    return network, states, form, spec.n_frames or DEFAULT_IMAGE_FRAMES, files


def _from_folder(
    spec: Encoder, device: torch.device, taken: HiddenStates
) -> tuple[Any, Network, ImageFormat, int, list[Path]]:
    folder = find_folder(spec)
    types = () if spec.family == "image" else (spec.family,)
    files = model_files(folder)
    network, config = load_network(spec, folder, types, part="vision")
    form = read_image_format(spec, folder, config.model_type)
    keep_needed_layers(network, spec)
    ready = ReadyNetwork(network, spec.precision, device, spec.runtime)
    n_frames: int = spec.n_frames or getattr(config, "num_frames", None) or DEFAULT_IMAGE_FRAMES
    if spec.family != "image" and n_frames != config.num_frames:
        raise UserError(f"n_frames = {n_frames}: {spec.model} takes {config.num_frames} frames")

    def chosen(pixels: torch.Tensor) -> torch.Tensor:
        return taken.choose(ready.hidden_states({"pixel_values": pixels}))

    def states(pixels: torch.Tensor) -> torch.Tensor:
        if spec.family == "image":
            return _per_frame(pixels, chosen)
        if spec.boundary is not None:
            return chosen(pixels)  # every token: layers above the boundary need them all
        return pool_patches(chosen(pixels), spec.family, config)

    return network, states, form, n_frames, files


def _per_frame(pixels: torch.Tensor, backbone: Network) -> torch.Tensor:
    """(batch, frames, 3, h, w) -> (batch, frames, dim): each frame alone, averaged over its tokens or its map.

    A class token counts as one token among the patches.
    """
    batch, frames = pixels.shape[:2]
    out = backbone(pixels.flatten(0, 1))  # (batch * frames, tokens, dim) or (batch * frames, dim, h, w)
    pooled = out.mean(dim=(2, 3)) if out.ndim == 4 else out.mean(dim=1)
    return pooled.view(batch, frames, -1)


def pool_patches(tokens: torch.Tensor, family: str, config: Any) -> torch.Tensor:
    """Average over the patches of each frame (TimeSformer) or tube of frames (VideoMAE): (batch, time, dim).

    TimeSformer's tokens are a class token, then patch after patch with time running fastest; without attention over
    time (``space_only``) each frame is a row of its own. VideoMAE's are tube after tube, without a class token.
    """
    if family == "timesformer":
        if config.attention_type == "space_only":
            return tokens[:, 1:].mean(dim=1).unflatten(0, (-1, config.num_frames))
        return tokens[:, 1:].unflatten(1, (-1, config.num_frames)).mean(dim=1)
    return tokens.unflatten(1, (config.num_frames // config.tubelet_size, -1)).mean(dim=2)
