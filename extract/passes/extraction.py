"""Encoders of a manifest's clips, from the clips to finished stores, with their errors and their receipts."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cache import Header, Store, begin, differing_fields, end, settings_header, writable, write_sealed_json
from cache.remote.copies import BackgroundPush, fetch
from cache.shelf import Found, find, settle
from configs import UserError
from configs.schema import Encoder, Profile, View
from extract.corpora.clips import clips_with_media
from extract.corpora.manifest import Manifest
from extract.corpora.media_paths import confine
from extract.encoders.encoder import LoadedEncoder
from extract.encoders.loading import load_encoder, seen_as
from extract.media.sources import Clip, Sources
from extract.passes.blocks import Damaged, Failure, shares_decoding
from extract.passes.engine import (
    DAMAGED,
    Plan,
    hash_arrays,
    hash_clips,
    open_writer,
    plan_pass,
    read_damaged,
    run_pass,
    write_errors,
)
from extract.passes.means import Means, computing

Reads = tuple[str, bool, str]  # a modality, whether texts are joined, and which encoder's own source
Hashed = tuple[dict[str, str], list[Failure]]  # what hash_clips gives
MOST_LINES = 20  # printed of clips that failed
BLOCK_CLIPS = {"audio": 64, "video": 16, "text": 256}  # under a minute's work for the slowest encoder on two cores


@dataclass(frozen=True)
class Member:
    """An encoder of a pass, or one of its views: its name in the profile, and where its store stands."""

    name: str
    encoder: LoadedEncoder
    link: Path
    block_clips: int
    clips: frozenset[str]  # of the pass, those that it reads


def extract(
    profile: Profile,
    manifest: Manifest,
    names: Sequence[str],
    means: Means,
    dry_run: bool = False,
    rehash: bool = False,
) -> None:
    """Bring the stores of some encoders, and of their views, up to date, or (``dry_run``) say what that would take.

    Encoders that want the same of each media file are run in one pass, which decodes it once.

    Raises:
        UserError: no clip has what an encoder reads; one cannot be loaded; two of them are the same; or (exit code 3),
            after everything, more clips of one failed than ``max_error_share`` allows.
        StoreError: another process writes a store, or it is damaged.
    """
    clips: dict[Reads, list[Clip]] = {}
    decoded = [name for name in names if profile.encoders[name].source is None]
    for modality in {profile.encoders[name].modality for name in decoded} - {"text"}:
        confine(manifest.clips, modality, manifest.root, str(profile.manifest_path))
    for name in names:
        spec = profile.encoders[name]
        reads = _reads(name, spec)
        if reads not in clips:
            clips[reads] = clips_with_media(manifest, spec)
        if not clips[reads]:
            raise UserError(
                f"{profile.manifest_path}: no labelled conversation has {spec.modality}, which encoders.{name} reads: "
                "see what extract/manifest.py printed"
            )
    hashed: dict[Reads, Hashed] = {}
    too_many: list[str] = []
    for together in _passes(profile, manifest, clips, names, means.device):
        spec = profile.encoder(together[0].name)
        reads = _reads(together[0].name, spec)
        if arrays := together[0].encoder.arrays:
            hashed[reads] = hash_arrays(clips[reads], arrays, spec.modality)
        elif reads not in hashed:
            hashed[reads] = _hashed(profile, spec.modality, clips[reads], means.workers, dry_run, rehash)
        too_many += _extract(profile, clips[reads], hashed[reads], together, means, dry_run)
        del together  # a GPU need not hold them while the next ones are loaded
    if too_many:
        raise UserError("; ".join(too_many), exit_code=3)


def _hashed(profile: Profile, modality: str, clips: list[Clip], workers: int, dry_run: bool, rehash: bool) -> Hashed:
    """The content of clips. What is remembered of their files is as large, and goes before the pass begins."""
    sources = Sources(profile.sources_path(modality), trust=not rehash)
    contents = hash_clips(clips, sources, workers)
    if not dry_run:
        sources.save()
    return contents


def block_clips(profile: Profile, name: str) -> int:
    """Places of the list of clips in a block of an encoder's pass."""
    spec = profile.encoders[name]
    return spec.block_clips or BLOCK_CLIPS["audio" if spec.source else spec.modality]


def _passes(
    profile: Profile, manifest: Manifest, clips: dict[Reads, list[Clip]], names: Sequence[str], device: str
) -> Iterator[list[Member]]:
    """The encoders of each pass, each followed by its views. Those of one modality are loaded together; texts and
    features need no decoding, and go alone."""
    alone = {name for name in names if profile.encoders[name].modality == "text" or profile.encoders[name].source}
    waiting = list(names)
    while waiting:
        modality = profile.encoders[waiting[0]].modality
        chosen = [n for n in waiting if profile.encoders[n].modality == modality and n not in alone]
        chosen = waiting[:1] if waiting[0] in alone else chosen
        waiting = [name for name in waiting if name not in chosen]
        members = [member for name in chosen for member in _with_views(profile, manifest, clips, name, device)]
        while members:
            first, members = members[0], members[1:]
            same = [
                m for m in members if m.block_clips == first.block_clips and shares_decoding(first.encoder, m.encoder)
            ]
            members = [member for member in members if member not in same]
            together = [first, *same]
            del first, same
            yield together
            del together


def _with_views(
    profile: Profile, manifest: Manifest, clips: dict[Reads, list[Clip]], name: str, device: str
) -> Iterator[Member]:
    """An encoder, loaded, and its views, which have the same network."""
    encoder, size = load_encoder(profile, name, device), block_clips(profile, name)
    for each in [name, *profile.views_of(name)]:
        spec = profile.encoder(each)
        read = clips_with_media(manifest, spec) if isinstance(spec, View) else clips[_reads(name, spec)]
        loaded = seen_as(encoder, spec) if isinstance(spec, View) else encoder
        yield Member(each, loaded, profile.store_path(each), size, frozenset(clip.clip_id for clip in read))


def _reads(name: str, spec: Encoder) -> Reads:
    """What decides which clips an encoder reads, and so their hashes."""
    return spec.modality, spec.conversation, name if spec.source else ""


def _extract(
    profile: Profile, clips: list[Clip], hashed: Hashed, members: list[Member], means: Means, dry_run: bool
) -> list[str]:
    """One pass. Returns what to say of encoders that too many clips failed for."""
    started = time.perf_counter()
    contents, unreadable = hashed
    found = [_store_for(profile, member, _own(member, contents), dry_run) for member in members]
    _refuse_twins(members, found)
    if dry_run:
        plan = _plan(clips, contents, unreadable, found, [each.stored for each in found], members)
        _describe(members, plan)
        return []
    with ExitStack() as stack:
        pushes = _pushes(profile, members, found)
        writers = [
            stack.enter_context(open_writer(each.path, member.encoder, profile.store))
            for member, each in zip(members, found, strict=True)
        ]
        plan = _plan(clips, contents, unreadable, found, [writer.content_hashes for writer in writers], members)
        _describe(members, plan)
        for member, each, part in zip(members, found, plan.parts, strict=True):
            if part.n_compute:
                begin(each.path, f"{profile.name}.{member.name}", len(member.clips))
        compute = stack.enter_context(computing(means, [member.encoder for member in members]))

        def committed() -> None:
            for push in pushes:
                push()

        failures = run_pass(plan, compute(plan.blocks), writers, profile.store.commit_seconds, committed)
    for member, each, failed in zip(members, found, failures, strict=True):
        write_errors(each.path, failed, member.clips if each.others else None)
    for push in pushes:
        push.finish()
    seconds = time.perf_counter() - started
    too_many = []
    for member, part, failed in zip(members, plan.parts, failures, strict=True):
        own = _own(member, contents)
        damaged = [each for clip_id, each in read_damaged(member.link).items() if clip_id in own]
        read = [clip for clip in clips if clip.clip_id in member.clips]
        write_receipt(profile.receipt_path(member.name), member.link, read, failed, len(damaged))
        end(member.link, f"{profile.name}.{member.name}")
        rate = f" ({part.n_compute / seconds:.1f} clips/s)" if part.n_compute else ""
        print(f"{member.name}: {len(read) - len(failed)} of {len(read)} clips in {member.link}, {seconds:.1f} s{rate}")
        _report_damaged(member, damaged)
        too_many += _report_failures(member, failed, len(read), profile.store.max_error_share)
    return too_many


def _own(member: Member, contents: dict[str, str]) -> dict[str, str]:
    """Content hash by clip id, of what a member reads."""
    return {clip_id: content for clip_id, content in contents.items() if clip_id in member.clips}


def _store_for(profile: Profile, member: Member, contents: dict[str, str], dry_run: bool) -> Found:
    """Where an encoder's store stands, with a word on what that means for the one before it."""
    spec, link = member.encoder.spec, member.link
    former = Header.read(link) if (link / "store.json").is_file() else None
    wanted = settings_header(member.encoder.fields, 0, profile.store.dtype, profile.store.backend, 0)
    stood = link.resolve()
    look = find if dry_run else settle
    found = look(link, spec.family, wanted, contents, strict=spec.source is not None)
    if former is not None and not former.same_kind(wanted):
        differing = differing_fields(former.fields, json.loads(json.dumps(wanted.fields))) or ["backend"]
        print(
            f"{member.name}: settings changed ({', '.join(differing)}): the former store stays; "
            "python cache/info.py --unused lists those that no profile uses"
        )
    if found.stored and found.path != stood:
        also = ", ".join(f"{other.parts[-3]} ({other.name})" for other in found.others)
        what = f"the store of {also}" if also else f"{os.path.relpath(found.path)}, which holds its clips"
        print(f"{member.name}: {'would use' if dry_run else 'uses'} {what}")
    return found


def _refuse_twins(members: list[Member], found: list[Found]) -> None:
    names: dict[Path, str] = {}
    for member, each in zip(members, found, strict=True):
        if (twin := names.setdefault(each.path, member.name)) != member.name:
            raise UserError(f"encoders.{member.name}: the same encoder as encoders.{twin}: leave one of them out")


def _pushes(profile: Profile, members: list[Member], found: list[Found]) -> list[BackgroundPush]:
    """Fetch what copies behind URLs have more, and begin to push there."""
    pushes = []
    for member, each in zip(members, found, strict=True):
        if url := profile.store_url(member.name):
            with open_writer(each.path, member.encoder, profile.store):
                pass  # what is fetched continues a store of these settings, not one of others
            fetch(url, each.path)
            pushes.append(BackgroundPush(each.path, url))
    return pushes


def _plan(
    clips: list[Clip],
    contents: dict[str, str],
    unreadable: list[Failure],
    found: list[Found],
    stored: list[dict[str, str]],
    members: list[Member],
) -> Plan:
    """Clips that this pass does not name leave a store, unless others use it, too."""
    held = [
        _own(member, each) if where.others else each for member, each, where in zip(members, stored, found, strict=True)
    ]
    wanted = [member.clips for member in members]
    return plan_pass(clips, contents, unreadable, held, members[0].block_clips, wanted)


def write_receipt(path: Path, store_path: Path, clips: list[Clip], failures: list[Failure], n_damaged: int = 0) -> None:
    """A few lines that change whenever what the store holds of these clips does: DVC watches them, and never touches
    the store."""
    store = Store(store_path)
    receipt = {
        "store": store_path.as_posix(),
        "fingerprint": store.fingerprint,
        "fields": store.fields,
        "values_sha256": store.digest(clip.clip_id for clip in clips),
        "clips": len(clips),
        "stored": len(clips) - len(failures),
        "failed": len(failures),
    }
    if n_damaged:
        receipt["damaged"] = n_damaged
    path.parent.mkdir(parents=True, exist_ok=True)
    with writable(path):
        write_sealed_json(path, receipt)


def _describe(members: list[Member], plan: Plan) -> None:
    for member, part in zip(members, plan.parts, strict=True):
        print(
            f"{member.name}: {part.n_compute} clips to compute ({part.n_new} new, {part.n_changed} changed), "
            f"{part.n_reused} reused, {len(part.failures)} cannot be read, {len(part.drop)} to leave the store"
        )


def _report_damaged(member: Member, damaged: list[Damaged]) -> None:
    if damaged:
        print(f"damaged in part, and taken without that: {len(damaged)} ({member.link / DAMAGED})")
    _report((each.clip_id, f"{each.share:.1%}: {each.reason}") for each in damaged)


def _report_failures(member: Member, failures: list[Failure], n_clips: int, max_share: float) -> list[str]:
    """What to say where too many failed. A sound track without sound is missing, and no failure; nor are features of a
    clip that has nothing of the kind."""
    silent = [failure for failure in failures if failure.stage == "silent"]
    absent = [failure for failure in failures if failure.stage == "absent"]
    failed = [failure for failure in failures if failure.stage not in ("silent", "absent")]
    table = member.link / "errors.parquet"
    if silent:
        print(f"silent from end to end, and therefore missing for this encoder: {len(silent)} ({table})")
    if absent:
        print(f"{absent[0].reason}, and therefore missing for this encoder: {len(absent)} ({table})")
    if not failed:
        return []
    print(f"failed, and therefore missing for this encoder: {len(failed)} ({table})")
    _report((failure.clip_id, f"{failure.stage}: {failure.reason}") for failure in failed)
    n_asked = n_clips - len(absent)
    if len(failed) <= max_share * n_asked:
        return []
    return [
        f"{member.name}: {len(failed)} of {n_asked} clips failed, more than store.max_error_share = {max_share:g} "
        "allows; what could be read is stored"
    ]


def _report(clips: Iterable[tuple[str, str]]) -> None:
    lines = [f"  {clip_id}  {what}" for clip_id, what in clips]
    print("\n".join(lines[:MOST_LINES]), end="\n" * bool(lines))
    if len(lines) > MOST_LINES:
        print(f"  ... and {len(lines) - MOST_LINES} more")
