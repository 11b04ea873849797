"""Run an encoder over every clip, once, into a feature store."""

import os
from typing import Annotated, Literal

import typer

from cache import StoreError
from configs import ConfigOption, OverrideArgument, UserError, command, load
from configs.schema import Modality
from extract.corpora.manifest import read_manifest


def main(
    modality: Annotated[Modality, typer.Option(help="Which of the profile's encoders to run.")],
    config: ConfigOption = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, or several: cuda:0,cuda:1; auto takes a GPU if there is one.")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Child processes that decode media.")] = os.cpu_count() or 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be computed, and stop.")] = False,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every file again to see whether it changed.")] = False,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ray: on the cluster that RAY_ADDRESS names, or a local one.")
    ] = "local",
    actors: Annotated[
        int | None, typer.Option(min=1, help="With ray: encoders; default: one a GPU, or one for two CPUs.")
    ] = None,
    overrides: OverrideArgument = None,
) -> None:
    """Run one encoder over the clips of a manifest and keep its features in runs/PROFILE/stores/MODALITY.

    Only what is not there yet is computed: the same command again does nothing, and goes on after an interruption.
    A clip that cannot be read goes to errors.parquet and counts as missing; too many of them end in exit code 3.
    """
    profile = load(config, overrides)
    if modality not in profile.encoders:
        raise UserError(f"encoders.{modality}: the profile {profile.name!r} names no encoder for it")
    manifest = read_manifest(profile.manifest_path)

    # torch and transformers take seconds to import: help and mistakes should not wait for them
    from extract.passes.extraction import extract
    from extract.passes.means import Means

    extract(profile, manifest, modality, Means(device, workers, engine, actors), dry_run, rehash)


if __name__ == "__main__":
    command(main, StoreError)
