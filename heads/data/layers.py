"""Stores of several layers: which columns of a clip's one row are which layer's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Span = tuple[int, int]  # first column, and the one behind the last


@dataclass(frozen=True)
class Layer:
    number: int  # index into the encoder's hidden states
    mean: Span
    deviation: Span | None  # None: only means are stored


def layers_of(fields: Mapping[str, Any]) -> list[Layer]:
    """The layers of a store, in order, from what it was computed from; none where it does not hold several."""
    about = fields.get("layers")
    found: list[Layer] = []
    start = 0
    for number, width in about["taken"] if about else []:
        spans = [(start + k * width, start + (k + 1) * width) for k in range(len(about["statistics"]))]
        found.append(Layer(number, spans[0], spans[1] if len(spans) > 1 else None))
        start = spans[-1][1]
    return found
