"""What the manifest knows of single units: what was said and shown, by whom, and what was said before.

Columns that were derived from the label (``privileged_``) are never read.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from cache import is_published, read_published, read_sealed_parquet
from configs.outside import read_json

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
    clips = pl.read_parquet(_manifest(manifest)).lazy()
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
    root = str(_about(manifest)["root"])
    return root if "://" in root else Path(root)


def counts(manifest: Path) -> dict[str, Any]:
    """What the adapter met: units, and what was dropped or not found."""
    return dict(_about(manifest)["counts"])


def read_beside(path: Path) -> Any:
    """A JSON file that lies beside a table of predictions: of a head of ours as it was written, or somebody else's.

    Raises:
        UserError: it is not what was written, or not JSON.
    """
    if not is_published(path):
        return read_json(path)
    return json.loads(read_published(path, f"train it again with python heads/train.py --head {path.parent.name}"))


def clip_ids(manifest: Path) -> pl.DataFrame:
    """One column, ``clip_id``."""
    return pl.read_parquet(_manifest(manifest), columns=["clip_id"])


def _about(manifest: Path) -> dict[str, Any]:
    return json.loads(pl.read_parquet_metadata(BytesIO(_manifest(manifest)))["emocache"])


def _manifest(path: Path) -> bytes:
    return read_sealed_parquet(path, "make it again with python extract/manifest.py")
