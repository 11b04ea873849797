"""The sequence head: a conversation's clips, in any modalities, and metadata -> one of N classes.

    per clip and modality   standardise -> LayerNorm -> attentive statistics over time -> projection
                            (a learned vector where the clip lacks the modality)
    per clip                modalities joined -> projection, plus an embedding of the clip's role
    per conversation        bidirectional LSTM -> self-attention -> attention pooling, and the labelled clip's state
    per unit                joined with metadata embeddings -> classifier

Shapes: units of a batch are ``batch``; all their clips, one after another, are ``clips``; the clips of the longest
unit are ``places``; encoder time steps are ``time``.
"""

from dataclasses import dataclass
from math import ceil, sqrt

import torch
from torch import Tensor, nn

from heads.batches import Batch, Frames

SMALLEST_VARIANCE = 1e-8  # the square root's gradient is infinite at 0, which one time step reaches


@dataclass(frozen=True)
class HeadSizes:
    """Everything that decides the shape of a head; saved beside its weights."""

    classes: int
    dims: dict[str, int]  # modality: width of its store
    roles: int
    vocabularies: dict[str, int]  # metadata field: number of ids, with 0 for unknown
    hidden: int
    attention_heads: int
    dropout: float


class SequenceHead(nn.Module):
    """Logits of units. A head without modalities sees the metadata alone."""

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        self.sizes = sizes
        width = 0
        if sizes.dims:
            self.conversation = Conversation(sizes)
            width += 4 * sizes.hidden
        self.metadata = nn.ModuleList(nn.Embedding(n, embedding_width(n)) for n in sizes.vocabularies.values())
        width += sum(embedding_width(n) for n in sizes.vocabularies.values())
        self.classifier = nn.Sequential(
            nn.Linear(width, sizes.hidden), nn.GELU(), nn.Dropout(sizes.dropout), nn.Linear(sizes.hidden, sizes.classes)
        )

    def forward(self, batch: Batch) -> Tensor:
        """Returns logits, (batch, classes)."""
        parts = [self.conversation(batch)] if self.sizes.dims else []
        parts += [embed(batch.metadata[:, i]) for i, embed in enumerate(self.metadata)]
        return self.classifier(torch.cat(parts, dim=1))


class Conversation(nn.Module):
    """Clips up to the labelled one -> (batch, 4 * hidden)."""

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        width = 2 * sizes.hidden
        self.modalities = nn.ModuleDict({name: ModalityEncoder(dim, sizes) for name, dim in sizes.dims.items()})
        self.join = nn.Linear(len(sizes.dims) * sizes.hidden, sizes.hidden)
        self.role = nn.Embedding(sizes.roles, sizes.hidden)
        self.lstm = BidirectionalLSTM(sizes.hidden, sizes.hidden)
        self.attention = nn.MultiheadAttention(width, sizes.attention_heads, sizes.dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.pool_score = attention_score(width, sizes.hidden)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, batch: Batch) -> Tensor:
        n_clips = len(batch.roles)
        encoded = [encoder(batch.frames[name], n_clips) for name, encoder in self.modalities.items()]
        clips = self.join(torch.cat(encoded, dim=1)) + self.role(batch.roles)  # (clips, hidden)

        states = clips.new_zeros(*batch.mask.shape, clips.shape[1])  # (batch, places, hidden)
        states[batch.mask] = self.dropout(clips)
        states = self.dropout(self.lstm(states, batch.mask))  # (batch, places, 2 * hidden)

        attended, _ = self.attention(states, states, states, key_padding_mask=~batch.mask, need_weights=False)
        states = self.norm(states + attended)
        weights = masked_softmax(self.pool_score(states).squeeze(2), batch.mask)  # (batch, places)
        pooled = (weights.unsqueeze(1) @ states).squeeze(1)
        last = batch.mask.sum(1) - 1
        return torch.cat([pooled, states[torch.arange(len(last), device=last.device), last]], dim=1)


class ModalityEncoder(nn.Module):
    """One modality of every clip -> (clips, hidden)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, sizes: HeadSizes) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))  # of the training units' features: see fit_scalers
        self.register_buffer("scale", torch.ones(dim))
        self.norm = nn.LayerNorm(dim)
        self.pool = AttentiveStatistics(dim, sizes.hidden)
        self.project = nn.Sequential(nn.Linear(2 * dim, sizes.hidden), nn.GELU(), nn.Dropout(sizes.dropout))
        self.missing = nn.Parameter(torch.randn(sizes.hidden) * 0.1)

    def forward(self, frames: Frames, n_clips: int) -> Tensor:
        clips = self.missing.expand(n_clips, -1)
        if not len(frames.places):
            return clips
        values = (frames.values - self.mean) / self.scale  # (clips that have it, time, dim)
        present = self.project(self.pool(self.norm(values), frames.mask))
        return clips.index_copy(0, frames.places, present)


class AttentiveStatistics(nn.Module):
    """Attention-weighted mean and standard deviation over time: Okabe et al. 2018, arXiv:1803.10963, eq. 3-6.

    ``(clips, time, dim)`` and its mask ``(clips, time)`` -> ``(clips, 2 * dim)``.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.score = attention_score(dim, hidden)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        weights = masked_softmax(self.score(values).squeeze(2), mask).unsqueeze(1)  # (clips, 1, time)
        mean = weights @ values  # (clips, 1, dim)
        # Not E[x^2] - E[x]^2: its rounding error, under a square root, would depend on the batch.
        variance = weights @ (values - mean).square()
        deviation = variance.clamp(min=SMALLEST_VARIANCE).sqrt()
        return torch.cat([mean, deviation], dim=2).squeeze(1)


class BidirectionalLSTM(nn.Module):
    """A bidirectional LSTM over right-padded sequences whose padding never enters, without PackedSequence.

    ``(batch, places, width)`` and its mask ``(batch, places)`` -> ``(batch, places, 2 * hidden)``. The backward
    direction reads each sequence reversed within its own length, so that padding stays on the right for both.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.ahead = nn.LSTM(width, hidden, batch_first=True)
        self.back = nn.LSTM(width, hidden, batch_first=True)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        order = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        order = torch.where(mask, mask.sum(1, keepdim=True) - 1 - order, order).unsqueeze(2)  # (batch, places, 1)
        ahead, _ = self.ahead(states)
        back, _ = self.back(_reorder(states, order))
        return torch.cat([ahead, _reorder(back, order)], dim=2)


def _reorder(states: Tensor, order: Tensor) -> Tensor:
    return states.gather(1, order.expand(-1, -1, states.shape[2]))


def attention_score(width: int, hidden: int) -> nn.Sequential:
    """One number for each vector: v' tanh(W x + b)."""
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension; exactly 0 where the mask is False. Every row has a True."""
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)


def embedding_width(cardinality: int) -> int:
    """8 to 32, growing with the number of categories."""
    return min(32, max(8, 2 * ceil(sqrt(cardinality))))
