"""Running the pipeline: DVC decides what is to be done; here it is said what that is, and how long it took."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from configs import UserError
from configs.pipeline import PIPELINE
from configs.shipped import stated_version

_BEGINS = re.compile(r"Running stage '(.+)':$")
_HINTS = (  # of DVC, which has no setting for them
    *(
        "To track the changes with git, run:",
        "\tgit add ",
        "To enable auto staging, run:",
        "\tdvc config core.autostage",
    ),
    *("Use `dvc push`", "Updating lock file", "Generating lock file"),
)
Said = Callable[[str], object]


def run(targets: list[str], force: bool, begins: Said, says: Said, ends: Callable[[str, float], object]) -> None:
    """``dvc repro``: the stages that are not up to date.

    Args:
        begins: is told the name of each stage that runs.
        says: is told every line that is said, but DVC's hints.
        ends: is told the stage's name and its seconds.
    Raises:
        UserError: there is no pipeline here, or a stage failed; what it said stands above.
    """
    if not PIPELINE.is_file():
        raise UserError(f"{PIPELINE}: not found here: run from where it lies, or write one with 'emocache use NAME'")
    written = stated_version(PIPELINE)
    if written not in (None, version("emocache")):
        begins_with = f"{PIPELINE}: of emocache {written}, and this is {version('emocache')}"
        says(f"note: {begins_with}: remove it and 'emocache use NAME' for this one's")
    _tell_dvc_where_there_is_no_git()
    stage, began, blank = "", time.monotonic(), False
    for line in _lines(["repro", *(["--force"] if force else []), *targets]):
        found = _BEGINS.match(line)
        if found or line.startswith("Stage '"):
            if stage:
                ends(stage, time.monotonic() - began)
            stage = ""
        if found:
            stage, began = found[1], time.monotonic()
            begins(stage)
        elif line.startswith(_HINTS) or (not line and blank):
            continue
        else:
            says(line)
        blank = not line
    if stage:
        ends(stage, time.monotonic() - began)


def _lines(arguments: list[str]) -> Iterator[str]:
    """What DVC and its stages say, errors among it. Whoever ends this process ends them, too."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # stages call python, or emocache
    alone = {"process_group": 0} if os.name == "posix" else {}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "dvc", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
        **alone,  # type: ignore[call-overload]
    ) as process:
        try:
            for line in process.stdout:
                yield line.rstrip("\n")
        except BaseException as stop:
            number = next(iter(stop.args), signal.SIGINT) if isinstance(stop, KeyboardInterrupt) else signal.SIGINT
            if os.name == "posix":
                os.killpg(process.pid, number)
            else:
                process.terminate()
            process.stdout.read()  # until all of them have ended: what they do by then, they do properly
            raise
    if process.returncode:
        raise UserError("the pipeline stopped: what failed says why, above; 'dvc repro' goes on from there")


def _tell_dvc_where_there_is_no_git() -> None:
    """DVC wants a git repository, or to be told that there is none; this stays on this machine."""
    local = Path(".dvc/config.local")
    here = Path.cwd()
    if (
        local.parent.is_dir()
        and not local.exists()
        and not any((each / ".git").exists() for each in (here, *here.parents))
    ):
        local.write_text("[core]\n    no_scm = true\n", encoding="utf-8")
