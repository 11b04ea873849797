"""Clips to try: of the test split of the profile that the bundle was made of, where its media are at hand."""

from pathlib import Path
from typing import Any

import polars as pl

from configs import Profile, UserError
from extract.corpora.manifest import Manifest, read_manifest

MOST = 12


class Samples(list[dict[str, Any]]):
    """Each with its label, text, metadata and the names of its files; empty where there is no manifest."""

    def __init__(self, profile: Profile, fields: list[str]) -> None:
        super().__init__()
        self._places: list[dict[str, Path]] = []
        try:
            manifest = read_manifest(profile.manifest_path)
        except UserError:  # a bundle that was copied to another machine
            return
        if isinstance(manifest.root, Path):
            for row in _spread(manifest):
                self._add(row, manifest.root, fields)

    def _add(self, row: dict[str, Any], root: Path, fields: list[str]) -> None:
        named = {kind: row[kind] for kind in ("video", "audio") if row[kind]}
        if len(self) == MOST or not all((root / path).is_file() for path in named.values()):
            return
        if named.get("audio") == named.get("video"):
            named.pop("audio", None)
        self._places.append({kind: root / path for kind, path in named.items()})
        self.append(
            {
                "name": row["clip_id"],
                "label": row["label"],
                "text": row["text"],
                "metadata": {field: row[f"meta_{field}"] for field in fields if row.get(f"meta_{field}") is not None},
                "files": {kind: Path(path).name for kind, path in named.items()},
            }
        )

    def place(self, number: int, kind: str) -> Path | None:
        """Where a sample's file lies."""
        return self._places[number].get(kind) if 0 <= number < len(self) else None


def _spread(manifest: Manifest) -> list[dict[str, Any]]:
    """Labelled clips of the test split, one of each class after the other."""
    rows = manifest.clips.filter(pl.col("label").is_not_null(), split="test").to_dicts()
    by_class = {name: [row for row in rows if row["label"] == name] for name in manifest.classes}
    longest = max(map(len, by_class.values()), default=0)
    return [own[k] for k in range(longest) for own in by_class.values() if k < len(own)]
