"""Profiles: one YAML file says everything a run needs.

A profile is named by a word (``sample`` is ``configs/sample.yaml``) or by a path. Every script reads
it through :func:`load`, which checks the *whole* file before any work starts, so that a misspelt
fusion strategy is found before the first encoder runs, not after the last one.
"""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from configs.schema import Profile

__all__ = ["ConfigOption", "OverrideArgument", "Profile", "UserError", "command", "load"]

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        help="A profile: a name in configs/ or a path to a YAML file. Default: the one named in dvc.yaml.",
    ),
]
OverrideArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings to change for this run only, as dotted keys of the profile: heads.audio.lr=1e-3",
    ),
]


class UserError(Exception):
    """Something the user can put right: bad configuration, bad input. The message is one line.

    ``exit_code`` is 2 for what was asked (configuration, arguments, data that breaks its contract) and 3
    for a pass that finished but lost more clips than ``max_error_share`` allows.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def load(name: str | None = None, overrides: list[str] | None = None) -> Profile:
    """Read, override and validate a profile.

    Args:
        name: a name in ``configs/``, a path to a YAML file, or None for the profile that ``dvc.yaml`` names.
        overrides: ``["heads.audio.lr=1e-3", ...]``; values are parsed as YAML.

    Raises:
        UserError: the file is missing or is not YAML, or a key is unknown or has a value that is not allowed.
    """
    path = _profile_path(name)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: a profile is a mapping of settings, found {type(settings).__name__}")
    if path.parent == Path("configs") and settings.get("name") != path.stem:  # dvc.yaml finds a profile by its name
        raise UserError(f"{path}: name = {settings.get('name')!r}: must be {path.stem!r}, as the file is called")
    for override in overrides or []:
        _apply(settings, override)
    try:
        return Profile.model_validate(settings)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_problem(error)}") from error


def _profile_path(name: str | None) -> Path:
    if name is None:
        return _default_profile()
    path = Path(name) if name.endswith((".yaml", ".yml")) else Path("configs") / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in Path("configs").glob("*.yaml"))) or "none here"
        raise UserError(f"{path}: no such profile (profiles in configs/: {known})")
    return path


def _default_profile() -> Path:
    """The profile named first under ``vars`` in dvc.yaml: one place decides, for DVC and for scripts."""
    pipeline = Path("dvc.yaml")
    if not pipeline.is_file():
        raise UserError("dvc.yaml: not found here: run from the repository root, or name a profile with --config")
    for entry in yaml.safe_load(pipeline.read_text(encoding="utf-8")).get("vars", []):
        if isinstance(entry, str):
            return _profile_path(entry)
    raise UserError("dvc.yaml: names no profile under 'vars' (for example: '- configs/sample.yaml')")


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r}: an override is KEY=VALUE with a dotted key, such as heads.audio.lr=1e-3")
    *parents, last = key.split(".")
    node: Any = settings
    for depth, parent in enumerate(parents):
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UserError(f"{override!r}: {'.'.join(parents[: depth + 1])} is a value, not a group of settings")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"{override!r}: not a value that YAML reads: {' '.join(str(error).split())}") from error


def _first_problem(error: ValidationError) -> str:
    problems = error.errors()
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "missing":
        return f"{key}: missing, and it has no default{more}"
    if first["type"] == "extra_forbidden":
        return f"{key}: no such setting{more}"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
    return f"{key}{given}: {message}{more}" if key else f"{message}{more}"


def command(main: Callable[..., None], *expected: type[Exception]) -> None:
    """Run a script's ``main`` as a command line; its signature gives the options, its docstring the help.

    ``UserError`` and the ``expected`` exceptions end in one line on stderr and their exit code; Ctrl-C in 130.
    Anything else is a bug and keeps its traceback.
    """

    handled: tuple[type[Exception], ...] = (UserError, *expected)

    @wraps(main)
    def run(**arguments: Any) -> None:
        try:
            main(**arguments)
        except KeyboardInterrupt:
            print("interrupted: what was committed is kept; run the same command to go on", file=sys.stderr)
            raise SystemExit(130) from None
        except handled as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(getattr(error, "exit_code", 2)) from error

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(run)
    app()
