"""Which layers of a network a profile needs, and where a network can be cut so that those above are trained."""

from typing import Any

import torch

from configs import UserError
from configs.schema import Encoder

# Where an architecture keeps its layers, if these need nothing but what enters them and a mask: such a network can be
# cut at a boundary. WavLM's cannot: they also need the position bias that the first one computes.
LAYERS = {
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
    "camembert": "encoder.layer",
    "electra": "encoder.layer",
    "distilbert": "transformer.layer",
    "wav2vec2": "encoder.layers",
    "hubert": "encoder.layers",
    "timesformer": "encoder.layer",
}


def keep_needed_layers(network: Any, spec: Encoder) -> None:
    """Cut off the layers that a profile's ``layer`` or ``boundary`` does not depend on.

    Below a boundary b there are layers 0 to b - 1, and what leaves the last of them enters layer b. (Layer 0 is never
    cut off: transformers notes what enters it when it runs.)

    Raises:
        UserError: the network cannot be cut, or not there.
    """
    if spec.boundary is None:
        drop_unused_layers(network, spec.layer)
        return
    layers, norm = places_of_tail(network, spec)
    owner, _, name = layers.rpartition(".")
    setattr(network.get_submodule(owner), name, network.get_submodule(layers)[: max(1, spec.boundary)])
    if norm:
        network.set_submodule(norm, torch.nn.Identity())


def places_of_tail(network: Any, spec: Encoder) -> tuple[str, str | None]:
    """Names, in a network, of the list of its layers, and of the normalisation behind the last one if it has one.

    Raises:
        UserError: an architecture that cannot be cut, or no layer above ``spec.boundary``.
    """
    config = network.config
    key = f"boundary = {spec.boundary}"
    # A decoder's attention looks back only, and an adapter behind the last layer shortens time.
    if config.model_type not in LAYERS or getattr(config, "is_decoder", False) or getattr(config, "add_adapter", False):
        known = ", ".join(LAYERS)
        raise UserError(f"{key}: {spec.model} is a {config.model_type} network that cannot be cut; these can: {known}")
    if getattr(config, "attention_type", None) == "space_only":
        raise UserError(f"{key}: {spec.model} looks at each frame by itself (space_only) and cannot be cut")
    layers = LAYERS[config.model_type]
    n = len(network.get_submodule(layers))
    if spec.boundary is None or spec.boundary >= n:
        raise UserError(f"{key}: {spec.model} has {n} layers, and one must be left above it: {n - 1} at most")
    if config.model_type == "timesformer":
        return layers, "layernorm"
    return layers, "encoder.layer_norm" if getattr(config, "do_stable_layer_norm", False) else None


def drop_unused_layers(network: Any, layer: int) -> None:
    """Cut off the transformer layers above ``hidden_states[layer]``: they cost time and change nothing below them.

    One layer more than needed stays: the last of ``hidden_states`` is not the plain output of a layer in every model.
    A layer counted from the end keeps them all.
    """
    n_layers = getattr(network.config, "num_hidden_layers", 0)
    for owner in network.modules():
        for name in ("layer", "layers"):
            stack = getattr(owner, name, None)
            if not isinstance(stack, torch.nn.ModuleList) or len({type(each) for each in stack}) != 1:
                continue  # a layer of T5 has a list of its parts, under this name
            if len(stack) == n_layers and 0 <= layer < n_layers:
                setattr(owner, name, stack[: layer + 1])
