"""What networks are made of: encoders of a clip's inputs, recurrence, attention, embeddings of metadata.

Shapes: units of a batch are ``batch``; the clips they see, each once, are ``clips``; the clips of the longest unit are
``places``; encoder time steps are ``time``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from heads.data.batches import Frames
from heads.data.finer import ClassesOf

SMALLEST_VARIANCE = 1e-8  # the square root's gradient is infinite at 0, which one time step reaches
ROLE_WIDTH = 16
LAYER_RATE = 30  # how much faster than other parameters the scores of layers move: trainings here are some 100 steps
FIELD_WIDTHS = {"age": 16, "gender": 8, "timbre": 8, "topic": 32, "id": 32, "identity": 32}  # as published


@dataclass(frozen=True)
class HeadSizes:
    """Everything that decides the shape of a network; saved beside its weights."""

    kind: str  # of a network: sequence, transformer or cross_modal
    classes: int
    dims: dict[str, int]  # input (an encoder's name): width of what is read of it
    roles: int
    vocabularies: dict[str, int]  # metadata field: number of ids, with 0 for unknown
    hidden: int
    attention_heads: int
    dropout: float
    lstm_layers: int = 1
    layers: int = 1  # of a transformer
    time: Literal["attentive", "statistics", "lstm"] = "attentive"
    segments: int = 1  # the most vectors that an input of a clip becomes
    speaker_identity: bool = False  # whether the vocabularies have who speaks and who listens
    finer: list[int] = field(default_factory=list)  # the class of each finer label that is learned, if any is
    tails: dict[str, dict[str, Any]] = field(default_factory=dict)  # input: what its tail is made from
    mixes: dict[str, dict[str, Any]] = field(default_factory=dict)  # input of several layers: what LayerMix takes


class ClipEncoder(nn.Module):
    """One input of every clip: its time steps cut into at most ``segments`` parts, a vector for each.

        tail, or standardise -> LayerNorm -> (bidirectional LSTM) -> attentive statistics of each part -> projection

    Where a store has several layers, their mix is what is normed.
    With ``time: statistics`` what is read are statistics of parts already, and nothing is pooled. A clip that lacks the
    modality has a learned vector as its only part.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, modality: str, sizes: HeadSizes, tail: nn.Module | None = None) -> None:
        super().__init__()
        width = sizes.dims[modality]
        self.modality, self.segments = modality, sizes.segments
        self.tail = tail
        if tail is None:  # what a tail gives moves while it is trained
            self.register_buffer("mean", torch.zeros(width))  # of the training units' features
            self.register_buffer("scale", torch.ones(width))
        self.mix = LayerMix(**sizes.mixes[modality]) if modality in sizes.mixes else None
        if self.mix is not None:
            width = self.mix.width
        self.norm = nn.LayerNorm(width)
        self.lstm = self.pool = None
        if sizes.time == "lstm":
            self.lstm = BidirectionalLSTM(width, sizes.hidden)
            width = 2 * sizes.hidden
        if sizes.time != "statistics":
            self.pool = AttentiveStatistics(width, sizes.hidden)
            width = 2 * width
        self.project = nn.Sequential(nn.Linear(width, sizes.hidden), nn.GELU(), nn.Dropout(sizes.dropout))
        self.missing = nn.Parameter(torch.randn(sizes.hidden) * 0.1)

    def forward(self, frames: Frames, n_clips: int) -> tuple[Tensor, Tensor]:
        """Returns (clips, parts, hidden), and the mask (clips, parts) of the parts there are: at least one a clip."""
        if not len(frames.places):
            missing = self.missing.expand(n_clips, 1, -1)
            return missing, torch.ones_like(missing[..., 0], dtype=torch.bool)
        values, mask = frames.values, frames.mask  # of the clips that have it: (with it, time, dim)
        if self.tail is None:
            values = (values - self.mean) / self.scale
        else:
            values, mask = self.tail(values, mask)
        if self.mix is not None:
            values = self.mix(values)
        values = self.norm(values)
        if self.lstm is not None:
            values = self.lstm(values, mask)
        if self.pool is not None:
            members = segment_members(mask, self.segments)  # (with it, parts, time)
            values, mask = self.pool(values, members), members.any(2)
        present = self.project(values)  # (with it, parts, hidden)

        vectors = self.missing.to(present.dtype).expand(n_clips, present.shape[1], -1)
        masks = (torch.arange(present.shape[1], device=mask.device) == 0).expand(n_clips, -1)
        return vectors.index_copy(0, frames.places, present), masks.index_copy(0, frames.places, mask)


class LayerMix(nn.Module):
    """A learned average of an encoder's layers, the weights a softmax: Yang et al. 2021, arXiv:2105.01051.

    ``(clips, time, columns)`` -> ``(clips, time, width)``; it begins with the plain average.

    Args:
        numbers: the layers, by their index in the encoder.
        starts: the first column of each; ``width`` follow.
    """

    def __init__(self, numbers: list[int], starts: list[int], width: int) -> None:
        super().__init__()
        self.numbers, self.starts, self.width = numbers, starts, width
        self.scores = nn.Parameter(torch.zeros(len(numbers)))

    def forward(self, values: Tensor) -> Tensor:
        layers = torch.stack([values[..., start : start + self.width] for start in self.starts], dim=-2)
        return (LAYER_RATE * self.scores).softmax(0).to(layers.dtype) @ layers

    @property
    def weights(self) -> dict[int, float]:
        """What each layer counts; they sum to 1."""
        return dict(zip(self.numbers, (LAYER_RATE * self.scores.detach()).softmax(0).tolist(), strict=True))


def segment_members(mask: Tensor, segments: int) -> Tensor:
    """Which time steps belong to which part: step t of n to part ``t * min(segments, n) // n``.

    Args:
        mask: (clips, time), at least one True in each row.
    Returns:
        bool (clips, parts, time), with as many parts as any clip has.
    """
    n_steps = mask.sum(1, keepdim=True)
    part = (mask.cumsum(1) - 1) * n_steps.clamp(max=segments) // n_steps  # (clips, time)
    parts = torch.arange(min(segments, mask.shape[1]), device=mask.device)
    return (part.unsqueeze(1) == parts.unsqueeze(1)) & mask.unsqueeze(1)


class AttentiveStatistics(nn.Module):
    """Attention-weighted mean and standard deviation over time: Okabe et al. 2018, arXiv:1803.10963, eq. 3-6.

    ``(clips, time, dim)`` and the steps of each part ``(clips, parts, time)``, of which no two parts share one, ->
    ``(clips, parts, 2 * dim)``; finite, but without meaning, for a part without steps.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.score = attention_score(dim, hidden)

    def weights(self, values: Tensor, members: Tensor) -> Tensor:
        """What each step weighs in each part, (clips, parts, time): a part's weights sum to 1."""
        scores = self.score(values).transpose(1, 2).float()  # (clips, 1, time)
        with torch.autocast(values.device.type, enabled=False):
            return masked_softmax(scores, members | ~members.any(2, keepdim=True))

    def forward(self, values: Tensor, members: Tensor) -> Tensor:
        weights = self.weights(values, members)
        with torch.autocast(values.device.type, enabled=False):  # a mean in half precision makes deviations up
            values = values.float()
            mean = weights @ values  # (clips, parts, dim)
            # Not E[x^2] - E[x]^2: its rounding error, under a square root, would depend on the batch.
            variance = weights @ (values - members.transpose(1, 2).float() @ mean).square()
            return torch.cat([mean, variance.clamp(min=SMALLEST_VARIANCE).sqrt()], dim=2)


class BidirectionalLSTM(nn.Module):
    """A bidirectional LSTM over right-padded sequences whose padding never enters, without PackedSequence.

    ``(batch, places, width)`` and its mask ``(batch, places)`` -> ``(batch, places, 2 * hidden)``. The backward
    direction reads each sequence reversed within its own length, so that padding stays on the right for both.
    """

    def __init__(self, width: int, hidden: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [width] + [2 * hidden] * (layers - 1)
        self.ahead = nn.ModuleList(nn.LSTM(each, hidden, batch_first=True) for each in widths)
        self.back = nn.ModuleList(nn.LSTM(each, hidden, batch_first=True) for each in widths)
        self.dropout = nn.Dropout(dropout)  # between layers

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        order = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        order = torch.where(mask, mask.sum(1, keepdim=True) - 1 - order, order).unsqueeze(2)  # (batch, places, 1)
        for layer, (run_ahead, run_back) in enumerate(zip(self.ahead, self.back, strict=True)):
            states = self.dropout(states) if layer else states
            ahead, _ = run_ahead(states)
            back, _ = run_back(_reorder(states, order))
            states = torch.cat([ahead, _reorder(back, order)], dim=2)
        return states


def _reorder(states: Tensor, order: Tensor) -> Tensor:
    return states.gather(1, order.expand(-1, -1, states.shape[2]))


class Attention(nn.Module):
    """Multi-head attention with a residual connection and LayerNorm; of a sequence to itself, or to another one."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, states: Tensor, others: Tensor, others_mask: Tensor) -> Tensor:
        """``states`` (batch, places, width) ask, ``others`` (batch, other places, width) answer where their mask is
        True, at one place at least."""
        attended, _ = self.attention(states, others, others, key_padding_mask=~others_mask, need_weights=False)
        return self.norm(states + attended)


class AttentionPooling(nn.Module):
    """Attention-weighted means: ``(batch, steps, width)`` and the steps of each part ``(batch, parts, steps)`` ->
    ``(batch, parts, width)``; finite, but without meaning, for a part without steps."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.score = attention_score(width, hidden)

    def weights(self, states: Tensor, members: Tensor) -> Tensor:
        """What each step weighs in each part, (batch, parts, steps): a part's weights sum to 1."""
        scores = self.score(states).transpose(1, 2)  # (batch, 1, steps)
        return masked_softmax(scores, members | ~members.any(2, keepdim=True))

    def forward(self, states: Tensor, members: Tensor) -> Tensor:
        return self.weights(states, members) @ states


class ContextVector(nn.Module):
    """What a conversation's clips come to: attention pooling over them, beside the state of the last, the labelled one.

    ``(batch, places, width)`` and its mask ``(batch, places)`` -> ``(batch, 2 * width)``.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.pool = AttentionPooling(width, hidden)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        last = mask.sum(1) - 1
        labelled = states[torch.arange(len(last), device=last.device), last]
        return torch.cat([self.pool(states, mask.unsqueeze(1)).squeeze(1), labelled], dim=1)


class MetadataEmbeddings(nn.Module):
    """Ids ``(batch, fields)`` -> embeddings side by side, ``(batch, width)``."""

    def __init__(self, vocabularies: Mapping[str, int]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, embedding_width(name, n)) for name, n in vocabularies.items())
        self.width = sum(embedding_width(name, n) for name, n in vocabularies.items())

    def forward(self, ids: Tensor) -> Tensor:
        embedded = [table(ids[:, i]) for i, table in enumerate(self.tables)]
        return torch.cat(embedded, dim=1) if embedded else ids.new_zeros(len(ids), 0, dtype=torch.float32)


def embedding_width(name: str, cardinality: int) -> int:
    """As published, going by the last word of the field's name; 8 to 32, by the number of categories, for others."""
    last_word = re.split(r"[^a-z]+", name.lower())[-1]
    return FIELD_WIDTHS.get(last_word, min(32, max(8, 2 * ceil(sqrt(cardinality)))))


def attention_score(width: int, hidden: int) -> nn.Sequential:
    """One number for each vector: v' tanh(W x + b)."""
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension; exactly 0 where the mask is False. Every row has a True."""
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)


def classifier(width: int, sizes: HeadSizes) -> nn.Sequential:
    """What is known of a unit, (batch, width) -> logits; where finer labels are learned, by way of theirs."""
    outputs = nn.Linear(sizes.hidden, len(sizes.finer) or sizes.classes)
    steps = [nn.Linear(width, sizes.hidden), nn.GELU(), nn.Dropout(sizes.dropout), outputs]
    return nn.Sequential(*steps, *([ClassesOf(sizes.finer)] if sizes.finer else []))
