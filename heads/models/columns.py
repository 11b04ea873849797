"""What linear models read of units: standardised columns in blocks, each of which says one thing.

A block is an input's mean or deviation in one view, whether the input is there, or a metadata field. Blocks are
penalised apart: before a fit a block's columns are multiplied by its weight, so that a wide block counts no more than a
narrow one, and one that says little can be turned down or left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from heads.data.layers import Layer, Span
from heads.models.pooled import ALL, BEFORE, OWN, UnitRows

MEAN, DEVIATION, THERE, FIELD = "mean", "deviation", "there", "field"
VIEWS = {OWN: (OWN,), "apart": (OWN, BEFORE), ALL: (ALL,)}  # of a unit's clips: what is read of them
Block = tuple[str, str, str]  # an input, its view, its statistic; or a field's name, "", FIELD


@dataclass(frozen=True)
class Scaler:
    """A block's columns, standardised by training units."""

    block: Block
    mean: np.ndarray  # (columns,) float32
    scale: np.ndarray  # (columns,) float32; infinite for a column that says nothing
    words: tuple[str, ...] = ()  # of a field: its categories
    span: Span | None = None  # of one layer of several: its columns in the mean over the clips' rows

    def columns(self, rows: UnitRows, units: np.ndarray) -> np.ndarray:
        """(units, columns) float32; what is missing is the training units' mean, 0."""
        values = (_raw(self.block, self.words, self.span, rows, units) - self.mean) / self.scale
        return np.nan_to_num(values, copy=False, nan=0.0)


def scalers(
    rows: UnitRows, train: np.ndarray, layers: Mapping[str, Layer] = MappingProxyType({})
) -> dict[Block, Scaler]:
    """Every block that says something of the training units.

    Args:
        layers: of inputs whose store has several, the one that is read.
    """
    found: dict[Block, Scaler] = {}
    for name in rows.own:
        for view in rows.views(name):
            for statistic in (MEAN, DEVIATION, THERE):
                span = None
                if name in layers and statistic != THERE:
                    span = layers[name].mean if statistic == MEAN else layers[name].deviation
                    if span is None:
                        continue
                found[name, view, statistic] = _scaler((name, view, statistic), (), span, rows, train)
    for field, words in rows.vocabularies(train).items():
        found[field, "", FIELD] = _scaler((field, "", FIELD), tuple(words), None, rows, train)
    return {block: scaler for block, scaler in found.items() if np.isfinite(scaler.scale).any()}


def _scaler(block: Block, words: tuple[str, ...], span: Span | None, rows: UnitRows, train: np.ndarray) -> Scaler:
    values = _raw(block, words, span, rows, train)
    there = ~np.isnan(values)
    counts = np.maximum(there.sum(0), 1)
    mean = np.where(there, values, 0).sum(0, dtype=np.float64) / counts
    squares = np.square(np.where(there, values - mean.astype(np.float32), 0), dtype=np.float64).sum(0)
    deviation = np.sqrt(squares / counts)
    constant = deviation <= 1e-6 * np.abs(mean)
    scale = np.where(constant, np.inf, deviation).astype(np.float32)
    return Scaler(block, mean.astype(np.float32), scale, words, span)


def _raw(block: Block, words: tuple[str, ...], span: Span | None, rows: UnitRows, units: np.ndarray) -> np.ndarray:
    """(units, columns) float32, NaN where it is not known."""
    name, view, statistic = block
    if statistic == FIELD:
        codes = rows.codes({name: words}, units)  # (units, 1)
        return (codes == np.arange(len(words))).astype(np.float32)
    columns = slice(0) if statistic == THERE else slice(None) if span is None else slice(*span)
    moments = rows.moments(name, view, units, columns)
    if statistic == THERE:
        return (moments.counts > 0).astype(np.float32)[:, None]
    if span is not None:  # the deviations over time of one layer of several are stored as its means are
        return moments.mean
    return moments.mean if statistic == MEAN else moments.deviation


def selected(
    known: Mapping[Block, Scaler], view: str, deviations: bool, weights: Mapping[str, float]
) -> dict[Block, float]:
    """The blocks of a choice, and what their columns are multiplied by.

    The blocks of an input or field share its weight; blocks count alike, however many columns they have.

    Args:
        view: one of ``VIEWS``; an input that has one view alone is seen in it.
        weights: by input and field.
    """
    several = {name for name, at, _ in known if at == BEFORE}
    wanted = []
    for block in known:
        name, at, statistic = block
        seen = statistic == FIELD or at in (VIEWS[view] if name in several else (OWN,))
        if seen and weights[name] and (deviations or statistic != DEVIATION):
            wanted.append(block)
    widths = {block: int(np.isfinite(known[block].scale).sum()) for block in wanted}
    typical = sum(widths.values()) / max(1, len(widths))
    return {block: weights[block[0]] * float(np.sqrt(typical / widths[block])) for block in wanted}


def matrix(
    known: Mapping[Block, Scaler], blocks: Mapping[Block, float], rows: UnitRows, units: np.ndarray
) -> np.ndarray:
    """(units, columns) float32: the blocks side by side, multiplied by their weights."""
    parts = [np.empty((len(units), 0), np.float32)]
    parts += [known[block].columns(rows, units) * np.float32(weight) for block, weight in blocks.items()]
    return np.concatenate(parts, axis=1)


def names_of(known: Sequence[Block] | Mapping[Block, Scaler]) -> list[str]:
    """The inputs and fields that blocks are of, each once, in order."""
    return list(dict.fromkeys(name for name, _, _ in known))
