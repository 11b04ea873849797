"""Fitted fusions as ONNX graphs, computed in float64 as they were fitted.

Inputs: the logits (batch, classes) of each head by its name, of each baseline as baseline_HEAD, NaN where one is
absent, and where the fusion reads metadata itself, the ids (batch,) of each field as meta_FIELD. Of a fusion of heads
that are centred per speaker also sums (batch, heads, classes) and counts (batch, heads): what is known of each unit's
speaker, this unit among it. Outputs: logits, the fused log-probabilities, and p_CLASS; NaN where no head speaks.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from configs import UserError
from fusion.strategies.catalogue import Fitted, FittedBlend
from fusion.strategies.neural import FittedAttention
from fusion.strategies.pools import FittedBaseline, FittedClassWeighted, FittedMean, FittedSingle, FittedWeighted
from fusion.strategies.speakers import HALF, People
from fusion.strategies.stacking import FittedLogistic, FittedXGBoost
from heads.exporting.graph import Graph, Value
from heads.exporting.head import say
from heads.exporting.rows import trees
from heads.exporting.units import FIRST

SMALLEST = float(np.log(1e-30))


@dataclass(frozen=True)
class Heard:
    """What the heads of a batch say: ``logits`` (batch, heads, classes), 0 where a head is absent, and ``present``."""

    graph: Graph
    logits: Value
    present: Value  # (batch, heads) bool
    baselines: Mapping[str, Value]  # (batch, classes), NaN where absent
    fields: Mapping[str, Value]
    n_classes: int

    @property
    def weight(self) -> Value:
        """(batch, heads, 1) float64: 1 where a head is there."""
        return self.present.to(np.float64).unsqueeze(2)


def export_fusion(
    fitted: Fitted, heads: Sequence[str], baselines: Sequence[str], classes: Sequence[str], people: People | None = None
) -> tuple[bytes, list[str], dict[str, list[str]]]:
    """The graph of a fitted fusion, the names of its inputs, and the categories behind the ids of its fields.

    Args:
        people: where the graph is that of the fusion of centred heads.
    Raises:
        UserError: a strategy that cannot be exported.
    """
    g, n_classes = Graph(), len(classes)
    inputs = [g.input(name, np.float32, ["batch", n_classes]).to(np.float64) for name in heads]
    alone = {name: g.input(f"baseline_{name}", np.float32, ["batch", n_classes]).to(np.float64) for name in baselines}
    words = categories(fitted)
    fields = {name: g.input(f"meta_{name}", np.int64, ["batch"]) for name in words}
    raw = g.concat([each.unsqueeze(1) for each in inputs], 1)
    absent = raw.unary("IsNaN", dtype=bool)
    present = ~absent.any(2)
    logits = absent.where(0, raw)
    if people is not None:
        sums = g.input("sums", np.float64, ["batch", len(heads), n_classes])
        counts = g.input("counts", np.float64, ["batch", len(heads)]).unsqueeze(2)
        others = g.op("Max", counts - 1, g.constant(np.float64(0)))
        means = sums / g.op("Max", counts, g.constant(np.float64(1)))
        logits = (logits - others / (others + HALF) * (means - people.everyone)).log_softmax()
        fitted = people.fitted
    log_p = _fused(fitted, Heard(g, logits, present, alone, fields, n_classes))
    log_p = present.any(1, keep=True).where(log_p, np.nan)
    log_p = log_p.to(np.float32)
    g.output("logits", log_p, ["batch", n_classes])
    say(g, log_p, classes)
    return g.serialised("fusion"), g.input_names, words


def categories(fitted: Fitted) -> dict[str, list[str]]:
    """Of each field that a fusion itself reads."""
    if isinstance(fitted, FittedAttention):
        return {name: words for name, words in fitted.features.categories.items() if words}
    found: dict[str, list[str]] = {}
    for member in fitted.members.values() if isinstance(fitted, FittedBlend) else ():
        found |= categories(member)
    return found


def _fused(fitted: Fitted, heard: Heard) -> Value:
    """(batch, classes) log-probabilities: what ``fitted.predict_logits`` gives."""
    g = heard.graph
    if isinstance(fitted, FittedMean):
        p = _calibrated(heard, fitted.calibrations)
        pooled = ((p * heard.weight).sum(1) / heard.weight.sum(1)).unary("Log")
        return (pooled / fitted.temperature).log_softmax()
    if isinstance(fitted, FittedSingle):
        own, others = _of(heard.logits, fitted.head), _fused(fitted.others, heard)
        there = heard.present.slice(1, fitted.head, fitted.head + 1)
        return there.where((own / fitted.temperature).log_softmax(), others)
    if isinstance(fitted, FittedBaseline):
        own = heard.baselines[fitted.name]
        absent = own.unary("IsNaN", dtype=bool).any(1, keep=True)
        return absent.where(_fused(fitted.others, heard), (own / fitted.temperature).log_softmax())
    if isinstance(fitted, FittedWeighted):
        weights = heard.weight * np.array(fitted.weights)[:, None]
        pool = (weights * _log(_calibrated(heard, fitted.calibrations))).sum(1) / weights.sum(1)
        return (pool * fitted.sharpness).log_softmax()
    if isinstance(fitted, FittedClassWeighted):
        of_class = np.array(fitted.weights)
        weights = heard.weight * of_class
        pool = (weights * _log(_calibrated(heard, fitted.calibrations))).sum(1) / weights.sum(1)
        return (pool * of_class.sum(axis=0) + np.array(fitted.intercepts)).log_softmax()
    if isinstance(fitted, FittedLogistic):
        base, features = _features(fitted.base, heard)
        return (base + features @ np.array(fitted.coefficients) + np.array(fitted.intercepts)).log_softmax()
    if isinstance(fitted, FittedXGBoost):
        base = _fused(fitted.base, heard)
        own = (heard.weight > 0).where(_log(_calibrated(heard, fitted.base.calibrations)), np.nan)
        rows = g.concat([base, own.reshape(base.size(0), -1)], 1).to(np.float32)
        booster = json.loads(fitted.booster.save_raw("json"))
        return (base + trees(booster, rows, base=False).to(np.float64)).log_softmax()
    if isinstance(fitted, FittedAttention):
        return _attended(fitted, heard)
    if isinstance(fitted, FittedBlend):
        members = [_fused(member, heard) for member in fitted.members.values()]
        total = members[0]
        for each in members[1:]:
            total = total + each
        return (total / len(members)).log_softmax()
    name = type(fitted).__name__.removeprefix("Fitted").lower()
    raise UserError(
        f"fusion: the strategy {name} cannot be exported: fuse with another one: "
        "python fusion/stack.py --strategy weighted"
    )


def _attended(fitted: FittedAttention, heard: Heard) -> Value:
    features, g = fitted.features, heard.graph
    _, scores = _features(features.base, heard)
    p = _calibrated(heard, features.base.calibrations)
    log_p = _log(p)
    floored = g.op("Max", log_p, g.constant(np.float64(SMALLEST)))
    entropy = (p * floored).sum(2, keep=True) / float(np.log(heard.n_classes))
    best = g.op("TopK", p, g.ints(2), axis=2, more=1)
    margin = best.slice(2, 0, 1) - best.slice(2, 1, 2)
    sure = g.concat([entropy + 1, margin], 2) * heard.weight
    parts = [scores, sure.reshape(sure.size(0), -1), heard.present.to(np.float64)]
    for name, words in features.categories.items():
        if words:  # ids are numbered by this very list
            one_hot = np.eye(FIRST + len(words))[:, FIRST:]
            parts.append(g.op("Gather", g.constant(one_hot), heard.fields[name], axis=0))
    x = (g.concat(parts, 1) - np.array(features.mean)) / np.array(features.scale)
    hidden = (x @ np.array(fitted.first) + np.array(fitted.first_bias)).unary("Tanh")
    gate = hidden @ np.array(fitted.second) + np.array(fitted.second_bias)
    gate = heard.present.where(gate, -np.inf).softmax() * np.exp(np.array(fitted.log_sharpness))
    return (gate.unsqueeze(2) * (log_p * heard.weight)).sum(1).log_softmax()


def _features(pool: FittedWeighted, heard: Heard) -> tuple[Value, Value]:
    base = _fused(pool, heard)
    deviations = (_log(_calibrated(heard, pool.calibrations)) - base.unsqueeze(1)) * heard.weight
    return base, heard.graph.concat([base, deviations.reshape(base.size(0), -1)], 1)


def _calibrated(heard: Heard, calibrations: Sequence[Sequence[float]]) -> Value:
    """(batch, heads, classes): probabilities with each head's temperature and doubt."""
    temperatures, doubts = np.array(calibrations).T[..., None]
    p = (heard.logits / temperatures).softmax()
    return p * (1 - doubts) + doubts / heard.n_classes


def _log(p: Value) -> Value:
    return p.unary("Log")


def _of(logits: Value, head: int) -> Value:
    return logits.slice(1, head, head + 1).squeeze(1)
