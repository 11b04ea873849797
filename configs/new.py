"""From your files to a profile that runs."""

import re
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]  # it has a heads.py

import typer
from pydantic import TypeAdapter, ValidationError

from configs import UserError
from configs.advice import completed, is_command
from configs.command_line import command
from configs.pipeline import select
from configs.profiles import load
from configs.schema import Dataset
from configs.sections.common import Name


def main(
    path: Annotated[Path, typer.Argument(help="A folder of media, a table with a row per clip, or a known corpus.")],
    name: Annotated[str | None, typer.Option(help="The profile's name. Default: that of the folder or table.")] = None,
    media: Annotated[Path | None, typer.Option(help="Where the media lie, if not below PATH.")] = None,
    use_it: Annotated[bool, typer.Option("--use", help="Make it the profile that dvc repro and scripts take.")] = False,
) -> None:
    """Look at a folder or a table, and write configs/NAME.yaml: commented, ready for dvc repro.

    Said is what was recognised: the layout, clips, speakers, classes, modalities. What cannot be decided is asked;
    where nobody can answer, it is left as a line marked CHOOSE, with its choices, and the exit code is 2.
    """
    # polars takes its time to import: help and mistakes should not wait for it
    from extract.corpora.reading import read_dataset
    from extract.starting.layouts import recognise
    from extract.starting.profile import told, undecided, wanted_splits, written

    name = name or re.sub(r"[^A-Za-z0-9]+", "_", path.resolve().stem).strip("_")
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise UserError(f"--name {name!r}: letters, digits, - and _ make a name") from error
    target = Path("configs") / f"{name}.yaml"
    if is_command():
        target.parent.mkdir(exist_ok=True)
    elif not target.parent.is_dir():
        raise UserError("configs/: no such folder here: run from the repository root")
    if target.exists():
        raise UserError(f"{target}: exists already, and is not overwritten: give another --name, or remove it")
    folder = path if path.is_dir() else path.parent
    layout = recognise(path, folder, media)
    if sys.stdin.isatty() and sys.stderr.isatty():
        layout = replace(layout, dataset=_asked(layout.dataset, layout.open) | _added(layout.maybe), open={}, maybe={})
    if layout.open:
        target.write_text(completed(undecided(name, layout)), encoding="utf-8")
        key, choices = next(iter(layout.open.items()))
        raise UserError(f"{target}: written, but {key} is left to choose: {', '.join(choices)}")
    manifest = read_dataset(_validated(layout.dataset), 0)
    splits = wanted_splits(layout, manifest)
    if splits is not None:
        layout = replace(layout, dataset=layout.dataset | {"splits": splits})
        manifest = read_dataset(_validated(layout.dataset), 0)
    if not any(manifest.clips[kind].is_not_null().any() for kind in ("audio", "video", "text")):
        example = manifest.missing[0].file if manifest.missing else "none is named"
        raise UserError(f"{path}: none of its media is there ({example}): say where they lie with --media FOLDER")
    if manifest.missing:
        layout = replace(layout, dataset=layout.dataset | {"missing_media": "allow"})
    print("\n".join(told(layout, manifest)))
    target.write_text(completed(written(name, layout, manifest)), encoding="utf-8")
    load(name)
    print(f"{target}: written")
    print(select(name) if use_it else completed(f"next: python configs/use.py {name}, then dvc repro"))


def _validated(dataset: dict[str, Any]) -> Dataset:
    """The section as a reader takes it; files that are named and not there end nothing yet."""
    try:
        checked: Dataset = TypeAdapter(Dataset).validate_python(dataset)
    except ValidationError as error:
        raise UserError(f"dataset: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    return checked.model_copy(update={"missing_media": "allow"})


def _asked(dataset: dict[str, Any], questions: dict[str, list[str]]) -> dict[str, Any]:
    """The dataset's section with the answers."""
    for key, choices in questions.items():
        *parents, last = key.split(".")[1:]
        node = dataset = deepcopy(dataset)
        for parent in parents:
            node = node[parent]
        node[last] = choices[_choice(f"Which is {key}?", choices) - 1]
    return dataset


def _added(maybe: dict[str, dict[str, str]]) -> dict[str, str]:
    """What the answers add to the dataset's section."""
    added: dict[str, str] = {}
    for key, values in maybe.items():
        number = _choice("Which part of a path says who speaks?", list(values.values()), none="none of them")
        added |= {key: list(values)[number - 1]} if number else {}
    return added


def _choice(question: str, choices: list[str], none: str | None = None) -> int:
    """The number of the choice, from 1; 0 is none of them."""
    typer.echo(question, err=True)
    first = 1 if none is None else 0
    for number, choice in enumerate([*([none] if none else []), *choices], first):
        typer.echo(f"  {number}: {choice}", err=True)
    number = -1
    while not first <= number <= len(choices):
        number = typer.prompt("Number", type=int, err=True)
    return number


if __name__ == "__main__":
    command(main)
