"""What a transformer over clips knows of their order and of who speaks."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError

from extract.corpora.manifest import Manifest
from heads.data.batches import ROLES, UnitData
from heads.models.network import HeadSizes, NetworkModel, build
from heads.models.transformer import OTHER, SAME, UNKNOWN, RotaryAttention, rotated, seen_from_the_last


def test_what_two_clips_are_to_each_other_depends_on_their_distance_alone() -> None:
    torch.manual_seed(0)
    ask, answer = torch.randn(2, 8)
    turns = torch.rand(4)

    def score(place: int, other: int) -> float:
        return float(rotated(ask, place * turns) @ rotated(answer, other * turns))

    assert score(5, 3) == pytest.approx(score(12, 10), abs=1e-5)
    assert abs(score(5, 3) - score(3, 5)) > 1e-3
    assert abs(score(5, 3) - score(5, 4)) > 1e-3


def test_padding_is_not_heard() -> None:
    torch.manual_seed(0)
    attention = RotaryAttention(8, heads=2).eval()
    states = torch.randn(2, 4, 8)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    weights = attention.weights(states, mask)
    assert (weights[0, :, 2:] == 0).all()
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 4))
    torch.testing.assert_close(attention(states, mask)[0, :2], attention(states[:1, :2], mask[:1, :2])[0])


def test_who_speaks_is_seen_from_the_labelled_clip() -> None:
    speakers = torch.tensor([[3, 5, 0, 3], [7, 7, 4, 9], [2, 2, 0, 0], [0, 1, 1, 1]])
    mask = torch.tensor([[True] * 4, [True, True, True, False], [True, True, True, False], [True] * 4])
    found = seen_from_the_last(speakers, mask)
    assert found[0].tolist() == [SAME, OTHER, UNKNOWN, SAME]
    assert found[1, :3].tolist() == [OTHER, OTHER, SAME]
    assert found[2, :3].tolist() == [UNKNOWN, UNKNOWN, SAME]  # whoever it is, it is itself
    assert found[3].tolist() == [UNKNOWN, SAME, SAME, SAME]


def test_other_people_in_the_same_places_change_nothing(tools: SimpleNamespace) -> None:
    manifest, arrays = tools.dataset(20, most_clips=5)
    torch.manual_seed(0)
    sizes = HeadSizes("transformer", 3, {"audio": 6, "text": 5}, 1 + len(ROLES), {}, 16, 2, 0.1)
    model = NetworkModel(build(sizes).eval(), {})

    def answers(speaker: Any) -> np.ndarray:
        clips = manifest.clips.with_columns(speaker=speaker)
        told = Manifest(clips, manifest.root, manifest.classes, {})
        return model.log_probabilities(UnitData(told, told.units(), arrays), np.arange(20))

    turns = pl.when(pl.col("role") == "speaker")
    known = answers(turns.then(pl.lit("anna")).otherwise(pl.lit("bo")))
    np.testing.assert_array_equal(known, answers(turns.then(pl.lit("zoe")).otherwise(pl.lit("max"))))
    alone = answers(pl.lit("anna"))
    assert np.abs(known - alone).max() > 1e-3
    assert np.abs(known - answers(pl.lit(None, dtype=pl.String))).max() > 1e-3


def test_rotation_needs_pairs(tools: SimpleNamespace) -> None:
    with pytest.raises(ValidationError, match=r"attention_heads \(4\) of a transformer must divide hidden \(6\)"):
        tools.small_head(kind="transformer", hidden=6, attention_heads=4)
    with pytest.raises(ValidationError, match="lstm_layers: a transformer head has no such setting"):
        tools.small_head(kind="transformer", lstm_layers=2)
    with pytest.raises(ValidationError, match="layers: a sequence head has no such setting"):
        tools.small_head(layers=2)
