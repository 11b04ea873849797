"""The commands that messages propose, with the profile and the settings of the run that proposes them.

A message says ``python heads/train.py --head audio`` and need not know how its own script was called: what a script
prints as its error goes through :func:`completed`, and so does what a page proposes.
"""

import re
import shlex
from collections.abc import Mapping
from typing import Any

# The scripts that read a profile; fusion/predict.py reads a bundle, the others of cache/ a store.
OF_A_PROFILE = (
    *("configs/show", "extract/manifest", "extract/run"),
    *("heads/inputs", "heads/pretrain", "heads/train", "heads/search", "heads/layers"),
    *("fusion/stack", "fusion/audit", "fusion/bundle", "fusion/export"),
    *("cache/ingest", "cache/map"),
)
_COMMAND = re.compile(rf"python (?:{'|'.join(OF_A_PROFILE)})\.py(?! --config)")
_given: list[str] = []


def remember(arguments: Mapping[str, Any]) -> None:
    """Note the ``config`` and the ``overrides`` of a script that begins."""
    config, overrides = arguments.get("config"), arguments.get("overrides")
    _given[:] = [*(["--config", config] if config else []), *(overrides or [])]


def completed(text: str) -> str:
    """A text whose commands can be pasted: where they read a profile, it is this run's, changed as in this run."""
    return _COMMAND.sub(lambda found: " ".join([found[0], *map(shlex.quote, _given)]), text)
