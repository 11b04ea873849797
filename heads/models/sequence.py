"""The sequence head, the published audio architecture for any inputs: clips and metadata -> one of N classes.

per clip and input      attentive statistics over time -> projection (a learned vector where the clip lacks it)
per clip                inputs joined -> projection, beside an embedding of the clip's role
per conversation        bidirectional LSTM -> self-attention -> attention pooling, and the labelled clip's state
per unit                joined with metadata embeddings -> classifier

The transformer head is the same with a transformer in place of LSTM and self-attention.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from heads.data.batches import Batch
from heads.models.parts import (
    ROLE_WIDTH,
    Attention,
    BidirectionalLSTM,
    ClipEncoder,
    ContextVector,
    HeadSizes,
    MetadataEmbeddings,
    classifier,
)
from heads.models.transformer import ClipTransformer


class SequenceHead(nn.Module):
    """Logits of units. A head without inputs sees the metadata alone."""

    def __init__(self, sizes: HeadSizes, tails: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.sizes = sizes
        self.conversation = Conversation(sizes, tails) if sizes.dims else None
        self.metadata = MetadataEmbeddings(sizes.vocabularies)
        self.classifier = classifier((4 * sizes.hidden if sizes.dims else 0) + self.metadata.width, sizes)

    def forward(self, batch: Batch) -> Tensor:
        """Returns logits, (batch, classes)."""
        return self.classifier(self.representation(batch))

    def representation(self, batch: Batch) -> Tensor:
        """What the classifier sees of each unit, (batch, width)."""
        parts = [] if self.conversation is None else [self.conversation(batch)]
        return torch.cat([*parts, self.metadata(batch.metadata)], dim=1)

    def states(self, batch: Batch) -> Tensor:
        """What each clip is among the others, (batch, places, 2 * hidden); of a head with inputs."""
        assert self.conversation is not None
        return self.conversation.states(batch)


class Conversation(nn.Module):
    """Clips up to the labelled one -> (batch, 4 * hidden)."""

    def __init__(self, sizes: HeadSizes, tails: Mapping[str, nn.Module]) -> None:
        super().__init__()
        width = 2 * sizes.hidden
        self.modalities = nn.ModuleDict({name: ClipEncoder(name, sizes, tails.get(name)) for name in sizes.dims})
        self.join = nn.Linear(len(sizes.dims) * sizes.hidden, sizes.hidden)
        self.transformer = ClipTransformer(sizes) if sizes.kind == "transformer" else None
        if self.transformer is None:
            self.role = nn.Embedding(sizes.roles, ROLE_WIDTH)
            self.lstm = BidirectionalLSTM(sizes.hidden + ROLE_WIDTH, sizes.hidden, sizes.lstm_layers, sizes.dropout)
            self.attention = Attention(width, sizes.attention_heads, sizes.dropout)
        self.context = ContextVector(width, sizes.hidden)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, batch: Batch) -> Tensor:
        return self.context(self.states(batch), batch.mask)

    def states(self, batch: Batch) -> Tensor:
        """What each clip is among the others, (batch, places, 2 * hidden)."""
        n_clips = len(batch.roles)
        encoded = [encoder(batch.frames[name], n_clips)[0].squeeze(1) for name, encoder in self.modalities.items()]
        joined = self.dropout(self.join(torch.cat(encoded, dim=1)))
        if self.transformer is not None:
            roles, speakers = batch.roles[batch.clips], batch.speakers[batch.clips]
            return self.transformer(joined[batch.clips], roles, speakers, batch.mask)
        clips = torch.cat([joined, self.role(batch.roles)], dim=1)[batch.clips]  # (batch, places, hidden + 16)
        states = self.dropout(self.lstm(clips, batch.mask))
        return self.attention(states, states, batch.mask)
