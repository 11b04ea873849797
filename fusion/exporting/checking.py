"""Whether exported graphs say what the bundle says, on its test units or, where these are not here, on drawn ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache import Header, Store
from configs import UserError
from extract.corpora.manifest import Manifest, Unit, make_manifest, read_manifest
from fusion.exporting.standalone import Stack
from fusion.serving.bundle import Bundle, BundledHead
from fusion.strategies.speakers import Met
from fusion.tables.predictions import HeadOutputs
from heads.data.batches import Source
from heads.data.standardised import standardised
from heads.fitting.saved import predict
from heads.models.presence import found_inputs

CLOSE = 1e-4  # the most that a probability may differ
DRAWN_UNITS, BATCH = 24, 16
TURNS = ("speaker", "listener")


@dataclass(frozen=True)
class Material:
    """Units, and what the graphs and the bundle are to be compared on."""

    manifest: Manifest
    units: list[Unit]
    sources: Mapping[str, Source]
    said: str  # where they come from
    labelled: bool


@dataclass(frozen=True)
class Expected:
    """What the bundle says: log-probabilities, NaN where nothing is said."""

    heads: np.ndarray  # (n, heads and then baselines, c)
    fused: np.ndarray  # (n, c)


def material(bundle: Bundle) -> Material:
    """The test units of the bundle's profile with their stores, where both are here; else drawn ones."""
    profile = bundle.profile
    if not profile.manifest_path.is_file():
        return _drawn(bundle, f"{profile.manifest_path} is not here")
    sources: dict[str, Source] = {}
    for name, header in bundle.stored.items():
        path = profile.store_path(name)
        if not path.is_dir() or Header.read(path).fingerprint != header.fingerprint:
            return _drawn(bundle, f"{path} is not here, or not the store that the heads were trained on")
        sources[name] = Store(path, profile.store.verify_reads)
    manifest = read_manifest(profile.manifest_path)
    units = [unit for unit in manifest.units() if unit.split == "test"]
    if not units:
        return _drawn(bundle, f"{profile.manifest_path} has no test units")
    return Material(manifest, units, sources, f"the {len(units)} test units of {profile.manifest_path}", True)


def _drawn(bundle: Bundle, why: str) -> Material:
    """Conversations of one to four clips with random features, some of them missing, and random metadata."""
    rng, rows = np.random.default_rng(0), list[dict[str, Any]]()
    sources: dict[str, dict[str, np.ndarray]] = {name: {} for name in bundle.stored}
    known: dict[str, set[str]] = {}
    for head in bundle.heads + bundle.baselines:
        for field in head.settings.metadata:
            known.setdefault(field, set()).update(head.vocabularies.get(field, []))
    for number in range(DRAWN_UNITS):
        n_clips = int(rng.integers(1, 5))
        for index in range(n_clips):
            clip, last = f"u{number}c{index}", index == n_clips - 1
            rows.append(
                {
                    "clip_id": clip,
                    "conversation_id": f"u{number}",
                    "index": index,
                    "role": TURNS[(n_clips - 1 - index) % 2],
                    "text": " ".join(rng.choice(["so", "happy", "sad", "i am", "not", "angry!"], 5)),
                    "speaker": f"s{number % 4}",
                    "split": "test",
                    "group": f"u{number}",
                    "label": bundle.classes[number % len(bundle.classes)] if last else None,
                    **{f"meta_{field}": _value(rng, sorted(words)) for field, words in known.items()},
                }
            )
            for name, header in bundle.stored.items():
                if rng.random() < 0.8:
                    n_steps = 1 if header.fields.get("layers") else int(rng.integers(1, 8))
                    sources[name][clip] = rng.normal(size=(n_steps, header.dim)).astype(np.float32)
    clips = pl.DataFrame(rows, infer_schema_length=None)
    manifest = make_manifest(clips, Path(), bundle.classes, {}, "drawn units")
    return Material(manifest, manifest.units(), sources, f"{DRAWN_UNITS} units drawn at random, as {why}", False)


def _value(rng: np.random.Generator, words: Sequence[str]) -> str | None:
    return [None, "never met", *words][int(rng.integers(2 + len(words)))]


def expected(bundle: Bundle, given: Material) -> Expected:
    """What ``fusion/predict.py`` would answer, from the features of the stores."""
    heads = bundle.heads + bundle.baselines
    rows = {row["clip_id"]: row for row in given.manifest.clips.iter_rows(named=True)}
    logits = np.full((len(given.units), len(heads), len(bundle.classes)), np.nan)
    for h, head in enumerate(heads):
        read = standardised(head.settings, given.manifest, given.sources)
        has = [bool(found_inputs(head.settings, unit, rows, read)) for unit in given.units]
        if any(has):
            chosen = [unit for unit, there in zip(given.units, has, strict=True) if there]
            logits[has, h] = predict(head.load(), given.manifest, chosen, given.sources)
    pooled = logits[:, : len(bundle.heads)]
    present = ~np.isnan(pooled).any(axis=2)
    alone = {head.name: logits[:, len(bundle.heads) + b] for b, head in enumerate(bundle.baselines)}
    metadata = {
        name.removeprefix("meta_"): np.array([rows[unit.unit_id][name] for unit in given.units], dtype=object)
        for name in given.manifest.clips.columns
        if name.startswith("meta_")
    }
    fused = np.full((len(given.units), len(bundle.classes)), np.nan)
    met = Met(bundle.people) if bundle.people else None
    outputs = HeadOutputs(pooled.copy(), present, metadata, alone)
    for i in np.flatnonzero(present.any(axis=1)):
        fitted, one, speaker = bundle.fusion, outputs.where(np.array([i])), rows[given.units[i].unit_id]["speaker"]
        if met and speaker is not None:
            one.logits[0], clips = met.centre(speaker, one.logits[0])
            fitted = met.people.fitted if clips else fitted
        fused[i] = fitted.predict_logits(one)[0]
    return Expected(logits, fused)


def described(given: Material) -> list[dict[str, Any]]:
    """The units as the stand-alone script takes them."""
    rows = {row["clip_id"]: row for row in given.manifest.clips.iter_rows(named=True)}
    found = []
    for unit in given.units:
        own = rows[unit.unit_id]
        fields = {name.partition("_")[2]: own[name] for name in own if name.startswith(("privileged_", "meta_"))}
        clips = [
            {"id": clip, "role": rows[clip]["role"], "speaker": rows[clip]["speaker"], "text": rows[clip]["text"]}
            for clip in unit.clip_ids
        ]
        found.append(fields | {"unit": unit.unit_id, "clips": clips})
    return found


def features(bundle: Bundle, given: Material) -> dict[str, Any]:
    """Features by the names of the graphs' inputs: centred ones have names of their own."""
    found: dict[str, Any] = dict(given.sources)
    for head in bundle.heads + bundle.baselines:
        how = head.settings.standardise
        if how != "none":
            read = standardised(head.settings, given.manifest, given.sources)
            found |= {f"{name}_less_{how}": read[name] for name in head.settings.stores}
    return found


def answers(
    stack: Stack, units: Sequence[dict[str, Any]], sources: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Log-probabilities by graph, and fused, of units in batches."""
    parts = [stack.log_p(units[i : i + BATCH], sources) for i in range(0, len(units), BATCH)]
    return {path: np.concatenate([said[path] for said, _ in parts]) for path in parts[0][0]}, np.concatenate(
        [fused for _, fused in parts]
    )


def largest_difference(p: np.ndarray, other: np.ndarray, what: str) -> float:
    """Between probabilities, given as logarithms. Raises UserError: one of them is missing where the other is not."""
    there = ~np.isnan(other).any(axis=1)
    if (np.isnan(p).any(axis=1) == there).any():
        raise UserError(f"{what}: the exported graph is silent of other units than the bundle: please report it")
    return float(np.abs(np.exp(p[there]) - np.exp(other[there])).max(initial=0.0))


def refuse_unequal(name: str, difference: float) -> None:
    if difference > CLOSE:
        raise UserError(
            f"{name}: the exported graph differs from the bundle by {difference:.2g} in a probability, more than "
            f"{CLOSE:g}: nothing was written; please report it"
        )


def graph_of(bundle: Bundle, number: int) -> str:
    """The graph of a head or baseline, by its number among the heads and then the baselines."""
    head: BundledHead = (bundle.heads + bundle.baselines)[number]
    return f"{'heads' if number < len(bundle.heads) else 'baselines'}/{head.name}.onnx"
