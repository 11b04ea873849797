"""One modality of a manifest, from clips to a finished store, with its errors and its receipt."""

import hashlib
import json
import time
from pathlib import Path

import polars as pl

from cache import Store, StoreWriter, look_ahead, write_text_atomically
from cache.remote import BackgroundPush, fetch
from configs import Profile, UserError
from configs.schema import Modality
from extract.corpora.manifest import Manifest
from extract.encoders.encoder import LoadedEncoder
from extract.encoders.loading import load_encoder
from extract.encoders.text import join_texts
from extract.media.sources import Clip, Sources
from extract.passes.blocks import Failure
from extract.passes.engine import Plan, open_writer, plan_pass, run_pass, write_errors
from extract.passes.means import Means, computing

BLOCK_CLIPS = {"audio": 64, "video": 16, "text": 256}  # under a minute's work for the slowest encoder on two cores


def extract(
    profile: Profile,
    manifest: Manifest,
    modality: Modality,
    means: Means,
    dry_run: bool = False,
    rehash: bool = False,
) -> None:
    """Bring the store of one modality up to date, or (``dry_run``) say what that would take.

    Raises:
        UserError: the encoder cannot be loaded, or (exit code 3) more clips failed than ``max_error_share`` allows.
        StoreError: another process writes the store, or it is damaged.
    """
    clips = clips_with_media(manifest, modality, profile.encoders[modality].conversation)
    if not clips:
        raise UserError(
            f"{profile.manifest_path}: no labelled conversation has {modality}: see what extract/manifest.py printed"
        )
    started = time.perf_counter()
    encoder = load_encoder(profile, modality, means.device)
    store_path = profile.store_path(modality)
    block_clips = profile.encoders[modality].block_clips or BLOCK_CLIPS[modality]
    sources = Sources(store_path.with_name(f".{modality}.sources.parquet"), trust=not rehash)
    if dry_run:
        stored, differing = look_ahead(store_path, encoder.fields, profile.store.dtype, profile.store.backend)
        if differing:
            print(f"settings changed ({', '.join(differing)}): the store at {store_path} would be set aside")
        print(_describe(modality, plan_pass(clips, stored, sources, block_clips, means.workers)))
        return
    push = None
    if url := profile.store_url(modality):
        with _open(store_path, encoder, profile):
            pass  # what is fetched continues a store of these settings, not one of others
        fetch(url, store_path)
        push = BackgroundPush(store_path, url)
    with _open(store_path, encoder, profile) as writer:
        plan = plan_pass(clips, writer.content_hashes, sources, block_clips, means.workers)
        sources.save()
        print(_describe(modality, plan))
        with computing(means, profile.encoders[modality], modality, encoder) as compute:
            every, committed = profile.store.commit_seconds, push or (lambda: None)
            failures = run_pass(plan, compute(plan.blocks), writer, every, committed)
    write_errors(store_path, failures)
    if push:
        push.finish()
    write_receipt(profile.receipt_path(modality), store_path, len(clips), failures)
    seconds = time.perf_counter() - started
    rate = f" ({plan.n_compute / seconds:.1f} clips/s)" if plan.n_compute else ""
    print(f"{modality}: {len(clips) - len(failures)} of {len(clips)} clips in {store_path}, {seconds:.1f} s{rate}")
    _report_failures(failures, len(clips), profile.store.max_error_share, store_path / "errors.parquet")


def _open(store_path: Path, encoder: LoadedEncoder, profile: Profile) -> StoreWriter:
    writer = open_writer(store_path, encoder, profile.store)
    if writer.moved_aside:
        print(f"settings changed: the former store is kept at {writer.moved_aside}; delete it if it is not needed")
    return writer


def clips_with_media(manifest: Manifest, modality: str, conversation: bool = False) -> list[Clip]:
    """The clips that some unit reads and that have this modality, in the manifest's order.

    The listener's answer to a labelled turn is future to it: no unit reads it, so nothing is computed for it.

    Args:
        conversation: of texts, give each unit's own clip the texts of all the clips that the unit may see, joined in
            their order. Clips without a label are then left out.
    """
    units = manifest.units()
    if conversation:
        texts = {clip_id: text for clip_id, text in manifest.clips.select("clip_id", "text").iter_rows() if text}
        said = {unit.unit_id: [texts[clip] for clip in unit.clip_ids if clip in texts] for unit in units}
        return [Clip(unit_id, join_texts(parts)) for unit_id, parts in said.items() if parts]
    read = {clip_id for unit in units for clip_id in unit.clip_ids}
    present = manifest.clips.filter(pl.col(modality).is_not_null() & pl.col("clip_id").is_in(read))
    rows = present.select("clip_id", modality).iter_rows()
    if modality == "text":
        return [Clip(clip_id, text) for clip_id, text in rows]
    return [Clip(clip_id, manifest.media(path)) for clip_id, path in rows]


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


def _describe(modality: str, plan: Plan) -> str:
    new = plan.n_compute - plan.n_changed
    return (
        f"{modality}: {plan.n_compute} clips to compute ({new} new, {plan.n_changed} changed), "
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
