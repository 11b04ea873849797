"""Linear heads, boosted trees and bags of words written as graphs, from time steps, ids and counts of terms."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from heads.exporting.graph import EXACT, Value
from heads.exporting.units import Units, seen_steps
from heads.models.bag_of_words import BagModel
from heads.models.boosted import BoostedModel
from heads.models.columns import DEVIATION, FIELD, THERE
from heads.models.linear import SMALLEST_PROBABILITY, LinearModel
from heads.models.pooled import BEFORE, OWN

MISSING = -1  # place of a category that a model does not know


class Moments(NamedTuple):
    counts: Value  # (batch, 1)
    mean: Value  # (batch, dim), NaN where there are no time steps
    deviation: Value


def moments(units: Units, name: str, view: str) -> Moments:
    """Of all time steps of an input that a view of the unit's clips has."""
    g = units.graph
    values, _ = units.frames[name]
    steps = seen_steps(units, name)
    own = g.arange(units.size).equals(units.last)  # (batch, places)
    spoken = units.spoken()
    clips = own if view == OWN else spoken & ~own if view == BEFORE else spoken
    those = steps & clips.unsqueeze(2)
    values = those.unsqueeze(3).where(values, 0).reshape(0, -1, values.size(3))  # (batch, places * time, dim)
    steps = those.reshape(those.size(0), -1, 1)
    counts = steps.to(np.float32).sum(1)  # (batch, 1)
    # Summed up one after another, as in training: a value that a tree splits at stays on its side.
    mean = values.sum(1) / counts
    distances = steps.where(values - mean.unsqueeze(1), 0)
    variance = (distances * distances).sum(1).to(np.float64) / counts.to(np.float64)
    return Moments(counts, mean, variance.unary("Sqrt").to(np.float32))


# --- linear ---


def linear_log_p(model: LinearModel, units: Units) -> Value:
    """(batch, classes)."""
    g, columns = units.graph, []
    known: dict[tuple[str, str], Moments] = {}
    for scaler in model.scalers:
        name, view, statistic = scaler.block
        if statistic == FIELD:
            one_hot = np.eye(len(scaler.words) + 1, len(scaler.words), dtype=np.float32)  # the last row: none of them
            places = units.ids(name, scaler.words, missing=len(scaler.words), first=0)
            raw = g.op("Gather", g.constant(one_hot), places, axis=0)
        else:
            if (name, view) not in known:
                known[name, view] = moments(units, name, view)
            found = known[name, view]
            if statistic == THERE:
                raw = (found.counts > 0).to(np.float32)
            else:
                raw = found.deviation if statistic == DEVIATION and scaler.span is None else found.mean
                raw = raw if scaler.span is None else raw.slice(1, *scaler.span)
        scaled = (raw - scaler.mean) / scaler.scale
        columns.append(scaled.unary("IsNaN", dtype=bool).where(0, scaled))
    logits = _product(g.concat(columns, 1), model.weights) + model.intercepts
    return spread(logits.softmax(), model.classes, model.n_classes)


def spread(p: Value, classes: Sequence[int], n_classes: int) -> Value:
    """See :func:`heads.models.linear.spread`."""
    if list(classes) != list(range(n_classes)):
        p = p @ np.eye(n_classes, dtype=np.float32)[list(classes)]
    full = p.graph.op("Max", p, p.graph.constant(np.float32(SMALLEST_PROBABILITY)))
    return (full / full.sum(1, keep=True)).unary("Log")


def _product(columns: Value, weights: np.ndarray) -> Value:
    """Of columns without bounds: where one value in thousands is far out, eight bits leave nothing of the others."""
    return columns.graph.op("MatMul", columns, columns.graph.constant(weights), label=EXACT)


# --- trees ---


def boosted_log_p(model: BoostedModel, units: Units) -> Value:
    """(batch, classes)."""
    g, columns = units.graph, []
    for name, views in model.views.items():
        for view in views:
            found = moments(units, name, view)
            columns += [found.mean, found.deviation]
    for field, words in model.vocabularies.items():
        places = units.ids(field, words, missing=MISSING, first=0).unsqueeze(1)
        columns.append(places.equals(MISSING).where(np.nan, places.to(np.float32)))
    margins = trees(json.loads(model.booster.save_raw("json")), g.concat(columns, 1))
    return spread(margins.softmax(), model.classes, model.n_classes)


def trees(booster: Mapping[str, Any], rows: Value, base: bool = True) -> Value:
    """What a booster of several classes says of rows (batch, columns) float32: margins (batch, its classes).

    Args:
        booster: XGBoost's own JSON.
        base: whether the booster's base scores are part of it; not where margins are given.
    """
    learner = booster["learner"]
    model = learner["gradient_booster"]["model"]
    about = learner["learner_model_param"]
    n_classes = int(about["num_class"])
    leaves, inner, sets = _Leaves(), _Inner(), list[float]()
    roots: list[int] = []
    for tree, target in zip(model["trees"], model["tree_info"], strict=True):
        roots.append(_grow(tree, target, leaves, inner, sets))
    attributes: dict[str, Any] = {
        "tree_roots": roots,
        "n_targets": n_classes,
        "aggregate_function": 1,  # sum
        "post_transform": 0,
        "nodes_featureids": inner.features,
        "nodes_modes": _tensor(inner.modes, np.uint8),
        "nodes_splits": _tensor(inner.splits, np.float32),
        "nodes_truenodeids": inner.true_ids,
        "nodes_trueleafs": inner.true_leaves,
        "nodes_falsenodeids": inner.false_ids,
        "nodes_falseleafs": inner.false_leaves,
        "nodes_missing_value_tracks_true": inner.missing_is_true,
        "leaf_targetids": leaves.targets,
        "leaf_weights": _tensor(leaves.weights, np.float32),
    }
    if sets:
        attributes["membership_values"] = _tensor(sets, np.float32)
    margins = rows.graph.op("TreeEnsemble", rows, domain="ai.onnx.ml", **attributes)
    if not base:
        return margins
    start = np.array(json.loads(about["base_score"]) if isinstance(about["base_score"], str) else about["base_score"])
    return margins + np.broadcast_to(start.astype(np.float32), (n_classes,)).copy()


LESS, MEMBER = 1, 6  # modes of nodes: value < split; value is in a set


class _Leaves:
    def __init__(self) -> None:
        self.targets: list[int] = []
        self.weights: list[float] = []


class _Inner:
    def __init__(self) -> None:
        self.features: list[int] = []
        self.modes: list[int] = []
        self.splits: list[float] = []
        self.true_ids: list[int] = []
        self.true_leaves: list[int] = []
        self.false_ids: list[int] = []
        self.false_leaves: list[int] = []
        self.missing_is_true: list[int] = []


def _grow(tree: Mapping[str, Any], target: int, leaves: _Leaves, inner: _Inner, sets: list[float]) -> int:
    """Add a tree; returns the number of its root."""
    left, right = tree["left_children"], tree["right_children"]
    of_node = dict(zip(tree["categories_nodes"], range(len(tree["categories_nodes"])), strict=True))

    def leaf(node: int) -> int:
        leaves.targets.append(target)
        leaves.weights.append(tree["split_conditions"][node])
        return len(leaves.weights) - 1

    def add(node: int) -> int:
        """XGBoost goes left where value < split, and right where the value is in the set."""
        number = len(inner.features)
        categorical, alone = node in of_node, left[node] == -1
        inner.features.append(0 if alone else tree["split_indices"][node])
        inner.modes.append(MEMBER if categorical else LESS)
        inner.splits.append(0.0 if categorical or alone else tree["split_conditions"][node])
        inner.missing_is_true.append(int(bool(tree["default_left"][node]) != categorical))
        for each in (inner.true_ids, inner.true_leaves, inner.false_ids, inner.false_leaves):
            each.append(0)
        if categorical:
            at = of_node[node]
            start, size = tree["categories_segments"][at], tree["categories_sizes"][at]
            sets.extend([*map(float, tree["categories"][start : start + size]), np.nan])  # NaN ends a set
        true, false = (node, node) if alone else (right[node], left[node])
        if not categorical and not alone:
            true, false = false, true
        for child, ids, is_leaf in (
            (true, inner.true_ids, inner.true_leaves),
            (false, inner.false_ids, inner.false_leaves),
        ):
            is_leaf[number] = int(left[child] == -1)
            ids[number] = leaf(child) if left[child] == -1 else add(child)
        return number

    return add(0)


def _tensor(values: Sequence[float], dtype: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(values, dtype=dtype), "values")


# --- bags of words ---

Terms = dict[tuple[int, str], list[str]]  # text's column and way of cutting it (JSON): its terms


def bag_log_p(model: BagModel, units: Units, counts: Value, terms: Terms) -> Value:
    """(batch, classes).

    Args:
        counts: (batch, all terms) float32: how often each term stands in its text.
        terms: of all folds' models, in the order of the counts.
    """
    g = units.graph
    places: dict[tuple[int, str], dict[str, int]] = {}
    n = 0
    for key, words in terms.items():
        places[key] = {word: n + i for i, word in enumerate(words)}
        n += len(words)

    def vectorised(column: int, vectoriser: Any) -> Value:
        own = sorted(vectoriser.vocabulary_, key=vectoriser.vocabulary_.__getitem__)
        chosen = np.array([places[column, cut(vectoriser)][word] for word in own], np.int64)
        found = g.op("Gather", counts, g.constant(chosen), axis=1)
        found = (found > 0).where(
            g.op("Max", found, g.constant(np.float32(1))).unary("Log") + 1, g.constant(np.float32(0))
        )
        found = found * vectoriser.idf_.astype(np.float32)
        return _normed(found) if vectoriser.norm == "l2" else found

    columns = []
    for _, step, column in _parts(model):
        vectorisers = _vectorisers_of(step)
        found = g.concat([vectorised(column, each) for each in vectorisers], 1)
        columns.append(found if hasattr(step, "vocabulary_") else _normed(found))
    classifier = model.pipeline.named_steps["model"]
    weights, bias = classifier.coef_.T.astype(np.float32), classifier.intercept_.astype(np.float32)
    if len(classifier.classes_) == 2:  # scikit-learn keeps the second one's alone
        weights, bias = np.c_[0 * weights, weights], np.r_[np.float32(0), bias]
    logits = _product(g.concat(columns, 1), np.ascontiguousarray(weights)) + bias
    return spread(logits.softmax(), classifier.classes_.tolist(), model.n_classes)


def terms_of(models: Sequence[BagModel]) -> Terms:
    """The terms of several folds' models, sorted within each column and way of cutting texts."""
    found: dict[tuple[int, str], set[str]] = {}
    for model in models:
        for _, step, column in _parts(model):
            for each in _vectorisers_of(step):
                found.setdefault((column, cut(each)), set()).update(each.vocabulary_)
    return {key: sorted(found[key]) for key in sorted(found)}


def cut(vectoriser: Any) -> str:
    """How a vectoriser cuts texts into terms, as JSON."""
    words = vectoriser.analyzer == "word"
    pattern = vectoriser.token_pattern if words else None
    return json.dumps({"analyzer": vectoriser.analyzer, "ngrams": list(vectoriser.ngram_range), "pattern": pattern})


def _parts(model: BagModel) -> list[tuple[str, Any, int]]:
    return [part for part in model.pipeline.named_steps["features"].transformers_ if part[0] != "remainder"]


def _vectorisers_of(step: Any) -> list[Any]:
    if hasattr(step, "vocabulary_"):
        return [step]
    return [each for _, each in step.named_steps["terms"].transformer_list]


def _normed(rows: Value) -> Value:
    length = (rows * rows).sum(1, keep=True).unary("Sqrt")
    return rows / (length > 0).where(length, 1)
