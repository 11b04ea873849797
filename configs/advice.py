"""The commands that messages propose, with the profile and the settings of the run that proposes them.

A message says ``python heads/train.py --head audio`` and need not know how its own script was called: what a script
prints as its error goes through :func:`completed`, and so does what a page proposes. Called by ``emocache``, it is
``emocache train --head audio``.
"""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from emocache.commands import as_typed

# The scripts that read a profile; fusion/predict.py reads a bundle, the others of cache/ a store.
OF_A_PROFILE = (
    *("configs/show", "extract/manifest", "extract/check", "extract/run"),
    *("heads/inputs", "heads/pretrain", "heads/train", "heads/search", "heads/layers"),
    *("fusion/stack", "fusion/audit", "fusion/bundle", "fusion/card", "fusion/export"),
    *("cache/ingest", "cache/map"),
)
_COMMAND = re.compile(rf"python (?:{'|'.join(OF_A_PROFILE)})\.py(?! --config)")
_given: list[str] = []
_as_command = False


def remember(arguments: Mapping[str, Any], as_command: bool = False) -> None:
    """Note the ``config`` and the ``overrides`` of a script that begins, and whether ``emocache`` called it."""
    global _as_command
    _as_command = as_command
    config, overrides = arguments.get("config"), arguments.get("overrides")
    _given[:] = [*(["--config", config] if config else []), *(overrides or [])]


def completed(text: str) -> str:
    """A text whose commands can be pasted: where they read a profile, it is this run's, changed as in this run."""
    whole = _COMMAND.sub(lambda found: " ".join([found[0], *map(shlex.quote, _given)]), text)
    return as_typed(whole) if _as_command else whole


def is_command() -> bool:
    """Whether ``emocache`` called this script, and not its own name."""
    return _as_command
