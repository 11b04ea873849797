"""Units that are single clips, with the conversation so far as context; and who speaks in them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError
from extract.corpora.manifest import Manifest
from heads.data.batches import LISTENER, SPEAKER, UnitData, bucketed
from heads.fitting.training import fit_fold
from heads.models.network import HeadSizes, NetworkModel, build, load_fold, new_model

KINDS = ["sequence", "transformer", "cross_modal"]
NONE = np.array([], dtype=int)


@pytest.fixture(scope="module")
def clips(tools: SimpleNamespace) -> tuple[Manifest, Any]:
    """Twelve conversations of up to seven clips, every one of them labelled."""
    manifest, arrays = tools.dataset(12, missing=0.2, most_clips=6)
    label = pl.Series([manifest.classes[i % 3] for i in range(manifest.clips.height)])
    return Manifest(manifest.clips.with_columns(label=label), manifest.root, manifest.classes, {}), arrays


def untrained(kind: str) -> NetworkModel:
    torch.manual_seed(0)
    segments = 3 if kind == "cross_modal" else 1
    sizes = HeadSizes(kind, 3, {"audio": 6, "text": 5}, 5, {}, 16, attention_heads=2, dropout=0.3, segments=segments)
    return NetworkModel(build(sizes).eval(), {})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [None, 0, 2])
def test_together_equals_one_unit_at_a_time(clips: tuple[Manifest, Any], kind: str, context: int | None) -> None:
    manifest, arrays = clips
    model, units = untrained(kind), manifest.units()
    data = UnitData(manifest, units, arrays, context_clips=context)
    together = model.log_probabilities(data, np.arange(len(units)))
    for i in range(0, len(units), 5):
        alone = UnitData(manifest, [units[i]], arrays, context_clips=context)
        if all(features.dim for features in alone.features.values()):
            np.testing.assert_allclose(model.log_probabilities(alone, np.array([0]))[0], together[i], atol=1e-5)


@pytest.mark.parametrize("context", [None, 0, 2])
def test_a_batch_has_each_clip_once(clips: tuple[Manifest, Any], context: int | None) -> None:
    manifest, arrays = clips
    units = manifest.units()
    data = UnitData(manifest, units, arrays, context_clips=context)
    chosen = np.array([i for i, unit in enumerate(units) if unit.unit_id[:4] in ("c000", "c001")])
    seen = [units[i].clip_ids if context is None else units[i].clip_ids[-1 - context :] for i in chosen]
    batch = data.batch(chosen, data.metadata_ids({}))
    assert len(batch.roles) == len({clip for clip_ids in seen for clip in clip_ids})
    assert batch.mask.sum(1).tolist() == [len(clip_ids) for clip_ids in seen]
    names = sorted({clip for clip_ids in seen for clip in clip_ids})
    for places, mask, clip_ids in zip(batch.clips, batch.mask, seen, strict=True):
        assert [names[place] for place in places[mask]] == list(clip_ids)
    for name, frames in batch.frames.items():
        assert [names[place] for place in frames.places] == [clip for clip in names if clip in arrays[name]]


def test_context_is_cut(clips: tuple[Manifest, Any]) -> None:
    manifest, arrays = clips
    model, units = untrained("sequence"), manifest.units()
    last = max(range(len(units)), key=lambda i: len(units[i].clip_ids))
    before = units[last].clip_ids[-4]  # three before the labelled one
    ramp = np.arange(10, dtype=np.float32).reshape(2, 5)
    arrays = arrays | {"text": arrays["text"] | {before: ramp}}
    changed = arrays | {"text": arrays["text"] | {before: -ramp}}

    def differs(context: int | None) -> bool:
        one, other = (
            model.log_probabilities(UnitData(manifest, units, each, context_clips=context), np.array([last]))
            for each in (arrays, changed)
        )
        return not np.array_equal(one, other)

    assert [differs(context) for context in (0, 2, 3, None)] == [False, False, True, True]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60), batch_size=st.integers(1, 20), seed=st.integers(0, 9)
)
def test_conversations_stay_together_in_training(sizes: list[int], batch_size: int, seed: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    groups = np.random.default_rng(seed).permutation(groups)
    costs = np.arange(len(groups)) % 7
    batches = bucketed(costs, batch_size, torch.Generator().manual_seed(seed), groups)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(groups)))
    assert max(map(len, batches)) <= batch_size
    for group, size in enumerate(sizes):  # in no more batches than cutting it anywhere would give
        assert sum(group in groups[batch] for batch in batches) <= (size - 2) // batch_size + 2
    again = bucketed(costs, batch_size, torch.Generator().manual_seed(seed), groups)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))


def test_grouping_spares_clips_only_where_units_share_them(clips: tuple[Manifest, Any]) -> None:
    manifest, arrays = clips
    units = manifest.units()

    def clips_encoded(context: int | None, grouped: bool) -> int:
        data = UnitData(manifest, units, arrays, context_clips=context)
        parts = bucketed(data.costs(), 8, torch.Generator().manual_seed(0), data.groups if grouped else None)
        return sum(len(batch.roles) for batch in data.batches(parts, data.metadata_ids({})))

    assert clips_encoded(None, True) < 0.7 * clips_encoded(None, False)
    assert clips_encoded(0, True) == clips_encoded(0, False) == len(units)


@pytest.mark.parametrize("kind", KINDS)
def test_clip_units_train(clips: tuple[Manifest, Any], tools: SimpleNamespace, kind: str) -> None:
    manifest, arrays = clips
    data = UnitData(manifest, manifest.units(), arrays, context_clips=2)
    everything = np.arange(len(data.units))
    head = tools.small_head(kind=kind, context_clips=2, epochs=4)
    model, history = fit_fold(tools.task(data, everything, NONE, head))
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert np.isfinite(model.log_probabilities(data, everything)).all()


# Who speaks, and who listens: the test split, every fourth conversation, has people of its own, or not.


def people(tools: SimpleNamespace, disjoint: bool) -> UnitData:
    def columns(conversation: int) -> dict[str, str]:
        prefix = "a new " if disjoint and conversation % 4 == 3 else ""
        return {"speaker": f"{prefix}{conversation % 5}", "meta_listener_id": f"{prefix}{conversation % 3}"}

    manifest, _ = tools.dataset(40, columns=columns)
    return UnitData(manifest, manifest.units(), {})


def task_of(tools: SimpleNamespace, data: UnitData, **settings: Any) -> Any:
    train = np.array([i for i, unit in enumerate(data.units) if unit.split == "train"])
    data.metadata["age"], data.fields = ["old"] * len(data.units), ["age"]
    return tools.task(data, train, NONE, tools.small_head(inputs=[], metadata=["age"], epochs=1, **settings))


def test_identity_is_used_where_held_out_speakers_are_known(tools: SimpleNamespace, tmp_path: Path) -> None:
    model, _ = fit_fold(task_of(tools, people(tools, disjoint=False)))
    assert model.network.sizes.speaker_identity
    assert model.vocabularies == {"age": ["old"], SPEAKER: list("01234"), LISTENER: list("012")}
    assert [table.embedding_dim for table in model.network.metadata.tables] == [16, 32, 32]  # type: ignore[union-attr]
    about = json.loads(json.dumps(model.save(tmp_path, "fold0")))
    assert about["sizes"]["speaker_identity"] is True
    assert load_fold(tmp_path, about).network.sizes == model.network.sizes


def test_identity_is_off_where_speakers_are_disjoint_and_can_be_forced(tools: SimpleNamespace) -> None:
    data = people(tools, disjoint=True)
    assert not new_model(task_of(tools, data)).network.sizes.speaker_identity
    model = new_model(task_of(tools, data, speaker_identity=True))
    ids = data.metadata_ids(model.vocabularies)
    for unit, row in zip(data.units, ids.tolist(), strict=True):
        number = int(unit.unit_id[1:4])
        assert row[1:] == ([0, 0] if unit.split == "test" else [1 + number % 5, 1 + number % 3])
    assert not new_model(task_of(tools, people(tools, False), speaker_identity=False)).network.sizes.speaker_identity


def test_identity_needs_known_speakers(tools: SimpleNamespace) -> None:
    manifest, _ = tools.dataset(20)
    data = UnitData(manifest, manifest.units(), {})
    assert not new_model(task_of(tools, data)).network.sizes.speaker_identity
    with pytest.raises(UserError, match=r"speaker_identity: true, but the manifest names no speaker"):
        new_model(task_of(tools, data, speaker_identity=True))


def test_a_manifest_without_listeners_has_unknown_ones(tools: SimpleNamespace) -> None:
    model = new_model(task_of(tools, people(tools, disjoint=False)))
    manifest, _ = tools.dataset(4, columns=lambda c: {"speaker": "2"})
    data = UnitData(manifest, manifest.units(), {})
    data.metadata["age"] = [None] * 4
    assert data.metadata_ids(model.vocabularies).tolist() == [[0, 3, 0]] * 4
