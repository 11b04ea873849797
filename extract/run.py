"""Run an encoder over every clip, once, into a feature store."""

import hashlib
import json
import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import polars as pl
import torch
import typer

from cache import Store, StoreError, write_text_atomically
from configs import ConfigOption, OverrideArgument, Profile, UserError, command, load
from extract.audio import load_audio_encoder
from extract.encoder import LoadedEncoder
from extract.engine import Clip, Failure, Plan, look_ahead, open_writer, plan_pass, run_pass, write_errors
from extract.manifest import Manifest, read_manifest
from extract.text import load_text_encoder
from extract.video import load_video_encoder

LOADERS = {"audio": load_audio_encoder, "video": load_video_encoder, "text": load_text_encoder}


class Modality(StrEnum):
    audio = "audio"
    video = "video"
    text = "text"


def main(
    modality: Annotated[Modality, typer.Option(help="Which of the profile's encoders to run.")],
    config: ConfigOption = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode media.")] = os.cpu_count() or 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be computed, and stop.")] = False,
    overrides: OverrideArgument = None,
) -> None:
    """Run one encoder over the clips of a manifest and keep its features in runs/PROFILE/stores/MODALITY.

    Only what is not there yet is computed: the same command again does nothing, and goes on after an interruption.
    A clip that cannot be read goes to errors.parquet and counts as missing; too many of them end in exit code 3.
    """
    profile = load(config, overrides)
    if modality.value not in profile.encoders:
        raise UserError(f"encoders.{modality}: the profile {profile.name!r} names no encoder for it")
    manifest = read_manifest(profile.manifest_path)
    clips = clips_with_media(manifest, modality.value)
    started = time.perf_counter()
    encoder = load_encoder(profile, modality.value, device)
    store_path = profile.store_path(modality.value)
    if dry_run:
        stored, differing = look_ahead(store_path, encoder, profile.store)
        if differing:
            print(f"settings changed ({', '.join(differing)}): the store at {store_path} would be set aside")
        print(_describe(modality.value, plan_pass(clips, stored, workers)))
        return
    with open_writer(store_path, encoder, profile.store) as writer:
        if writer.moved_aside:
            print(f"settings changed: the former store is kept at {writer.moved_aside}; delete it if it is not needed")
        plan = plan_pass(clips, writer.content_hashes, workers)
        print(_describe(modality.value, plan))
        batch_size = profile.encoders[modality.value].batch_size
        failures = run_pass(plan, encoder, writer, profile.store.commit_clips, batch_size, workers)
    write_errors(store_path / "errors.parquet", failures)
    write_receipt(profile.receipt_path(modality.value), store_path, len(clips), failures)
    seconds = time.perf_counter() - started
    rate = f" ({len(plan.compute) / seconds:.1f} clips/s)" if plan.compute else ""
    print(f"{modality}: {len(clips) - len(failures)} of {len(clips)} clips in {store_path}, {seconds:.1f} s{rate}")
    _report_failures(failures, len(clips), profile.store.max_error_share, store_path / "errors.parquet")


def clips_with_media(manifest: Manifest, modality: str) -> list[Clip]:
    """The clips that some unit reads and that have this modality, in the manifest's order.

    The listener's answer to a labelled turn is future to it: no unit reads it, so nothing is computed for it.
    """
    read = {clip_id for unit in manifest.units() for clip_id in unit.clip_ids}
    present = manifest.clips.filter(pl.col(modality).is_not_null() & pl.col("clip_id").is_in(read))
    rows = present.select("clip_id", modality).iter_rows()
    if modality == "text":
        return [Clip(clip_id, text) for clip_id, text in rows]
    return [Clip(clip_id, manifest.root / path) for clip_id, path in rows]


def write_receipt(path: Path, store_path: Path, n_clips: int, failures: list[Failure]) -> None:
    """A few lines that change whenever the store's content does: DVC watches them, and never touches the store."""
    store = Store(store_path)
    receipt = {
        "store": store_path.as_posix(),
        "fingerprint": store.fingerprint,
        "fields": store.fields,
        "index_sha256": hashlib.sha256((store_path / "index.parquet").read_bytes()).hexdigest(),
        "clips": n_clips,
        "stored": len(store),
        "failed": len(failures),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(receipt, indent=2) + "\n")


def load_encoder(profile: Profile, modality: str, device: str) -> LoadedEncoder:
    """The profile's encoder for a modality on a device (``auto``: a GPU if there is one)."""
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from error
    return LOADERS[modality](profile.encoders[modality], torch.device(chosen))  # type: ignore[index]


def _describe(modality: str, plan: Plan) -> str:
    new = len(plan.compute) - plan.n_changed
    return (
        f"{modality}: {len(plan.compute)} clips to compute ({new} new, {plan.n_changed} changed), "
        f"{plan.n_reused} reused, {len(plan.failures)} cannot be read, {len(plan.drop)} to leave the store"
    )


def _report_failures(failures: list[Failure], n_clips: int, max_share: float, path: Path) -> None:
    if not failures:
        return
    print(f"{len(failures)} clips are missing this modality because they failed ({path}):")
    for failure in failures[:20]:
        print(f"  {failure.clip_id}  {failure.stage}: {failure.reason}")
    if len(failures) > 20:
        print(f"  ... and {len(failures) - 20} more")
    if len(failures) > max_share * n_clips:
        raise UserError(
            f"{len(failures)} of {n_clips} clips failed, more than store.max_error_share = {max_share:g} allows; "
            "what could be read is stored",
            exit_code=3,
        )


if __name__ == "__main__":
    command(main, StoreError)
