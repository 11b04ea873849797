"""The page over the service: one HTML file with all that it needs in it; and clips to try on it."""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
from fastapi.responses import HTMLResponse

from configs import UserError
from configs.schema import Profile
from extract.corpora.manifest import Manifest, read_manifest
from extract.pages.rendering import environment
from fusion.web.answering import Answering
from fusion.web.describing import TEMPLATES, about_bundle
from fusion.web.limits import Limits

MOST_SAMPLES = 12


class Page:
    """Gives the page, and lets it run its own script and no other."""

    def __init__(self, answering: Answering, limits: Limits, local: bool) -> None:
        """``local``: it is shown on the machine that serves it."""
        pages = environment(TEMPLATES)
        script = pages.get_template("page.js.j2").render(seconds=limits.seconds, megabytes=limits.megabytes)
        about: dict[str, Any] = about_bundle(answering, limits) | {"local": local}
        self.samples = Samples(answering.profile, answering.predictor.fields)
        self._html = pages.get_template("page.html.j2").render(about=about, samples=self.samples, script=script)
        allowed = b64encode(sha256(script.encode()).digest()).decode()
        self._headers = {
            "content-security-policy": f"default-src 'none'; script-src 'sha256-{allowed}'; style-src 'unsafe-inline'; "
            "img-src data: blob:; media-src 'self' blob: data:; connect-src 'self'; frame-src 'self'; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            "permissions-policy": "camera=(self), microphone=(self), geolocation=()",
        }

    def __call__(self) -> HTMLResponse:
        return HTMLResponse(self._html, headers=self._headers)


class Samples(list[dict[str, Any]]):
    """Clips of the test split of the profile that the bundle was made of, where its media are at hand.

    Each with its label, text, metadata and the names of its files; none where there is no manifest.
    """

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
        if len(self) == MOST_SAMPLES or not all((root / path).is_file() for path in named.values()):
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
