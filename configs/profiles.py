"""Reading profiles.

A profile is named by a word (``sample`` is ``configs/sample.yaml``) or by a path. Every script reads it through
:func:`load`, which checks the *whole* file before any work starts, so that a misspelt fusion strategy is found before
the first encoder runs, not after the last one.
"""

import os
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs import UserError, one_line, shipped
from configs.advice import is_command
from configs.outside import parse_yaml, read_yaml
from configs.schema import Profile, settings_below

LONGEST = 1000  # characters of an error
DEEPEST = 12  # dots in the key of a setting; none has as many


def load(name: str | None = None, overrides: list[str] | None = None) -> Profile:
    """Read, override and validate a profile.

    Args:
        name: a name in ``configs/``, a path to a YAML file, or None for the profile that ``dvc.yaml`` names.
        overrides: applied in order. ``heads.audio.lr=1e-3`` sets one key, to a value that is parsed as YAML;
            ``best.yaml`` is a fragment, merged into the profile: mappings key by key, anything else replaced; a
            dataset that names another adapter replaces the former one.

    Raises:
        UserError: a file is missing or is not YAML, or a key is unknown or has a value that is not allowed; the line
            names the fragment where the key stands in one.
    """
    path = _profile_path(name)
    settings = _read(path, "a profile")
    if path.parent == Path("configs") and settings.get("name") != path.stem:  # dvc.yaml finds a profile by its name
        raise UserError(f"{path}: name = {settings.get('name')!r}: must be {path.stem!r}, as the file is called")
    sources = [(path, deepcopy(settings))]
    for override in overrides or []:
        if override.endswith((".yaml", ".yml")) and "=" not in override:
            fragment = _read(Path(override), "a fragment of a profile")
            settings = _merged(settings, fragment)
            sources.append((Path(override), fragment))
        else:
            alone: dict[str, Any] = {}
            for target in (settings, alone):
                _apply(target, override)
            sources.append((path, alone))
    try:
        return Profile.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        # What contradicts itself across sections has no place, but its message begins with the key.
        places = _place(first) or tuple(_message(first).split()[0].rstrip(":").split("."))
        last = next((source for source, part in reversed(sources) if _holds(part, places)), path)
        raise UserError(f"{last}: {_unknown_name(places, sources[0][1]) or _first_problem(error)}") from error


def changed(profile: Profile, fragment: dict[str, Any]) -> Profile:
    """A profile with a fragment merged into it, as :func:`load` does.

    Raises:
        UserError: the result is not allowed.
    """
    try:
        return Profile.model_validate(_merged(profile.model_dump(exclude_unset=True), fragment))
    except ValidationError as error:
        raise UserError(_first_problem(error)) from error


def _read(path: Path, what: str) -> dict[str, Any]:
    if not os.path.exists(path):  # noqa: PTH110 (a Path raises where the name is too long)
        raise UserError(f"{str(path)[:300]}: no such file; an override is KEY=VALUE or a YAML file with settings")
    comes_along = path.parent == shipped.HERE
    settings = parse_yaml(shipped.profile_text(path), path) if comes_along else read_yaml(path)
    if not isinstance(settings, dict):
        raise UserError(f"{path}: {what} is a mapping of settings, found {type(settings).__name__}")
    return settings


def _merged(settings: dict[str, Any], fragment: dict[str, Any]) -> dict[str, Any]:
    if {"adapter"} <= settings.keys() & fragment.keys() and settings["adapter"] != fragment["adapter"]:
        return fragment  # another reader of datasets: what the former one was told means nothing to it
    both = {key for key, value in fragment.items() if isinstance(value, dict) and isinstance(settings.get(key), dict)}
    return settings | {key: _merged(settings[key], value) if key in both else value for key, value in fragment.items()}


def _holds(settings: Any, places: tuple[int | str, ...]) -> bool:
    """Whether the key at ``places``, or the value that contains it, stands in some settings."""
    for place in places:
        if not isinstance(settings, dict):
            return True
        if place not in settings:
            return False
        settings = settings[place]
    return bool(places)


def _unknown_name(places: tuple[int | str, ...], written: dict[str, Any]) -> str | None:
    """What is wrong with a key whose head or encoder only an override names, and whose name is nearly another's."""
    section, name = (*map(str, places[:2]), "")[:2]
    known = written.get(section) if section in ("heads", "encoders", "search") else None
    near = get_close_matches(name, known, 1) if isinstance(known, dict) and name not in known else []
    return f"{section}.{name}: the profile has none of that name: did you mean {near[0]}?" if near else None


def _profile_path(name: str | None) -> Path:
    if name is None:
        return _default_profile()
    path = Path(name) if name.endswith((".yaml", ".yml")) else Path("configs") / f"{name}.yaml"
    if not os.path.isfile(path):  # noqa: PTH113 (as above)
        if name in shipped.names():
            return shipped.HERE / f"{name}.yaml"
        known = ", ".join(sorted(p.stem for p in Path("configs").glob("*.yaml"))) or "none here"
        also = f"; that come along: {', '.join(shipped.names())}" if is_command() else ""
        raise UserError(f"{str(path)[:300]}: no such profile (profiles in configs/: {known}{also})")
    return path


def _default_profile() -> Path:
    """The profile named first under ``vars`` in dvc.yaml: one place decides, for DVC and for scripts."""
    pipeline = Path("dvc.yaml")
    if not pipeline.is_file():
        begin = "; emocache use NAME writes one" if is_command() else ""
        raise UserError(f"dvc.yaml: not found here: run from where it lies, or name a profile with --config{begin}")
    entries = _read(pipeline, "a pipeline").get("vars")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, str):
            return _profile_path(entry)
    raise UserError("dvc.yaml: names no profile under 'vars' (for example: '- configs/sample.yaml')")


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override[:300]!r}: an override is KEY=VALUE with a dotted key, such as heads.audio.lr=1e-3")
    if key.count(".") > DEEPEST:
        raise UserError(f"{override[:100]!r}: no setting lies that deep")
    *parents, last = key.split(".")
    node: Any = settings
    for depth, parent in enumerate(parents):
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            name = ".".join(parents[: depth + 1])
            raise UserError(f"{override[:300]!r}: {name} is a value, not a group of settings")
    node[last] = parse_yaml(value, repr(override[:300]))


def _place(problem: Any) -> tuple[int | str, ...]:
    """The keys that lead to a problem, as they are written: the adapter that pydantic puts among them is none."""
    places = list(problem["loc"])
    if places[:1] == ["dataset"]:
        if places[1:3] == ["corpora", "corpora"]:  # the adapter, and the key under which each has one
            del places[4:5]
        del places[1:2]
    return tuple(places)


def _first_problem(error: ValidationError) -> str:
    problems = error.errors()
    first = problems[0]
    place = _place(first)
    key = ".".join(str(part)[:100] for part in place)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "missing":
        return one_line(f"{key}: missing, and it has no default{more}", LONGEST)
    if first["type"] == "extra_forbidden":
        near = get_close_matches(str(place[-1]), settings_below(place), 1)
        meant = f": did you mean {near[0]}?" if near else ""
        return one_line(f"{key}: no such setting{meant}{more}", LONGEST)
    message = _message(first)
    given = "" if isinstance(first["input"], dict) else f" = {_shown(first['input'])}"
    return one_line(f"{key}{given}: {message}{more}" if key else f"{message}{more}", LONGEST)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists in lists
        return "something that is too large to be shown"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _message(problem: Any) -> str:
    return problem["msg"].removeprefix("Value error, ")
