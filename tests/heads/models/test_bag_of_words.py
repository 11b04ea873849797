"""The bag-of-words head on its own."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from configs import UserError
from configs.schema import Head
from extract.corpora.manifest import make_manifest
from heads.models.bag_of_words import unit_texts
from heads.models.linear import fit_fold

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
    model, history = fit_fold(tools.task(texts, train, watch, bag(), 3, labels=labels))
    assert sum(record["best"] for record in history) == 1
    rest = np.arange(60, 80)
    log_p = model.log_probabilities(texts, rest)
    assert (log_p.argmax(1) == labels[rest]).mean() > 0.9
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1)


def test_a_chosen_c_needs_no_validation_and_an_unknown_text_no_words(tools: SimpleNamespace) -> None:
    manifest, _ = tools.dataset(40)
    units = manifest.units()
    texts, labels = unit_texts(manifest, units), np.array([manifest.classes.index(unit.label) for unit in units])
    everything = np.arange(40)
    model, history = fit_fold(tools.task(texts, everything, NONE, bag(c=2.0), 3, labels=labels))
    assert history == [{"c": 2.0, "best": True}]
    unknown = np.array([["", ""], ["zzz", "zzz"]], dtype=object)
    assert np.isfinite(model.log_probabilities(unknown, np.arange(len(unknown)))).all()


def test_texts_without_words_are_refused(tools: SimpleNamespace) -> None:
    texts = np.full((6, 2), "", dtype=object)
    with pytest.raises(UserError, match="nothing to learn from"):
        fit_fold(tools.task(texts, np.arange(6), NONE, bag(c=1.0), 2, labels=np.array([0, 1] * 3)))
