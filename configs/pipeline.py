"""The one word of dvc.yaml that says which profile is taken; and what a folder needs to have one."""

import re
import shutil
from pathlib import Path

from configs import UserError, shipped
from configs.advice import is_command
from configs.profiles import load

PIPELINE = Path("dvc.yaml")
OF_DVC = {  # what a checkout has, too
    Path(".dvc/config"): "[core]\n    analytics = false\n    check_update = false\n    no_scm = true\n"
    "[plots]\n    html_template = plots.html\n",
    Path(".dvcignore"): "__pycache__\n.*.lock\n.*.new\n.*.old\n.*.partial\n.*.progress\n",
}


def select(name: str) -> str:
    """Write the profile's name into dvc.yaml, one word of it; returns what was done.

    The command, in a folder that is no checkout, makes what it lacks: dvc.yaml, and a profile that comes along.

    Raises:
        UserError: the profile is not allowed, or dvc.yaml is not here, or has no such place.
    """
    load(name)  # no pipeline is left with a profile that it cannot read
    done = [*_profile(name), *_pipeline()] if is_command() else []
    if not PIPELINE.is_file():
        raise UserError(f"{PIPELINE}: not found here: run from the repository root")
    before = PIPELINE.read_text(encoding="utf-8")
    after, n = re.subn(r"(?m)^vars:\n  - configs/[\w-]+\.yaml$", f"vars:\n  - configs/{name}.yaml", before)
    if n != 1:
        raise UserError(f"{PIPELINE}: 'vars:' does not name one profile: write '- configs/{name}.yaml' below it")
    PIPELINE.write_text(after, encoding="utf-8")
    return "\n".join([*done, f"{PIPELINE}: {'uses' if after != before else 'used already'} configs/{name}.yaml"])


def _profile(name: str) -> list[str]:
    target = Path("configs") / f"{name}.yaml"
    if target.exists():
        return []
    target.parent.mkdir(exist_ok=True)
    target.write_text(shipped.profile_text(shipped.HERE / target.name), encoding="utf-8")
    return [f"{target}: written, as it comes along"]


def _pipeline() -> list[str]:
    if PIPELINE.exists():
        return []
    PIPELINE.write_text(shipped.pipeline_text(), encoding="utf-8")
    if any((folder / ".dvc").is_dir() for folder in (Path.cwd(), *Path.cwd().parents)):
        return [f"{PIPELINE}: written"]
    for path, content in OF_DVC.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    shutil.copyfile(shipped.HERE / "plots.html", ".dvc/plots.html")
    return [f"{PIPELINE}, .dvc: written"]
