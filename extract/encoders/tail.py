"""The layers above an encoder's boundary, trained as part of a head and fed from the store.

``load_tail`` takes them from the encoder's checkpoint; ``build_tail`` makes the same modules for weights that
``load_state_dict`` brings. In fp32, boundary states and tail give what the whole model gives with all below the
boundary frozen and in evaluation mode: outputs, loss and gradients.
"""

import json
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel

from configs import UserError
from configs.schema import Encoder
from configs.schema import Tail as Settings
from extract.encoders.checkpoints.network import load_network
from extract.encoders.checkpoints.weights import find_folder, model_files, weights_hash
from extract.encoders.layers import places_of_tail
from extract.encoders.networks import FusedTimesformerAttention
from extract.encoders.video import pool_patches

HIDDEN_DROPOUTS = ("hidden_dropout_prob", "hidden_dropout", "dropout")  # what architectures call it
OTHER_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "activation_dropout")


def load_tail(encoder: Encoder, settings: Settings, stored: dict[str, Any]) -> "Tail":
    """The tail of a pretrained encoder, on the CPU, in fp32.

    With ``lora_rank``, adapters are initialised from torch's global random state; nothing else here is random.

    Args:
        encoder: one with a ``boundary``.
        stored: the store's fingerprint fields.

    Raises:
        UserError: the store is of another boundary or other weights; the encoder cannot be loaded or cut; fewer layers
            than are to be trained; PEFT is not installed.
    """
    assert encoder.boundary is not None
    again = "run python extract/run.py"
    if stored.get("boundary") != encoder.boundary:
        held = "outputs of its encoder" if stored.get("boundary") is None else f"boundary {stored['boundary']}"
        raise UserError(f"boundary = {encoder.boundary}: the store holds {held}: {again}")
    folder = find_folder(encoder)
    if stored.get("weights") != weights_hash(model_files(folder)):
        raise UserError(f"model = {encoder.model}: the store was computed with other weights: {again}")
    types = () if encoder.family == "transformer" else (encoder.family,)
    dropouts: dict[str, Any] = (
        dict.fromkeys(HIDDEN_DROPOUTS, settings.dropout) | dict.fromkeys(OTHER_DROPOUTS, 0.0) | {"drop_path_rate": 0}
    )
    network, config = load_network(encoder, folder, types, **dropouts)
    about = {
        "config": json.loads(config.to_json_string()),
        "encoder": encoder.model_dump(mode="json"),
        "settings": settings.model_dump(),
    }
    return Tail(network, about)


def build_tail(about: dict[str, Any]) -> "Tail":
    """A tail of the same shapes and settings as the one with this ``about``, on the CPU. Its weights hold anything
    until ``load_state_dict``.

    Raises:
        UserError: PEFT is needed and not installed.
    """
    stated = dict(about["config"])
    config = AutoConfig.for_model(stated.pop("model_type"), **stated)
    with torch.device("meta"):  # of a network of which the lower part is not needed, nothing is made up
        network = AutoModel.from_config(config)
    return Tail(network, about).to_empty(device="cpu")


class Tail(nn.Module):
    """Pretrained layers from a boundary to the top, with the normalisation behind them if the architecture has one.

    ``layers`` are all of them, bottom to top. Trained are the upper ``settings.layers`` and the normalisation; those
    below always run in evaluation mode and without gradients. Dropout is applied where the architecture drops hidden
    states, with ``settings.dropout``; attention weights and activations are never dropped, nor whole layers.

    With ``lora_rank`` every linear layer of the trained layers, W of (out, in), becomes ``W + 2 B A`` with A of
    (rank, in) and B of (out, rank), by PEFT (Hu et al. 2022, arXiv:2106.09685); only A and B are trained.

    ``about`` is what :func:`build_tail` needs, as JSON.
    """

    def __init__(self, network: Any, about: dict[str, Any]) -> None:
        super().__init__()
        encoder, settings = Encoder(**about["encoder"]), Settings(**about["settings"])
        places = places_of_tail(network, encoder)
        self.about = about
        self.layers: nn.ModuleList = network.get_submodule(places[0])[encoder.boundary :]
        self.norm = network.get_submodule(places[1]) if places[1] else nn.Identity()
        self._config = network.config
        self._checkpointing = settings.checkpointing
        n_trained = settings.layers or len(self.layers)
        if n_trained > len(self.layers):
            raise UserError(
                f"fine_tune: layers = {n_trained}: there are {len(self.layers)} above boundary "
                f"{encoder.boundary} of {encoder.model}"
            )
        self._n_frozen = len(self.layers) - n_trained
        self._is_video = self._config.model_type == "timesformer"
        if self._is_video:
            for owner in list(self.layers.modules()):
                if type(owner).__name__ == "TimeSformerAttention":
                    owner.attention = FusedTimesformerAttention(owner.attention)
        self.layers[: self._n_frozen].requires_grad_(False)
        if settings.lora_rank:
            self.requires_grad_(False)
            for layer in self.layers[self._n_frozen :]:
                _add_adapters(layer, settings.lora_rank)

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder's last layer gives for these clips.

        Args:
            hidden: (clips, time, dim) what the store holds, padded at its end.
            mask: (clips, time) True where a clip has a time step; a row without any is a clip that is missing.

        Returns:
            (clips, time, dim) and the mask as it was; for TimeSformer (clips, frames, dim) averaged over each frame's
            patches, and (clips, frames). What stands where the mask is False means nothing.
        """
        hidden = hidden.float()
        if self._is_video:
            return self._frames(hidden, mask)
        return self._run(hidden, {"attention_mask": self._attention_mask(hidden, mask)}), mask

    def _run(self, hidden: Tensor, given: dict[str, Any]) -> Tensor:
        with torch.no_grad():
            for layer in self.layers[: self._n_frozen]:
                hidden = _call(layer, hidden, given)
        for layer in self.layers[self._n_frozen :]:
            if self._checkpointing and self.training:
                hidden = checkpoint(_call, layer, hidden, given, use_reentrant=False)
            else:
                hidden = _call(layer, hidden, given)
        return self.norm(hidden)

    def _attention_mask(self, hidden: Tensor, mask: Tensor) -> Tensor | None:
        """(clips, 1, 1, time) as the layers' attention takes it, None where nothing is padded.

        On a CPU under autocast, plain products of matrices train faster than torch's fused attention as long as
        attention weights are not dropped and clips are short (a tail of three layers of width 384, 32 clips of 88
        tokens: 0.33 s a batch against 0.44 s). In float32, or from 256 steps on, the fused one is as fast or faster
        and keeps no (time, time) weights.
        """
        eager = torch.is_autocast_enabled("cpu") and hidden.device.type == "cpu" and hidden.shape[1] < 256
        self._config._attn_implementation = "eager" if eager else "sdpa"
        if mask.all():
            return None
        keys = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None]  # a missing clip attends to anything, but not NaN
        if not eager:
            return keys
        return torch.zeros(keys.shape, device=keys.device).masked_fill(~keys, torch.finfo(torch.float32).min)

    def _frames(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(clips, segments * tokens, dim) -> (clips, segments * frames, dim): each segment went through the network by
        itself."""
        frames = self._config.num_frames
        n_tokens = 1 + frames * (self._config.image_size // self._config.patch_size) ** 2
        if tokens.shape[1] % n_tokens:
            raise ValueError(f"{tokens.shape[1]} time steps are no multiple of the {n_tokens} tokens of a segment")
        own = mask.unflatten(1, (-1, n_tokens))  # (clips, segments, tokens)
        present = own.all(dim=2)
        if not present.equal(own.any(dim=2)):
            raise UserError(
                "time_masking: hides single tokens, and a TimeSformer tail needs whole segments: set it to 0"
            )
        hidden = self._run(tokens.unflatten(1, (-1, n_tokens))[present], {})  # (segments present, tokens, dim)
        pooled = pool_patches(hidden, "timesformer", self._config)
        out = pooled.new_zeros(*present.shape, frames, pooled.shape[-1])
        out[present] = pooled
        return out.flatten(1, 2), present.repeat_interleave(frames, dim=1)

    def train(self, mode: bool = True) -> "Tail":
        super().train(mode)
        self.layers[: self._n_frozen].eval()
        return self


def _call(layer: nn.Module, hidden: Tensor, given: dict[str, Any]) -> Tensor:
    out = layer(hidden, **given)
    return out[0] if isinstance(out, tuple) else out


def _add_adapters(layer: nn.Module, rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("fine_tune: lora_rank needs PEFT; install it with: pip install -e .[lora]") from error
    linear = [name for name, module in layer.named_modules() if isinstance(module, nn.Linear)]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear), layer)
