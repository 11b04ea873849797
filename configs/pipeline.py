"""The one word of dvc.yaml that says which profile is taken."""

import re
from pathlib import Path

from configs import UserError, load

PIPELINE = Path("dvc.yaml")


def select(name: str) -> str:
    """Write the profile's name into dvc.yaml, one word of it; returns the line that says so.

    Raises:
        UserError: the profile is not allowed, or dvc.yaml is not here, or has no such place.
    """
    load(name)  # no pipeline is left with a profile that it cannot read
    if not PIPELINE.is_file():
        raise UserError(f"{PIPELINE}: not found here: run from the repository root")
    before = PIPELINE.read_text()
    after, n = re.subn(r"(?m)^vars:\n  - configs/[\w-]+\.yaml$", f"vars:\n  - configs/{name}.yaml", before)
    if n != 1:
        raise UserError(f"{PIPELINE}: 'vars:' does not name one profile: write '- configs/{name}.yaml' below it")
    PIPELINE.write_text(after)
    return f"{PIPELINE}: {'uses' if after != before else 'used already'} configs/{name}.yaml"
