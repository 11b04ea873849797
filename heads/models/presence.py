"""What of its inputs a head finds of a unit; a head that finds nothing has nothing to say there."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from configs.schema import Head
from extract.corpora.manifest import Manifest, Unit
from heads.data.batches import Source, seen_clips
from heads.data.standardised import standardised
from heads.models.pooled import OTHERS

Clip = Mapping[str, Any]  # a row of the manifest


def found_inputs(head: Head, unit: Unit, clips: Mapping[str, Clip], sources: Mapping[str, Container[str]]) -> list[str]:
    """The inputs and metadata fields that are there.

    Args:
        clips: the manifest's rows by clip id.
        sources: for each encoder, the clips that have features; one that is not named has none.
    """
    seen: Sequence[str] = seen_clips(unit, head.context_clips)
    if head.kind in ("linear", "xgboost"):
        seen = [clip for clip in seen if clip == unit.unit_id or clips[clip]["role"] not in OTHERS]
    read = [name for name in head.stores if any(clip in sources.get(name, ()) for clip in seen)]
    if head.kind == "bag_of_words" and any(clips[clip]["text"] for clip in seen):
        read.append("text")
    return read + [field for field in head.metadata if field_value(clips[unit.unit_id], field) is not None]


def inputs_found(
    head: Head, manifest: Manifest, units: Sequence[Unit], sources: Mapping[str, Source]
) -> list[list[str]]:
    """:func:`found_inputs` of each unit; of sources as they are stored: a head may want them centred."""
    sources = standardised(head, manifest, sources)
    clips = {row["clip_id"]: row for row in manifest.clips.iter_rows(named=True)}
    return [found_inputs(head, unit, clips, sources) for unit in units]


def has_input(head: Head, manifest: Manifest, units: Sequence[Unit], sources: Mapping[str, Source]) -> np.ndarray:
    """(units,) bool: whether the head finds anything to read."""
    return np.array([bool(found) for found in inputs_found(head, manifest, units, sources)])


def field_value(clip: Clip, field: str) -> str | None:
    """A metadata field of a clip, privileged or not; None where it is not known."""
    return clip.get(f"meta_{field}", clip.get(f"privileged_{field}"))
