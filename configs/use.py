"""Choose the profile that dvc repro and the scripts take."""

from typing import Annotated

import typer

from configs.command_line import command
from configs.pipeline import select


def main(name: Annotated[str, typer.Argument(help="A profile: a name in configs/.", metavar="NAME")]) -> None:
    """Let dvc repro, and scripts without --config, take a profile of configs/.

    What other profiles have made stays up to date: going back to one runs nothing again.
    """
    print(select(name.removeprefix("configs/").removesuffix(".yaml")))


if __name__ == "__main__":
    command(main)
