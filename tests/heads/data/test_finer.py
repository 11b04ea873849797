"""Finer labels are learned beside the classes, and never read."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import softmax

from configs import UserError
from extract.corpora.manifest import Manifest
from heads.data.finer import ClassesOf, finer_labels
from heads.data.folds import FoldTask
from heads.fitting.kinds import KINDS
from heads.fitting.training import fit_fold
from heads.models.network import load_fold

NONE = np.arange(0)


def with_finer(manifest: Manifest, finer: list[str | None]) -> Manifest:
    """The manifest with a finer label on each labelled clip."""
    units = {unit.unit_id: word for unit, word in zip(manifest.units(), finer, strict=True)}
    column = pl.Series("privileged_finer", [units.get(clip) for clip in manifest.clips["clip_id"]], dtype=pl.String)
    return Manifest(manifest.clips.with_columns(column), manifest.root, manifest.classes, manifest.counts)


def task_of(tools: SimpleNamespace, finer: list[str | None], auxiliary: str = "finer", **settings: object) -> FoldTask:
    manifest, arrays = tools.dataset(len(finer))
    head = tools.small_head(auxiliary=auxiliary, **settings)
    manifest = with_finer(manifest, finer)
    data = KINDS["sequence"].read(head, manifest, manifest.units(), arrays)
    return tools.task(data, np.arange(len(finer)), NONE, head)


def labels_of(tools: SimpleNamespace, n: int) -> list[str]:
    return [unit.label for unit in tools.dataset(n)[0].units()]


def test_a_class_is_as_probable_as_its_finer_labels_together() -> None:
    logits = torch.randn(4, 5)
    p = softmax(logits, dim=1)
    expected = torch.stack([p[:, 0] + p[:, 3], p[:, 1], p[:, 2] + p[:, 4]], dim=1)
    torch.testing.assert_close(ClassesOf([0, 1, 2, 0, 2])(logits).exp(), expected)


def test_fitted_units_say_what_finer_labels_there_are(tools: SimpleNamespace) -> None:
    labels = labels_of(tools, 20)
    task = task_of(tools, [None, *(f"very {label}" for label in labels[1:19]), "never met"])
    found = finer_labels(replace(task, train=task.train[:19], inner=()))
    assert found is not None
    assert found.ids[0] == -1  # has none
    assert found.ids[19] == -1  # has one that no fitted unit has
    assert [found.classes[i] for i in found.ids[1:19]] == task.labels[1:19].tolist()


def test_one_that_stands_with_two_classes_is_refused(tools: SimpleNamespace) -> None:
    with pytest.raises(UserError, match=r"auxiliary = 'finer': 'same' stands with two classes"):
        finer_labels(task_of(tools, ["same"] * 20))


def test_a_column_that_is_not_there_is_refused(tools: SimpleNamespace) -> None:
    with pytest.raises(UserError, match=r"auxiliary = 'none': the manifest has no column"):
        fit_fold(task_of(tools, ["a"] * 20, auxiliary="none"))


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_it_learns_both_and_needs_none_to_predict(tools: SimpleNamespace, mixup: float) -> None:
    labels = labels_of(tools, 60)
    task = task_of(tools, [f"{label}{i % 2}" for i, label in enumerate(labels)], mixup=mixup, epochs=15)
    model, _ = fit_fold(task)
    assert model.network.sizes.finer == [0, 1, 2, 0, 0, 1, 1, 2, 2]
    manifest, arrays = tools.dataset(60)  # without the column
    data = KINDS["sequence"].read(task.head, manifest, manifest.units(), arrays)
    log_p = model.log_probabilities(data, np.arange(60))
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1, rtol=1e-5)
    assert (log_p.argmax(1) == task.labels).mean() > 0.9


def test_saved_and_loaded_it_is_the_same(tools: SimpleNamespace, tmp_path: Path) -> None:
    labels = labels_of(tools, 30)
    task = task_of(tools, [f"{label}{i % 2}" for i, label in enumerate(labels)], epochs=1)
    model, _ = fit_fold(task)
    loaded = load_fold(tmp_path, model.save(tmp_path, "fold0"))
    everything = np.arange(30)
    np.testing.assert_array_equal(
        loaded.log_probabilities(task.data, everything), model.log_probabilities(task.data, everything)
    )
