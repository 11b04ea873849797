"""What every encoder has in common: settings in, `(time, dim)` arrays out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.utils.logging import disable_progress_bar

from configs import UserError
from configs.schema import Encoder
from extract.weights import weights_hash

ENCODER_VERSION = 1  # raise it when code in this folder changes the values an encoder gives
UNUSED_WEIGHTS = ("pooler.", "masked_spec_embed", "mask_token")  # no hidden state depends on them at inference


class ClipError(Exception):
    """A clip that this encoder cannot take, in one line."""


@dataclass(frozen=True)
class Prepared:
    """A clip decoded and ready for the network.

    ``inputs``: arrays without a batch dimension; clips whose shapes agree may share a batch.
    ``seconds``: how long the clip is, None for text. ``n_steps``: time steps that are the clip's own where the
    network's input is padded by its own rule (Whisper: 30 s), else None.
    """

    inputs: dict[str, np.ndarray]
    seconds: float | None = None
    n_steps: int | None = None

    @property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple((name, array.shape) for name, array in sorted(self.inputs.items()))


@dataclass(frozen=True)
class LoadedEncoder:
    """A frozen network with everything around it that decides its values.

    ``prepare`` takes a media path or a text and may raise ClipError or MediaError; it runs in worker threads.
    ``hidden`` takes stacked inputs and gives (batch, time, dim). ``fields`` is what the fingerprint is made of.
    """

    dim: int
    fields: dict[str, Any]
    prepare: Callable[[Any], Prepared]
    hidden: Callable[[dict[str, torch.Tensor]], torch.Tensor]
    pooling: Literal["none", "mean"] | float
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @torch.inference_mode()
    def encode(self, clips: list[Prepared]) -> list[np.ndarray]:
        """Features of clips whose ``shapes`` agree: a (time, dim) float32 array for each.

        No clip is ever padded to another's length, so what a clip gives does not depend on its batch.
        """
        stacked = {
            name: torch.from_numpy(np.stack([clip.inputs[name] for clip in clips])).to(self.device)
            for name in clips[0].inputs
        }
        hidden = self.hidden(stacked).float().cpu().numpy()  # (batch, time, dim)
        return [
            pool_time(values[: clip.n_steps], self.pooling, clip.seconds)
            for values, clip in zip(hidden, clips, strict=True)
        ]


def pool_time(hidden: np.ndarray, pooling: Literal["none", "mean"] | float, seconds: float | None) -> np.ndarray:
    """Average over time: nothing, everything, or down to a rate.

    Args:
        hidden: (time, dim).
        pooling: ``none``, ``mean``, or a target rate in Hz. For a rate, time is cut into ``round(seconds * rate)``
            parts whose lengths differ by one step at most, and each is averaged; never more parts than steps.
        seconds: the clip's duration, needed for a rate.
    """
    if pooling == "none":
        return np.ascontiguousarray(hidden)
    if pooling == "mean":
        return hidden.mean(axis=0, keepdims=True)
    if seconds is None:
        raise ValueError("a rate in Hz needs a clip that has a duration")
    parts = min(len(hidden), max(1, round(seconds * pooling)))
    edges = np.linspace(0, len(hidden), parts + 1).astype(int)
    sums = np.add.reduceat(hidden, edges[:-1], axis=0)  # (parts, dim)
    return sums / np.diff(edges)[:, None].astype(hidden.dtype)


def load_network(
    spec: Encoder, folder: Path, model_types: tuple[str, ...], device: torch.device
) -> tuple[Any, PretrainedConfig]:
    """``AutoModel.from_pretrained`` on a folder, frozen, in fp32; the folder's architecture must be the family's.

    Raises:
        UserError: it cannot be read, is of another family, or lacks weights, which would silently be random.
    """
    disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if model_types and config.model_type not in model_types:
            raise UserError(f"model {spec.model!r}: holds a {config.model_type} model, but family is {spec.family}")
        network, report = AutoModel.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except UnpicklingError as error:
        raise UserError(f"model {spec.model!r}: its .bin file holds more than tensors, and is not unpickled") from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise cannot_be_loaded(spec, error) from error
    absent = sorted(name for name in report["missing_keys"] if not any(part in name for part in UNUSED_WEIGHTS))
    if absent:
        raise UserError(
            f"model {spec.model!r}: not a whole {config.model_type} checkpoint: {len(absent)} of its weights are "
            f"missing, {absent[0]} for one"
        )
    return network.eval().requires_grad_(False).to(device), config


def fingerprint_fields(spec: Encoder, files: list[Path], **more: Any) -> dict[str, Any]:
    """What every encoder's fingerprint is made of, and what a modality adds; where the files lie does not enter."""
    common = {
        "encoder_version": ENCODER_VERSION,
        "family": spec.family,
        "weights": weights_hash(files),
        "revision": spec.revision,
        "layer": spec.layer,
        "pooling": spec.pooling,
    }
    return common | more


def cannot_be_loaded(spec: Encoder, error: Exception) -> UserError:
    return UserError(f"model {spec.model!r}: cannot be loaded: {' '.join(str(error).split())[:300]}")


@torch.inference_mode()
def try_out(
    hidden: Callable[[dict[str, torch.Tensor]], torch.Tensor], clip: Prepared, spec: Encoder, device: torch.device
) -> int:
    """Width of the features, by running a clip: a layer or a processor that does not fit ends here, before any work.

    Raises:
        UserError: the network refuses the clip, or has no such layer.
    """
    try:
        return hidden({name: torch.from_numpy(array)[None].to(device) for name, array in clip.inputs.items()}).shape[-1]
    except (ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"model {spec.model!r}: does not take what its processor gives: {reason}") from error


def drop_unused_layers(network: Any, layer: int) -> None:
    """Cut off the transformer layers above ``hidden_states[layer]``: they cost time and change nothing below them.

    One layer more than needed stays: the last of ``hidden_states`` is not the plain output of a layer in every model.
    A layer counted from the end keeps them all.
    """
    n_layers = getattr(network.config, "num_hidden_layers", 0)
    for owner in network.modules():
        for name in ("layer", "layers"):
            stack = getattr(owner, name, None)
            if isinstance(stack, torch.nn.ModuleList) and len(stack) == n_layers and 0 <= layer < n_layers:
                setattr(owner, name, stack[: layer + 1])


def choose_hidden(hidden_states: tuple[torch.Tensor, ...], spec: Encoder) -> torch.Tensor:
    """The layer that the profile asks for: index 0 enters the first layer, the last leaves the last one."""
    try:
        return hidden_states[spec.layer]
    except IndexError:
        raise UserError(
            f"layer = {spec.layer}: {spec.model} gives hidden_states 0 to {len(hidden_states) - 1}"
        ) from None
