"""Command lines in a folder, as a user types them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
Shell = Callable[..., subprocess.CompletedProcess[str]]


def shell_in(folder: Path) -> Shell:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(line: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=400
        )
        assert done.returncode == code, f"{line}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
