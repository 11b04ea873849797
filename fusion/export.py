"""Export a bundle's heads and fusion to ONNX."""

from pathlib import Path
from typing import Annotated

import typer

from configs import UserError
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
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
    encoders: Annotated[
        bool, typer.Option("--encoders", help="Export the encoders, too, where torch can; a minute or two.")
    ] = False,
    overrides: OverrideArgument = None,
) -> None:
    """Export a bundle's heads and fusion to ONNX: runs/PROFILE/onnx, with a script that needs onnxruntime and NumPy.

    Every graph is compared with the bundle, on the profile's test units where its stores are here; where a probability
    differs by more than 1e-4, nothing is written. Heads' graphs read features; --encoders writes graphs of what gives
    these, from tokens, spectra and pictures. docs/export.md says what each input means.

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

    about, quantised = write_onnx(opened, folder, int8, encoders)
    checked = about["checked"]
    print(f"equal to the bundle within {checked['largest_difference']:.1g} on {checked['on']}")
    for path, graph in about["graphs"].items():
        for what in graph.get("left_to_the_caller", []):
            print(f"{path}: left to the caller: {what}")
    for each in about["encoders"].values():
        if "graph" in each:
            difference = each["graph"]["checked"]["largest_difference"]
            print(f"{each['graph']['path']}: equal to torch within {difference:.1g} of the features")
        elif encoders:
            print(f"not exported: {each['not_exported']}")
    for table in quantised:
        print("\n".join(table.markdown))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    n_graphs = len(about["graphs"]) + sum("graph" in each for each in about["encoders"].values())
    print(f"{folder}: {n_graphs} graphs, {size / 2**20:.1f} MiB; predict.onnx.py there answers from features")


def _import(library: str) -> None:
    from importlib.util import find_spec

    if find_spec(library) is None:
        raise UserError(f"export needs {library}: pip install -e '.[onnx]'")


if __name__ == "__main__":
    command(main)
