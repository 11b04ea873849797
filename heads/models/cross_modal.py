"""The cross-modal head, the published video architecture for any inputs: clips and metadata -> one of N classes.

per clip and input      cut into parts in time -> a vector each (a single learned one where the clip lacks it)
per input               bidirectional LSTM over all parts of all clips -> self-attention
per pair of inputs      cross-modal attention: the parts of one ask, the parts of the other answer
per clip                each input's parts pooled, beside the metadata stream: the unit's fields, the clip's role
per conversation        bidirectional LSTM over the clips -> attention pooling, and the labelled clip's state
per unit                classifier
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from heads.data.batches import Batch
from heads.models.parts import (
    ROLE_WIDTH,
    Attention,
    AttentionPooling,
    BidirectionalLSTM,
    ClipEncoder,
    ContextVector,
    HeadSizes,
    MetadataEmbeddings,
    classifier,
)


class CrossModalHead(nn.Module):
    """Logits of units."""

    def __init__(self, sizes: HeadSizes, tails: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.sizes = sizes
        hidden, width = sizes.hidden, 2 * sizes.hidden
        self.modalities = nn.ModuleDict({name: ModalityStream(name, sizes, tails.get(name)) for name in sizes.dims})
        self.cross = nn.ModuleDict({name: CrossAttention(name, sizes) for name in sizes.dims})
        self.pools = nn.ModuleDict({name: AttentionPooling(width, hidden) for name in sizes.dims})
        self.fields = MetadataEmbeddings(sizes.vocabularies)
        self.role = nn.Embedding(sizes.roles, ROLE_WIDTH)
        self.metadata = nn.Sequential(nn.Linear(self.fields.width + ROLE_WIDTH, hidden), nn.GELU())
        self.fusion = BidirectionalLSTM(len(sizes.dims) * width + hidden, hidden, sizes.lstm_layers, sizes.dropout)
        self.context = ContextVector(width, hidden)
        self.classifier = classifier(2 * width, sizes)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Returns logits, (batch, classes)."""
        return self.classifier(self.representation(batch))

    def representation(self, batch: Batch) -> Tensor:
        """What the classifier sees of each unit, (batch, width)."""
        return self.context(self.states(batch), batch.mask)

    def states(self, batch: Batch) -> Tensor:
        """What each clip is among the others, (batch, places, 2 * hidden)."""
        pooled = self.clip_states(batch)
        fields = self.fields(batch.metadata).unsqueeze(1).expand(-1, batch.mask.shape[1], -1)
        metadata = self.metadata(torch.cat([fields, self.role(batch.roles)[batch.clips]], dim=2))
        clips = torch.cat([*pooled.values(), metadata], dim=2)  # (batch, places, width)
        return self.dropout(self.fusion(self.dropout(clips), batch.mask))

    def clip_states(self, batch: Batch) -> dict[str, Tensor]:
        """What cross-modal attention makes of each input of each clip, (batch, places, 2 * hidden)."""
        streams = {name: stream(batch) for name, stream in self.modalities.items()}
        result = {}
        for name, (states, _, members) in streams.items():
            others = {other: (keys, mask) for other, (keys, mask, _) in streams.items()}
            result[name] = self.pools[name](self.cross[name](states, others), members)
        return result


class ModalityStream(nn.Module):
    """One input of a conversation: the parts of its clips, in time, each knowing the others.

    Returns states (batch, parts, 2 * hidden), their mask (batch, parts), True up to a conversation's end, and which
    parts belong to which clip (batch, places, parts); each clip has one at least.
    """

    def __init__(self, name: str, sizes: HeadSizes, tail: nn.Module | None) -> None:
        super().__init__()
        self.clips = ClipEncoder(name, sizes, tail)
        self.role = nn.Embedding(sizes.roles, ROLE_WIDTH)
        self.lstm = BidirectionalLSTM(sizes.hidden + ROLE_WIDTH, sizes.hidden, sizes.lstm_layers, sizes.dropout)
        self.attention = Attention(2 * sizes.hidden, sizes.attention_heads, sizes.dropout)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        vectors, present = self.clips(batch.frames[self.clips.modality], len(batch.roles))
        roles = self.role(batch.roles).unsqueeze(1).expand(-1, vectors.shape[1], -1)
        vectors = torch.cat([vectors, roles], dim=2)[batch.clips].flatten(1, 2)  # (batch, places * parts, width)
        mask = (present[batch.clips] & batch.mask.unsqueeze(2)).flatten(1)
        place = torch.arange(batch.mask.shape[1], device=mask.device).repeat_interleave(present.shape[1])

        # Clips have different numbers of parts: move those that there are together, in order.
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
        vectors = vectors.gather(1, order.unsqueeze(2).expand(-1, -1, vectors.shape[2]))
        mask = mask.gather(1, order)
        places = torch.arange(batch.mask.shape[1], device=mask.device).unsqueeze(1)
        members = (place[order].unsqueeze(1) == places) & mask.unsqueeze(1)

        states = self.dropout(self.lstm(vectors, mask))
        return self.attention(states, states, mask), mask, members


class CrossAttention(nn.Module):
    """Queries from one input, keys and values from each other one; an input that is alone asks itself.

    Tsai et al. 2019, arXiv:1906.00295, section 3.1, with what the other inputs answer added up.
    """

    def __init__(self, name: str, sizes: HeadSizes) -> None:
        super().__init__()
        width = 2 * sizes.hidden
        others = [other for other in sizes.dims if other != name] or [name]
        self.others = nn.ModuleDict(
            {
                other: nn.MultiheadAttention(width, sizes.attention_heads, sizes.dropout, batch_first=True)
                for other in others
            }
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, states: Tensor, streams: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """``states`` (batch, parts, width) ask; ``streams`` has every input's states and their mask."""
        answers = states
        for other, attention in self.others.items():
            keys, mask = streams[other]
            answer, _ = attention(states, keys, keys, key_padding_mask=~mask, need_weights=False)
            answers = answers + answer
        return self.norm(answers)
