"""What carried a head's answer about a clip that was just sent."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from configs import UserError
from configs.schema import Profile
from extract.corpora.manifest import Manifest
from fusion.serving.bundle import Bundle
from fusion.serving.live import Predictor
from fusion.web.asked import Refused
from heads.data.live_text import LiveText
from heads.explaining.explanation import explain_new
from heads.explaining.fresh import Fresh
from heads.explaining.media import look
from heads.explaining.page import as_html
from heads.explaining.words import carried
from heads.models.presence import found_inputs

WINDOW = 0.5  # seconds of sound that are taken away at a time


def explain(
    predictor: Predictor,
    bundle: Bundle,
    profile: Profile,
    manifest: Manifest,
    files: Mapping[str, Path],
    head: str | None,
    tell: Callable[[str], object],
    timeout: float,
) -> dict[str, Any]:
    """As the service gives it: the lines that say what carried the answer, and a page with all of it.

    Args:
        manifest: of one clip.
        files: what of the clip can be shown.
        head: its name; None: the one that contributes most.
    Raises:
        Refused: there is no such head, or it finds nothing to read.
    """
    names = [each.name for each in bundle.heads]
    if head is None:
        (answer,) = predictor.answers(manifest)
        parts = {name: answer["heads"][name]["contribution"] for name in names}
        known = [name for name in names if answer["heads"][name]["prediction"] is not None]
        head = max(known, key=lambda name: parts[name] or 0, default=names[0])
    if head not in names:
        raise Refused(422, f"head: the bundle has {', '.join(names)}")
    (unit,) = manifest.units()
    trained = predictor.trained(head)
    features, failures = predictor.features(manifest)
    stores = {
        name: Fresh(
            features[name],
            bundle.stored[name],
            {clip: why for (encoder, clip), why in failures.items() if encoder == name},
        )
        for name in trained.settings.stores
    }
    rows = {row["clip_id"]: row for row in manifest.clips.iter_rows(named=True)}
    if trained.settings.standardise != "none" or not found_inputs(trained.settings, unit, rows, stores):
        raise Refused(422, f"head {head} finds nothing to read in this clip by itself")
    tell("looking at what is there")
    fields = next((stores[name].fields for name in stores if profile.modality_of(name) == "video"), {})
    shown = {kind: {unit.unit_id: path} if kind in files else {} for kind, path in files.items()}
    media = look(shown.get("audio", {}), shown.get("video", {}), fields, timeout)
    texts = [name for name in trained.settings.stores if profile.modality_of(name) == "text"]
    live = {name: _live(profile, name, predictor) for name in texts}
    tell("taking things away, one by one")
    found = explain_new(profile, manifest, unit, trained, stores, media, live, WINDOW)
    lines = [[kind, said.replace(" (clip 1)", "")] for kind, said in carried(found)]  # it is the only one
    return {"head": head, "explained": found.explained, "carried": lines, "html": as_html(found, media)}


def _live(profile: Profile, name: str, predictor: Predictor) -> LiveText | str:
    try:
        return LiveText(profile, name, predictor.encoder(name))
    except UserError as error:
        return str(error)
