"""Where a trained network looks: the weights of its attention over a unit's clips and over the time steps of each.

Weights say what was averaged, not what mattered: a step with a large weight may hold nothing that decides, and one with
a small weight may have reached all others through a recurrent layer before (Jain and Wallace 2019, arXiv:1902.10186).
They are shown beside what is lost when the same thing is taken away (``occlusion.py``), and never instead of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heads.data.batches import Batch, UnitData
from heads.models.cross_modal import CrossModalHead
from heads.models.network import Network, NetworkModel
from heads.models.parts import AttentionPooling, AttentiveStatistics
from heads.models.transformer import RotaryAttention

Shares = np.ndarray  # of one whole: they sum to 1


@dataclass(frozen=True)
class Attention:
    """What a network attends to in one unit, by the unit's clips in order; empty where it has no such attention.

    Attributes:
        clips: (clips,) shares of the conversation.
        steps: input, number of the clip: (steps,) shares of the clip. Step k of n covers the k-th of n equal parts
            of the clip; there may be fewer of them than in the store, or more.
        across: asking input, answering input: (clips,) shares of what the labelled clip asks of the other.
    """

    clips: Shares = field(default_factory=lambda: np.empty(0))
    steps: dict[tuple[str, int], Shares] = field(default_factory=dict)
    across: dict[tuple[str, str], Shares] = field(default_factory=dict)


def attention_of(models: Sequence[Any], data: Any, index: int) -> Attention:
    """The attention of several models of one head to a unit of what the head read, averaged.

    Models without attention (a linear one, trees, a network that reads no store, or of which nothing counts beside its
    linear base) give an empty one.
    """
    networks = [model for model in models if isinstance(model, NetworkModel) and model.network.sizes.dims]
    found = [_attention(model, data, index) for model in networks if model.share]
    if not found:
        return Attention()
    return Attention(
        np.mean([each.clips for each in found], axis=0),
        {key: np.mean([each.steps[key] for each in found], axis=0) for key in found[0].steps},
        {key: np.mean([each.across[key] for each in found], axis=0) for key in found[0].across},
    )


@torch.inference_mode()
def _attention(model: NetworkModel, data: UnitData, index: int) -> Attention:
    network = model.network.eval()
    batch = data.batch(np.array([index]), data.metadata_ids(model.vocabularies)).to(model.device)
    with _recorded(network) as seen:
        network(batch)
    rows = batch.clips[0].tolist()  # of a unit's clips in the batch
    if isinstance(network, CrossModalHead):
        return _cross_modal(network, seen, batch, rows)
    clips = seen["conversation.context.pool"].weights[0, 0]  # (places,)
    # Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928): half of each state is its own, by the residual.
    for name in reversed([name for name in seen if name.endswith(".attention")]):
        mixed = seen[name].weights[0]  # (places, places)
        clips = clips @ (0.5 * mixed + 0.5 * torch.eye(len(mixed), device=mixed.device))
    steps = {}
    for name in network.sizes.dims:
        for place, weights in _within_clips(seen, f"conversation.modalities.{name}.pool", batch, name, rows).items():
            steps[name, place] = weights[0].cpu().numpy()
    return Attention(clips.double().cpu().numpy(), steps)


def _cross_modal(network: Network, seen: dict[str, "_Seen"], batch: Batch, rows: list[int]) -> Attention:
    """Shares of time: those of the parts of a clip, times those of the steps within each part."""
    clips = seen["context.pool"].weights[0, 0].double().cpu().numpy()
    steps: dict[tuple[str, int], Shares] = {}
    parts: dict[str, Tensor] = {}  # input: (places, parts) shares of each clip's own parts
    members: dict[str, Tensor] = {}
    for name in network.sizes.dims:
        pool = seen[f"pools.{name}"]
        parts[name], members[name] = pool.weights[0].double(), pool.members[0]
        within = _within_clips(seen, f"modalities.{name}.clips.pool", batch, name, rows)
        for place, row in enumerate(rows):
            if not bool((batch.frames[name].places == row).any()):
                continue  # it lacks the input: a learned vector stands there
            own = parts[name][place][members[name][place]]  # (parts of the clip,)
            shares = own @ within[place][: len(own)] if place in within else own
            steps[name, place] = shares.cpu().numpy()
    across = {}
    for name in network.sizes.dims:
        for other in network.cross[name].others:  # type: ignore[union-attr, index]
            answers = seen[f"cross.{name}.others.{other}"].weights[0].double()  # (parts that ask, parts that answer)
            asked = parts[name][-1] @ answers  # of the labelled clip: (parts that answer,)
            across[name, other] = (members[other].double() @ asked).cpu().numpy()
    return Attention(clips, steps, across)


def _within_clips(
    seen: dict[str, "_Seen"], module: str, batch: Batch, modality: str, rows: list[int]
) -> dict[int, Tensor]:
    """Number of a clip in the unit: (parts, steps) weights of its own steps. Nothing where nothing is pooled."""
    if module not in seen:
        return {}
    weights, members = seen[module].weights, seen[module].members
    places = {row: place for place, row in enumerate(rows)}
    return {
        places[clip]: weights[row][:, members[row].any(0)].double()
        for row, clip in enumerate(batch.frames[modality].places.tolist())
    }


@dataclass(frozen=True)
class _Seen:
    weights: Tensor
    members: Tensor  # which steps belong to which part; of multi-head attention: which places may answer


@contextmanager
def _recorded(network: nn.Module) -> Iterator[dict[str, _Seen]]:
    """The weights of every attention that the network's next call uses, by the module's name.

    They are computed again from what entered the module: the call itself runs as it always does.
    """
    seen: dict[str, _Seen] = {}

    def note(name: str) -> Any:
        def hook(module: Any, given: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
            if isinstance(module, nn.MultiheadAttention):
                mask = named["key_padding_mask"]
                query, key, value = given
                _, weights = module.forward(query, key, value, key_padding_mask=mask)  # averaged over its heads
                assert weights is not None
                seen[name] = _Seen(weights, ~mask)
            else:
                seen[name] = _Seen(module.weights(*given), given[1])

        return hook

    kinds = (AttentiveStatistics, AttentionPooling, RotaryAttention, nn.MultiheadAttention)
    handles = [
        module.register_forward_hook(note(name), with_kwargs=True)
        for name, module in network.named_modules()
        if isinstance(module, kinds)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
