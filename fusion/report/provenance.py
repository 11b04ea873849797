"""Where a fusion's inputs came from: files and their hashes, settings, software, commands, errors, the leak audit."""

import hashlib
import json
import platform
import shlex
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl

from cache import Header, read_published, read_sealed_json, read_small
from configs.schema import Profile
from fusion.report.context import clip_ids, counts, read_beside
from fusion.strategies.choice import BASELINE
from heads.metrics.printed import interval

PACKAGES = ("numpy", "scipy", "scikit-learn", "xgboost-cpu", "xgboost", "torch", "polars")  # whatever is installed
VERDICTS = ("fail", "warn", "pass", "skipped")


@dataclass(frozen=True)
class Store:
    name: str  # in the profile
    encoder: str
    fingerprint: str
    fields: dict[str, Any]  # what the fingerprint was computed from


@dataclass(frozen=True)
class Failure:
    """Clips that an encoder could not read, and why."""

    encoder: str
    stage: str
    reason: str
    clip_ids: list[str]


@dataclass(frozen=True)
class Damage:
    """Clips that an encoder took without a share of them, 0 to 1, which could not be decoded; the worst first."""

    encoder: str
    clips: list[tuple[str, float, str]]  # clip id, share, reason


@dataclass(frozen=True)
class Audit:
    """What the leak audit found; ``checks`` is empty where it was not run."""

    command: str  # that makes it
    checks: list[dict[str, Any]] = field(default_factory=list)  # name, verdict, number, text ...; failures first
    is_old: bool = False  # it was made of another manifest


@dataclass(frozen=True)
class Run:
    """What surrounds a fusion."""

    name: str
    sources: dict[str, Path]  # head: prediction table
    commands: list[str]  # that make this report again
    hashes: dict[str, str] = field(default_factory=dict)  # file: SHA-256
    settings: dict[str, Any] = field(default_factory=dict)  # seed, folds, resamples
    software: dict[str, str] = field(default_factory=dict)
    privileged: list[str] = field(default_factory=list)  # heads that read label-derived columns
    counts: dict[str, Any] = field(default_factory=dict)  # what the dataset adapter met
    stores: list[Store] = field(default_factory=list)
    trained_on: dict[str, dict[str, str]] = field(default_factory=dict)  # head: encoder: fingerprint
    failures: list[Failure] = field(default_factory=list)  # the most frequent first, of each encoder
    damage: list[Damage] = field(default_factory=list)  # of each encoder that met any
    manifest: Path | None = None  # where the units' text and media are named
    audit: Audit | None = None  # None: predictions from elsewhere, for which there is none
    baselines: dict[str, Path] = field(default_factory=dict)  # head: prediction table of its plain baseline
    explain: str = ""  # the command that explains a unit, which is to be put behind it; of a profile's own heads


def gather(
    files: dict[str, Path],
    profile: Profile | None,
    config: str | None,
    command_line: str,
    overrides: list[str] | None = None,
    baselines: dict[str, Path] | None = None,
) -> Run:
    """Collect what the run's folders say about the inputs; files that do not exist are left out.

    Args:
        files: head: its prediction table.
        command_line: the one that fuses.
        overrides: settings of the profile that were changed for this run; the other commands need them as well.
        baselines: head: the prediction table of its plain baseline.
    """
    heads = {head: _mapping(path.parent / "model" / "head.json") for head, path in files.items()}
    privileged = [
        head
        for head, path in files.items()
        if _mapping(path.parent / "metrics.json").get("privileged") or heads[head].get("settings", {}).get("privileged")
    ]
    trained_on = {
        head: {name: str(store["fingerprint"]) for name, store in about.get("stores", {}).items()}
        for head, about in heads.items()
    }
    beside = baselines or {}
    common: dict[str, Any] = {"software": _software(), "trained_on": {h: s for h, s in trained_on.items() if s}}
    common["baselines"] = beside
    hashes = {str(path): _sha256(path) for path in (*files.values(), *beside.values()) if path.is_file()}
    if profile is None:
        return Run("fusion of " + ", ".join(files), files, [command_line], hashes, privileged=privileged, **common)

    privileged += [h for h in files if h in profile.heads and profile.heads[h].privileged and h not in privileged]
    is_of_profile = all(path == profile.head_path(head) / "predictions.parquet" for head, path in files.items())
    if profile.manifest_path.is_file():
        hashes[str(profile.manifest_path)] = _sha256(profile.manifest_path)
    arguments = (["--config", config] if config else []), list(overrides or [])

    def script(name: str, *options: str) -> str:
        return shlex.join(["python", name, *arguments[0], *options, *arguments[1]])

    clips = clip_ids(profile.manifest_path) if profile.manifest_path.is_file() else None
    audit = script("fusion/audit.py")
    commands = [
        script("extract/manifest.py"),
        script("extract/run.py"),
        *(script("heads/train.py", "--head", head) for head in files),
    ]
    counted = counts(profile.manifest_path) if profile.manifest_path.is_file() else {}
    return Run(
        profile.name,
        files,
        [*commands, command_line] if is_of_profile else [command_line],
        hashes,
        settings={
            "seed": profile.seed,
            "folds": len(counted.get("folds_given", [])) or profile.folds,
            "bootstrap resamples": profile.fusion.bootstrap,
        },
        privileged=privileged,
        counts=counted,
        stores=_stores(profile),
        failures=[
            failure
            for encoder in profile.encoders
            for failure in _failures(encoder, profile.store_path(encoder), clips)
        ],
        damage=[
            damage
            for encoder in profile.encoders
            if (damage := _damage(encoder, profile.store_path(encoder), clips)).clips
        ],
        manifest=profile.manifest_path if profile.manifest_path.is_file() else None,
        explain=script("fusion/explain.py") if is_of_profile else "",
        audit=_audit(profile.run_dir / "audit" / "audit.json", audit, hashes.get(str(profile.manifest_path))),
        **common,
    )


def said_of_heads(files: dict[str, Path]) -> list[str]:
    """What their trainings found to be missing or unfinished."""
    return [
        f"Head {head}: {note}"
        for head, path in files.items()
        for note in _mapping(path.parent / "metrics.json").get("notes", [])
    ]


def said_of_baselines(files: dict[str, Path], chosen: str) -> list[str]:
    """Heads that their trainings found to be worse than their plain baselines, and what to try, a sentence each.

    Args:
        chosen: the candidate that the fusion is.
    """
    said = []
    for head, path in files.items():
        oof = _mapping(path.parent / "metrics.json").get("oof")
        gain = (oof.get("over_baseline") if isinstance(oof, dict) else None) or {}
        gain = gain.get("macro_f1") or {}
        kind = _mapping(path.parent / "model" / "head.json").get("settings", {}).get("kind")
        attempt = "" if kind == "linear" else f"heads.{head}.kind=linear"
        if (gain.get("high") or 0) < 0:
            numbers = f"macro-F1 {gain['value']:+.3f} {interval(gain, '+.3f')}"
            then = f": try {attempt}" if attempt else ""
            said.append(f"Head {head} is out of fold WORSE than the plain baseline on its inputs, {numbers}{then}.")
        elif chosen == f"{BASELINE}{head}" and attempt:
            said.append(f"To have that baseline as a head, tuned: {attempt}.")
    return said


def transductive_heads(files: dict[str, Path]) -> tuple[str, ...]:
    """What of the heads is transductive, as their trainings say; a sentence for all that share it."""
    heads: dict[str, list[str]] = {}
    for head, path in files.items():
        if what := _mapping(path.parent / "metrics.json").get("transductive"):
            heads.setdefault(what, []).append(head)
    return tuple(f"head{'s' * (len(names) > 1)} {', '.join(names)}: {what}" for what, names in heads.items())


def all_failed(profile: Profile, head: str) -> str | None:
    """A sentence, where a head cannot be there: every clip of all that it reads failed, as the receipts say."""
    settings = profile.heads[head]
    if not settings.stores or (settings.metadata and settings.kind != "cross_modal"):
        return None
    paths = {name: profile.receipt_path(name) for name in settings.stores}
    receipts = {
        name: read_sealed_json(path, f"make it with python extract/run.py --encoder {name}") if path.is_file() else {}
        for name, path in paths.items()
    }
    if any(not receipt.get("clips") or receipt.get("stored") for receipt in receipts.values()):
        return None
    lost = [
        f"all {receipt['clips']} clips of encoders.{name} failed (see {profile.store_path(name) / 'errors.parquet'})"
        for name, receipt in receipts.items()
    ]
    return f"Head {head} is left out: {', '.join(lost)}."


def _stores(profile: Profile) -> list[Store]:
    stores = []
    for name, encoder in profile.encoders.items():
        if (profile.store_path(name) / "store.json").is_file():
            header = Header.read(profile.store_path(name))
            stores.append(Store(name, f"{encoder.family}, {encoder.origin}", header.fingerprint, header.fields))
    return stores


def _failures(encoder: str, store: Path, ours: pl.DataFrame | None) -> list[Failure]:
    clips: dict[tuple[str, str], list[str]] = {}
    for clip_id, stage, reason in _rows(store, "errors.parquet", ["clip_id", "stage", "reason"], ours):
        clips.setdefault((str(stage), str(reason)), []).append(str(clip_id))
    return [Failure(encoder, *key, ids) for key, ids in sorted(clips.items(), key=lambda item: -len(item[1]))]


def _damage(encoder: str, store: Path, ours: pl.DataFrame | None) -> Damage:
    rows = _rows(store, "damaged.parquet", ["clip_id", "share", "reason"], ours)
    return Damage(encoder, sorted(rows, key=lambda row: (-row[1], row[0])))


def _rows(store: Path, name: str, columns: list[str], ours: pl.DataFrame | None) -> list[tuple[Any, ...]]:
    """Of a store's table, if there is one, and of the manifest's clips, if it is there: others may use it, too."""
    if not (store / name).is_file():
        return []
    rows = pl.read_parquet(read_small(store, name), columns=columns)
    if ours is not None:
        rows = rows.join(ours, on="clip_id", how="semi", maintain_order="left")
    return rows.rows()


def _audit(path: Path, command: str, manifest: str | None) -> Audit:
    audit = json.loads(read_published(path, f"run {command}")) if path.is_file() else {}
    rank = {verdict: i for i, verdict in enumerate(VERDICTS)}
    checks = sorted(audit.get("checks", []), key=lambda check: rank.get(check["verdict"], 0))
    return Audit(command, checks, audit.get("manifest", {}).get("sha256", manifest) != manifest)


def _software() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mapping(path: Path) -> dict[str, Any]:
    content = read_beside(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
