"""The choice of a command line: folds in this process, or on a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from heads.fitting.cross_validation import FitFolds

Engine = Literal["local", "ray"]
EngineOption = Annotated[
    Engine, typer.Option(help="ray: folds as tasks on the cluster that RAY_ADDRESS names, or on a local one.")
]


@contextmanager
def fitting_on(engine: Engine) -> "Iterator[FitFolds]":
    """What fits folds there. Raises UserError where Ray is not installed."""
    if engine == "ray":
        from heads.cluster.on_ray import folds_on_ray

        with folds_on_ray() as fit_folds:
            yield fit_folds
    else:
        from heads.fitting.cross_validation import fit_here

        yield fit_here
