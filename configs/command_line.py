"""How a script becomes a command line: its options, its errors of one line, its exit codes, its signals."""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Annotated, Any

import typer

from configs import UserError, one_line
from configs.advice import completed, remember
from emocache.commands import as_typed

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        help="A profile: a name in configs/, or of one that comes along, or a path to a YAML file with all of it. "
        "Default: the one named in dvc.yaml.",
    ),
]
OverrideArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE | FRAGMENT.yaml]...",
        help="Settings to change for this run: dotted keys of the profile (heads.audio.lr=1e-3), or a YAML file "
        "that holds a part of one, such as the best.yaml of a search. Later ones win. The profile stays as it is; "
        "results take the place of its own, unless name=OTHER sends them to runs/OTHER.",
    ),
]

STOPPING = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


def command(main: Callable[..., None], program: str | None = None) -> None:
    """Run a script's ``main`` as a command line; its signature gives the options, its docstring the help.

    ``program`` is what was typed in place of the script's own name: ``emocache train``.

    ``UserError`` and what the operating system refuses (a full disk, permissions) end in one line on stderr and exit
    code 2, or the error's own. Ctrl-C ends in 130, SIGTERM in 143, SIGHUP (a closed terminal) in 129:
    what is complete is committed, and nothing half made stays. Anything else is a bug and keeps its traceback.
    """

    @wraps(main)
    def run(**arguments: Any) -> None:
        remember(arguments, program is not None)
        try:
            with _stopped_by(*(getattr(signal, name) for name in STOPPING if hasattr(signal, name))):
                main(**arguments)
        except KeyboardInterrupt as stop:
            with suppress(OSError):  # the terminal may be gone
                print("interrupted: what was committed is kept; run the same command to go on", file=sys.stderr)
            raise SystemExit(128 + next(iter(stop.args), signal.SIGINT)) from None
        except UserError as error:
            print(f"error: {completed(str(error))}", file=sys.stderr)
            raise SystemExit(error.exit_code) from error
        except BrokenPipeError:  # whoever read the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(141) from None
        except OSError as error:
            where = error.filename or "the operating system refused a file"
            print(f"error: {where}: {error.strerror or one_line(error)}", file=sys.stderr)
            raise SystemExit(2) from error

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character must not cost the result
            stream.reconfigure(errors="backslashreplace")
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    if program is not None:
        run.__doc__ = as_typed(main.__doc__ or "")
    app.command()(run)
    app(prog_name=program)


@contextmanager
def _stopped_by(*signals: signal.Signals) -> Iterator[None]:
    """Let signals that would end the process on the spot do what Ctrl-C does; what is ignored (nohup) stays so."""

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    is_main = threading.current_thread() is threading.main_thread()  # others cannot
    ours = [number for number in signals if is_main and signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
