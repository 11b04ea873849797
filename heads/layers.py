"""Show what each layer of an encoder says of the labels."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from cache import Store, claimed, publish_folder
from configs import UserError
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
from extract.corpora.manifest import read_manifest


def main(
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder", help="An encoder that stores layers; may be repeated. Default: all of the profile that do."
        ),
    ] = None,
    config: ConfigOption = None,
    overrides: OverrideArgument = None,
) -> None:
    """Fit a linear probe on each layer of encoders that store several, and show which layer says most.

    Needs encoders with 'layers: all' (or a list) and 'pooling: mean' or 'statistics', and their stores. Probes are
    judged out of fold in the profile's folds, on training units alone, with intervals over whole groups. Writes
    runs/PROFILE/layers: index.html (one file, no network), layers.png and layers.json; prints the table, each
    encoder's best layer, and the layers that cannot be told apart from it.
    """
    profile = load(config, overrides)
    with_layers = [name for name, each in profile.encoders.items() if each.layers is not None]
    for name in encoder or []:
        if name not in profile.encoders:
            raise UserError(f"--encoder {name}: no such encoder in the profile; it has: {', '.join(profile.encoders)}")
        if name not in with_layers:
            raise UserError(
                f"--encoder {name}: stores one layer: write layers: all and pooling: mean or statistics under "
                f"encoders.{name}, without layer, then run 'python extract/run.py --encoder {name}'"
            )
    names = list(dict.fromkeys(encoder or with_layers))
    if not names:
        raise UserError("encoders: none of the profile stores several layers: write layers: all and pooling: mean")
    manifest = read_manifest(profile.manifest_path)
    for name in names:
        if not profile.store_path(name).exists():
            raise UserError(
                f"{profile.store_path(name)}: no such store: make it with 'python extract/run.py --encoder {name}'"
            )

    # scikit-learn takes seconds to import: help and mistakes should not wait for it
    from heads.probing.page import as_text, write_curves
    from heads.probing.sweep import sweep

    started = time.monotonic()
    folder: Path = profile.run_dir / "layers"
    with claimed(folder):
        stores = {name: Store(profile.store_path(name), profile.store.verify_reads) for name in names}
        curves = [sweep(profile, manifest, name, store) for name, store in stores.items()]
        options = [*(["--config", config] if config else []), *(each for name in names for each in ("--encoder", name))]
        again = shlex.join(["python", "heads/layers.py", *options, *(overrides or [])])
        publish_folder(folder, lambda fresh: write_curves(fresh, curves, profile.name, len(manifest.classes), again))
    print(as_text(curves))
    print(f"written to {folder}: index.html, layers.png, layers.json, in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    command(main)
