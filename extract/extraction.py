"""One modality of a manifest, from clips to a finished store, with its errors and its receipt."""

import hashlib
import json
import time
from pathlib import Path

import polars as pl
import torch

from cache import Store, look_ahead, write_text_atomically
from configs import Profile, UserError
from configs.schema import Modality
from extract.audio import load_audio_encoder
from extract.encoder import LoadedEncoder
from extract.engine import Clip, Failure, Plan, open_writer, plan_pass, run_pass, write_errors
from extract.manifest import Manifest
from extract.text import load_text_encoder
from extract.video import load_video_encoder

LOADERS = {"audio": load_audio_encoder, "video": load_video_encoder, "text": load_text_encoder}


def extract(profile: Profile, manifest: Manifest, modality: Modality, device: str, workers: int, dry_run: bool) -> None:
    """Bring the store of one modality up to date, or (``dry_run``) say what that would take.

    Raises:
        UserError: the encoder cannot be loaded, or (exit code 3) more clips failed than ``max_error_share`` allows.
        StoreError: another process writes the store, or it is damaged.
    """
    clips = clips_with_media(manifest, modality)
    if not clips:
        raise UserError(
            f"{profile.manifest_path}: no labelled conversation has {modality}: see what extract/manifest.py printed"
        )
    started = time.perf_counter()
    encoder = load_encoder(profile, modality, device)
    store_path = profile.store_path(modality)
    if dry_run:
        stored, differing = look_ahead(store_path, encoder.fields, profile.store.dtype, profile.store.backend)
        if differing:
            print(f"settings changed ({', '.join(differing)}): the store at {store_path} would be set aside")
        print(_describe(modality, plan_pass(clips, stored, workers)))
        return
    with open_writer(store_path, encoder, profile.store) as writer:
        if writer.moved_aside:
            print(f"settings changed: the former store is kept at {writer.moved_aside}; delete it if it is not needed")
        plan = plan_pass(clips, writer.content_hashes, workers)
        print(_describe(modality, plan))
        batch_size = profile.encoders[modality].batch_size
        failures = run_pass(plan, encoder, writer, profile.store.commit_clips, batch_size, workers)
    write_errors(store_path / "errors.parquet", failures)
    write_receipt(profile.receipt_path(modality), store_path, len(clips), failures)
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


def load_encoder(profile: Profile, modality: Modality, device: str) -> LoadedEncoder:
    """The profile's encoder for a modality on a device (``auto``: a GPU if there is one)."""
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from error
    return LOADERS[modality](profile.encoders[modality], torch.device(chosen))


def _describe(modality: str, plan: Plan) -> str:
    new = len(plan.compute) - plan.n_changed
    return (
        f"{modality}: {len(plan.compute)} clips to compute ({new} new, {plan.n_changed} changed), "
        f"{plan.n_reused} reused, {len(plan.failures)} cannot be read, {len(plan.drop)} to leave the store"
    )


def _report_failures(failures: list[Failure], n_clips: int, max_share: float, path: Path) -> None:
    if not failures:
        return
    print(f"failed, and therefore missing this modality: {len(failures)} ({path})")
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
