"""Write the model card of a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from cache import write_text_atomically
from configs import UserError
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.outside import read_json
from configs.profiles import load
from fusion.report.card import card, write_card
from fusion.serving.bundle import ABOUT, add_to_bundle, open_bundle


def main(
    config: ConfigOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Write it there, and leave the bundle as it is.")
    ] = None,
    overrides: OverrideArgument = None,
) -> None:
    """Write README.md into a profile's bundle, in the format of the hub's model cards, and its checksums anew.

    fusion/bundle.py does so, too. It holds the data, classes and splits, scores with intervals, of subgroups as well,
    how often sets of classes hold the true one, the audit's verdicts, encoders with their licences as far as they are
    known, limits, and what not to use it for. Run it again after an audit.
    """
    if out and (out.suffix != ".md" or out.is_dir() or not out.absolute().parent.is_dir()):
        raise UserError(f"--out {out}: name a .md file in a folder that is there")
    profile = load(config, overrides)
    folder = profile.run_dir / "bundle"
    if out:
        write_text_atomically(out, card(profile, read_json(open_bundle(folder).folder / ABOUT)))
    else:
        add_to_bundle(folder, lambda fresh: write_card(profile, fresh))
    print(out or folder / "README.md")


if __name__ == "__main__":
    command(main)
