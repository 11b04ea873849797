"""A transformer over the clips of a conversation, in place of recurrence: what each clip is depends on all others.

Places are counted from the labelled clip backwards and enter by rotation, so that what one clip is to another depends
on how far apart they are, in conversations of any length. Who speaks enters as seen from the labelled clip: the same
person, another one, or nobody knows. That means the same for people who were never met.
"""

import torch
from torch import Tensor, nn

from heads.models.parts import HeadSizes, masked_softmax

SLOWEST = 10_000.0  # the base of rotary positions, as published
ASIDE = 0.1  # standard deviation of embeddings that are added to clips of 1
UNKNOWN, OTHER, SAME = range(3)  # who speaks, as seen from the labelled clip


class ClipTransformer(nn.Module):
    """Clips ``(batch, places, hidden)`` and their mask ``(batch, places)`` -> ``(batch, places, 2 * hidden)``.

    Normalised before attention and before the feed-forward part: Xiong et al. 2020, arXiv:2002.04745.
    """

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        width = 2 * sizes.hidden
        self.enter = nn.Sequential(nn.Linear(sizes.hidden, width), nn.LayerNorm(width))
        self.role = nn.Embedding(sizes.roles, width)
        self.speaker = nn.Embedding(3, width, padding_idx=UNKNOWN)
        for table in (self.role, self.speaker):  # small beside what a clip says
            table.weight.data *= ASIDE
        self.layers = nn.ModuleList(ClipLayer(width, sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, clips: Tensor, roles: Tensor, speakers: Tensor, mask: Tensor) -> Tensor:
        """``roles``, ``speakers`` (batch, places): ids of roles; who speaks, by number, 0 for unknown."""
        states = self.enter(clips) + self.role(roles) + self.speaker(seen_from_the_last(speakers, mask))
        for layer in self.layers:
            states = layer(states, mask)
        return self.norm(states)


class ClipLayer(nn.Module):
    """All clips hear each other, then each makes something of it by itself; both beside what it was."""

    def __init__(self, width: int, sizes: HeadSizes) -> None:
        super().__init__()
        self.before_attention, self.before_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = RotaryAttention(width, sizes.attention_heads)
        self.forwards = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = states + self.dropout(self.attention(self.before_attention(states), mask))
        return states + self.dropout(self.forwards(self.before_forward(states)))


class RotaryAttention(nn.Module):
    """Multi-head self-attention with rotary positions: Su et al. 2021, arXiv:2104.09864.

    ``(batch, places, width)`` and its mask ``(batch, places)`` -> ``(batch, places, width)``. Each head's share of the
    width is even. Weights are not dropped in training, for clips are few. Written out: torch's fused kernels are not
    deterministic on every GPU.
    """

    turns: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ask_answer = nn.Linear(width, 3 * width)
        self.leave = nn.Linear(width, width)
        pairs = width // heads // 2
        self.register_buffer("turns", SLOWEST ** -(torch.arange(pairs) / pairs), persistent=False)  # radians a place

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        shares, values = self._shares(states, mask)
        answers = shares.to(values.dtype) @ values  # (batch, heads, places, width / heads)
        return self.leave(answers.transpose(1, 2).flatten(2))

    def weights(self, states: Tensor, mask: Tensor) -> Tensor:
        """What each place hears of each, (batch, places, places), on average over the heads: rows sum to 1."""
        return self._shares(states, mask)[0].mean(1)

    def _shares(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, heads, places that ask, places that answer), and the values that are heard."""
        parts = self.ask_answer(states).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        before = mask.sum(1, keepdim=True) - 1 - torch.arange(mask.shape[1], device=mask.device)  # of the labelled clip
        angles = (before.unsqueeze(2) * self.turns).unsqueeze(1)  # (batch, 1, places, pairs)
        ask, answer, values = rotated(parts[0], angles), rotated(parts[1], angles), parts[2]
        scores = ask @ answer.transpose(2, 3) * ask.shape[3] ** -0.5
        return masked_softmax(scores.float(), mask[:, None, None]), values


def rotated(vectors: Tensor, angles: Tensor) -> Tensor:
    """Each pair (i, i + half) of the last dimension turned by its angle, in float32; ``angles`` has half its size."""
    first, second = vectors.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def seen_from_the_last(speakers: Tensor, mask: Tensor) -> Tensor:
    """(batch, places): whether each clip is spoken by whoever speaks the last one, if both are known (0: unknown)."""
    last = mask.sum(1, keepdim=True) - 1
    labelled = speakers.gather(1, last)
    seen = torch.where(speakers == labelled, SAME, OTHER)
    seen = seen.masked_fill((speakers == 0) | (labelled == 0), UNKNOWN)
    return seen.scatter(1, last, SAME)  # itself, whoever that is
