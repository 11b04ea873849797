"""Curves of layers as a PNG, one HTML file that opens anywhere, JSON, and as text."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from extract.pages.rendering import environment
from heads.metrics.confusions import SCORES
from heads.metrics.printed import interval, without_nan
from heads.pictures import literal, save
from heads.probing.sweep import Curve

TEMPLATE = Path(__file__).with_name("page.html.j2")
# Of Okabe and Ito's palette, which keeps apart for all common kinds of colour blindness.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
DPI = 150


def write_curves(folder: Path, curves: Sequence[Curve], profile: str, classes: int, again: str) -> None:
    """Write layers.json, layers.png and index.html. Everything that comes from data is escaped; nothing is fetched.

    Args:
        again: the command that makes them again.
    """
    content = {"profile": profile, "metric": curves[0].metric, "encoders": [_as_json(curve) for curve in curves]}
    text = json.dumps(without_nan(content), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "layers.json").write_text(text + "\n", encoding="utf-8")
    _draw(folder / "layers.png", curves, profile, classes)
    pages = environment(TEMPLATE.parent)
    pages.filters |= {"interval": interval, "signed": lambda score: interval(score, "+.3f")}
    picture = base64.b64encode((folder / "layers.png").read_bytes()).decode()
    html = pages.get_template(TEMPLATE.name).render(
        curves=curves, profile=profile, picture=picture, scores=SCORES, numbers=numbers(curves), said=said, again=again
    )
    (folder / "index.html").write_text(html, encoding="utf-8")


def numbers(curves: Sequence[Curve]) -> list[int]:
    """Of all layers that some encoder has."""
    return sorted({probe.layer for curve in curves for probe in curve.probes})


def said(curve: Curve) -> str:
    """In one line what came out."""
    score = curve.best.scores[curve.metric]
    line = f"{curve.encoder}: best is layer {curve.best.layer}, {curve.metric} {score['value']:.3f} {interval(score)}"
    near = ", ".join(str(number) for number in curve.near)
    line += f"; not told apart from it: {near}" if near else "; all others are below it"
    missing = f"; {curve.n_missing} training units are not in the store" if curve.n_missing else ""
    return f"{line} ({curve.n_units} units{missing})"


def as_text(curves: Sequence[Curve]) -> str:
    """A table of encoder x layer, and a line for each encoder. * is the best layer, ~ cannot be told apart from it."""
    width = max(8, *(len(curve.encoder) + 2 for curve in curves))
    lines = [f"{curves[0].metric} of a linear probe per layer, out of fold; * best, ~ not told apart from it (95 %)"]
    lines.append(f"{'layer':<{width}}" + "".join(f"{number:>8}" for number in numbers(curves)))
    for curve in curves:
        cells = dict.fromkeys(numbers(curves), "")
        for probe in curve.probes:
            mark = "*" if probe is curve.best else "~" if probe.layer in curve.near else " "
            cells[probe.layer] = f"{probe.scores[curve.metric]['value']:.3f}{mark}"
        lines.append(f"{curve.encoder:<{width}}" + "".join(f"{cell:>8}" for cell in cells.values()))
    return "\n".join([*lines, *(said(curve) for curve in curves)])


def _as_json(curve: Curve) -> dict[str, Any]:
    layers = [
        {"layer": probe.layer, **probe.scores, "over_best": probe.over_best, "near_best": probe.layer in curve.near}
        for probe in curve.probes
    ]
    about = {"encoder": curve.encoder, "origin": curve.origin, "fingerprint": curve.fingerprint}
    counts = {"units": curve.n_units, "units_not_in_store": curve.n_missing}
    return about | counts | {"best": curve.best.layer, "not_told_apart": curve.near, "layers": layers}


def _draw(path: Path, curves: Sequence[Curve], profile: str, classes: int) -> None:
    """A line for each encoder, with 95 % intervals; a filled dot cannot be told apart from the best one, a ring can."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, curve in enumerate(curves):
        colour = COLOURS[place % len(COLOURS)]
        scores = [probe.scores[curve.metric] for probe in curve.probes]
        at = [probe.layer + 0.08 * (place - (len(curves) - 1) / 2) for probe in curve.probes]
        values = [score["value"] for score in scores]
        axes.plot(at, values, color=colour, label=literal(f"{curve.encoder} ({curve.origin})", 60))
        axes.vlines(at, [each["low"] for each in scores], [each["high"] for each in scores], color=colour, alpha=0.5)
        for x, value, probe in zip(at, values, curve.probes, strict=True):
            shape, size = ("*", 13) if probe is curve.best else ("o", 6)
            alike = probe.cannot_be_told_apart(curve.metric)
            axes.plot(x, value, shape, markersize=size, color=colour, markerfacecolor=colour if alike else "white")
    axes.axhline(1 / classes, color="0.6", linewidth=1, linestyle=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    name = curves[0].metric.replace("_", "-").replace("f1", "F1")
    axes.set(xlabel="layer (0: what enters the first)", ylabel=f"{name}, out of fold")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center")
    figure.suptitle(literal(f"linear probe per layer, profile {profile}", 200), fontsize=10)
    save(figure, path, DPI)
