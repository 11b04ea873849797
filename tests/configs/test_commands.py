"""What every script does before and after its ``main``."""

import os
import subprocess
import sys

import pytest
from shells import REPOSITORY

SCRIPT = """
import sys
from configs import UserError, command
def main(name: str = "") -> None:
    '''Says 你好.'''
    print(f"很高兴 {name}")
    raise UserError("很难过: \\udcff")
command(main)
"""


@pytest.mark.parametrize("setting", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}])
def test_a_terminal_that_lacks_characters_costs_no_result(setting: dict[str, str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)} | setting
    for arguments, code in ((["--name", "é"], 2), (["--help"], 0)):
        done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], env=environment, capture_output=True)
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr
        if code:
            assert done.stdout.startswith((b"\\u5f88\\u9ad8\\u5174 ", "很高兴 ".encode()))
            assert done.stderr.startswith(b"error: ")
