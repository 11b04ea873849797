"""What the manifest knows of single units: what was said and shown, by whom, and what was said before.

Columns that were derived from the label (``privileged_``) are never read.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

TOLD = ("text", "audio", "video", "speaker", "role")


@dataclass(frozen=True)
class Told:
    """A unit's own clip; what is null in the manifest is None."""

    text: str | None
    audio: str | None  # paths below the root of the manifest
    video: str | None
    speaker: str | None
    role: str | None
    before: str | None  # the text of the clip before it in the conversation, where there is one
    before_by: str | None  # who said that: role, else speaker


def told(manifest: Path, unit_ids: Sequence[str]) -> dict[str, Told]:
    """What the manifest says of some units' clips; those that it does not know are left out."""
    clips = pl.scan_parquet(manifest)
    of_units = clips.filter(pl.col("clip_id").is_in(list(unit_ids))).select("conversation_id").unique()
    rows = clips.select("clip_id", "conversation_id", "index", *TOLD).join(of_units, on="conversation_id", how="semi")
    wanted = set(unit_ids)
    result: dict[str, Told] = {}
    for _, conversation in rows.sort("index").collect().group_by("conversation_id"):
        before: str | None = None
        before_by: str | None = None
        for row in conversation.iter_rows(named=True):
            if row["clip_id"] in wanted:
                result[row["clip_id"]] = Told(**{name: row[name] for name in TOLD}, before=before, before_by=before_by)
            before, before_by = row["text"], row["role"] or row["speaker"]
    return result


def media_root(manifest: Path) -> Path | str:
    """What the manifest's media paths are relative to: a folder, or the URL of object storage as a string."""
    root = str(json.loads(pl.read_parquet_metadata(manifest)["emocache"])["root"])
    return root if "://" in root else Path(root)
