"""Which layers of a network a profile needs, and where a network can be cut so that those above are trained."""

from collections.abc import Iterable
from typing import Any

import numpy as np
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
        drop_unused_layers(network, spec.layers[-1] if isinstance(spec.layers, list) else spec.layer)
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


class HiddenStates:
    """What a profile takes of a network's hidden states: a layer, or several side by side.

    Several layers are ``(batch, time, the sum of their widths)`` until time is pooled.
    """

    def __init__(self, spec: Encoder) -> None:
        self._spec = spec
        self._taken: list[tuple[int, int]] = []  # number and width of each of several layers, once one batch was seen

    def choose(self, states: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Args: states, where index 0 enters the first layer, and the last leaves the last one."""
        spec = self._spec
        if spec.boundary is not None:
            return states[spec.boundary]
        if spec.layers is None:
            return states[self._known(spec.layer, len(states), "layer")]
        numbers = list(range(len(states))) if spec.layers == "all" else spec.layers
        chosen = [states[self._known(number, len(states), "layers")] for number in numbers]
        chosen = [state.flatten(2).transpose(1, 2) if state.ndim == 4 else state for state in chosen]  # maps
        if len({state.shape[1] for state in chosen}) > 1:  # of a picture, ever coarser: its average is wanted
            chosen = [state.mean(1, keepdim=True) for state in chosen]
        if not self._taken:
            self._taken = [(number, state.shape[2]) for number, state in zip(numbers, chosen, strict=True)]
        return torch.cat(chosen, dim=2)

    def _known(self, number: int, n: int, key: str) -> int:
        if not -n <= number < n:
            raise UserError(f"{key} = {number}: {self._spec.model} gives hidden_states 0 to {n - 1}")
        return number

    def stored_width(self, dim: int) -> int:
        """Numbers in a row of the store where the network gives ``dim`` of a time step."""
        return 2 * dim if self._spec.pooling == "statistics" else dim

    @property
    def fields(self) -> dict[str, Any]:
        """What the fingerprint says of several layers: of each its number and width, and what is stored of it, one
        after the other."""
        if self._spec.layers is None:
            return {}
        statistics = ["mean"] if self._spec.pooling == "mean" else ["mean", "deviation"]
        return {"layers": {"taken": [list(each) for each in self._taken], "statistics": statistics}}


def moments(hidden: torch.Tensor, kept: list[slice]) -> torch.Tensor:
    """The number, the mean and the squared distances from it of each row's kept time steps.

    Args:
        hidden: (batch, time, dim).
    Returns:
        (batch, 3, dim) float64.
    """
    found = hidden.new_empty(len(hidden), 3, hidden.shape[2], dtype=torch.float64)
    for row, values, keep in zip(found, hidden, kept, strict=True):
        steps = values[keep].double()
        row[0] = len(steps)
        row[1] = steps.mean(0)
        row[2] = (steps - row[1]).square_().sum(0)
    return found


def pool_moments(pieces: Iterable[np.ndarray], widths: list[int], deviations: bool) -> np.ndarray:
    """One row of all time steps: layer after layer its means, each followed by its deviations where they are wanted.

    Args:
        pieces: of windows that follow each other, (3, dim) each, as from :func:`moments`.
        widths: of each layer.
    Returns:
        (1, dim or 2 * dim) float32.
    """
    n, mean, squares = 0.0, np.zeros(sum(widths)), np.zeros(sum(widths))
    for (count, *_), piece_mean, piece_squares in pieces:  # Chan, Golub and LeVeque 1983
        n, apart = n + count, piece_mean - mean
        mean = mean + apart * (count / n)
        squares = squares + piece_squares + apart**2 * (count * (n - count) / n)
    if not deviations:
        return np.asarray(mean, dtype=np.float32)[None]
    ends = np.cumsum(widths)[:-1]
    parts = zip(np.split(mean, ends), np.split(np.sqrt(squares / n), ends), strict=True)
    return np.concatenate([part for both in parts for part in both]).astype(np.float32)[None]
