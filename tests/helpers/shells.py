"""Command lines in a folder, as a user types them."""

import contextlib
import io
import os
import runpy
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
Shell = Callable[..., subprocess.CompletedProcess[str]]


def shell_in(folder: Path, *programs: str) -> Shell:
    """``shell(line, code=0)``: run a line as if typed in the folder with the environment active.

    Args:
        programs: folders of programs that are taken first.
    """
    path = os.pathsep.join([*programs, str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(line: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=400
        )
        return _ended_in(code, done)

    return run


def scripts_in(folder: Path, *programs: str) -> Shell:
    """As :func:`shell_in`, but scripts of this repository run in this process, whose imports are paid for already."""
    shell = shell_in(folder, *programs)

    def run(line: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        program, *arguments = shlex.split(line)
        if program != "python":
            return shell(line, code)
        out, err, argv = io.StringIO(), io.StringIO(), sys.argv
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            sys.argv = arguments
            try:
                runpy.run_path(str(REPOSITORY / arguments[0]), run_name="__main__")
                ended = 0
            except SystemExit as end:
                ended = int(end.code or 0)
            except Exception:
                traceback.print_exc()  # as a process would, and with its exit code
                ended = 1
            finally:
                sys.argv = argv
        return _ended_in(code, subprocess.CompletedProcess(line, ended, out.getvalue(), err.getvalue()))

    return run


def _ended_in(code: int, done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == code, f"{done.args}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
