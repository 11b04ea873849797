"""Export a bundle's heads and fusion to ONNX."""

from pathlib import Path
from typing import Annotated

import typer

from configs import ConfigOption, OverrideArgument, UserError, command, load
from fusion.serving.bundle import open_bundle


def main(
    config: ConfigOption = None,
    bundle: Annotated[
        Path | None, typer.Option(help="A bundle's folder. Default: runs/PROFILE/bundle.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the graphs. Default: runs/PROFILE/onnx.", show_default=False)
    ] = None,
    int8: Annotated[bool, typer.Option(help="Quantise the heads as well, and say what it costs.")] = True,
    overrides: OverrideArgument = None,
) -> None:
    """Export a bundle's heads and fusion to ONNX: runs/PROFILE/onnx, with a script that needs onnxruntime and NumPy.

    Every graph is compared with the bundle, on the profile's test units where its stores are here; where a probability
    differs by more than 1e-4, nothing is written. Encoders stay outside: graphs read features. docs/export.md says what
    each input means.

    python fusion/export.py --bundle DIR --out DIR
    """
    if bundle and not out:
        raise UserError("--bundle: goes with --out: name a folder for the graphs")
    for needed in ("onnx", "onnxruntime"):
        _import(needed)
    run = None if bundle else load(config, overrides).run_dir
    opened = open_bundle(bundle or (run / "bundle" if run else Path()))
    folder = out or (run / "onnx" if run else Path())

    from fusion.exporting.folder import write_onnx  # these take seconds to import

    about, quantised = write_onnx(opened, folder, int8)
    checked = about["checked"]
    print(f"equal to the bundle within {checked['largest_difference']:.1g} on {checked['on']}")
    for path, graph in about["graphs"].items():
        for what in graph.get("left_to_the_caller", []):
            print(f"{path}: left to the caller: {what}")
    if quantised:
        print("\n".join(quantised.markdown))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"{folder}: {len(about['graphs'])} graphs, {size / 2**20:.1f} MiB; predict.onnx.py there answers from features"
    )


def _import(library: str) -> None:
    from importlib.util import find_spec

    if find_spec(library) is None:
        raise UserError(f"export needs {library}: pip install -e '.[onnx]'")


if __name__ == "__main__":
    command(main)
