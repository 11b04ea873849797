"""How long fusion takes: every strategy, nested cross-validation, intervals and report, and where the time goes."""

import sys

sys.path[:] = [path for path in sys.path if not path.endswith("benchmarks")]  # this file is named as the package is

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer
from scipy.special import log_softmax

from configs.command_line import command
from fusion.strategies.catalogue import STRATEGIES, Blend, fit_all
from fusion.tables.predictions import Predictions, read


def main(
    units: Annotated[int, typer.Option(min=100, help="Units, out of fold.")] = 20_000,
    heads: Annotated[int, typer.Option(min=2)] = 5,
    classes: Annotated[int, typer.Option(min=2)] = 7,
    folds: Annotated[int, typer.Option(min=2)] = 5,
) -> None:
    """Time `python fusion/stack.py --strategy all` on drawn predictions, then one fit of each strategy by itself.

    Heads are of unequal strength, confuse classes in ways of their own, and are overconfident. Accuracies are those on
    the units that a strategy was fitted on: they tell that it worked, not how good it is.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = {f"h{h}": folder / f"h{h}.parquet" for h in range(heads)}
        _write_tables(list(files.values()), units, classes, folds)
        script = Path(__file__).parents[1] / "fusion" / "stack.py"
        started = time.perf_counter()
        paths = [str(path) for path in files.values()]
        out = ["--out", str(folder / "fused")]
        subprocess.run([sys.executable, str(script), "--predictions", *paths, *out], check=True, stdout=subprocess.PIPE)
        whole = time.perf_counter() - started
        headline = json.loads((folder / "fused" / "metrics.json").read_text())["headline"]
        size = (folder / "fused" / "report.html").stat().st_size / 2**20
        print(f"{units} units x {heads} heads x {classes} classes, {folds} folds")
        print(f"whole run: {whole:.1f} s, chosen: {headline['strategy']}; report.html {size:.2f} MB\n")
        _time_fits(read(files), whole)


def _write_tables(paths: list[Path], n: int, classes: int, folds: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"class{i}" for i in range(classes)]
    labels = rng.choice(classes, size=n, p=rng.dirichlet(np.full(classes, 3.0)))
    groups = np.arange(n) // 3
    for path, strength in zip(paths, np.linspace(2.0, 0.5, len(paths)), strict=True):
        logits = rng.normal(size=(n, classes)) + 0.5 * rng.normal(size=(classes, classes))[labels]
        logits[np.arange(n), labels] += strength
        log_p = log_softmax(1.5 * logits, axis=1)
        columns = {
            "unit_id": [f"u{i}" for i in range(n)],
            "label": [names[i] for i in labels],
            "fold": groups % folds,
            "group": [f"g{group}" for group in groups],
            **{f"logit_{name}": log_p[:, i] for i, name in enumerate(names)},
        }
        pl.DataFrame(columns).write_parquet(path)


def _time_fits(units: Predictions, whole: float) -> None:
    print(f"{'one fit on all units':<22}{'s':>8}{'of the run':>12}{'accuracy':>10}")
    for name, strategy in STRATEGIES.items():
        if isinstance(strategy, Blend):
            continue  # its members, averaged
        started = time.perf_counter()
        fitted = fit_all({name: strategy}, units.outputs, units.labels, units.groups, 0)[name]
        seconds = time.perf_counter() - started
        accuracy = (fitted.predict_logits(units.outputs).argmax(axis=1) == units.labels).mean()
        print(f"{name:<22}{seconds:>8.2f}{seconds / whole:>12.1%}{accuracy:>10.3f}")


if __name__ == "__main__":
    command(main)
