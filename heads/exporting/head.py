"""A trained head as one ONNX graph: all its folds' models, their average, and what it says calibrated.

Inputs, of ``batch`` units of up to ``clips`` clips, those that the head reads: for each encoder ENCODER (batch, clips,
time, dim) and ENCODER_lengths (batch, clips), 0 where a clip has none; attention_mask (batch, clips), 1 where there is
a clip, the labelled one last; roles and speakers (batch, clips); an id (batch,) for each metadata field; of bags of
words HEAD_counts (batch, terms) and text_given (batch,). Outputs: logits, the log-probabilities as the fusion reads
them, and p_CLASS, calibrated; NaN where the head finds nothing to read.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs import UserError
from heads.data.batches import ROLES
from heads.exporting.graph import Graph, Value
from heads.exporting.networks import network_logits
from heads.exporting.units import Units
from heads.fitting.saved import TrainedHead
from heads.models.network import NetworkModel, clip_encoders

__all__ = ["ROLES", "ExportedHead", "export_head", "say"]
MASK, ROLES_, SPEAKERS, TEXT = "attention_mask", "roles", "speakers", "text_given"


@dataclass(frozen=True)
class ExportedHead:
    model: bytes
    inputs: list[str]
    dims: dict[str, int]  # width of each input of features
    words: dict[str, list[str]]  # field: the categories that its ids from units.FIRST on mean
    terms: list[
        dict[str, Any]
    ]  # of a bag of words: which text, how it is cut, and the terms, in the order of the counts
    left_out: list[str]  # what whoever calls it has to do


def export_head(head: TrainedHead, name: str, temperature: float, dims: dict[str, int]) -> ExportedHead:
    """Write a head's graph.

    Args:
        name: of the head, for its file and the input of a bag of words.
        temperature: with which its probabilities are calibrated.
        dims: the width of each encoder's features.
    Raises:
        UserError: a head that trains layers of its encoder, or names that clash.
    """
    models = [model for fold in head.models for model in fold]
    settings, g = head.settings, Graph()
    _refuse(head, name)
    words = _words(models)
    units = Units(g, {})
    left_out = []
    if settings.stores:
        frames = {
            each: (
                g.input(
                    _source(each, settings.standardise), np.float32, ["batch", "clips", f"{each}_time", dims[each]]
                ),
                g.input(f"{_source(each, settings.standardise)}_lengths", np.int64, ["batch", "clips"]),
            )
            for each in settings.stores
        }
        mask = g.input(MASK, np.int64, ["batch", "clips"]) > 0
        roles = g.input(ROLES_, np.int64, ["batch", "clips"])
        speakers = g.input(SPEAKERS, np.int64, ["batch", "clips"]) if settings.kind == "transformer" else None
        units = Units(g, frames, mask, roles, speakers, {}, words)
    if settings.standardise != "none":
        left_out.append(f"take from each clip's features the mean over all clips of its {settings.standardise}")
    fields = list(dict.fromkeys([*settings.metadata, *words]))
    given = {field: g.input(field, np.int64, ["batch"]) for field in fields}
    units = Units(g, units.frames, units.mask, units.roles, units.speakers, given, words).within(settings.context_clips)
    terms: list[dict[str, Any]] = []
    if settings.kind == "bag_of_words":
        from heads.exporting.rows import bag_log_p, terms_of

        found = terms_of(models)  # type: ignore[arg-type]
        counts = g.input(f"{name}_counts", np.float32, ["batch", sum(map(len, found.values()))])
        present = g.input(TEXT, np.bool_, ["batch"])
        log_p = [[bag_log_p(model, units, counts, found) for model in fold] for fold in head.models]  # type: ignore[arg-type]
        terms = [{"text": column, "cut": json.loads(way), "terms": each} for (column, way), each in found.items()]
        left_out.append("cut texts into terms and count them, as predict.onnx.py does")
    else:
        present = _present(head, units)
        log_p = [[_log_p(model, units) for model in fold] for fold in head.models]
    averaged = _average([_average(fold) for fold in log_p])
    logits = present.unsqueeze(1).where(averaged, np.nan)
    g.output("logits", logits, ["batch", len(head.classes)])
    say(g, logits / temperature, head.classes)
    widths = {_source(each, settings.standardise): dims[each] for each in settings.stores}
    words = {field: words.get(field, []) for field in fields}
    return ExportedHead(g.serialised(f"head {name}"), g.input_names, widths, words, terms, left_out)


def say(g: Graph, logits: Value, classes: Sequence[str]) -> None:
    """The outputs p_CLASS, (batch,) each, of logits (batch, classes)."""
    p = logits.softmax()
    for number, name in enumerate(classes):
        g.output(f"p_{name}", p.slice(1, number, number + 1).squeeze(1), ["batch"])


def _log_p(model: Any, units: Units) -> Value:
    if isinstance(model, NetworkModel):
        if model.base is None:
            return network_logits(model, units).log_softmax()
        from heads.exporting.rows import linear_log_p

        base = linear_log_p(model.base, units)
        return (base + network_logits(model, units) * model.share).log_softmax() if model.share else base
    from heads.exporting.rows import boosted_log_p, linear_log_p  # scikit-learn and XGBoost take seconds to import
    from heads.models.linear import LinearModel

    return linear_log_p(model, units) if isinstance(model, LinearModel) else boosted_log_p(model, units)


def _average(log_p: list[Value]) -> Value:
    total = log_p[0]
    for each in log_p[1:]:
        total = total + each
    return (total / len(log_p)).log_softmax()


def _present(head: TrainedHead, units: Units) -> Value:
    """(batch,) bool: whether there is anything to read; see :mod:`heads.models.presence`."""
    found: list[Value] = []
    for name in head.settings.stores:
        assert units.mask is not None
        seen = units.spoken() if head.settings.kind in ("linear", "xgboost") else units.mask
        found.append(((units.frames[name][1] > 0) & seen).any(1))
    assert units.fields is not None
    found += [units.fields[field] > 0 for field in head.settings.metadata]
    result = found[0]
    for each in found[1:]:
        result = result | each
    return result


def _words(models: Sequence[Any]) -> dict[str, list[str]]:
    """The categories of each field that any fold's model knows, sorted."""
    known: dict[str, set[str]] = {}
    for model in models:
        bases = [model, *([model.base] if getattr(model, "base", None) else [])]
        for each in bases:
            own = getattr(each, "vocabularies", None) or {
                scaler.block[0]: scaler.words for scaler in getattr(each, "scalers", ()) if scaler.words
            }
            for field, words in own.items():
                known.setdefault(field, set()).update(words)
    return {field: sorted(words) for field, words in known.items()}


def _source(encoder: str, standardise: str) -> str:
    """What an input is called: features that are centred are others."""
    return encoder if standardise == "none" else f"{encoder}_less_{standardise}"


def _refuse(head: TrainedHead, name: str) -> None:
    for model in (model for fold in head.models for model in fold):
        if isinstance(model, NetworkModel) and any(e.tail is not None for e in clip_encoders(model.network).values()):
            raise UserError(
                f"head {name}: holds layers of its encoder ({', '.join(head.settings.fine_tune)}: fine_tune), which "
                "are not exported: leave it out with fusion.heads and fuse again, or train it without fine_tune"
            )
    taken = {MASK, ROLES_, SPEAKERS, TEXT, *(f"{each}_lengths" for each in head.settings.stores)}
    clash = taken.union(head.settings.stores) & set(head.settings.metadata) or taken & set(head.settings.stores)
    if clash:
        raise UserError(f"head {name}: {min(clash)!r} would name two inputs of the graph: rename the encoder or field")
