"""The files for clusters name commands that exist, with options that exist."""

import importlib
import re
import shlex
import subprocess

import pytest
import typer
from shells import REPOSITORY

CLUSTER = REPOSITORY / "docs" / "cluster"
TEXTS = {path.name: path.read_text() for path in CLUSTER.iterdir()}
LINES = [(name, line) for name, text in TEXTS.items() for line in re.findall(r"python (\w+/\w+\.py[^\n]*)", text)]


def parsed(line: str) -> None:
    """Let the script's own command line parse it, without running anything. Raises click's errors."""
    script, *arguments = shlex.split(line.rstrip(";"))
    app = typer.Typer()
    app.command()(importlib.import_module(script.removesuffix(".py").replace("/", ".")).main)
    plain = [re.sub(r"^\$.*(WORKERS|CPUS).*", "1", argument) for argument in arguments]
    typer.main.get_command(app).make_context(script, plain, resilient_parsing="--help" in plain)


@pytest.mark.parametrize(("name", "line"), LINES)
def test_a_command_of_a_cluster_is_real(name, line):
    parsed(line)


def test_a_command_that_is_not_real_would_be_found():
    assert {line.split()[0] for _, line in LINES} >= {"extract/manifest.py", "extract/run.py", "heads/train.py"}
    with pytest.raises(Exception, match="No such option"):
        parsed("extract/run.py --confik mine")


def test_the_script_is_bash_and_its_steps_are_those_that_it_submits():
    script = TEXTS["slurm.sh"]
    subprocess.run(["bash", "-n", CLUSTER / "slurm.sh"], check=True)
    assert set(re.findall(r"submit \w+ (\w+) ", script)) == set(re.findall(r"^(\w+)\)$", script, re.MULTILINE))


def test_the_container_leaves_out_what_has_no_place_on_a_gpu():
    (pattern,) = re.findall(r"grep -vE '(.*)' requirements\.txt", TEXTS["Containerfile"])
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    left_out = [line for line in lines if re.search(pattern, line)]
    assert [re.split("==| ", line)[0] for line in left_out] == ["torch", "-e"]
    for copied in re.findall(r"requirements[\w-]*\.txt", TEXTS["Containerfile"]):
        assert (REPOSITORY / copied).is_file()
