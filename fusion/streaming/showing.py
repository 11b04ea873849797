"""Answers as they come: bars that move in place on a terminal, plain lines elsewhere, and what to say at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fusion.serving.windows import NO_SPEECH
from fusion.streaming.answering import STAGES, Answering

BAR = 30  # characters of a probability of 1
Line = dict[str, Any]


class Show(Protocol):
    def __call__(self, line: Line, dropped: int) -> object:
        """``dropped``: windows of the source so far that nobody will answer."""


@contextmanager
def shown(classes: tuple[str, ...]) -> Iterator[Show]:
    """How a line is shown on standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        yield lambda line, dropped: print(plain(line, dropped), flush=True)
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:
        yield lambda line, dropped: live.update(Text("\n".join(bars(line, dropped, classes))), refresh=True)


def plain(line: Line, dropped: int) -> str:
    """One line: when, what, how sure, and how late it is said."""
    late = f"  lag {line['lag']:.1f} s" if (line["lag"] or 0) >= 1 else ""
    late += f"  dropped {dropped}" if dropped else ""
    return f"{_when(line):>15}  {_what(line)}{late}"


def bars(line: Line, dropped: int, classes: tuple[str, ...]) -> Iterator[str]:
    """A line for each class, and one above them."""
    width = max(map(len, classes))
    late = [] if line["lag"] is None else [f"lag {line['lag']:.1f} s"]
    late += [f"{dropped} windows dropped"] * bool(dropped)
    yield f"{_when(line)}: {_what(line)}" + (f"  ({', '.join(late)})" if late else "")
    for name in classes:
        p = (line["smoothed"] or {}).get(name)
        yield f"  {name:<{width}}  " + ("" if p is None else f"{p:>6.1%}  {'█' * round(BAR * p)}")


def summary(answering: Answering, dropped: int, wall: float) -> str:
    """What was done, and what it cost: seconds of each stage, and of all, for a second of the source."""
    counts = answering.counts
    said = [f"{counts['windows']} windows", f"{dropped} dropped"]
    said += [f"{counts[what]} {what}" for what in ("without speech", "without an answer") if counts[what]]
    text = f"{', '.join(said)}; {answering.covered:.1f} s of it in {wall:.1f} s"
    if not answering.covered:
        return text
    each = ", ".join(f"{stage} {answering.seconds[stage] / answering.covered:.3f}" for stage in STAGES)
    return f"{text}\nseconds of work for a second of it: {each}"


def _when(line: Line) -> str:
    return line["file"] or f"{line['start']:.1f}-{line['stop']:.1f} s"


def _what(line: Line) -> str:
    if line["prediction"] is None:
        return NO_SPEECH if line["error"] == NO_SPEECH else f"no answer: {line['error']}"
    best = sorted(line["smoothed"].items(), key=lambda pair: -pair[1])[:2]
    named = f"{best[0][0]} {best[0][1]:.0%}" + "".join(f" ({name} {p:.0%})" for name, p in best[1:])
    doubt = line.get("set")
    named += f"; {doubt['says']}" if doubt and not doubt["known"] else ""
    return f"{NO_SPEECH}; without its sound: {named}" if line["pause"] else named
