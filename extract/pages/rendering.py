"""What all HTML pages share: how templates are read, how they look, and a few ways to write numbers."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2

SHARED = Path(__file__).with_name("templates")  # style.css.j2 is every page's


@cache
def environment(templates: Path) -> jinja2.Environment:
    """Of a page's own folder of templates, and of what all share. What comes from data is escaped."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader([templates, SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"percent": percent, "wave": wave}
    return found


def percent(value: float) -> str:
    """For CSS: 0.1234 is 12.34%."""
    return f"{100 * value:.2f}%"


def wave(levels: Sequence[float], height: float) -> str:
    """Levels as an SVG path of upright strokes, one a unit of width, around the middle."""
    middle = height / 2
    strokes = [(x, max(0.02, level) * middle) for x, level in enumerate(levels)]
    return "".join(f"M{x + 0.5} {middle - half:.1f}V{middle + half:.1f}" for x, half in strokes)
