"""The bag-of-words head on its own."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from configs import UserError
from configs.schema import Head
from extract.manifest import make_manifest
from heads.bag_of_words import unit_texts
from heads.linear import fit_fold, log_probabilities

NONE = np.array([], dtype=int)


def bag(**settings: object) -> Head:
    return Head.model_validate({"kind": "bag_of_words", "inputs": ["text"]} | settings)


def test_texts_are_of_the_past_and_mark_the_speaker() -> None:
    lines = [
        ("context", "the exam"),
        ("speaker", "I passed"),
        ("listener", "were you sad"),
        ("speaker", None),
        ("listener_response", "congratulations"),
    ]
    rows = [
        {
            "clip_id": f"u{i}",
            "conversation_id": "c",
            "index": i,
            "role": role,
            "text": text,
            "split": "train",
            "label": "happy" if i == 3 else None,
            "group": "c",
        }
        for i, (role, text) in enumerate(lines)
    ]
    manifest = make_manifest(pl.DataFrame(rows), Path(), ("happy", "sad"), {}, "by hand")
    texts = unit_texts(manifest, manifest.units())
    assert texts.tolist() == [["the exam\nI passed\nwere you sad", "the exam\nI passed"]]


def test_it_learns_and_its_probabilities_sum_to_one(tools: SimpleNamespace) -> None:
    manifest, _ = tools.dataset(80)
    units = manifest.units()
    texts, labels = unit_texts(manifest, units), np.array([manifest.classes.index(unit.label) for unit in units])
    train, watch = np.arange(40), np.arange(40, 60)
    pipeline, history = fit_fold(texts, labels, train, train, watch, bag(), 3, seed=0)
    assert sum(record["best"] for record in history) == 1
    rest = np.arange(60, 80)
    log_p = log_probabilities(pipeline, texts[rest], 3)
    assert (log_p.argmax(1) == labels[rest]).mean() > 0.9
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1)


def test_a_chosen_c_needs_no_validation_and_an_unknown_text_no_words(tools: SimpleNamespace) -> None:
    manifest, _ = tools.dataset(40)
    units = manifest.units()
    texts, labels = unit_texts(manifest, units), np.array([manifest.classes.index(unit.label) for unit in units])
    everything = np.arange(40)
    pipeline, history = fit_fold(texts, labels, everything, everything, NONE, bag(c=2.0), 3, seed=0)
    assert history == [{"c": 2.0, "best": True}]
    unknown = np.array([["", ""], ["zzz", "zzz"]], dtype=object)
    assert np.isfinite(log_probabilities(pipeline, unknown, 3)).all()


def test_texts_without_words_are_refused() -> None:
    texts = np.full((6, 2), "", dtype=object)
    with pytest.raises(UserError, match="nothing to learn from"):
        fit_fold(texts, np.array([0, 1] * 3), np.arange(6), np.arange(6), NONE, bag(c=1.0), 2, seed=0)
