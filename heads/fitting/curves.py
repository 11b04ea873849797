"""How a head's training went, as a PNG file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heads.data.folds import Record
from heads.pictures import literal, save

# Of Okabe and Ito's palette, which keeps apart for all common kinds of colour blindness.
BLUE, ORANGE = "#0072B2", "#E69F00"
DPI = 150
STEPS = ("epoch", "round", "c")  # what a record may be of
PANELS = {
    "loss": {"train_loss": ("training", ORANGE), "inner_loss": ("inner validation", BLUE)},
    "macro-F1": {"inner_macro_f1": ("inner validation", BLUE)},
}


def draw_curves(history: Sequence[Record], title: str, path: Path) -> None:
    """Loss and macro-F1 by epoch (round, or regularisation): a thin line for each model, and their mean.

    The mean goes as far as all models got. A dot is what a model kept.

    Args:
        history: records of all models; what a kind of head does not record is left out, a panel of it, too.
    """
    runs = list(by_model(history).values())
    step = step_of(history[0])
    recorded = {key for record in history for key in record}
    panels = {label: lines for label, lines in PANELS.items() if recorded & lines.keys()}
    figure = Figure(figsize=(4.5 * len(panels) or 9, 3.6 if panels else 0.9), layout="constrained")
    if not panels:
        figure.text(0.5, 0.25, "no curves: nothing was tried on an inner validation set", ha="center", color="0.4")
    axes_of = figure.subplots(1, len(panels), squeeze=False)[0] if panels else []
    for axes, (label, lines) in zip(axes_of, panels.items(), strict=True):
        for key, line in lines.items():
            _draw(axes, runs, step, key, *line)
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(step)
        if step == "c":
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.plot([], [], "o", color="0.3", markersize=4, label=f"kept {step}")
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(literal(title, 200), fontsize=10)
    save(figure, path, DPI)


def by_model(history: Sequence[Record]) -> dict[tuple[int, int], list[Record]]:
    """The records of each model, by its fold and seed."""
    runs: dict[tuple[int, int], list[Record]] = {}
    for record in history:
        runs.setdefault((record["fold"], record["seed"]), []).append(record)
    return runs


def step_of(record: Record) -> str:
    """What a record is of: one of STEPS."""
    return next(name for name in STEPS if name in record)


def mean_curve(runs: Sequence[Sequence[Record]], key: str) -> list[float]:
    """The mean of a value over all runs, for each of the steps that all runs reached."""
    return [
        float(np.mean([record[key] for record in records]))
        for records in zip(*runs, strict=False)
        if all(key in record for record in records)
    ]


def _draw(axes: Axes, runs: list[list[Record]], step: str, key: str, name: str, colour: str) -> None:
    runs = [[record for record in records if key in record] for records in runs]
    runs = [records for records in runs if records]
    for records in runs:
        points: list[Any] = [record[step] for record in records]
        axes.plot(points, [record[key] for record in records], color=colour, linewidth=0.7, alpha=0.5)
        for record in records:
            if record["best"]:
                axes.plot(record[step], record[key], "o", color=colour, markersize=4)
    if runs:
        mean = mean_curve(runs, key)
        axes.plot([record[step] for record in runs[0]][: len(mean)], mean, color=colour, linewidth=2.2, label=name)
