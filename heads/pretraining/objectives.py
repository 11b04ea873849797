"""What a network learns without labels: which inputs belong to one clip, and what a hidden clip was.

- Of each pair of inputs, each clip's encoding by one is to be found among those of all clips of the batch by the other,
  and back: Radford et al. 2021, arXiv:2103.00020, with its learned temperature.
- Some clips of each conversation lose all their inputs; what the conversation's layers make of such a place is to find
  the clip's own encoding, by each of its inputs, among those of all clips of the batch: van den Oord et al. 2018,
  arXiv:1807.03748.
"""

from dataclasses import replace
from itertools import combinations
from math import log

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from configs.schema import Pretraining
from heads.data.batches import Batch
from heads.data.features import Frames
from heads.models.network import Network, clip_encoders

SHARPEST = 0.01  # temperature
OWN = ("classifier.", "metadata.", "fields.", "context.", "conversation.context.")  # of a head, and not pre-trained


class Objectives(nn.Module):
    """A network with what it needs for learning without labels, and which no head has."""

    def __init__(self, network: Network, settings: Pretraining, several: bool, conversing: bool) -> None:
        """``several``, ``conversing``: which of the two objectives there is something for."""
        super().__init__()
        self.network, self._several, self._conversing = network, several, conversing
        self._masked = settings.masked
        hidden = network.sizes.hidden
        self.project = nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in network.sizes.dims})
        self.guess = nn.ModuleDict({name: nn.Linear(2 * hidden, hidden) for name in network.sizes.dims})
        self.sharpness = nn.Parameter(torch.full((2,), -log(settings.temperature)))  # of each objective, logarithmic

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses there are, by name: ``contrastive``, ``masked``; a batch may have neither."""
        vectors = self._encoded(batch)
        scales = self.sharpness.clamp(max=-log(SHARPEST)).exp()
        losses = {}
        if self._several and (found := self._contrastive(batch, vectors, scales[0])):
            losses["contrastive"] = torch.stack(found).mean()
        if self._conversing and (found := self._told_by_others(batch, vectors, scales[1], generator)):
            losses["masked"] = torch.stack(found).mean()
        return losses

    def kept(self) -> dict[str, Tensor]:
        """What heads start from, by the names that it has in their networks."""
        weights = self.network.state_dict()
        if self._conversing:
            return {name: value for name, value in weights.items() if not name.startswith(OWN)}
        modules = dict(self.network.named_modules())
        encoders = [name for name, module in modules.items() if module in clip_encoders(self.network).values()]
        return {name: value for name, value in weights.items() if name.startswith(tuple(f"{e}." for e in encoders))}

    def _encoded(self, batch: Batch) -> dict[str, Tensor]:
        """By input, what it says of the clips that have it, in the order of its frames: (with it, hidden), length 1."""
        vectors = {}
        for name, encoder in clip_encoders(self.network).items():
            parts, mask = encoder(batch.frames[name], len(batch.roles))
            there = batch.frames[name].places
            weights = mask[there].unsqueeze(2).to(parts.dtype)
            mean = (parts[there] * weights).sum(1) / weights.sum(1)
            vectors[name] = normalize(self.project[name](mean).float(), dim=1)
        return vectors

    def _contrastive(self, batch: Batch, vectors: dict[str, Tensor], scale: Tensor) -> list[Tensor]:
        losses = []
        for one, other in combinations(vectors, 2):
            rows, columns = rows_of(batch.frames[other], batch.frames[one].places, len(batch.roles))
            if len(rows) > 1:
                scores = scale * vectors[one][rows] @ vectors[other][columns].T
                right = torch.arange(len(rows), device=scores.device)
                losses.append((cross_entropy(scores, right) + cross_entropy(scores.T, right)) / 2)
        return losses

    def _told_by_others(
        self, batch: Batch, vectors: dict[str, Tensor], scale: Tensor, generator: torch.Generator
    ) -> list[Tensor]:
        hidden = draw_masked(batch.mask.cpu(), self._masked, generator).to(batch.mask.device)
        clips = batch.clips[hidden]
        if not len(clips):
            return []
        states = self.network.states(without(batch, clips))[hidden]  # (hidden clips, 2 * hidden)
        losses = []
        for name, targets in vectors.items():
            rows, columns = rows_of(batch.frames[name], clips, len(batch.roles))
            if len(rows) and len(targets) > 1:
                guesses = normalize(self.guess[name](states[rows]).float(), dim=1)
                losses.append(cross_entropy(scale * guesses @ targets.T, columns))
        return losses


def rows_of(frames: Frames, clips: Tensor, n_clips: int) -> tuple[Tensor, Tensor]:
    """Which of some clips have an input, and at which of its rows each of those stands."""
    row = torch.full((n_clips,), -1, device=clips.device)
    row[frames.places] = torch.arange(len(frames.places), device=clips.device)
    found = row[clips]
    return torch.nonzero(found >= 0).squeeze(1), found[found >= 0]


def draw_masked(mask: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """The places whose clips are hidden, (batch, places) bool: of each conversation about a share, one at least; never
    all, so none of a single clip."""
    n_clips = mask.sum(1)
    n_hidden = torch.minimum((n_clips * share).round().long().clamp(min=1), n_clips - 1)
    order = torch.rand(mask.shape, generator=generator).masked_fill(~mask, 2.0).argsort(1).argsort(1)
    return mask & (order < n_hidden.unsqueeze(1))


def without(batch: Batch, clips: Tensor) -> Batch:
    """The batch with nothing of some of its clips; that they are there, and whose they are, is still seen."""
    gone = torch.zeros(len(batch.roles), dtype=torch.bool, device=clips.device)
    gone[clips] = True
    frames = {}
    for name, each in batch.frames.items():
        kept = ~gone[each.places]
        frames[name] = Frames(each.values[kept], each.mask[kept], each.places[kept])
    return replace(batch, frames=frames)
