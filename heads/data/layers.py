"""Stores of several layers: which columns of a clip's one row are which layer's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Span = tuple[int, int]  # first column, and the one behind the last


@dataclass(frozen=True)
class Layer:
    number: int  # index into the encoder's hidden states
    mean: Span
    deviation: Span | None  # None: only means are stored

    @property
    def span(self) -> Span:
        """All that is stored of it."""
        return self.mean[0], (self.deviation or self.mean)[1]


def layers_of(fields: Mapping[str, Any]) -> list[Layer]:
    """The layers of a store, in order, from what it was computed from; none where it does not hold several."""
    about = fields.get("layers")
    found: list[Layer] = []
    start = 0
    if not about:
        return found
    for number, width in about["taken"]:
        spans = [(start + k * width, start + (k + 1) * width) for k in range(len(about["statistics"]))]
        found.append(Layer(number, spans[0], spans[1] if len(spans) > 1 else None))
        start = spans[-1][1]
    return found


def lacks_layer(name: str, layers: Sequence[Layer], wanted: object) -> str:
    """Of a head that names a layer which a store does not hold."""
    there = ", ".join(str(layer.number) for layer in layers)
    return f"layer = {wanted}: the {name} store has the layers {there}"
