"""Profiles - one YAML file says everything a run needs - and how a script becomes a command line.

``profiles.py`` reads them, ``schema.py`` says what they may hold, ``command_line.py`` runs scripts, and ``errors.py``
has the lines in which they end. This file stays light: every decoder starts with it.
"""

import os

from configs.errors import EngineError, UserError, first_line, one_line, some

# Read when torch loads OpenMP. Where a team of threads is smaller than torch counts on - by the load, or by a limit -
# convolutions give wrong values without a word: a third off, or NaN.
os.environ["OMP_DYNAMIC"] = "false"
os.environ.pop("OMP_MAX_ACTIVE_LEVELS", None)
if limit := os.environ.pop("OMP_THREAD_LIMIT", None):
    os.environ.setdefault("OMP_NUM_THREADS", limit)

__all__ = ["EngineError", "UserError", "first_line", "one_line", "some"]
