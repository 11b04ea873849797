"""Show what carried the fused answer about one unit."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cache import claimed, writable
from configs.advice import completed
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
from extract.corpora.manifest import read_manifest
from heads.explaining.asked import folder_of, unit_called


def main(
    unit: Annotated[str, typer.Argument(metavar="UNIT", help="The unit: the id of its labelled clip.")],
    config: ConfigOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to. Default: runs/PROFILE/explain/UNIT.")
    ] = None,
    explained: Annotated[
        str | None, typer.Option("--class", help="The class to explain. Default: the one that the fusion names.")
    ] = None,
    overrides: OverrideArgument = None,
) -> None:
    """Show what carried the fused answer about one unit: heads, and inputs taken away from all heads at once.

    Sound, pictures, text and each metadata field are taken away from all heads that read them; the heads are asked
    again, and what they then say is fused. Beside it stands what each head said and brought. Heads and fusion are those
    that the unit's row in fusion/predictions.parquet comes from: for a training unit, of the fold that it is in; the
    fusion is fitted again without that fold, and compared.

    Writes index.html, which leads to the pages of heads by heads/explain.py, too, where they lie in the folder, and
    _fusion.html and _fusion.json (no network).
    """
    profile = load(config, overrides)
    manifest = read_manifest(profile.manifest_path)
    chosen = unit_called(manifest, unit)

    # torch and SciPy take seconds to import: help and mistakes should not wait for them
    from fusion.explaining.answer import explain_fusion
    from fusion.explaining.page import write_page
    from heads.explaining.page import INDEX, write_index
    from heads.explaining.words import share, support

    found = explain_fusion(profile, manifest, chosen, explained)
    folder = out or folder_of(profile, unit)
    rest = [unit, *(["--config", config] if config else []), *(overrides or [])]
    asked = ["--class", explained] if explained else []
    again, of_heads = (
        completed(shlex.join(["python", script, *rest, *asked])) for script in ("fusion/explain.py", "heads/explain.py")
    )
    with claimed(folder), writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_page(folder, found, again, of_heads)
        write_index(folder, unit, again)

    right = "right" if found.predicted == found.label else f"labelled {found.label}"
    print(f"the fusion ({found.strategy}): {found.predicted} {share(max(found.p))} ({right})")
    print(found.sentence or f"without any one input of all heads, {found.explained} loses nothing")
    for each in found.inputs:
        left = "no head has anything left" if each.p is None else share(found.of(each.p))
        print(f"  without {each.name}: {found.explained} {left}")
    for voice in found.voices:
        brought = "absent" if voice.p is None else "all there is"
        print(f"  {voice.name}: {brought if voice.contribution is None else support(voice.contribution)}")
    for note in found.notes:
        print(f"note: {completed(note)}")
    print(f"written to {folder / INDEX}.html; heads by themselves: {of_heads}")


if __name__ == "__main__":
    command(main)
