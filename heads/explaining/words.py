"""An explanation in words: what carried the answer, and where attention and removal point to different things."""

from heads.explaining.explanation import Explanation, Group, Piece

NO_EFFECT = 1e-3  # nats; less than this is nothing to speak of
HUNDREDTH = 0.005  # nats; less than this is 0.00 in print
MOST_LINES = 4  # of disagreements, printed


def in_words(found: Explanation) -> str:
    """A few lines: the answer, and in each group what carried it."""
    p = found.p[found.classes.index(found.explained)]
    right = "right" if found.predicted == found.label else f"labelled {found.label}"
    models = "the average of all folds' models" if found.fold is None else f"the model of fold {found.fold}"
    transductive = f" (transductive: {found.transductive})" if found.transductive else ""
    lines = [
        f"{found.head}: {found.predicted} ({right}), by {models}{transductive}",
        f"what “{found.explained}” ({p:.0%}) has, in nats, by",
    ]
    if told := sentence(found):
        lines.insert(1, told)
    lines += [f"  {title:<9}{text}" for title, text in carried(found)]
    differing = disagreements(found)
    lines += differing[:MOST_LINES]
    if len(differing) > MOST_LINES:
        lines.append(f"and {len(differing) - MOST_LINES} more where attention and removal differ: see the page")
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


def carried(found: Explanation) -> list[tuple[str, str]]:
    """Without what the explained class lost most, kind by kind, over all clips."""
    titles = {"inputs": "inputs", "clips": "clips", "audio": "seconds", "video": "frames", "words": "words"}
    lines = []
    for what, title in titles.items():
        pieces = [piece for group in found.groups if group.what == what for piece in group.pieces]
        if what == "clips" and len(pieces) == 1:
            continue  # it is all that was read
        strong = sorted((piece for piece in pieces if piece.lost >= HUNDREDTH), key=lambda piece: -piece.lost)[:3]
        if strong:
            lines.append((title, ", ".join(f"{_named(found, piece, what)} {support(piece.lost)}" for piece in strong)))
        elif pieces:
            lines.append((title, "it loses by none of them"))
    return lines


def support(lost: float) -> str:
    """What something does for the explained class, in nats: what the class loses without it."""
    if abs(lost) < HUNDREDTH:
        return "≈ 0"
    return f"supports +{lost:.2f}" if lost > 0 else f"against −{-lost:.2f}"


def sentence(found: Explanation) -> str | None:
    """What the explained class loses most by, of all inputs and fields; None where it loses by none."""
    strongest = max(found.everything.pieces, key=lambda piece: piece.lost, default=None)
    if strongest is None or strongest.lost < HUNDREDTH:
        return None
    p = found.p[found.classes.index(found.explained)]
    return without(strongest.name, p, strongest.p, found.predicted, strongest.becomes)


def without(name: str, before: float, after: float, named: str, becomes: str) -> str:
    """What a class does without something, as "without audio: 58 % → 7 %, the answer becomes contempt".

    Args:
        before, after: its probability. ``named``, ``becomes``: the class that is answered with and without.
    """
    then = f", the answer becomes {becomes}" if becomes != named else f", the answer stays {named}"
    return f"without {name}: {share(before)} → {share(after)}{then}"


def share(p: float) -> str:
    """A probability; what rounds to nothing is told from nothing."""
    return "< 1\u00a0%" if 0 < p < 0.005 else "> 99\u00a0%" if 0.995 <= p < 1 else f"{100 * p:.0f}\u00a0%"


def disagreements(found: Explanation) -> list[str]:
    """Where attention points to one thing and removal to another, in plain words; what moves the answer most first."""
    lines = []
    for group in sorted(found.groups, key=lambda group: -group.effect):
        if not group.has_attention or len(group.pieces) < 2:
            continue
        looked = max(group.pieces, key=lambda piece: piece.attention or 0)
        mattered = max(group.pieces, key=lambda piece: abs(piece.lost))
        where = title_of(found, group)
        if group.effect < NO_EFFECT:
            lines.append(f"{where}: taking any of it away changes nothing, wherever attention looks")
        elif looked is not mattered:
            lines.append(
                f"{where}: attention looks most at {quoted(looked, group)} ({looked.attention:.1%}; "
                f"{support(looked.lost)}), but {quoted(mattered, group)} moves the answer most "
                f"({support(mattered.lost)}; "
                f"attention {mattered.attention:.1%})"
            )
    return lines


def title_of(found: Explanation, group: Group) -> str:
    """What a group is called: "audio of clip 2"."""
    numbers = {view.clip_id: view.number for view in found.views}
    of = f" of clip {numbers[group.clip_id]}" if group.clip_id else ""
    return {"inputs": "what was read", "modalities": "modalities"}.get(group.what, group.what) + of


def quoted(piece: Piece, group: Group) -> str:
    return f"“{piece.name}”" if group.what == "words" else piece.name


def _named(found: Explanation, piece: Piece, what: str) -> str:
    numbers = {view.clip_id: view.number for view in found.views}
    if what == "words":
        return f"“{piece.name}” (clip {numbers[piece.clip_id or '']})"
    if what in ("audio", "video"):
        return f"{piece.name} (clip {numbers[piece.clip_id or '']})"
    return piece.name
