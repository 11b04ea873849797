"""Fuse the heads' predictions, score the result, and write a report."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from configs import ConfigOption, OverrideArgument, Profile, UserError, command, load
from configs.schema import Fusion as Settings
from fusion.charts import write_charts
from fusion.nested import fuse
from fusion.outputs import write_outputs
from fusion.predictions import read
from fusion.report import gather, write_report
from fusion.strategies import STRATEGIES


def main(
    config: ConfigOption = None,
    strategy: Annotated[
        str, typer.Option(help="One strategy (mean, weighted, logistic, xgboost), or all of the profile's to compare.")
    ] = "all",
    predictions: Annotated[
        list[Path] | None,
        typer.Option(help="A prediction table, Parquet or CSV, instead of the profile's heads. Repeat for more heads."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results. Default: runs/PROFILE/fusion.")] = None,
    overrides: OverrideArgument = None,
) -> None:
    """Fuse the predictions of several heads into one, and say honestly whether it helped.

    Reads each head's predictions.parquet, fits fusion strategies on out-of-fold predictions of the training units,
    compares them by nested cross-validation, takes the best (or the best single head, if no strategy beats it),
    scores it on test, and writes predictions, metrics, charts and report.html.

    Predictions of other programs can be fused as well, without a profile:

    python fusion/stack.py --predictions a.csv --predictions b.csv --out fused

    A table needs the columns unit_id, label, fold (and split: oof, val or test, unless all rows are out-of-fold)
    and p_CLASS or logit_CLASS for each class.
    """
    if strategy != "all" and strategy not in STRATEGIES:
        raise UserError(f"--strategy {strategy}: one of {', '.join(STRATEGIES)}, all")
    profile: Profile | None = None
    if predictions:
        profile = load(config, overrides) if config else None
        files = _named(predictions)
    else:
        profile = load(config, overrides)
        files = _of_profile(profile, config)
    if profile is None and overrides:
        raise UserError(f"{overrides[0]}: changes a profile, but none is named: add --config")
    folder = out or (profile.fusion_path if profile else None)
    if folder is None:
        raise UserError("--predictions without --config: name a folder for the results with --out")

    settings = profile.fusion if profile else Settings()
    found = fuse(
        read(files),
        list(settings.strategies) if strategy == "all" else [strategy],
        force=strategy != "all",
        bootstrap=settings.bootstrap,
        seed=profile.seed if profile else 0,
    )
    summary = write_outputs(found, folder)
    write_charts(found, folder)
    command_line = shlex.join(["python", "fusion/stack.py", *sys.argv[1:]])
    write_report(folder / "report.html", found, gather(files, profile, config, command_line))
    print(summary)
    print(f"report: {folder / 'report.html'}")


def _of_profile(profile: Profile, config: str | None) -> dict[str, Path]:
    files = {}
    for head in profile.fusion.heads or profile.heads:
        files[head] = profile.head_path(head) / "predictions.parquet"
        if not files[head].is_file():
            option = f" --config {shlex.quote(config)}" if config else ""
            raise UserError(f"{files[head]}: not there yet; make it with: python heads/train.py{option} --head {head}")
    return files


def _named(paths: list[Path]) -> dict[str, Path]:
    """Heads named by file, by folder where files share a name (as ``predictions.parquet`` does), else by path."""
    if len(set(paths)) < len(paths):
        raise UserError("--predictions: the same file is named twice")
    for name in (lambda p: p.stem, lambda p: p.absolute().parent.name, str):
        files = {name(path): path for path in paths}
        if len(files) == len(paths) and "predictions" not in files:
            return files
    return files


if __name__ == "__main__":
    command(main)
