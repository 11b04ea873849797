"""An explanation as one picture, for slides and papers: the same facts as the page, the strongest of each kind."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from heads.explaining.explanation import Explanation, Group, Piece
from heads.explaining.media import Media
from heads.explaining.words import support
from heads.pictures import literal

# Okabe and Ito's palette keeps apart for all common kinds of colour blindness.
BLUE, ORANGE, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C"
DPI = 130
MOST_WORDS = 14
LONGEST_NAME = 34  # characters


def draw(found: Explanation, media: Media) -> Figure:
    """Rows: the answer and what was read; clips and words; seconds and frames of the clip whose own matter most."""
    clips = found.clips if len(found.clips.pieces) > 1 else None  # a clip that is alone is all that was read
    panels = [("answer", None), ("inputs", found.everything), ("clips", clips), ("words", _words(found))]
    panels = [(what, group) for what, group in panels if what == "answer" or (group and group.pieces)]
    timelines = [group for group in (_strongest(found, "audio"), _strongest(found, "video")) if group]
    n_rows = -(-len(panels) // 2)
    rows = [panels[2 * row : 2 * row + 2] for row in range(n_rows)]
    heights = [0.85 + 0.25 * max(_n_bars(found, group) for _, group in row) for row in rows] + [2.3] * len(timelines)
    figure = Figure(figsize=(10, 0.9 + sum(heights)), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    for k, (what, group) in enumerate(panels):
        last = k == len(panels) - 1 and k % 2 == 0
        axes = figure.add_subplot(grid[k // 2, :] if last and k else grid[k // 2, k % 2])
        if group is None:
            _answer(axes, found)
        else:
            titles = {"inputs": "What was read", "clips": "Clips", "words": "The strongest words"}
            _bars(axes, group, titles[what])
    for row, group in enumerate(timelines, start=n_rows):
        _timeline(figure, figure.add_subplot(grid[row, :]), found, group, media)
    said = "right" if found.predicted == found.label else f"labelled {found.label}"
    head = f"{found.head} (transductive)" if found.transductive else found.head
    title = f"{found.unit_id}: head {head} says {found.predicted} ({said}); explained: {found.explained}"
    figure.suptitle(literal(title, 110), fontsize=11)
    figure.supxlabel(
        f"blue: supports “{literal(found.explained, LONGEST_NAME)}”, so many nats; orange: against; "
        "purple: attention; both as shares of their sum",
        fontsize=8,
    )
    return figure


def _n_bars(found: Explanation, group: Group | None) -> int:
    return len(found.classes) if group is None else len(group.pieces)


def _words(found: Explanation) -> Group:
    """The strongest words of all clips, in the order of the text."""
    pieces = [piece for view in found.views if "words" in view.groups for piece in view.groups["words"].pieces]
    strongest = sorted(pieces, key=lambda piece: -abs(piece.lost))[:MOST_WORDS]
    return Group("words", None, tuple(piece for piece in pieces if piece in strongest))


def _strongest(found: Explanation, what: str) -> Group | None:
    groups = [view.groups[what] for view in found.views if what in view.groups]
    return max(groups, key=lambda group: group.effect, default=None)


def _answer(axes: Axes, found: Explanation) -> None:
    colours = [BLUE if name == found.explained else GREY for name in found.classes]
    axes.barh(range(len(found.classes)), found.p, color=colours, height=0.7)
    for y, p in enumerate(found.p):
        axes.text(p + 0.01, y, f"{p:.2f}", va="center", fontsize=8)
    names = [f"{name} (label)" if name == found.label else name for name in found.classes]
    axes.set_yticks(range(len(names)), [literal(name, LONGEST_NAME) for name in names], fontsize=8)
    axes.set_xlim(0, 1.1)
    _finish(axes, "Answer: probability of each class")


def _bars(axes: Axes, group: Group, title: str) -> None:
    y = np.arange(len(group.pieces))
    has_attention = group.has_attention
    height = 0.38 if has_attention else 0.7
    shares = group.shares
    colours = [BLUE if share >= 0 else ORANGE for share in shares]
    axes.barh(y + (height / 2 if has_attention else 0), np.abs(shares), color=colours, height=height)
    if has_attention:
        attention = [piece.attention or 0.0 for piece in group.pieces]
        axes.barh(y - height / 2, attention, color=PURPLE, height=height, hatch="///", edgecolor="white", linewidth=0)
    for k, (piece, share) in enumerate(zip(group.pieces, shares, strict=True)):
        at = k + (height / 2 if has_attention else 0)
        axes.text(abs(share) + 0.01, at, support(piece.lost), va="center", fontsize=7)
    axes.set_yticks(y, [literal(piece.name, LONGEST_NAME) for piece in group.pieces], fontsize=8)
    axes.set_xlim(0, 1.15 * max(1e-9, *np.abs(shares), *(piece.attention or 0 for piece in group.pieces)) + 0.05)
    axes.set_ylim(-0.5, max(3, len(group.pieces)) - 0.5)
    axes.set_xlabel("share", fontsize=7)
    _finish(axes, f"{title}: nats that it brings" + (", and attention" if has_attention else ""))


def _finish(axes: Axes, title: str) -> None:
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _timeline(figure: Figure, axes: Axes, found: Explanation, group: Group, media: Media) -> None:
    """Shares of the effect as columns over the clip's length, attention as a line, thumbnails or waveform above."""
    view = next(view for view in found.views if view.clip_id == group.clip_id)
    length = view.seconds.get(group.what)
    unit = length or 1.0
    starts = np.array([piece.start for piece in group.pieces]) * unit
    widths = np.array([piece.stop - piece.start for piece in group.pieces]) * unit
    shares = np.array(group.shares)
    colours = [BLUE if share >= 0 else ORANGE for share in shares]
    axes.bar(starts, shares, widths * 0.94, align="edge", color=colours)
    if group.has_attention:
        attention = [piece.attention or 0.0 for piece in group.pieces]
        axes.stairs(attention, [*starts, unit], color=PURPLE, linewidth=2, baseline=None, label="attention")
    axes.axhline(0, color="black", linewidth=0.6)
    top, bottom = _limits(group.pieces, shares)
    axes.set_xlim(0, unit)
    kind = "seconds" if group.what == "audio" else "frames"
    heard, seen = media.heard.get(view.clip_id), media.seen.get(view.clip_id)
    if group.what == "audio" and heard is not None:
        x = np.linspace(0, unit, len(heard.outline))
        middle, half = top * 1.35, top * 0.25
        axes.fill_between(x, middle - half * heard.outline, middle + half * heard.outline, color=GREY, linewidth=0)
    if group.what == "video" and seen is not None:
        for start, width in zip(starts, widths, strict=True):
            box = axes.inset_axes((start / unit, 0.6, width / unit, 0.4))
            box.imshow(seen.frames[min(len(seen.frames) - 1, int((start + width / 2) / unit * len(seen.frames)))])
            box.axis("off")
        axes.set_ylim(bottom, top * 2.4)
    else:
        axes.set_ylim(bottom, top * 1.65)
    axes.set_xlabel("seconds" if length else "share of the clip", fontsize=8)
    axes.set_title(f"{kind.capitalize()} of clip {view.number}: shares of what removal changes", fontsize=9, loc="left")
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _limits(pieces: Sequence[Piece], shares: np.ndarray) -> tuple[float, float]:
    top = max(1e-6, float(shares.max()), *(piece.attention or 0.0 for piece in pieces))
    return top, min(float(shares.min()), -0.05 * top) * 1.1
