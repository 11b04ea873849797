"""Charts as PNG files, for papers, slides and ``dvc plots``. The report draws its own."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fusion.nested import Fusion
from fusion.outputs import display_name

# Okabe and Ito's palette keeps apart for all common kinds of colour blindness.
BLUE, ORANGE, GREEN, GREY, LIGHT = "#0072B2", "#E69F00", "#009E73", "#8C8C8C", "#C8C8C8"
DPI = 150
LONGEST_NAME = 16  # characters


def write_charts(found: Fusion, folder: Path) -> None:
    """Write ``strategies.png``, ``confusion_matrix.png`` and ``per_class.png``, all about the headline split."""
    score = found.scores[found.chosen][found.headline]
    for name, figure in (
        ("strategies", _strategies(found)),
        ("confusion_matrix", _confusion_matrix(score, found.units.classes)),
        ("per_class", _per_class(score["per_class"])),
    ):
        figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})


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
    axes.set_yticks(range(len(names)), [_literal(display_name(name)) for name in names])
    axes.set_xlim(0, 1.08)
    axes.set_xlabel(f"macro-F1 on {found.headline}, with 95 % interval")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _confusion_matrix(score: dict[str, Any], classes: tuple[str, ...]) -> Figure:
    counts = np.array(score["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.2 + 0.62 * len(classes)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.55 else "black"
        axes.text(
            column, row, f"{counts[row, column]}\n{share:.0%}", ha="center", va="center", color=colour, fontsize=8
        )
    names = [_literal(name) for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    figure.colorbar(image, ax=axes, shrink=0.75, label="share of the actual class")
    return figure


def _per_class(per_class: dict[str, dict[str, float]]) -> Figure:
    figure = Figure(figsize=(2.0 + 0.95 * len(per_class), 3.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(per_class))
    for i, (measure, colour) in enumerate((("precision", ORANGE), ("recall", GREEN), ("f1", BLUE))):
        values = [scores[measure] for scores in per_class.values()]
        axes.bar(places + 0.27 * (i - 1), values, width=0.25, color=colour, label="F1" if measure == "f1" else measure)
    names = [f"{_literal(name)}\n({int(scores['support'])})" for name, scores in per_class.items()]
    axes.set_xticks(places, names)
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _literal(name: str) -> str:
    """A name as it is, if not too long: matplotlib would read ``$...$`` as a formula."""
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return short.replace("$", r"\$")
