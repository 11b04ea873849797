"""Run encoders over every clip, once, into feature stores."""

from typing import Annotated, Literal

import typer

from configs import UserError
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
from configs.schema import OF_VIEW, Modality, Profile
from extract.corpora.manifest import read_manifest


def main(
    modality: Annotated[
        Modality | None, typer.Option(help="Run the profile's encoders that read this. Default: all of its encoders.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(metavar="NAME", help="Run one of the profile's encoders.")] = None,
    config: ConfigOption = None,
    device: Annotated[
        str,
        typer.Option(
            help="cpu, cuda, cuda:1, mps (Apple), or several: cuda:0,cuda:1; auto takes a CUDA GPU if there is one."
        ),
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Child processes that decode media; default: one for each usable core.")
    ] = None,
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
    """Run encoders over the clips of a manifest and keep their features in runs/PROFILE/stores/ENCODER.

    Only what is not there yet is computed: the same command again does nothing, and goes on after an interruption. A
    store is found by what it is: what another profile has computed with the same encoder is used, too. Encoders that
    want the same of each media file run together, and it is decoded once. An encoder's augmented views (views: 3) are
    encoders of training clips with stores of their own, ENCODER@1, ENCODER@2, ..., and run with it.
    A clip that cannot be read goes to errors.parquet and counts as missing; too many of them end in exit code 3. One
    that is damaged up to the encoder's max_damage is taken, and goes to damaged.parquet.
    """
    profile = load(config, overrides)
    names = _names(profile, modality, encoder)
    manifest = read_manifest(profile.manifest_path)

    # torch and transformers take seconds to import: help and mistakes should not wait for them
    from extract.media.decoding import usable_cores
    from extract.passes.extraction import extract
    from extract.passes.means import Means

    extract(profile, manifest, names, Means(device, workers or usable_cores(), engine, actors), dry_run, rehash)
    if names == list(profile.encoders) and not dry_run:
        profile.receipts_dir.mkdir(exist_ok=True)  # also of a profile without encoders: dvc.yaml wants it
        with_views = {each for name in names for each in (name, *profile.views_of(name))}
        for receipt in profile.receipts_dir.glob("*.json"):
            if receipt.stem not in with_views:  # of an encoder that the profile no longer has
                receipt.unlink()


def _names(profile: Profile, modality: str | None, encoder: str | None) -> list[str]:
    if modality and encoder:
        raise UserError(f"--encoder {encoder}: a name says its modality, too: leave out --modality")
    if encoder:
        if encoder not in profile.encoders:
            base = encoder.partition(OF_VIEW)[0]
            if base in profile.encoders:
                raise UserError(f"--encoder {encoder}: views run with their encoder: --encoder {base}")
            known = ", ".join(profile.encoders) or "none"
            raise UserError(f"--encoder {encoder}: the profile {profile.name!r} names no such encoder; it has: {known}")
        return [encoder]
    if not modality:
        return list(profile.encoders)
    if not profile.encoders_of(modality):
        raise UserError(f"encoders: the profile {profile.name!r} names none that reads {modality}")
    return profile.encoders_of(modality)


if __name__ == "__main__":
    command(main)
