"""What every script does before and after its ``main``."""

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from shells import REPOSITORY

from configs import UserError
from configs.advice import OF_A_PROFILE, completed
from configs.command_line import ConfigOption, OverrideArgument, command

FOLDERS = ("configs", "cache", "emocache", "extract", "heads", "fusion")

SCRIPT = """
import sys
from configs import UserError
from configs.command_line import command
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


@pytest.mark.parametrize(
    ("given", "proposed"),
    [
        ({}, "python heads/train.py --head a, then 'python fusion/stack.py'; python cache/verify.py s --repair"),
        (
            {"config": "my own.yaml", "overrides": ["seed=3", "heads.a.inputs=[x, y]"]},
            "python heads/train.py --config 'my own.yaml' seed=3 'heads.a.inputs=[x, y]' --head a, then 'python "
            "fusion/stack.py --config 'my own.yaml' seed=3 'heads.a.inputs=[x, y]''; python cache/verify.py s --repair",
        ),
    ],
)
def test_proposed_commands_have_the_profile_of_the_run(
    given: dict[str, object], proposed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "python heads/train.py --head a, then 'python fusion/stack.py'; python cache/verify.py s --repair"

    def main(config: ConfigOption = None, overrides: OverrideArgument = None) -> None:
        assert completed(completed(text)) == completed(text)
        raise UserError(text)

    options = ["--config", str(given["config"])] if given else []
    monkeypatch.setattr(sys, "argv", ["x.py", *options, *given.get("overrides", [])])  # type: ignore[misc]
    with pytest.raises(SystemExit):
        command(main)
    assert capsys.readouterr().err == f"error: {proposed}\n"


def messages() -> Iterator[tuple[str, str]]:
    """Every text in the code but docstrings' headings, with ``X`` where a value goes, and the report's templates."""
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values]
                    yield str(path.relative_to(REPOSITORY)), "".join(parts)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield str(path.relative_to(REPOSITORY)), node.value
        for path in sorted((REPOSITORY / folder).rglob("*.j2")):
            yield str(path.relative_to(REPOSITORY)), path.read_text(encoding="utf-8")


COMMAND = re.compile(r"python (?!-)[^\s';,<]+/[^';,\n`<]*")
PROPOSED = sorted({(where, found[0]) for where, text in messages() for found in COMMAND.finditer(text)})


@pytest.mark.parametrize(("where", "proposed"), PROPOSED)
def test_every_script_and_option_that_a_message_names_is_there(where: str, proposed: str) -> None:
    script, *rest = proposed.removeprefix("python ").rstrip(".)").split()
    assert (REPOSITORY / script).is_file(), f"{where}: {proposed}"
    if script.startswith(("benchmarks", "extract/sample")):
        return
    app = typer.Typer()
    app.command()(importlib.import_module(script.removesuffix(".py").replace("/", ".")).main)
    parameters = typer.main.get_command(app).params
    options = {option for each in parameters for option in (*each.opts, *each.secondary_opts)}
    named = [word for word in rest if word.startswith("--")]
    assert set(named) <= options, f"{where}: {proposed}"
    if proposed.endswith(".py"):
        return  # of a template, whose options follow apart
    needed = {each.opts[0] for each in parameters if each.required and each.opts[0].startswith("--")}
    assert needed <= set(named), f"{where}: {proposed}"


def test_scripts_that_read_a_profile_are_completed() -> None:
    for folder in FOLDERS:
        for path in (REPOSITORY / folder).glob("*.py"):
            if "overrides: OverrideArgument" in path.read_text(encoding="utf-8") and path.stem != "explain":
                assert f"{folder}/{path.stem}" in OF_A_PROFILE
