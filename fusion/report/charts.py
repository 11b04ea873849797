"""Charts as PNG files, for papers, slides and ``dvc plots``. The report draws its own."""

import math
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fusion.report.findings import FEWEST_UNITS, Findings, Gate, Row
from fusion.report.outputs import display_name
from fusion.strategies.choice import HEAD
from fusion.strategies.nested import Fusion
from heads.metrics.printed import shown
from heads.pictures import literal, save

# Okabe and Ito's palette keeps apart for all common kinds of colour blindness.
BLUE, ORANGE, GREEN, GREY, LIGHT = "#0072B2", "#E69F00", "#009E73", "#8C8C8C", "#C8C8C8"
DPI = 150
LONGEST_NAME = 40  # characters
LONGEST_CANDIDATE = 40  # of a strategy, or of "baseline" and a head's name
WIDEST_NAME = 11  # that stands beside its neighbours
PANELS_A_ROW = 4
DARK = 0.55  # of a cell's shade, above which its text is white


def write_charts(found: Fusion, folder: Path, findings: Findings) -> None:
    """Write PNG files about the headline split: ``strategies``, ``confusion_matrix``, ``per_class``, ``reliability``,
    ``where_heads_win`` and, where the attention fusion was among the strategies, ``gate_weights``.
    """
    score = found.scores[found.chosen][found.headline]
    figures = {
        "strategies": _strategies(found),
        "confusion_matrix": _confusion_matrix(score, found.units.classes),
        "per_class": _per_class(score["per_class"]),
        "reliability": _reliability(found, findings),
        "where_heads_win": _where(findings),
    }
    if findings.gate is not None:
        figures["gate_weights"] = _gate(findings.gate)
    for name, figure in figures.items():
        if found.transductive:
            figure.supxlabel(
                "\n".join(f"TRANSDUCTIVE: {literal(what, 120)}" for what in found.transductive), fontsize=7
            )
        save(figure, folder / f"{name}.png", DPI)


def _strategies(found: Fusion) -> Figure:
    names = list(found.scores)
    figure = Figure(figsize=(7, 0.9 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    for y, name in enumerate(names):
        f1 = found.scores[name][found.headline]["macro_f1"]
        colour = BLUE if name == found.chosen else LIGHT if name == "majority" else GREY
        axes.barh(y, f1["value"], color=colour, height=0.68)
        if not math.isnan(f1["low"]):
            axes.plot([f1["low"], f1["high"]], [y, y], color="black", linewidth=1.4)
        right = f1["value"] if math.isnan(f1["high"]) else max(f1["value"], f1["high"])
        axes.text(right + 0.01, y, f"{f1['value']:.3f}", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), [literal(display_name(name), LONGEST_CANDIDATE) for name in names])
    axes.set_xlim(0, 1.08)
    axes.set_xlabel(f"macro-F1 on {found.headline}, with 95 % interval")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _confusion_matrix(score: dict[str, Any], classes: tuple[str, ...]) -> Figure:
    """Counts, and beside them the share of each row."""
    counts = np.array(score["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.2 + 0.56 * len(classes)
    figure = Figure(figsize=(2 * size, size), layout="constrained")
    names = _names(classes)
    panels = {
        "units": (counts / max(counts.max(), 1), [[f"{count}" for count in row] for row in counts]),
        "share of the actual class": (
            shares,
            [[f"{share:.0%}" if row.any() else "–" for share in row] for row in shares],
        ),
    }
    for axes, (title, (shades, texts)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        _heat(axes, shades, texts, names, names)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual")
    return figure


def _per_class(per_class: dict[str, dict[str, float]]) -> Figure:
    figure = Figure(figsize=(2.0 + 0.95 * len(per_class), 3.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(per_class))
    for i, (measure, colour) in enumerate((("precision", ORANGE), ("recall", GREEN), ("f1", BLUE))):
        values = [scores[measure] for scores in per_class.values()]
        axes.bar(places + 0.27 * (i - 1), values, width=0.25, color=colour, label="F1" if measure == "f1" else measure)
    for place, scores in zip(places, per_class.values(), strict=True):
        if not scores["support"]:
            axes.text(float(place), 0.02, "none", ha="center", fontsize=8, color=GREY)
    names = [f"{literal(name, LONGEST_NAME)}\n({int(scores['support'])})" for name, scores in per_class.items()]
    axes.set_xticks(places, names)
    if max(map(len, per_class)) > WIDEST_NAME:
        axes.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _reliability(found: Fusion, findings: Findings) -> Figure:
    """A panel for the fusion and for each head, before and after calibration; lines leave out bins of few units."""
    heads = {head: both for head, both in findings.calibration.items() if both}
    alone = found.chosen.startswith(HEAD) and heads  # the fusion is one of them
    panels = heads if alone else {f"fusion: {display_name(found.chosen)}": findings.fused_calibration, **heads}
    columns = min(PANELS_A_ROW, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(2.5 * columns, 2.9 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, both) in zip(grid.flat, panels.items(), strict=False):
        axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=0.9)
        for when, colour in (("before", ORANGE), ("after", BLUE)):
            bins = both[when]["bins"]
            units = np.array([part["units"] for part in bins])
            x, y = ([part[axis] for part in bins] for axis in ("confidence", "accuracy"))
            enough = units >= FEWEST_UNITS
            axes.plot(np.array(x)[enough], np.array(y)[enough], color=colour, linewidth=1)
            axes.scatter(x, y, 8 + 90 * units / units.sum(), color=colour, label=when, alpha=0.85, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(-0.03, 1.03), aspect="equal", xlabel="confidence", ylabel="accuracy")
        title = textwrap.fill(literal(name, LONGEST_NAME), 24)
        title += f"\nECE {both['before']['ece']:.3f} → {both['after']['ece']:.3f}"
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _where(findings: Findings) -> Figure:
    """F1 by class and macro-F1 by subgroup, of each head and of the fusion."""
    rows: dict[str, Row] = dict(findings.classes)
    for field, subgroups in findings.subgroups.items():
        rows |= {f"{field}: {value}": row for value, row in subgroups.items()}
    values = np.array([[*row.heads.values(), row.fusion] for row in rows.values()])
    heads = [*next(iter(rows.values())).heads, "fusion"]
    figure = Figure(figsize=(3.4 + 0.85 * len(heads), 1.6 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [f"{literal(name, LONGEST_NAME)} ({row.units})" for name, row in rows.items()]
    _heat(
        axes,
        values,
        [[shown(value, ".2f") for value in row] for row in values],
        names,
        _names(heads),
    )
    for y, row in enumerate(rows.values()):
        for x, head in enumerate(row.heads):
            if head in row.best:
                axes.add_patch(
                    Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, edgecolor="black", lw=1.3, zorder=3)
                )
    axes.axhline(len(findings.classes) - 0.5, color="white", linewidth=5)
    axes.axvline(len(heads) - 1.5, color="white", linewidth=5)
    axes.set_title("F1 by class, macro-F1 by subgroup (units); framed: the best head", fontsize=9)
    return figure


def _gate(gate: Gate) -> Figure:
    rows = {"all": gate.overall, **{name: weights for name, (_, weights) in gate.by_class.items()}}
    means = np.array([[weight.mean for weight in weights.values()] for weights in rows.values()])
    texts = [[f"{weight.mean:.2f}\n±{weight.std:.2f}" for weight in weights.values()] for weights in rows.values()]
    figure = Figure(figsize=(2.6 + 0.9 * means.shape[1], 1.5 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    _heat(
        axes,
        means,
        texts,
        _names(rows),
        _names(gate.overall),
    )
    axes.set_title("weights of the attention fusion", fontsize=10)
    axes.set_ylabel("its answer")
    return figure


def _heat(axes: Axes, shades: np.ndarray, texts: list[list[str]], rows: list[str], columns: list[str]) -> None:
    """Cells (rows, columns) shaded from 0 to 1, and what stands in them."""
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (y, x), shade in np.ndenumerate(shades):
        axes.text(x, y, texts[y][x], ha="center", va="center", color="white" if shade > DARK else "black", fontsize=8)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _names(names: Iterable[str]) -> list[str]:
    return [literal(name, LONGEST_NAME) for name in names]
