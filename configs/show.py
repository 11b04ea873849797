"""Show a profile with all that it leaves out: every setting, as this version of the program takes it."""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from configs import UserError
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load


def main(
    config: ConfigOption = None,
    overrides: OverrideArgument = None,
    out: Annotated[Path | None, typer.Option(help="Write it there instead; DVC watches that.")] = None,
) -> None:
    """Check a profile, and print it whole: what it says, and the default of everything that it leaves out. Of a
    head it is what heads of its kind have."""
    text = yaml.safe_dump(_plain(load(config, overrides).resolved()), sort_keys=False, allow_unicode=True)
    if out is None:
        print(text, end="")
        return
    if out.is_dir():
        raise UserError(f"{out}: is a folder: name a file")
    out.parent.mkdir(parents=True, exist_ok=True)
    text = f"# All settings of a run, those that its profile leaves out, too. Made by configs/show.py.\n{text}"
    out.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    return {str(key): _plain(each) for key, each in value.items()} if isinstance(value, dict) else value


if __name__ == "__main__":
    command(main)
