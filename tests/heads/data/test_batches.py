"""Units as tensors: scalers, vocabularies, hiding, buckets."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError
from heads.data.batches import UnitData, bucketed, draw_hidden
from heads.models.network import fit_vocabularies


@pytest.mark.parametrize("resident_bytes", [10**9, 0])
def test_gathered_frames_are_the_clips_own(tools: SimpleNamespace, resident_bytes: int) -> None:
    manifest, arrays = tools.dataset(15, missing=0.3)
    units = manifest.units()
    data = UnitData(manifest, units, arrays, resident_bytes=resident_bytes)
    chosen = np.array([7, 2, 11])
    batch = data.batch(chosen, data.metadata_ids({}))
    clip_ids = sorted(clip for i in chosen for clip in units[i].clip_ids)
    assert batch.mask.sum(1).tolist() == [len(units[i].clip_ids) for i in chosen]
    for i, places, mask in zip(chosen, batch.clips, batch.mask, strict=True):
        assert tuple(clip_ids[place] for place in places[mask]) == units[i].clip_ids
    for name, frames in batch.frames.items():
        assert [clip_ids[place] for place in frames.places] == [clip for clip in clip_ids if clip in arrays[name]]
        for values, mask, place in zip(frames.values, frames.mask, frames.places, strict=True):
            assert np.array_equal(values[mask].numpy(), arrays[name][clip_ids[place]])


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3), offset=st.floats(-1e4, 1e4))
def test_moments_are_those_of_all_steps(tools: SimpleNamespace, scale: float, offset: float) -> None:
    manifest, arrays = tools.dataset(6)
    audio = {clip: (values * scale + offset).astype(np.float32) for clip, values in arrays["audio"].items()}
    for values in audio.values():
        values[:, 0] = offset  # a dimension that never varies
    data = UnitData(manifest, manifest.units(), {"audio": audio})
    mean, deviation = data.features["audio"].moments(data.clips_of(np.array([0, 3])))
    steps = np.concatenate([audio[clip] for i in (0, 3) for clip in data.units[i].clip_ids]).astype(np.float64)
    np.testing.assert_allclose(mean, steps.mean(0), rtol=1e-9, atol=1e-9)
    assert deviation[0] == 1
    varies = steps.std(0) > 1e-4 * np.abs(steps.mean(0)) + 1e-12
    np.testing.assert_allclose(deviation[varies], steps.std(0)[varies], rtol=1e-6)


def test_vocabulary_is_of_training_units_and_the_rest_is_unknown(tools: SimpleNamespace) -> None:
    def columns(conversation: int) -> dict[str, str | None]:
        city = ["rome", "oslo", None][conversation % 3] if conversation % 4 < 3 else f"aachen{conversation}"
        return {"meta_city": city}  # every fourth conversation is of the test split, with cities of its own

    manifest, _ = tools.dataset(24, columns=columns)
    units = manifest.units()
    train = np.array([i for i, unit in enumerate(units) if unit.split == "train"])
    with_test = UnitData(manifest, units, {}, ["city"])
    alone = UnitData(manifest, [units[i] for i in train], {}, ["city"])
    vocabulary = fit_vocabularies(with_test, train)
    assert vocabulary == {"city": ["oslo", "rome"]}
    ids = with_test.metadata_ids(vocabulary)
    assert torch.equal(ids[train], alone.metadata_ids(vocabulary))
    for i, unit in enumerate(units):
        city = with_test.metadata["city"][i]
        assert int(ids[i, 0]) == (0 if unit.split == "test" else {"oslo": 1, "rome": 2, None: 0}[city])


def test_metadata_fields_are_checked(tools: SimpleNamespace) -> None:
    manifest, _ = tools.dataset(4, columns=lambda c: {"meta_age": "old", "privileged_cause": str(c)})
    with pytest.raises(UserError, match=r"'agee'.*it has: age, cause"):
        UnitData(manifest, manifest.units(), {}, ["agee"])
    with pytest.raises(UserError, match=r"'cause'.*privileged: true"):
        UnitData(manifest, manifest.units(), {}, ["cause"])
    data = UnitData(manifest, manifest.units(), {}, ["cause"], privileged=True)
    assert data.metadata["cause"] == ["0", "1", "2", "3"]


@settings(max_examples=50, deadline=None)
@given(
    has=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=20),
    rate=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_hiding_never_takes_all_that_a_clip_has(has: list[list[bool]], rate: float, seed: int) -> None:
    present = torch.tensor(has)
    hidden = draw_hidden(present, rate, torch.Generator().manual_seed(seed))
    assert not (hidden & ~present).any()
    assert torch.equal((present & ~hidden).any(1), present.any(1))


def test_hiding_hides_about_as_often_as_asked() -> None:
    hidden = draw_hidden(torch.ones(5000, 3, dtype=torch.bool), 0.2, torch.Generator().manual_seed(0))
    assert hidden.float().mean().item() == pytest.approx(0.2 - 0.2**3 / 3, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(costs=st.lists(st.integers(0, 50), min_size=1, max_size=300), batch_size=st.integers(1, 40))
def test_buckets_hold_every_unit_once(costs: list[int], batch_size: int) -> None:
    batches = list(bucketed(np.array(costs), batch_size, torch.Generator().manual_seed(0)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(costs)))
    assert max(len(batch) for batch in batches) <= batch_size


def test_buckets_save_padding() -> None:
    costs = np.random.default_rng(0).integers(1, 100, 2000)
    padding = sum(
        int((costs[batch].max() - costs[batch]).sum())
        for batch in bucketed(costs, 32, torch.Generator().manual_seed(0))
    )
    assert padding / costs.sum() < 0.1  # in random batches, about as much again as the data
