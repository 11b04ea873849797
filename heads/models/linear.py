"""The linear heads: logistic regression on a bag of words, or on pooled features."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.pipeline import Pipeline

from configs import UserError
from configs.schema import Head
from heads.data.folds import FoldTask, Record
from heads.models.bag_of_words import give_terms, has_letters, text_features, without_terms
from heads.models.pooled import statistics_features

C_GRIDS = {"bag_of_words": (1.0, 3.0, 10.0), "linear": (0.001, 0.01, 0.1)}
SMALLEST_PROBABILITY = 1e-6  # of a class that a fold's training part lacks


@dataclass(frozen=True)
class LinearModel:
    """A fitted pipeline: features of rows, then logistic regression."""

    pipeline: Pipeline
    n_classes: int

    def log_probabilities(self, data: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Log-probabilities, (units, classes) float64; a class never seen in training gets a tiny probability."""
        if not len(indices):
            return np.empty((0, self.n_classes))
        return spread(self.pipeline.predict_proba(data[indices]), self.pipeline.classes_, self.n_classes)

    def save(self, folder: Path, stem: str) -> dict[str, Any]:
        about: dict[str, Any] = {"file": f"{stem}.skops", "n_classes": self.n_classes}
        with without_terms(self.pipeline) as terms:
            (folder / about["file"]).write_bytes(skops.io.dumps(self.pipeline))
        if terms:
            about["terms"] = f"{stem}.terms.json"
            (folder / about["terms"]).write_text(json.dumps(terms), encoding="utf-8")
        return about


def spread(p: np.ndarray, classes: np.ndarray, n_classes: int) -> np.ndarray:
    """Log-probabilities over all classes, (units, n_classes) float64, from probabilities of those that were fitted.

    Args:
        p: (units, fitted classes).
        classes: their numbers, in the order of the columns.
    """
    full = np.zeros((len(p), n_classes))
    full[:, classes] = p
    full = np.maximum(full, SMALLEST_PROBABILITY)
    return np.log(full / full.sum(1, keepdims=True))


def load_fold(folder: Path, about: dict[str, Any]) -> LinearModel:
    """What :meth:`LinearModel.save` wrote; nothing is unpickled."""
    # scikit-learn's own types, and the one of NumPy that an imputer keeps; nothing else
    pipeline = skops.io.load(folder / about["file"], trusted=["numpy.dtype"])
    if "terms" in about:
        give_terms(pipeline, json.loads((folder / about["terms"]).read_text(encoding="utf-8")))
    return LinearModel(pipeline, about["n_classes"])


def fit_fold(task: FoldTask) -> tuple[LinearModel, list[Record]]:
    """Fit on the units ``train``, with the head's own C or the one whose macro-F1 on ``watch`` is best.

    Of texts, letters are then tried with that C, and kept where they do better there.
    ``task.data`` has a row per unit, from :func:`unit_texts` or :func:`unit_statistics`.

    Returns:
        The model, and a record per C: c, inner_loss, inner_macro_f1, best; of texts, the best one with letters (whether
        they were kept), and with inner_macro_f1_words and inner_macro_f1_letters where both were tried.
    Raises:
        UserError: the training units have no words, or are of one class only.
    """
    head, rows, labels, train, fit, watch = task.head, task.data, task.labels, task.train, task.fit, task.watch
    letters = head.kind == "bag_of_words" and bool(head.letters)

    def judged(pipeline: Pipeline) -> Record:
        log_p = LinearModel(pipeline, task.n_classes).log_probabilities(rows, watch)
        macro_f1 = f1_score(labels[watch], log_p.argmax(1), average="macro", zero_division=0)
        inner_loss = log_loss(labels[watch], np.exp(log_p), labels=range(log_p.shape[1]))
        return {"inner_loss": float(inner_loss), "inner_macro_f1": float(macro_f1)}

    if head.c:
        (pipeline,) = _fit(rows[train], labels[train], head, [head.c], task.seed, letters)
        return LinearModel(pipeline, task.n_classes), [{"c": head.c, "best": True}]
    grid = C_GRIDS[head.kind]
    pipelines = _fit(rows[fit], labels[fit], head, grid, task.seed, letters)
    history: list[Record] = [{"c": c} | judged(pipeline) for c, pipeline in zip(grid, pipelines, strict=True)]
    best = max(range(len(grid)), key=lambda i: _goodness(history[i]))
    for i, record in enumerate(history):
        record["best"] = i == best
    if head.kind == "bag_of_words":
        if head.letters is None and has_letters(rows[fit]):
            (other,) = _fit(rows[fit], labels[fit], head, [grid[best]], task.seed, letters=True)
            found, words = judged(other), history[best]["inner_macro_f1"]
            letters = _goodness(found) > _goodness(history[best])
            if letters:
                pipelines[best] = other
                history[best] |= found
            history[best] |= {"inner_macro_f1_words": words, "inner_macro_f1_letters": found["inner_macro_f1"]}
        history[best]["letters"] = letters
    if len(fit) < len(train):
        pipelines[best] = _fit(rows[train], labels[train], head, [grid[best]], task.seed, letters)[0]
    return LinearModel(pipelines[best], task.n_classes), history


def _goodness(record: Record) -> tuple[float, float]:
    return record["inner_macro_f1"], -record["inner_loss"]


def _fit(
    rows: np.ndarray, labels: np.ndarray, head: Head, cs: Sequence[float], seed: int, letters: bool
) -> list[Pipeline]:
    """A pipeline for each C, sharing its features; each fit starts from the last one's coefficients."""
    if len(set(labels.tolist())) < 2:
        raise UserError(f"{head.kind} head: the training units of a fold are all of one class")
    features = text_features(rows, letters) if head.kind == "bag_of_words" else statistics_features()
    try:
        inputs = features.fit_transform(rows)
    except ValueError as error:  # scikit-learn: "empty vocabulary", "no terms remain"
        raise UserError(f"{head.kind} head: the training units hold nothing to learn from ({error})") from error
    weights = "balanced" if head.loss == "weighted" else None
    pipelines, start = [], None
    for c in cs:
        # newton-cg: four times faster here than lbfgs, and it converges where lbfgs stops early
        model = LogisticRegression(
            C=c, class_weight=weights, solver="newton-cg", max_iter=1000, random_state=seed, warm_start=True
        )
        if start is not None:
            model.classes_, model.coef_, model.intercept_ = start.classes_, start.coef_, start.intercept_
        start = model.fit(inputs, labels)
        pipelines.append(Pipeline([("features", features), ("model", model)]))
    return pipelines
