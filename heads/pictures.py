"""Charts as PNG files whose labels can be read whatever script they are in.

Matplotlib's own font has Latin, Greek, Cyrillic, Arabic and Hebrew. For other scripts a font of the machine is added
that has what a label needs (it shapes and orders letters itself). Where none has, what cannot be drawn is numbered:
``№1`` in the picture, and the words behind the numbers in ``labels.txt`` beside it. HTML pages show the text itself.
"""

import re
import unicodedata
from functools import cache
from pathlib import Path

import matplotlib as mpl
import typer
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

OWN = "DejaVu Sans"  # comes with matplotlib
LIST = "labels.txt"
PREFERRED = ("Noto Sans", "Noto", "Source Han", "WenQuanYi", "Droid Sans")  # of fonts that have the same, the first
_JOINERS = "\u200c\u200d"  # decide how letters are shaped
_VARIANTS = re.compile("[\ufe00-\ufe0f]")  # of a sign, with no shape of their own
_NUMBER = "№"
_numbers: dict[str, int] = {}  # of what cannot be drawn, over all pictures of this process


def literal(text: str, longest: int) -> str:
    """A name from data as a label: at most ``longest`` characters, no formula, in characters that can be drawn."""
    spaced = " ".join(text.split())
    spaced = " ".join(_VARIANTS.sub("", text).split())
    visible = "".join(c for c in spaced if c in _JOINERS or not unicodedata.category(c).startswith("C"))
    short = visible if len(visible) <= longest else visible[: longest - 1] + "…"
    return _drawable(short).replace("$", r"\$")


def save(figure: Figure, path: Path, dpi: float | str = "figure") -> None:
    """Write a picture, and, if it has numbers in place of words, what they stand for."""
    if _added:  # after some of the labels were made
        for artist in figure.findobj(Text):
            artist.set_fontfamily(mpl.rcParams["font.family"])
    figure.savefig(path, format="png", dpi=dpi, metadata={"Software": None})
    texts = [artist.get_text() for artist in figure.findobj(Text) if isinstance(artist, Text)]
    if _numbers and any(_NUMBER in text for text in texts):
        lines = [f"{_NUMBER}{number}\t{words}\n" for words, number in _numbers.items()]
        path.with_name(LIST).write_text("".join(lines), encoding="utf-8")


def _drawable(text: str) -> str:
    """The text, once a font for it is in use; what no font has is replaced by its number."""
    lacking = {c for c in text if ord(c) not in _characters(_own_file())} - _in_use()
    for path in _fonts_for(lacking):
        font_manager.fontManager.addfont(path)
        name = FT2Font(path).family_name
        mpl.rcParams["font.family"] = [*mpl.rcParams["font.family"], name]
        _added.append(path)
    lacking -= _in_use()
    if not lacking:
        return text
    some = "[" + re.escape("".join(sorted(lacking))) + "]"
    return re.sub(rf"{some}+(?:\s+{some}+)*", lambda found: f"{_NUMBER}{_number(found[0])}", text)


_added: list[str] = []  # files of the fonts that were added


def _in_use() -> set[str]:
    return {chr(code) for path in _added for code in _characters(path)}


def _number(words: str) -> int:
    if not _numbers:
        typer.echo(
            f"warning: no font of this machine has the characters of {words!r}: pictures have numbers in their place, "
            f"which {LIST} beside them explains; install one (for example Noto Sans, Noto Sans CJK) to have the words",
            err=True,
        )
    return _numbers.setdefault(words, len(_numbers) + 1)


def _fonts_for(characters: set[str]) -> list[str]:
    """Files of as few fonts as have these characters, as far as any has."""
    chosen: list[str] = []
    left = {ord(c) for c in characters}
    while left:
        best = max(_installed(), key=lambda path: len(left & _characters(path)), default=None)
        if best is None or not left & _characters(best):
            break
        chosen.append(best)
        left -= _characters(best)
    return chosen


@cache
def _installed() -> tuple[str, ...]:
    """Files of fonts that can be drawn with, preferred and upright ones first; matplotlib's own (some with signs in
    the places of letters) are left out."""
    own = Path(mpl.get_data_path())
    ranked = []
    for path in font_manager.findSystemFonts():
        if own in Path(path).parents or "color" in Path(path).name.lower():
            continue
        try:
            font = FT2Font(path)
        except (RuntimeError, OSError):
            continue  # no font, or of a kind that matplotlib cannot read
        if font.scalable:
            rank = next((i for i, name in enumerate(PREFERRED) if font.family_name.startswith(name)), len(PREFERRED))
            ranked.append((rank, font.style_name not in ("Regular", "Book"), path))
    return tuple(path for _, _, path in sorted(ranked))


@cache
def _characters(path: str) -> frozenset[int]:
    return frozenset(FT2Font(path).get_charmap())


@cache
def _own_file() -> str:
    return str(font_manager.findfont(OWN))
