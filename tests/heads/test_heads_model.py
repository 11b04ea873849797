"""What a head answers for a unit depends on that unit alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heads.batches import ROLES, Batch, Frames, UnitData
from heads.model import AttentiveStatistics, BidirectionalLSTM, HeadSizes, SequenceHead
from heads.network import NetworkModel

SIZES = HeadSizes(3, {"audio": 6, "text": 5}, 1 + len(ROLES), {}, hidden=16, attention_heads=2, dropout=0.3)


def untrained(sizes: HeadSizes = SIZES) -> NetworkModel:
    torch.manual_seed(0)
    return NetworkModel(SequenceHead(sizes).eval(), {})


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), missing=st.sampled_from([0.0, 0.3, 0.9]))
def test_batched_equals_alone(tools: SimpleNamespace, seed: int, missing: float) -> None:
    manifest, arrays = tools.dataset(12, seed=seed, missing=missing, most_clips=6)
    arrays["audio"] |= {"c000u0": np.ones((1, 6), np.float32)}  # so that each modality has a width
    arrays["text"] |= {"c000u0": np.ones((40, 5), np.float32)}  # and batches have much padding
    data, model = UnitData(manifest, manifest.units(), arrays), untrained()
    together = model.log_probabilities(data, np.arange(12))
    alone = np.concatenate([model.log_probabilities(data, np.array([i])) for i in range(12)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_padding_never_enters(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(8, missing=0.3)
    data, model = UnitData(manifest, manifest.units(), arrays), untrained()
    batch = data.batch(np.arange(8), data.metadata_ids({}))
    for frames in batch.frames.values():
        frames.values[~frames.mask] = 1e6
    noisy = model.network(batch)
    clean = model.network(data.batch(np.arange(8), data.metadata_ids({})))
    assert any(bool((~frames.mask).any()) for frames in batch.frames.values())
    torch.testing.assert_close(noisy, clean, rtol=0, atol=1e-5)


def test_lstm_equals_torchs_own_bidirectional_one() -> None:
    torch.manual_seed(0)
    ours, theirs = BidirectionalLSTM(4, 5), torch.nn.LSTM(4, 5, batch_first=True, bidirectional=True)
    theirs.load_state_dict(
        {f"{name}": value for name, value in ours.ahead.state_dict().items()}
        | {f"{name}_reverse": value for name, value in ours.back.state_dict().items()}
    )
    states, lengths = torch.randn(3, 7, 4), [7, 1, 4]
    mask = torch.arange(7) < torch.tensor(lengths).unsqueeze(1)
    result = ours(states, mask)
    for row, length in enumerate(lengths):
        expected, _ = theirs(states[row : row + 1, :length])
        torch.testing.assert_close(result[row, :length], expected[0], rtol=0, atol=1e-6)


def test_statistics_pooling_is_a_weighted_mean_and_deviation() -> None:
    torch.manual_seed(0)
    pool, values = AttentiveStatistics(3, 4), torch.randn(1, 6, 3)
    weights = pool.score(values).softmax(1).detach()  # (1, 6, 1)
    mean = (weights * values).sum(1)
    deviation = ((weights * values**2).sum(1) - mean**2).sqrt()
    result = pool(values, torch.ones(1, 6, dtype=torch.bool))
    torch.testing.assert_close(result, torch.cat([mean, deviation], 1), rtol=0, atol=1e-5)


def test_one_time_step_trains_safely() -> None:
    pool, values = AttentiveStatistics(3, 4), torch.randn(2, 1, 3, requires_grad=True)
    result = pool(values, torch.ones(2, 1, dtype=torch.bool))
    assert result[:, 3:].abs().max() < 1e-3  # one step does not deviate from itself
    result.sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pool.parameters())


def test_missing_is_not_zero_and_never_nan(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(3, most_clips=3)
    clip_ids = [clip for unit in manifest.units() for clip in unit.clip_ids]
    zeros = arrays | {"audio": {clip: np.zeros((2, 6), np.float32) for clip in clip_ids}}
    nothing: dict[str, dict[str, np.ndarray]] = {"audio": {}, "text": {}}
    model = untrained()

    def answers(sources: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
        return model.log_probabilities(UnitData(manifest, manifest.units(), sources), np.arange(3))

    assert np.isfinite(answers(nothing)).all()  # units whose clips are all missing
    without_audio = answers(arrays | {"audio": {}})
    assert np.isfinite(without_audio).all()
    assert np.abs(without_audio - answers(zeros)).max() > 1e-4


def test_missing_vectors_learn() -> None:
    torch.manual_seed(0)
    network = SequenceHead(SIZES)
    mask = torch.ones(1, 2, dtype=torch.bool)
    frames = {
        "audio": Frames(torch.randn(1, 3, 6), torch.ones(1, 3, dtype=torch.bool), torch.tensor([1])),
        "text": Frames(torch.zeros(0, 0, 5), torch.zeros(0, 0, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)),
    }
    batch = Batch(frames, torch.tensor([1, 2]), mask, torch.zeros(1, 0, dtype=torch.int64), torch.tensor([0]))
    network(batch).sum().backward()
    for encoder in network.conversation.modalities.values():
        assert encoder.missing.grad.abs().sum() > 0  # type: ignore[union-attr]


@pytest.mark.parametrize("clip_after", [True, False])
def test_the_future_never_enters(tools: SimpleNamespace, clip_after: bool) -> None:
    manifest, arrays = tools.dataset(10)
    own = {clip for unit in manifest.units() for clip in unit.clip_ids}
    changed = {
        name: {clip: values if (clip in own) == clip_after else values + 5 for clip, values in clips.items()}
        for name, clips in arrays.items()
    }
    model = untrained()
    before, after = (
        model.log_probabilities(UnitData(manifest, manifest.units(), sources), np.arange(10))
        for sources in (arrays, changed)
    )
    assert np.array_equal(before, after) == clip_after  # the other way round, the change is seen


def test_order_of_clips_matters(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20, most_clips=6)
    unit = next(unit for unit in manifest.units() if len(unit.clip_ids) > 3)
    first, second = unit.clip_ids[0], unit.clip_ids[2]  # both the speaker's
    swapped = {name: clips | {first: clips[second], second: clips[first]} for name, clips in arrays.items()}
    model = untrained()
    one, other = (
        model.log_probabilities(UnitData(manifest, [unit], sources), np.array([0])) for sources in (arrays, swapped)
    )
    assert np.abs(one - other).max() > 1e-5
