"""Bring features that somebody else computed into a store, for heads to read like those of any encoder."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from configs import UserError
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
from configs.schema import Modality, Profile
from extract.corpora.manifest import read_manifest


def main(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder of .npy, .npz or .csv files, a Zarr group, or a file: .npz .h5 .parquet .scp ..."
        ),
    ],
    encoder: Annotated[str, typer.Option(metavar="NAME", help="What heads are to call them: inputs: [NAME].")],
    modality: Annotated[
        Modality | None, typer.Option(help="What they are of. Not needed where the profile has the encoder.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Of tables and CSVs: a column to take, or AU*_r; may be given several times."
        ),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Of a table: the column with the clip's id. Default: clip_id.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="What of an array's name is the clip's id: '^(.+)/audio$'."),
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Of tables and CSVs: only rows that have this: success=1."),
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Numbers in a time step. Default: what most have.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be stored, and stop.")] = False,
    config: ConfigOption = None,
    overrides: OverrideArgument = None,
) -> None:
    """Make a store of features that somebody else computed: runs/PROFILE/stores/NAME.

    It is what extract/run.py does with an encoder of 'family: features', whose lines for the profile are printed in
    the end: with them, heads can name NAME as an input. Features are found by the clips' ids in the manifest. Clips
    without, and arrays that cannot be taken (NaN, another width, nothing in them), are counted, listed in
    errors.parquet, and missing for heads; too many of them end in exit code 3. Nothing is unpickled.

    python cache/ingest.py openface/ --encoder faces --modality video --columns 'AU*_r' --rows success=1
    """
    said = {"columns": columns, "id_column": id_column, "pattern": pattern, "rows": _cells(rows), "width": width}
    own = [each for each in overrides or [] if each.startswith(f"encoders.{encoder}.")]
    profile = load(config, [each for each in overrides or [] if each not in own])
    settings = _settings(profile, encoder, str(source), modality, {k: v for k, v in said.items() if v})
    profile = load(config, [*(overrides or []), f"encoders.{encoder}={json.dumps(settings)}", *own])
    manifest = read_manifest(profile.manifest_path)

    # torch takes seconds to import: help and mistakes should not wait for it
    from extract.passes.extraction import extract
    from extract.passes.means import Means

    try:
        extract(profile, manifest, [encoder], Means("cpu"), dry_run)
    except UserError as error:
        if error.exit_code == 3:  # some clips are missing, and the store is there
            print(_how_to_go_on(profile, encoder))
        raise
    if not dry_run:
        print(_how_to_go_on(profile, encoder))


def _settings(
    profile: Profile, name: str, path: str, modality: Modality | None, said: dict[str, Any]
) -> dict[str, Any]:
    """The encoder as the profile is to have it: as it stands there, with what was said here."""
    there = profile.encoders.get(name)
    if there is not None and there.source is None:
        raise UserError(f"--encoder {name}: the profile has an encoder of that name, which computes: choose another")
    if there is None:
        if modality is None:
            raise UserError("--modality: say what the features are of: audio, video or text")
        return {"family": "features", "modality": modality, "source": {"path": path, **said} if said else path}
    known = there.model_dump(exclude_unset=True, mode="json")
    source = {**known["source"], "path": path, **said}
    return {**known, "modality": modality or there.modality, "source": source if len(source) > 1 else path}


def _cells(rows: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in rows or []:
        column, equals, value = pair.partition("=")
        if not (column and equals and value) or column in found:
            raise UserError(f"--rows {pair}: write COLUMN=VALUE, once for each column")
        found[column] = value
    return found


def _how_to_go_on(profile: Profile, name: str) -> str:
    settings = profile.encoders[name].model_dump(exclude_unset=True, mode="json")
    if list(settings["source"]) == ["path"]:
        settings["source"] = settings["source"]["path"]
    lines = yaml.safe_dump({name: settings}, sort_keys=False, allow_unicode=True, width=1000).splitlines()
    return "\n".join(
        [
            "",
            f"Heads can read it ('inputs: [{name}]') once the profile has, below 'encoders:'",
            *("  " + line for line in lines),
        ]
    )


if __name__ == "__main__":
    command(main)
