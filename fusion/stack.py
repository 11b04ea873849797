"""Fuse the heads' predictions, score the result, and write a report."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cache import claimed, is_published, publish_folder, read_published
from configs import UserError
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
from configs.schema import Fusion as Settings
from configs.schema import Profile
from fusion.report.charts import write_charts
from fusion.report.findings import analyse
from fusion.report.outputs import write_outputs
from fusion.report.page import gather, write_report
from fusion.report.provenance import all_failed, said_of_baselines, said_of_heads, transductive_heads
from fusion.strategies.catalogue import STRATEGIES
from fusion.strategies.nested import fuse
from fusion.strategies.speakers import fuse_centred, manifest_speakers
from fusion.tables.foreign import names_of
from fusion.tables.predictions import baselines_beside, manifest_metadata, read


def main(
    config: ConfigOption = None,
    strategy: Annotated[
        str, typer.Option(help=f"One strategy ({', '.join(STRATEGIES)}), or all of the profile's to compare.")
    ] = "all",
    predictions: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE...", help="Prediction tables, Parquet or CSV, one per model, instead of the profile's heads."
        ),
    ] = None,
    group_from: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="With --predictions, of tables without a column group: what the first group (...) of this regular "
            "expression matches in a unit_id is the unit's group, its speaker for example.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results. Default: runs/PROFILE/fusion.")] = None,
    overrides: OverrideArgument = None,
) -> None:
    """Fuse the predictions of several heads into one, and say honestly whether it helped.

    Reads each head's predictions.parquet, fits fusion strategies on out-of-fold predictions of the training units,
    compares them by nested cross-validation, takes one (or a single head, a plain baseline or the mean, if nothing is
    clearly better), scores it on test, and writes predictions, metrics, charts and report.html.

    Predictions of other programs can be fused as well, without a profile:

    python fusion/stack.py --predictions a.csv b.csv --out fused

    A table needs the columns unit_id, label, and p_CLASS or logit_CLASS for each class; and split (oof, val or test) or
    fold or both. oof rows are predictions for units that the model was not trained on; where fold says in which fold,
    the fusion that answers for a fold has not seen that fold either. Optional: group (units of one speaker or
    conversation; where ids name it, --group-from takes it from there) and meta_NAME columns.
    """
    if strategy != "all" and strategy not in STRATEGIES:
        raise UserError(f"--strategy {strategy}: one of {', '.join(STRATEGIES)}, all")
    profile: Profile | None = None
    left_out: list[str] = []
    if predictions:
        profile = load(config, overrides) if config else None
        files = names_of(predictions)
    else:
        if group_from is not None:
            raise UserError("--group-from: goes with --predictions: units of a profile have the groups of its manifest")
        profile = load(config, overrides)
        files, left_out = _of_profile(profile)
    if profile is None and overrides:
        raise UserError(f"{overrides[0]}: changes a profile, but none is named: add --config")
    folder = out or (profile.fusion_path if profile else None)
    if folder is None:
        raise UserError("--predictions without --config: name a folder for the results with --out")

    baselines = baselines_beside(files)
    for head, path in (*files.items(), *baselines.items()):
        if is_published(path):  # else it is somebody else's
            read_published(path, f"make it again with: python heads/train.py --head {head}")
    with claimed(folder):
        settings = profile.fusion if profile else Settings()
        units = read(files, baselines, group_from)
        if profile and profile.manifest_path.is_file():
            units = replace(units, metadata=units.metadata | manifest_metadata(profile.manifest_path, units.unit_ids))
            if units.speakers is None:
                units = replace(units, speakers=manifest_speakers(profile.manifest_path, units.unit_ids))
        found = (fuse if settings.standardise == "none" else fuse_centred)(
            units,
            list(settings.strategies) if strategy == "all" else [strategy],
            metric=settings.metric,
            choice=settings.choice,
            force=strategy != "all",
            bootstrap=settings.bootstrap,
            seed=profile.seed if profile else 0,
        )
        found = replace(
            found,
            warnings=(*found.warnings, *left_out, *said_of_heads(files)),
            notes=(*found.notes, *said_of_baselines(files, found.chosen)),
            transductive=(*transductive_heads(files), *found.transductive),
        )
        findings = analyse(found, settings.bootstrap, profile.seed if profile else 0)
        command_line = shlex.join(["python", "fusion/stack.py", *sys.argv[1:]])
        run = gather(files, profile, config, command_line, overrides, baselines)
        summary = ""

        def write(fresh: Path) -> None:
            nonlocal summary
            summary = write_outputs(found, fresh, findings)
            write_charts(found, fresh, findings)
            write_report(fresh / "report.html", found, run, findings)

        publish_folder(folder, write, own="model/fusion.json" if out else None)
        print(summary)
        print(f"report: {folder / 'report.html'}")


def _of_profile(profile: Profile) -> tuple[dict[str, Path], list[str]]:
    """The heads' predictions, and sentences on heads that cannot be there."""
    files: dict[str, Path] = {}
    left_out: list[str] = []
    wanted = list(profile.fusion.heads or profile.heads)
    for head in wanted:
        files[head] = profile.head_path(head) / "predictions.parquet"
        if not files[head].is_file() and len(left_out) + 1 < len(wanted) and (reason := all_failed(profile, head)):
            left_out.append(reason)
            del files[head]
        elif not files[head].is_file():
            raise UserError(f"{files[head]}: not there yet; make it with: python heads/train.py --head {head}")
    return files, left_out


def repeated(arguments: list[str], option: str = "--predictions") -> list[str]:
    """``--predictions a b`` becomes ``--predictions a --predictions b``; KEY=VALUE and options end the list."""
    result: list[str] = []
    listing = False
    for argument in arguments:
        ends = argument.startswith("-") or ("=" in argument and not Path(argument).exists())
        if listing and not ends and result[-1] != option:
            result.append(option)
        listing = argument == option or (listing and not ends)
        result.append(argument)
    return result


if __name__ == "__main__":
    sys.argv[1:] = repeated(sys.argv[1:])
    command(main)
