"""A fused answer, taken apart, as one HTML file that opens anywhere, and as JSON."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from cache import write_text_atomically
from extract.pages.rendering import environment
from fusion.explaining.answer import FusedAnswer
from heads.explaining.page import FILTERS, FUSION, PALE
from heads.explaining.page import TEMPLATES as SHARED
from heads.explaining.words import support

TEMPLATES = Path(__file__).with_name("templates")


def write_page(folder: Path, found: FusedAnswer, again: str, of_heads: str) -> None:
    """Write _fusion.html and _fusion.json into a folder in which the pages of heads may lie.

    Args:
        again: the command that makes them again. ``of_heads``: the one that explains heads.
    """
    pages = environment(TEMPLATES)
    pages.filters |= FILTERS | {"support": support}
    html = pages.get_template("fusion.html.j2").render(
        found=found,
        p=found.of(found.p),
        says=lambda p: found.classes[max(range(len(p)), key=p.__getitem__)],
        most=max([PALE, *(abs(each.contribution) for each in found.voices if each.contribution is not None)]),
        pages={each.name for each in found.voices if (folder / f"{each.name}.html").is_file()},
        effects=(SHARED / "effects.css.j2").read_text(encoding="utf-8"),
        again=again,
        of_heads=of_heads,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_text_atomically(folder / f"{FUSION}.html", html)
    facts = {"head": "the fusion"} | asdict(found) | {"predicted": found.predicted, "sentence": found.sentence}
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    write_text_atomically(folder / f"{FUSION}.json", text + "\n")
