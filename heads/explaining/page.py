"""An explanation as one HTML file that opens anywhere, as a PNG with the same in small, and as JSON."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cache import replace_atomically, write_text_atomically
from extract.pages.rendering import environment
from heads.explaining.chart import draw
from heads.explaining.explanation import ClipView, Explanation, Group, Piece
from heads.explaining.media import Heard, Media, Seen
from heads.explaining.words import NO_EFFECT, carried, disagreements, quoted, sentence, share, support, title_of
from heads.pictures import save

TEMPLATES = Path(__file__).with_name("templates")
INDEX = "index"
FUSION = "_fusion"  # no head is called that
FILTERS = {"share": share, "capitalized": lambda text: text[:1].upper() + text[1:]}
PALE = 0.05  # nats: where nothing moves the answer by this, no bar is long, and no word coloured deeply
FEW_FRAMES = 6  # shown of a clip of which no frame was taken away by itself


def as_html(found: Explanation, media: Media, again: str | None = None, others: Sequence[str] = ()) -> str:
    """The page. Everything that comes from data is escaped; nothing is fetched.

    Args:
        again: the command that makes it again, where there is one.
        others: heads whose pages lie beside this one.
    """
    pages = environment(TEMPLATES)
    pages.filters |= FILTERS | {"support": support}
    words = [piece for view in found.views if "words" in view.groups for piece in view.groups["words"].pieces]
    several = len(found.clips.pieces) > 1
    # What is read of a clip that is alone is what was read of everything, which stands there already.
    shown = [group for group in found.groups if several or group.what not in ("clips", "modalities")]
    return pages.get_template("page.html.j2").render(
        found=found,
        p=found.p[found.classes.index(found.explained)],
        carried=carried(found),
        sentence=sentence(found),
        differs=bool(disagreements(found)),
        several=several,
        comparison=[_compared(found, group) for group in shown if group.has_attention],
        outline=lambda clip: _outline(media.heard.get(clip)) if "audio" in found.modalities.values() else None,
        frames=lambda view: _frames(view, media.seen.get(view.clip_id)) if "video" in found.modalities.values() else [],
        problem=lambda modality, clip: (
            media.problems.get((modality, clip)) if modality in found.modalities.values() else None
        ),
        strength=lambda piece: _strength(piece, words),
        parts_of=_parts_of,
        most_lost=max([PALE, *(abs(piece.lost) for group in shown for piece in group.pieces)]),
        most_seen=max([PALE, *(piece.attention or 0 for group in shown for piece in group.pieces)]),
        tip=lambda piece: _tip(piece, found.explained),
        no_effect=NO_EFFECT,
        again=again,
        others=others,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def write_page(folder: Path, found: Explanation, media: Media, again: str, others: list[str]) -> None:
    """Write HEAD.html (:func:`as_html`), HEAD.png and HEAD.json."""
    html = as_html(found, media, again, others)
    write_text_atomically(folder / f"{found.head}.html", html)
    facts = asdict(found) | {
        "predicted": found.predicted,
        "sentence": sentence(found),
        "carried": dict(carried(found)),
        "disagreements": disagreements(found),
        "attention_against_removal": [_compared(found, group) for group in found.groups if group.has_attention],
        "media_problems": {f"{modality} of {clip}": why for (modality, clip), why in media.problems.items()},
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    write_text_atomically(folder / f"{found.head}.json", text + "\n")
    figure = draw(found, media)
    replace_atomically(folder / f"{found.head}.png", lambda path: save(figure, path))


def _compared(found: Explanation, group: Group) -> dict[str, Any]:
    looked = max(group.pieces, key=lambda piece: piece.attention or 0)
    mattered = max(group.pieces, key=lambda piece: abs(piece.lost))
    return {
        "where": title_of(found, group),
        "n": len(group.pieces),
        "effect": group.effect,
        "rank_correlation": group.rank_correlation,
        "attention_points_to": quoted(looked, group),
        "removal_points_to": quoted(mattered, group) if group.effect >= NO_EFFECT else None,
    }


def write_index(folder: Path, unit: str, again: str) -> None:
    """Write index.html over the explanations of a unit that lie in a folder, that of the fusion first.

    What it says of each is in the JSON file beside its page. Where a head is called index, that page is the head's.

    Args:
        again: the command that explains the fusion.
    """
    if (folder / f"{INDEX}.json").is_file():
        return
    order = sorted(folder.glob("*.json"), key=lambda path: (path.stem != FUSION, path.stem))
    facts = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in order}
    rows = [
        {"page": f"{name}.html", "is_fusion": name == FUSION, "p_said": max(each["p"]), **each}
        for name, each in facts.items()
        if each.get("unit_id") == unit and "sentence" in each  # not of an earlier version
    ]
    pages = environment(TEMPLATES)
    pages.filters |= FILTERS
    write_text_atomically(
        folder / f"{INDEX}.html", pages.get_template("index.html.j2").render(rows=rows, unit=unit, again=again)
    )


def _strength(piece: Piece, words: list[Piece]) -> float:
    """How deep a word is coloured, 0 to 1: beside the strongest word of the unit, if that one is of any weight."""
    return abs(piece.lost) / max(PALE, *(abs(each.lost) for each in words))


def _tip(piece: Piece, explained: str) -> str:
    change = f"{support(piece.lost)} (“{explained}” without it: {share(piece.p)})"
    attention = "" if piece.attention is None else f"; attention {piece.attention:.1%}"
    return f"{piece.name}: {change}; named then: {piece.becomes}{attention}"


def _parts_of(view: ClipView) -> list[tuple[str, Piece | None]]:
    """A text cut into what stands between words, and words."""
    text, parts, at = view.text or "", [], 0
    for piece in view.groups["words"].pieces if "words" in view.groups else ():
        parts += [(text[at : int(piece.start)], None), (text[int(piece.start) : int(piece.stop)], piece)]
        at = int(piece.stop)
    return [*parts, (text[at:], None)]


def _outline(heard: Heard | None) -> str | None:
    """A waveform as an SVG path in a box of 1000 by 100."""
    if heard is None or not len(heard.outline):
        return None
    x = np.linspace(0, 1000, len(heard.outline))
    above = [f"{a:.0f},{50 - 48 * b:.1f}" for a, b in zip(x, heard.outline, strict=True)]
    below = [f"{a:.0f},{50 + 48 * b:.1f}" for a, b in zip(x[::-1], heard.outline[::-1], strict=True)]
    return "M" + "L".join(above + below) + "Z"


def _frames(view: ClipView, seen: Seen | None) -> list[dict[str, Any]]:
    """What is shown of a clip's video: a picture and a piece each, where there are such."""
    group = view.groups.get("video")
    pieces: list[Piece | None] = list(group.pieces) if group else [None] * (FEW_FRAMES if seen else 0)
    shown = []
    for k, piece in enumerate(pieces):
        middle = (piece.start + piece.stop) / 2 if piece else (k + 0.5) / len(pieces)
        image = None if seen is None else "data:image/jpeg;base64," + base64.b64encode(seen.jpeg(middle)).decode()
        when = f"{middle * seen.seconds:.1f} s" if seen else f"{k + 1} of {len(pieces)}"
        shown.append({"piece": piece, "image": image, "when": when})
    return shown
