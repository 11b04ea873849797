"""What comes with the program, found wherever that is installed: profiles, the sample, the pipeline."""

import json
import re
from importlib.metadata import version
from pathlib import Path

from configs import UserError
from emocache.commands import as_typed

HERE = Path(__file__).parent
HOME = HERE.parent  # a checkout, or the folder of packages
_CODE = re.compile(r"^    deps:\n(?:      - \w+\n)+", re.MULTILINE)  # folders of the program: one stage watches them
HEADER = "# Written by emocache"


def names() -> list[str]:
    """Of all profiles that come along."""
    return sorted(path.stem for path in HERE.glob("*.yaml"))


def profile_text(path: Path) -> str:
    """A profile that comes along; where its data do, too, and are not below the working directory, under their path."""

    def rooted(found: re.Match[str]) -> str:
        there = HOME / found[2]
        return (
            f"{found[1]}{json.dumps(there.as_posix())}" if there.is_dir() and not Path(found[2]).exists() else found[0]
        )

    return re.sub(r"(?m)^(  root: )([\w/]+)$", rooted, path.read_text(encoding="utf-8"))


def pipeline_text() -> str:
    """``dvc.yaml`` for a folder that is no checkout: its stages call the command. The first one, which notes the
    program's code, has nothing to watch there, and so always runs.

    Raises:
        UserError: this installation lacks it.
    """
    path = next((path for path in (HOME / "dvc.yaml", HOME / "emocache" / "dvc.yaml") if path.is_file()), None)
    if path is None:
        raise UserError(f"{HOME / 'emocache' / 'dvc.yaml'}: not there: install EmoCache again")
    text = _CODE.sub("", as_typed(path.read_text(encoding="utf-8")))
    return f"{HEADER} {version('emocache')}.\n{text}"


def stated_version(pipeline: Path) -> str | None:
    """Of the program that wrote a pipeline; None where that is a checkout's own."""
    with pipeline.open(encoding="utf-8") as file:
        first = file.readline()
    return first.removeprefix(HEADER).partition(". ")[0].strip() if first.startswith(HEADER) else None
