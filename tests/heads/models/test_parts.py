"""The modules that networks share, against their definitions written out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heads.data.batches import LISTENER, SPEAKER
from heads.models.parts import (
    AttentiveStatistics,
    BidirectionalLSTM,
    MetadataEmbeddings,
    embedding_width,
    segment_members,
)


def test_lstm_equals_torchs_own_bidirectional_one() -> None:
    torch.manual_seed(0)
    ours = BidirectionalLSTM(4, 5, layers=2)
    theirs = torch.nn.LSTM(4, 5, num_layers=2, batch_first=True, bidirectional=True)
    weights = {}
    for layer, (ahead, back) in enumerate(zip(ours.ahead, ours.back, strict=True)):
        weights |= {name.replace("l0", f"l{layer}"): value for name, value in ahead.state_dict().items()}
        weights |= {name.replace("l0", f"l{layer}_reverse"): value for name, value in back.state_dict().items()}
    theirs.load_state_dict(weights)
    states, lengths = torch.randn(3, 7, 4), [7, 1, 4]
    mask = torch.arange(7) < torch.tensor(lengths).unsqueeze(1)
    result = ours(states, mask)
    for row, length in enumerate(lengths):
        expected, _ = theirs(states[row : row + 1, :length])
        torch.testing.assert_close(result[row, :length], expected[0], rtol=0, atol=1e-6)


def test_statistics_pooling_is_a_weighted_mean_and_deviation_of_each_part() -> None:
    torch.manual_seed(0)
    pool, values = AttentiveStatistics(3, 4), torch.randn(1, 6, 3)
    members = torch.tensor([[[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]]], dtype=torch.bool)
    result = pool(values, members)
    for part, steps in enumerate(members[0]):
        inside = values[0, steps]
        weights = pool.score(inside).softmax(0).detach()  # (steps, 1)
        mean = (weights * inside).sum(0)
        deviation = ((weights * inside**2).sum(0) - mean**2).sqrt()
        torch.testing.assert_close(result[0, part], torch.cat([mean, deviation]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_time_step_trains_safely(dtype: torch.dtype) -> None:
    pool, values = AttentiveStatistics(3, 4), torch.randn(2, 1, 3, requires_grad=True)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        result = pool(values, torch.ones(2, 1, 1, dtype=torch.bool))
    assert result[:, :, 3:].abs().max() < 1e-3  # one step does not deviate from itself
    result.sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pool.parameters())


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5), segments=st.integers(1, 8))
def test_parts_are_runs_of_nearly_equal_length(lengths: list[int], segments: int) -> None:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    members = segment_members(mask, segments)
    assert torch.equal(members.sum(1), mask.long())  # each step is in one part
    for parts, length in zip(members, lengths, strict=True):
        sizes = parts.sum(1)[parts.any(1)]
        assert len(sizes) == min(segments, length)
        assert sizes.max() - sizes.min() <= 1
        firsts = [int(np.flatnonzero(part)[0]) for part in parts if part.any()]
        assert firsts == sorted(firsts)
        assert all(np.ptp(np.flatnonzero(part)) == part.sum() - 1 for part in parts if part.any())


def test_embeddings_have_the_published_sizes() -> None:
    published = {"speaker_age": 16, "gender": 8, "listener_timbre": 8, "Topic": 32, "speaker_id": 32}
    assert {name: embedding_width(name, 5) for name in published} == published
    assert embedding_width(SPEAKER, 3) == embedding_width(LISTENER, 900) == 32
    assert [embedding_width("city", n) for n in (2, 100, 10**6)] == [8, 20, 32]
    embeddings = MetadataEmbeddings({"age": 4, "city": 2})
    assert embeddings(torch.tensor([[0, 1], [3, 0]])).shape == (2, embeddings.width) == (2, 24)
