"""Encoders with weights of eight bits: how far features move, and what this does to the fused answer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cache import all_finite
from extract.corpora.clips import clips_with_media
from extract.media.damage import ClipError, MediaError
from extract.media.sources import Clip
from fusion.exporting import checking
from fusion.exporting.encoders import ExportedEncoder, relative, run, session
from fusion.exporting.quantising import INT8, Table, least_seconds, row_of
from fusion.serving.bundle import Bundle

ROUNDS = 7
UNITS = 200  # whose clips are encoded twice, at most
ROUNDED = ["MatMul", "Gather"]  # operators whose weights are: convolutions stay as they are


def encoders_table(
    bundle: Bundle, folder: Path, exported: Mapping[str, ExportedEncoder], given: checking.Material
) -> Table:
    """Size, speed and features of each encoder as it is and rounded, and the fused macro-F1 with the features of both.

    Args:
        exported: encoders by the path of their graph in ``folder``.
    """
    given = replace(given, units=given.units[:UNITS])
    labels, groups = [unit.label for unit in given.units], [unit.group for unit in given.units]
    clips = {path: _clips(bundle, each.name, given) for path, each in exported.items()}
    heard = given.labelled and all(clips.values())
    found: dict[str, list[dict[str, np.ndarray]]] = {}
    rows, sizes_of, times_of = [], dict[str, list[int]](), dict[str, list[float]]()
    changes: dict[str, float] = {}
    for path, each in exported.items():
        small = folder / INT8 / path
        places = [folder / path, small if small.is_file() else folder / path]
        sessions = [session(place) for place in places]
        feed = {name: x.numpy() for name, x in each.batches[1].items()}
        times = least_seconds(sessions, feed, ROUNDS)
        times_of[path] = times if small.is_file() else [times[0]] * 2
        sizes_of[path] = [place.stat().st_size for place in places]
        if heard:
            found[path] = [_features(bundle, each, opened, clips[path]) for opened in sessions]
            pairs = [(found[path][1][clip], values) for clip, values in found[path][0].items()]
        else:
            pairs = [(run(sessions[1], batch).numpy(), run(sessions[0], batch).numpy()) for batch in each.batches]
        changes[path] = max((relative(*pair) for pair in pairs), default=0.0)

    def fused(small: Sequence[str]) -> np.ndarray:
        if not heard:
            return np.zeros((0, len(bundle.classes)))
        own = {each.name: found[path][path in small] for path, each in exported.items()}
        return checking.expected(bundle, replace(given, sources=dict(given.sources) | own)).fused

    plain = fused([])
    for path in exported:
        answers = [plain, fused([path])]
        row = row_of(path, sizes_of[path], times_of[path], answers, labels, groups, bundle, heard)
        rows.append(row | {"largest_change_of_p": row["largest_change"], "largest_change": changes[path]})
    if len(exported) > 1:
        sizes = [sum(pair[i] for pair in sizes_of.values()) for i in (0, 1)]
        times = [sum(pair[i] for pair in times_of.values()) for i in (0, 1)]
        answers = [plain, fused(list(exported))]
        row = row_of("all encoders", sizes, times, answers, labels, groups, bundle, heard)
        rows.append(row | {"largest_change_of_p": row["largest_change"], "largest_change": max(changes.values())})
    where = f"On the media of {given.said}" if heard else "On drawn inputs alone, as media of test units are not here"
    if heard and len(given.units) == UNITS:
        where += f", of which the first {UNITS} were taken"
    note = f"{where}; macro-F1 of the fused answer; speed on a batch of 3 windows, the fastest of {ROUNDS} turns."
    return Table(rows, note, "largest relative change of a clip's features")


def _clips(bundle: Bundle, name: str, given: checking.Material) -> list[Clip]:
    """What the encoder reads of the test units; nothing where a file of it is not on this machine."""
    if not given.labelled:
        return []
    seen = {clip for unit in given.units for clip in unit.clip_ids}
    clips = [c for c in clips_with_media(given.manifest, bundle.profile.encoders[name]) if c.clip_id in seen]
    here = all(isinstance(c.source, str) or (isinstance(c.source, Path) and c.source.is_file()) for c in clips)
    return clips if here else []


def _features(bundle: Bundle, exported: ExportedEncoder, opened: Any, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
    """What a store would hold, had the graph been the network; clips that cannot be read have none."""
    encoder = replace(exported.encoder, hidden=lambda inputs, lengths: run(opened, inputs))
    found: dict[str, np.ndarray] = {}
    for clip in clips:
        assert isinstance(clip.source, str | Path)
        try:
            values = encoder.alone(clip.source)
        except (MediaError, ClipError):
            continue
        with np.errstate(over="ignore"):
            values = values.astype(bundle.stored[exported.name].dtype)
        if all_finite(values):
            found[clip.clip_id] = values
    return found
