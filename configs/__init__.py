"""Profiles - one YAML file says everything a run needs - and how a script becomes a command line.

``profiles.py`` reads them, ``schema.py`` says what they may hold, ``command_line.py`` runs scripts. Here are the errors
that a user reads, one line each. This file stays light: every decoder starts with it.
"""

import os
from collections.abc import Iterable

# Read when torch loads OpenMP. Where a team of threads is smaller than torch counts on - by the load, or by a limit -
# convolutions give wrong values without a word: a third off, or NaN.
os.environ["OMP_DYNAMIC"] = "false"
os.environ.pop("OMP_MAX_ACTIVE_LEVELS", None)
if limit := os.environ.pop("OMP_THREAD_LIMIT", None):
    os.environ.setdefault("OMP_NUM_THREADS", limit)


class UserError(Exception):
    """Something the user can put right: bad configuration, bad input. The message is one line.

    ``exit_code`` is 2 for what was asked (configuration, arguments, data that breaks its contract) 3 for
    a pass that finished but lost more than it may (clips beyond ``max_error_share``, units without an answer), and 4
    for an audit that found a leak.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class EngineError(UserError):
    """Something is wrong with what computes - a cluster, one of its machines - whatever it was to compute."""


def one_line(error: object, longest: int | None = None) -> str:
    """What an error of a library says, all of it, without line breaks; at most ``longest`` characters."""
    return " ".join(str(error).split())[:longest]


def first_line(error: BaseException) -> str:
    """The first line of what an error says, for libraries whose further lines help nobody; its type if it is mute."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def some(values: Iterable[object], show: int = 3) -> str:
    """The first few of many, for an error of one line: ``a, b, c (and 7 more)``."""
    listed = [str(value) for value in values]
    more = f" (and {len(listed) - show} more)" if len(listed) > show else ""
    return ", ".join(listed[:show]) + more
