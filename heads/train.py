"""Train one head on the stores and write its predictions, metrics and model."""

from typing import Annotated

import typer

from configs import UserError
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
from extract.corpora.manifest import read_manifest
from heads.cluster.engines import EngineOption, fitting_on


def main(
    head: Annotated[str, typer.Option("--head", help="The head to train: a name under 'heads' in the profile.")],
    config: ConfigOption = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Train on what stores hold though an extraction has not finished.")
    ] = False,
    engine: EngineOption = "local",
    overrides: OverrideArgument = None,
) -> None:
    """Train one head on the stores, a model per fold, and write its predictions for every labelled unit.

    Reads the manifest and the stores that the head names. Writes into runs/PROFILE/heads/HEAD: predictions.parquet
    (out-of-fold for training units, the average of all folds' models for val and test), metrics.json, headline.json
    (for dvc metrics), summary.txt, training_history.json, curves.png, live/ (DVCLive's logs) and model/. Prints the
    scores beside those of always answering the most frequent class and of a simple baseline. Killed, and run again, it
    goes on where it was.
    """
    profile = load(config, overrides)
    if head not in profile.heads:
        raise UserError(f"--head {head}: no such head in the profile; it has: {', '.join(profile.heads)}")
    manifest = read_manifest(profile.manifest_path)

    # torch and scikit-learn take seconds to import: help and mistakes should not wait for them
    from heads.fitting.cross_validation import cross_validate

    with fitting_on(engine) as fit_folds:
        cross_validate(profile, manifest, head, unfinished, fit_folds)


if __name__ == "__main__":
    command(main)
