"""Show what carried the decision of trained heads about one unit."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import polars as pl
import typer
from tqdm import tqdm

from cache import Store, claimed, writable
from configs import UserError
from configs.advice import completed
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
from configs.schema import Profile
from extract.corpora.manifest import Manifest, Unit, read_manifest
from heads.explaining.asked import folder_of, unit_called

if TYPE_CHECKING:
    from heads.data.live_text import LiveText
    from heads.explaining.media import Media


def main(
    unit: Annotated[str, typer.Argument(metavar="UNIT", help="The unit: the id of its labelled clip.")],
    config: ConfigOption = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            "--head", help="A head to explain; may be repeated. Default: all of the profile that are trained."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to. Default: runs/PROFILE/explain/UNIT.")
    ] = None,
    explained: Annotated[
        str | None, typer.Option("--class", help="The class to explain. Default: the one that the head names.")
    ] = None,
    window: Annotated[
        float, typer.Option("--window", min=0.02, help="Seconds of audio that are taken away at a time.")
    ] = 0.5,
    overrides: OverrideArgument = None,
) -> None:
    """Show which clips, seconds, frames and words carried the decision of trained heads about one unit.

    Everything that a head reads of the unit is taken away by itself - a clip, an input, half a second, a frame, a
    word, a metadata field - and the head is asked again: what the class loses is its score. The attention weights of
    heads that have them stand beside it, with where the two disagree. The models are those that the unit's row in
    predictions.parquet comes from: for a training unit, of the fold that did not see it.

    Writes for each head HEAD.html (one file, no network), HEAD.png and HEAD.json, and index.html, which leads to them.
    Words are taken away by encoding the text again, which needs the text encoder; frames and waveforms are shown where
    the media are still there.
    """
    profile = load(config, overrides)
    manifest = read_manifest(profile.manifest_path)
    chosen = unit_called(manifest, unit)
    names = _heads(profile, head)

    # torch and transformers take seconds to import: help and mistakes should not wait for them
    from heads.explaining.explanation import explain
    from heads.explaining.page import INDEX, write_index, write_page
    from heads.explaining.words import in_words

    stores = list(dict.fromkeys(store for name in names for store in profile.heads[name].stores))
    media = _media(profile, manifest, chosen, stores)
    live = {store: _live_text(profile, store) for store in stores if profile.modality_of(store) == "text"}
    found, refused = [], []
    for name in tqdm(names, desc="heads", unit="head", disable=None):
        try:
            found.append(explain(profile, manifest, chosen, name, media, live, window, explained))
        except UserError as error:
            if head:
                raise
            refused.append(error)
    if not found:
        raise refused[0]

    folder = out or folder_of(profile, unit)
    option = ["--config", config] if config else []
    of_fusion = completed(shlex.join(["python", "fusion/explain.py", unit, *option, *(overrides or [])]))
    with claimed(folder), writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for each in found:
            others = [other.head for other in found if other is not each]
            again = ["python", "heads/explain.py", unit, *option, "--head", each.head, *(overrides or [])]
            write_page(folder, each, media, completed(shlex.join(again)), others)
            print(in_words(each) + "\n")
        write_index(folder, unit, of_fusion)
    for reason in refused:
        print(f"left out: {reason}")
    print(f"written to {folder}: {', '.join(f'{each.head}.html' for each in found)}, and a .png and a .json of each")
    if len(profile.heads) > 1:
        print(f"{folder / INDEX}.html leads to them; the fusion of them: {of_fusion}")


def _heads(profile: Profile, asked: list[str] | None) -> list[str]:
    """Those asked for, or all that are trained."""
    for name in asked or []:
        if name not in profile.heads:
            raise UserError(f"--head {name}: no such head in the profile; it has: {', '.join(profile.heads)}")
    names = list(dict.fromkeys(asked or profile.heads))
    trained = [name for name in names if (profile.head_path(name) / "model" / "head.json").is_file()]
    if asked and len(trained) < len(names):
        lacking = next(name for name in names if name not in trained)
        raise UserError(f"{profile.head_path(lacking)}: not trained: run python heads/train.py --head {lacking}")
    if not trained:
        raise UserError(f"{profile.run_dir / 'heads'}: no trained head: run python heads/train.py --head {names[0]}")
    return trained


def _media(profile: Profile, manifest: Manifest, unit: Unit, encoders: list[str]) -> "Media":
    """What can be shown of the clips whose features are in the stores; frames as the first video encoder saw them."""
    from heads.explaining.media import look

    clips = manifest.clips.filter(pl.col("clip_id").is_in(unit.clip_ids))
    stores = {"audio": list[Store](), "video": list[Store]()}
    for name in encoders:
        if (modality := profile.modality_of(name)) in stores and profile.store_path(name).exists():
            stores[modality].append(Store(profile.store_path(name), profile.store.verify_reads))
    files = {}
    for modality, read in stores.items():
        rows = clips.filter(pl.col(modality).is_not_null()).select("clip_id", modality).iter_rows()
        files[modality] = {clip: manifest.media(path) for clip, path in rows if any(clip in store for store in read)}
    fields = next((store.fields for store in stores["video"]), {})
    timeout = max((encoder.decode_timeout for encoder in profile.encoders.values()), default=60.0)
    return look(files["audio"], files["video"], fields, timeout)


def _live_text(profile: Profile, name: str) -> "LiveText | str":
    """One of the profile's text encoders, or why there is none."""
    from heads.data.live_text import LiveText

    try:
        return LiveText(profile, name, Store(profile.store_path(name), profile.store.verify_reads))
    except UserError as error:
        return str(error)


if __name__ == "__main__":
    command(main)
