"""Look at every clip once, before an expensive pass: what is broken, silent, black, odd, or there twice."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from cache import claimed, publish_folder
from configs import UserError, some
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
from configs.schema import MAX_DAMAGE, FaceCrop, Modality, Profile
from extract.checking.findings import assembled, refused
from extract.checking.kinds import KINDS
from extract.checking.looking import Looked, look
from extract.checking.measures import PictureLook, SoundLook
from extract.checking.page import summary, write_page
from extract.checking.texts import tells_languages
from extract.corpora.manifest import Manifest, read_manifest
from extract.corpora.media_paths import confine
from extract.media.decoding import usable_cores
from extract.media.sources import Sources


def main(
    config: ConfigOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Child processes that decode media; default: one for each usable core.")
    ] = None,
    faces: Annotated[
        bool | None,
        typer.Option(
            help="Look for faces in four frames a clip. Default: where the profile crops faces and dlib is there."
        ),
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="KIND[:SHARE],...",
            help="Findings that end in exit code 3: if a clip has one, or more than that share of all clips. Default: "
            f"files of one modality that cannot be read beyond store.max_error_share. Kinds: {', '.join(KINDS)}.",
        ),
    ] = None,
    overrides: OverrideArgument = None,
) -> None:
    """Decode every file of the manifest once, measure it, and say what is wrong, odd or there twice.

    Nothing is dropped and no store is touched. Writes runs/PROFILE/check: clips.parquet (a row per clip: measures and
    findings), index.html (the worst of each kind to see and hear; one file, no network) and summary.txt. What was
    measured is remembered by content: an interrupted check goes on, and the next one looks at new files alone. With
    what it hashed, extract/run.py need not read files again to know them. Exit code 3 is for findings as --fail-on
    says, after everything is written.
    """
    started = time.monotonic()
    profile = load(config, overrides)
    limits = _limits(fail_on)
    manifest = read_manifest(profile.manifest_path)
    crop = _faces(profile, faces)
    folder = profile.run_dir / "check"
    looked: dict[str, Looked] = {}
    with claimed(folder):
        for kind in _media(manifest):
            confine(manifest.clips, kind, manifest.root, str(profile.manifest_path))
        for kind in _media(manifest):
            encoders = [profile.encoders[name] for name in profile.encoders_of(kind)]
            damage = max([each.max_damage for each in encoders], default=MAX_DAMAGE)
            timeout = max([each.decode_timeout for each in encoders], default=60.0)
            task = SoundLook(damage) if kind == "audio" else PictureLook(damage, crop)
            sources = Sources(profile.sources_path(kind))
            remembered = profile.run_dir / f".check.{kind}.parquet"
            looked[kind] = look(manifest, task, sources, remembered, workers or usable_cores(), timeout)
        table = assembled(manifest, {kind: each.files for kind, each in looked.items()})
        has_texts = manifest.clips["text"].is_not_null().any()
        hints = ["languages were not told: pip install -e '.[language]'"] if has_texts and not tells_languages() else []
        hints += _about_faces(profile, crop)
        text = summary(table, looked, hints, time.monotonic() - started)
        options = [*(["--config", config] if config else []), *(overrides or [])]
        again = shlex.join(["python", "extract/check.py", *options])

        def write(fresh: Path) -> None:
            table.write_parquet(fresh / "clips.parquet")
            (fresh / "summary.txt").write_text(text + "\n", encoding="utf-8")
            write_page(fresh / "index.html", manifest, table, profile.name, hints, again)

        publish_folder(folder, write)
    print(text)
    print(f"written to {folder}: index.html, clips.parquet, summary.txt")
    if broken := refused(table, limits, profile.store.max_error_share):
        raise UserError("; ".join(broken), exit_code=3)


def _media(manifest: Manifest) -> list[Modality]:
    kinds: tuple[Modality, ...] = ("audio", "video")
    return [kind for kind in kinds if manifest.clips.get_column(kind).is_not_null().any()]


def _limits(given: str | None) -> dict[str, float] | None:
    """The share of clips that each kind of ``--fail-on`` may have."""
    if given is None:
        return None
    limits: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in given.split(","))):
        name, _, share = part.partition(":")
        if name not in KINDS:
            raise UserError(f"--fail-on {part}: no such kind of finding; there are: {', '.join(KINDS)}")
        try:
            limits[name] = float(share or 0)
        except ValueError:
            limits[name] = -1
        if not 0 <= limits[name] <= 1:
            raise UserError(f"--fail-on {part}: the share of clips that may have it is 0 to 1, such as {name}:0.05")
    return limits


def _faces(profile: Profile, wanted: bool | None) -> FaceCrop | None:
    """How faces are looked for. Raises UserError where they are wanted and dlib is not there."""
    crops = [each.face_crop for each in profile.encoders.values() if each.face_crop]
    if wanted is False or (wanted is None and not crops):
        return None
    from extract.media.faces import face_detector

    try:
        face_detector()
    except UserError as error:
        if wanted:
            raise UserError("--faces: needs dlib; install it with: pip install -e '.[face]'") from error
        return None
    return max(crops, key=lambda crop: crop.upsample, default=FaceCrop())


def _about_faces(profile: Profile, crop: FaceCrop | None) -> list[str]:
    cropping = [name for name, each in profile.encoders.items() if each.face_crop]
    if crop is None and cropping:
        return [f"faces, which {some(cropping)} crops, were not looked for: pip install -e '.[face]'"]
    return []


if __name__ == "__main__":
    command(main)
