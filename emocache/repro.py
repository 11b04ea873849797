"""Run every step of the pipeline that is not up to date."""

from typing import Annotated

import typer

from configs.command_line import command
from emocache.pipeline import run


def main(
    stages: Annotated[list[str] | None, typer.Argument(help="Only these, and what they need: fuse@sample.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Compute again what is up to date, too.")] = False,
) -> None:
    """Run every step of the pipeline (dvc.yaml) that is not up to date, and say how long each took.

    DVC decides which; its hints are left out. In a folder that is no checkout of the program, 'emocache use NAME'
    writes dvc.yaml.
    """
    run(
        stages or [],
        force,
        begins=lambda stage: print(f"== {stage}", flush=True),
        says=lambda line: print(line, flush=True),
        ends=lambda stage, seconds: print(f"== {stage}: {seconds:.0f} s\n", flush=True),
    )


if __name__ == "__main__":
    command(main)
