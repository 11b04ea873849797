"""The console command: every script has a word, and what is said names words."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from shells import REPOSITORY

import emocache.demo
import emocache.pipeline
from cache import publish_folder
from configs import UserError, advice
from configs.pipeline import select
from configs.profiles import load
from configs.schema import Profile
from configs.shipped import names, stated_version
from emocache.__main__ import main
from emocache.commands import COMMANDS, ROOMS, as_typed

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``call("show", "--help")``: exit code, stdout, stderr of the command."""
    monkeypatch.setattr(advice, "_as_command", False)  # and so again behind the test, as what was given
    monkeypatch.setattr(advice, "_given", [])

    def called(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["emocache", *arguments])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return called


def test_every_script_has_one_word() -> None:
    scripts = [
        f"{path.parent.name}.{path.stem}"
        for folder in ROOMS
        for path in sorted((REPOSITORY / folder).glob("[!_]*.py"))
        if any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in parsed(path).body)
    ]
    assert sorted(module for module, _ in COMMANDS.values()) == sorted(scripts)
    for module, _ in COMMANDS.values():
        body = parsed(REPOSITORY / f"{module.replace('.', '/')}.py").body
        assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in body), module


@pytest.mark.parametrize("word", sorted(COMMANDS))
def test_every_word_has_help(word: str, call: Call) -> None:
    code, said, _ = call(word, "--help")
    assert code == 0
    assert f"Usage: emocache {word}" in said


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_help_imports_nothing_that_takes_time() -> None:
    code = "import sys; sys.argv[1:] = []; from emocache.__main__ import main; main(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    for word in COMMANDS:
        assert f"\n  {word} " in done.stdout
    assert not {"torch", "typer", "pydantic", "polars", "configs"} & {*done.stdout.splitlines()[-1].split()}


def test_a_wrong_word_ends_in_one_line(call: Call) -> None:
    assert call("trian") == (2, "", "error: 'trian': no such command: did you mean train?\n")
    assert call("x" * 1000)[2] == f"error: {'x' * 100!r}: no such command: emocache --help lists them\n"
    assert call("--version")[1].startswith("emocache ")


def test_a_script_ends_as_it_does_by_its_own_name(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call("show", "--config", "nothing")
    assert (code, out) == (2, "")
    assert err == (
        "error: configs/nothing.yaml: no such profile (profiles in configs/: none here; that come along: "
        f"{', '.join(names())})\n"
    )
    code, out, err = call("train", "--haed", "audio")
    assert code == 2
    assert "Usage: emocache train [OPTIONS]" in err
    assert "emocache train --head audio runs/" in call("search", "--help")[1].replace("\n  ", " ")
    said = "error: --predictions without --config: name a folder for the results with --out\n"
    assert call("stack", "--predictions", "a.csv", "b.csv") == (2, "", said)  # a list, as the script takes it


def test_messages_name_words() -> None:
    said = "run 'python heads/train.py --head a', then dvc repro; python benchmarks/heads.py; pip install -e '.[ray]'"
    assert as_typed(said) == (
        "run 'emocache train --head a', then emocache repro; python benchmarks/heads.py; pip install 'emocache[ray]'"
    )


def test_in_an_empty_folder_a_profile_that_comes_along_is_found_with_its_data(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (Path(load("sample").dataset.root) / "json").is_dir()
    assert load("avamerg").dataset.root == Path("data/avamerg")  # the user's, which lie where they lie
    with pytest.raises(UserError, match=r"dvc\.yaml: not found here: run from the repository root"):
        select("sample")
    code, out, err = call("use", "sample")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "configs/sample.yaml: written, as it comes along",
        "dvc.yaml, .dvc: written",
        "dvc.yaml: used already configs/sample.yaml",
    ]
    assert load().dataset == load("sample").dataset
    assert (Path(load().dataset.root) / "json").is_dir()
    assert (Path(".dvc") / "plots.html").read_text() == (REPOSITORY / "configs" / "plots.html").read_text()
    assert call("use", "talking_faces")[1].splitlines()[-1] == "dvc.yaml: uses configs/talking_faces.yaml"
    assert call("use", "talking_faces")[1].splitlines() == ["dvc.yaml: used already configs/talking_faces.yaml"]
    assert yaml.safe_load(Path("dvc.yaml").read_text())["vars"] == ["configs/talking_faces.yaml"]


def test_the_pipeline_outside_a_checkout_calls_words_and_notes_the_code_each_time(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call("use", "sample")
    here, there = (yaml.safe_load((folder / "dvc.yaml").read_text()) for folder in (REPOSITORY, tmp_path))
    assert here["stages"].keys() == there["stages"].keys()
    for name, stage in there["stages"].items():
        own, its = (each.get("do", each) for each in (here["stages"][name], stage))
        assert own.keys() - its.keys() == (
            {"deps"} if name == "code" else set()
        )  # where there are none, it always runs
        assert own["outs"] == its["outs"]
        command, word, *rest = its["cmd"].split()
        assert (command, rest) == ("emocache", own["cmd"].split()[2:])
        assert own["cmd"].split()[1] == f"{COMMANDS[word][0].replace('.', '/')}.py"
        kept = [each for each in own["deps"] if each.startswith(("runs/", "$", "configs/$"))]
        assert its.get("deps", []) == kept
        assert own.get("params") == its.get("params")
    assert stated_version(tmp_path / "dvc.yaml")
    assert stated_version(REPOSITORY / "dvc.yaml") is None


DVC_SAYS = """Running stage 'manifest@sample':
> python extract/manifest.py
63 conversations
Updating lock file 'dvc.lock'

Stage 'extract@sample' didn't change, skipping
Running stage 'fuse@sample':
fused

To track the changes with git, run:

\tgit add dvc.lock

To enable auto staging, run:

\tdvc config core.autostage true
Use `dvc push` to send your updates to remote storage."""


def test_of_what_dvc_says_its_hints_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []

    def run() -> None:
        emocache.pipeline.run(
            [], False, lambda a: said.append(f"> {a}"), said.append, lambda a, _: said.append(f"< {a}")
        )

    with pytest.raises(UserError, match="write one with 'emocache use NAME'"):
        run()
    monkeypatch.setattr(emocache.pipeline, "_lines", lambda arguments: iter(DVC_SAYS.splitlines()))
    Path("dvc.yaml").write_text("stages: {}\n")
    Path(".dvc").mkdir()
    run()
    assert [line for line in said if line] == [
        *("> manifest@sample", "> python extract/manifest.py", "63 conversations", "< manifest@sample"),
        *("Stage 'extract@sample' didn't change, skipping", "> fuse@sample", "fused", "< fuse@sample"),
    ]
    assert "no_scm = true" in Path(".dvc/config.local").read_text()


def test_dvc_that_fails_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.py").write_text("print('it is full'); raise SystemExit(255)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines = emocache.pipeline._lines(["repro"])
    assert next(lines) == "it is full"
    with pytest.raises(UserError, match="the pipeline stopped"):
        list(lines)


def test_whoever_ends_the_command_ends_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    (tmp_path / "dvc.py").write_text(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stage!r}])")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines = emocache.pipeline._lines(["repro"])
    number = int(next(lines))
    os.kill(number, 0)
    with pytest.raises(KeyboardInterrupt):
        lines.throw(KeyboardInterrupt(signal.SIGTERM))
    state = Path(f"/proc/{number}/stat")

    def lives() -> bool:
        try:
            return ") Z " not in state.read_text()  # nobody may have asked yet how it ended
        except (FileNotFoundError, ProcessLookupError):
            return False

    until = time.monotonic() + 10  # what it says has ended; the process itself ends a moment later
    while lives() and time.monotonic() < until:
        time.sleep(0.01)
    assert not lives()


AUDITED = {"probe.metadata": "warn", "overlap.text.folds": "fail", "probe.identity": "pass"}


def test_a_demo_ends_in_lines_that_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"name": "t", "dataset": {"adapter": "avamerg", "root": "x"}, "heads": {"a": {"metadata": ["topic"]}}}
    profile = Profile.model_validate(settings)
    score = {"macro_f1": 0.9, "macro_f1_low": 0.8, "macro_f1_high": 1.0, "accuracy": 0.95}
    fused = score | {"strategy": "mean", "split": "test", "n_units": 21, "n_groups": 2}
    head = {"test": {"macro_f1": {"value": 0.5, "low": 0.4, "high": 0.6}}}
    for folder, content in ((profile.fusion_path, {"headline": fused}), (profile.head_path("a"), head)):
        publish_folder(folder, lambda fresh, it=content: (fresh / "metrics.json").write_text(json.dumps(it)))
    checks = [{"name": name, "verdict": verdict} for name, verdict in AUDITED.items()]
    publish_folder(
        tmp_path / "runs/t/audit", lambda fresh: (fresh / "audit.json").write_text(json.dumps({"checks": checks}))
    )
    lines = "\n".join(emocache.demo.brief(profile))
    assert "audit: WARN probe.metadata: as is expected: half of the sample's" in lines
    assert "audit: FAIL overlap.text.folds: see runs/t/audit/audit.txt" in lines
    assert "identity" not in lines
    assert "fused (mean): macro-F1 0.900 [0.800, 1.000], accuracy 0.950, on 21 test units of 2 people" in lines
    assert "head a  macro-F1 0.500 [0.400, 0.600]\n" in lines
    assert "report: runs/t/fusion/report.html" in lines
    assert len(lines.splitlines()) < 12


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_what_is_declared_is_pinned_and_fits(system: str) -> None:
    import tomllib

    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (line.partition(" #")[0].strip() for line in (REPOSITORY / "requirements.txt").read_text().splitlines())
    pinned = [line for line in lines if line and not line.startswith(("#", "-e "))]
    environment = {**default_environment(), "sys_platform": system}

    def there(texts: list[str]) -> dict[str, Requirement]:
        each = map(Requirement, texts)
        return {one.name.lower(): one for one in each if one.marker is None or one.marker.evaluate(environment)}

    wanted, pins = there(declared), there(pinned)
    assert wanted.keys() == pins.keys()
    assert ("xgboost" if system == "darwin" else "xgboost-cpu") in pins
    for name, pin in pins.items():
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert wanted[name].specifier.contains(exact.version), name
