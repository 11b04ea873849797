"""Choose the profile that dvc repro and the scripts take."""

import re
from pathlib import Path
from typing import Annotated

import typer

from configs import UserError, command, load

PIPELINE = Path("dvc.yaml")


def use(name: str) -> str:
    """Write the profile's name into dvc.yaml, one word of it; returns the line that says so.

    Raises:
        UserError: the profile is not allowed, or dvc.yaml is not here, or has no such place.
    """
    load(name)  # no pipeline is left with a profile that it cannot read
    if not PIPELINE.is_file():
        raise UserError(f"{PIPELINE}: not found here: run from the repository root")
    before = PIPELINE.read_text()
    after, n = re.subn(r"(?m)^vars:\n  - configs/[\w-]+\.yaml$", f"vars:\n  - configs/{name}.yaml", before)
    if n != 1:
        raise UserError(f"{PIPELINE}: 'vars:' does not name one profile: write '- configs/{name}.yaml' below it")
    PIPELINE.write_text(after)
    return f"{PIPELINE}: {'uses' if after != before else 'used already'} configs/{name}.yaml"


def main(name: Annotated[str, typer.Argument(help="A profile: a name in configs/.", metavar="NAME")]) -> None:
    """Let dvc repro, and scripts without --config, take a profile of configs/.

    What other profiles have made stays up to date: going back to one runs nothing again.
    """
    print(use(name.removeprefix("configs/").removesuffix(".yaml")))


if __name__ == "__main__":
    command(main)
