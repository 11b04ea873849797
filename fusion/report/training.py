"""How heads' trainings went, read from the ``training_history.json`` that lies beside a head's predictions.

The file is a list of records, one for each epoch (boosting round, or regularisation strength that was tried) of each
model: ``fold``, ``seed``, one of ``epoch``, ``round`` and ``c``, ``best`` (what the model kept), and any of
``train_loss``, ``inner_loss`` and ``inner_macro_f1``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusion.report.context import read_beside

FILE = "training_history.json"
STEPS = ("epoch", "round")
PANELS = {
    "loss": {"train_loss": "training", "inner_loss": "inner validation"},
    "macro-F1": {"inner_macro_f1": "inner validation"},
}
MOST_POINTS = 60  # of a line: more cannot be seen at this size


@dataclass(frozen=True)
class Line:
    """One value over the steps of one model, or (``kind`` = mean) of all models as far as all got."""

    value: str  # train_loss, inner_loss or inner_macro_f1
    kind: str  # model or mean
    points: list[tuple[float, float]]  # (step, value)


@dataclass(frozen=True)
class Panel:
    label: str  # of PANELS
    lines: list[Line]
    kept: list[tuple[float, float, str]]  # (step, value, name of the value): what each model kept
    last: float  # the last step of any model
    low: float
    high: float


@dataclass(frozen=True)
class Curves:
    """A head's panels, or why there are none."""

    step: str
    panels: list[Panel]
    models: int
    missing: str = ""


def read_curves(predictions: Path) -> Curves:
    """The curves of the head that wrote these predictions."""
    path = predictions.parent / FILE
    if not path.is_file():
        return Curves("", [], 0, f"no {FILE} beside its predictions")
    history = read_beside(path)
    if not history:
        return Curves("", [], 0, f"{FILE} holds no record")
    step = next((name for name in STEPS if name in history[0]), None)
    if step is None:
        return Curves("", [], 0, "fitted in one go, for each of a few regularisation strengths: there are no epochs")
    models: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for record in history:
        models.setdefault((record["fold"], record["seed"]), []).append(record)
    panels = [_panel(label, list(models.values()), step, values) for label, values in PANELS.items()]
    return Curves(step, [panel for panel in panels if panel.lines], len(models))


def read_layers(predictions: Path) -> list[str]:
    """What the layers of an encoder counted in the head that wrote these predictions, a sentence for each input whose
    store has several; none where metrics.json beside them says nothing of layers."""
    path = predictions.parent / "metrics.json"
    metrics = read_beside(path) if path.is_file() else None
    said = []
    for name, models in (metrics.get("layers", {}) if isinstance(metrics, dict) else {}).items():
        numbers = sorted({int(number) for weights in models for number in weights})
        each = {number: [weights.get(str(number), 0.0) for weights in models] for number in numbers}
        shares = [f"layer {n}: {np.mean(w):.3f} ({min(w):.3f} to {max(w):.3f})" for n, w in each.items()]
        counted = f"{len(models)} model{'s' * (len(models) > 1)}"
        said.append(f"layers of {name}, mean weight (lowest to highest) over {counted}: {', '.join(shares)}")
    return said


def _panel(label: str, models: list[list[dict[str, Any]]], step: str, values: dict[str, str]) -> Panel:
    lines, kept, everything = [], [], []
    for value in values:
        runs = [[(r[step], r[value]) for r in records if r.get(value) is not None] for records in models]
        runs = [run for run in runs if run]
        everything += [y for run in runs for _, y in run]
        kept += [
            (r[step], r[value], value) for records in models for r in records if r["best"] and r.get(value) is not None
        ]
        lines += [Line(value, "model", _thinned(run)) for run in runs]
        if len(runs) > 1:
            shared = [(run[0][0], float(np.mean([y for _, y in run]))) for run in zip(*runs, strict=False)]
            lines.append(Line(value, "mean", _thinned(shared)))
    last = max((x for line in lines for x, _ in line.points), default=0)
    return Panel(label, lines, kept, last, min(everything, default=0.0), max(everything, default=1.0))


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MOST_POINTS:
        return points
    return [points[i] for i in np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int)]
