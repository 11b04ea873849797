"""What code each stage of the pipeline is said to run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from configs import UserError
from emocache.stages import FOLDERS, ROOT, STAGES, Code


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A project of three modules and a template."""
    for name, text in {
        "heads/train.py": 'from heads.models import net\n"""A docstring."""\nLATE = "heads.late"\n',
        "heads/models/net.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import heads.explain\n",
        "heads/late.py": "def f():\n    '''Says what it does.'''\n    return 1\n",
        "heads/explain.py": "TEMPLATE = 'page.html.j2'\n",
        "heads/page.html.j2": "<p>{# why #}</p>\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_only_what_is_imported_and_no_comment_counts(copy: Path) -> None:
    def hashes() -> list[str]:
        code = Code(copy)
        return [code.hash_of("heads.train"), code.hash_of("heads.explain")]

    def change(name: str, old: str, new: str) -> None:
        path = copy / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    assert Code(copy).imported("heads.train") == {"heads.train", "heads.models.net", "heads.late"}
    before = hashes()
    change("heads/late.py", "Says what it does.", "Says more.")
    change("heads/late.py", "return 1", "return 1  # always")
    change("heads/page.html.j2", "{# why #}", "{# because #}")
    assert hashes() == before
    change("heads/page.html.j2", "<p>", "<p class=soft>")
    assert [a == b for a, b in zip(hashes(), before, strict=True)] == [True, False]
    change("heads/late.py", "return 1", "return 2")
    assert hashes()[0] != before[0]
    (copy / "heads/late.py").write_text("def f(:\n")
    with pytest.raises(UserError, match=r"late\.py: line 1: "):
        hashes()


def test_the_pipeline_watches_the_code_of_each_stage() -> None:
    stages = yaml.safe_load(re.sub(r"\$\{[^}]*\}", "x", (ROOT / "dvc.yaml").read_text()))["stages"]
    assert sorted(stages["code"]["deps"]) == sorted(FOLDERS)
    assert stages.keys() - {"code"} == STAGES.keys()
    for name, script in STAGES.items():
        stage = stages[name].get("do", stages[name])
        assert {"runs/code.json": [f"code.{name}"]} in stage["params"]
        assert stage["cmd"].split()[1] == script.replace(".", "/") + ".py"


@pytest.mark.parametrize(
    "stage", ["inputs", *(pytest.param(name, marks=pytest.mark.soak) for name in ("head", "fuse"))]
)
def test_nothing_that_is_loaded_is_overlooked(stage: str) -> None:
    """All modules of a stage are imported for real: what comes with them must be among them."""
    known = sorted(Code(ROOT).imported(STAGES[stage]))
    script = "import json, sys, importlib\nfor n in json.loads(sys.argv[1]): importlib.import_module(n)\n"
    script += f"print(json.dumps([n for n in sys.modules if n.split('.')[0] in {FOLDERS}]))"
    done = subprocess.run([sys.executable, "-c", script, json.dumps(known)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout.splitlines()[-1])) <= set(known)
    assert not any(name.startswith(("heads.explain", "heads.mapping", "fusion.web")) for name in known)
