"""The xgboost head: boosted trees (Chen and Guestrin 2016) on pooled features and metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xgboost
from scipy.special import softmax
from xgboost.callback import EarlyStopping

from configs import UserError
from heads.data.folds import FoldTask, Record
from heads.data.sampling import class_weights
from heads.metrics.confusions import SCORES
from heads.models.linear import spread
from heads.models.pooled import UnitRows

PATIENCE = 30  # rounds without a lower loss on the watched units
COLUMNS_A_TREE = 256  # a sample of them: encoders give thousands, and many say the same
BINS = 64  # of a column's values; with 256, rounds took three times as long and the loss was no lower
UNITS_A_TREE = 0.8  # share


@dataclass(frozen=True)
class BoostedModel:
    """A fitted booster, the categories that it knows, and the classes that its outputs are."""

    booster: xgboost.Booster
    views: dict[str, list[str]]  # input: how it is looked at
    vocabularies: dict[str, list[str]]
    classes: list[int]
    n_classes: int

    def log_probabilities(self, data: UnitRows, indices: np.ndarray) -> np.ndarray:
        """Log-probabilities, (units, classes) float64; a class never seen in training gets a tiny probability."""
        if not len(indices):
            return np.empty((0, self.n_classes))
        rows = np.concatenate([_statistics(data, self.views, indices), data.codes(self.vocabularies, indices)], axis=1)
        margins = self.booster.inplace_predict(rows, predict_type="margin", missing=np.nan)
        return spread(softmax(margins.astype(np.float64), axis=1), np.array(self.classes), self.n_classes)

    def save(self, folder: Path, stem: str) -> dict[str, Any]:
        (folder / f"{stem}.json").write_bytes(self.booster.save_raw("json"))
        return {
            "file": f"{stem}.json",
            "views": self.views,
            "vocabularies": self.vocabularies,
            "classes": self.classes,
            "n_classes": self.n_classes,
        }


def load_fold(folder: Path, about: dict[str, Any]) -> BoostedModel:
    """What :meth:`BoostedModel.save` wrote."""
    booster = xgboost.Booster()
    if not (folder / about["file"]).is_file():
        raise FileNotFoundError(2, "no such file", str(folder / about["file"]))
    booster.load_model(folder / about["file"])
    return BoostedModel(booster, about["views"], about["vocabularies"], about["classes"], about["n_classes"])


def fit_fold(task: FoldTask) -> tuple[BoostedModel, list[Record]]:
    """Boost for as many rounds as give the lowest loss on what the inner folds hold out, then on the units ``train``.

    Where one inner fold fits all of ``train``, the trees up to the best round are kept. Without inner folds, all rounds
    are boosted. Classes are weighted by inverse frequency, in the loss on what is held out too, where the head's loss
    is ``weighted``. Unknown categories and missing values take the side that each split learnt.

    Returns:
        The model, and a record per round: round, train_loss, inner_loss, inner_macro_f1, best; means over inner folds.
    Raises:
        UserError: the training units are of one class only.
    """
    table = _table(task)
    tried = [_boost(task, table, fit, watch, task.head.trees) for fit, watch in _watched(task)]
    if not tried:
        model, history = _boost(task, table, task.train, task.train[:0], task.head.trees)
        return model, [record | {"best": i == len(history) - 1} for i, record in enumerate(history)]
    rounds = min(len(records) for _, records in tried)
    history = [
        {name: float(np.mean([records[i][name] for _, records in tried])) for name in tried[0][1][i]} | {"round": i}
        for i in range(rounds)
    ]
    best = min(range(rounds), key=lambda i: history[i]["inner_loss"])
    if len(tried) == 1 and len(task.fit) == len(task.train):
        model = replace(tried[0][0], booster=tried[0][0].booster[: best + 1])
    else:
        model, _ = _boost(task, table, task.train, task.train[:0], best + 1)
    return model, [record | {"best": i == best} for i, record in enumerate(history)]


def _watched(task: FoldTask) -> list[tuple[np.ndarray, np.ndarray]]:
    """The inner folds, without held out units of classes that are not fitted there."""
    pairs = [(fit, watch[np.isin(task.labels[watch], task.labels[fit])]) for fit, watch in task.inner]
    return [(fit, watch) for fit, watch in pairs if len(watch)]


def _statistics(rows: UnitRows, views: Mapping[str, Sequence[str]], units: np.ndarray) -> np.ndarray:
    """(units, columns) float32: means and deviations of the labelled clip, of what its speaker said before, and of both
    together; NaN where an input is missing."""
    parts = [np.empty((len(units), 0), np.float32)]
    for name, seen in views.items():
        for view in seen:
            moments = rows.moments(name, view, units)
            parts += [moments.mean, moments.deviation]
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class _Table:
    """The statistics of all units that a fold is fitted on or chosen by: inner folds take their rows of it."""

    views: dict[str, list[str]]
    units: np.ndarray  # sorted
    statistics: list[np.ndarray]  # (units, columns), of view 0 and of each augmented one that is learned from

    def of(self, units: np.ndarray, version: int = 0) -> np.ndarray:
        return self.statistics[version][np.searchsorted(self.units, units)]


def _table(task: FoldTask) -> _Table:
    views = {name: list(task.data.views(name)) for name in task.data.own}
    units = np.unique(np.concatenate([task.train, *(held for _, held in task.inner)]))
    return _Table(views, units, [_statistics(rows, views, units) for rows in task.data.learned(task.head.views)])


def _boost(
    task: FoldTask, table: _Table, fit: np.ndarray, watch: np.ndarray, rounds: int
) -> tuple[BoostedModel, list[Record]]:
    classes, labels = np.unique(task.labels[fit], return_inverse=True)
    if len(classes) < 2:
        raise UserError("xgboost head: the training units of a fold are all of one class")
    data: UnitRows = task.data
    vocabularies = data.vocabularies(fit)
    n_columns, n_versions = table.statistics[0].shape[1], len(table.statistics)
    # Metadata is a few columns among thousands: as likely in a tree's sample as if it were as many.
    chances = np.r_[np.ones(n_columns), np.full(len(vocabularies), max(1, n_columns))]
    form = {
        "feature_types": ["q"] * n_columns + ["c"] * len(vocabularies),
        "enable_categorical": True,
        "max_bin": BINS,
        "nthread": torch.get_num_threads(),
    }
    weights = class_weights(labels, len(classes)) if task.head.loss == "weighted" else np.ones(len(classes))

    def rows(units: np.ndarray, version: int = 0) -> np.ndarray:
        return np.concatenate([table.of(units, version), data.codes(vocabularies, units)], axis=1)

    learned = np.concatenate([rows(fit, version) for version in range(n_versions)])
    counts = np.tile(weights[labels] / n_versions, n_versions)  # views of a unit together count as it would alone
    labels = np.tile(labels, n_versions)
    parts = [xgboost.QuantileDMatrix(learned, labels, weight=counts, feature_weights=chances, **form)]
    if len(watch):
        watched = np.searchsorted(classes, task.labels[watch])
        parts.append(xgboost.QuantileDMatrix(rows(watch), watched, weight=weights[watched], ref=parts[0], **form))
    settings = {
        "objective": "multi:softprob",
        "num_class": len(classes),
        "eval_metric": "mlogloss",
        "tree_method": "hist",
        "max_bin": BINS,
        "max_depth": task.head.depth,
        "eta": task.head.eta,
        "subsample": UNITS_A_TREE,
        "colsample_bytree": min(1.0, COLUMNS_A_TREE / len(chances)),
        "nthread": torch.get_num_threads(),
        "seed": task.seed,
    }
    log: dict[str, dict[str, list[float]]] = {}
    booster = xgboost.train(
        settings,
        parts[0],
        num_boost_round=rounds,
        evals=list(zip(parts, ("train", "inner"), strict=False)),
        callbacks=[EarlyStopping(rounds=PATIENCE, data_name="inner", metric_name="mlogloss")] if len(watch) else None,
        custom_metric=_macro_f1,
        evals_result=log,
        verbose_eval=False,
    )
    columns = {"train_loss": log["train"]["mlogloss"]}
    if len(watch):
        columns |= {"inner_loss": log["inner"]["mlogloss"], "inner_macro_f1": log["inner"]["macro_f1"]}
    history: list[Record] = [
        {"round": i} | {name: float(values[i]) for name, values in columns.items()}
        for i in range(len(columns["train_loss"]))
    ]
    return BoostedModel(booster, table.views, vocabularies, classes.tolist(), task.n_classes), history


def _macro_f1(p: np.ndarray, data: xgboost.DMatrix) -> tuple[str, float]:
    n_classes = p.shape[1]
    cells = data.get_label().astype(int) * n_classes + p.argmax(1)
    confusion = np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)
    return "macro_f1", float(SCORES["macro_f1"](confusion))
