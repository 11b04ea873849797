"""An answer with a set of classes, or "don't know": what fusion/predict.py, and whoever else answers, adds to it."""

import math
from typing import TYPE_CHECKING, Any

from configs import UserError
from fusion.serving.bundle import Bundle

if TYPE_CHECKING:
    from fusion.strategies.conformal import Scores, Sets

Answer = dict[str, Any]
NAMED = 4  # classes that a sentence lists; above, it counts them


def check_doubt(bundle: Bundle, confidence: float) -> float:
    """The confidence, where answers of this bundle can be given with it.

    Raises:
        UserError: it is no share between 0 and 1, or an earlier version made the bundle.
    """
    from fusion.strategies.conformal import checked_confidence

    _sets(bundle)
    return checked_confidence(confidence)


def with_set(bundle: Bundle, answer: Answer, confidence: float) -> Answer:
    """An answer of :class:`fusion.serving.live.Predictor` with a further key, ``set``.

    It is null where there is no answer, and else ``confidence``; ``classes``, the most probable first: in so large a
    share of cases, each new group of units (a speaker, a conversation) counting the same, the true one is among them;
    ``known``, whether it is a single class; ``says``, the same in words; ``heads``, where limits were learned from
    units with these heads alone, else null; ``groups``, how many they were learned from; and ``note``, what is to be
    known of them: that they are few, or that hardly any had just these heads, or why everything is in the set.

    Raises:
        UserError: as :func:`check_doubt`.
    """
    import numpy as np

    from fusion.strategies.conformal import checked_confidence

    sets = _sets(bundle, centred=bool(answer.get("centred_on")))
    checked_confidence(confidence)
    if answer["probabilities"] is None:
        return answer | {"set": None}
    names = [head.name for head in bundle.heads]
    present = np.array([answer["heads"][name]["prediction"] is not None for name in names])
    p = np.array([answer["probabilities"][name] for name in bundle.classes])
    inside = sets.sets(p[None], present[None], confidence)[0]
    order = [i for i in np.argsort(-p, kind="stable").tolist() if inside[i]]
    classes, (scores, met) = [bundle.classes[i] for i in order], sets.scores_of(present)
    own = [name for name, there in zip(names, present.tolist(), strict=True) if there]
    return answer | {
        "set": {
            "confidence": confidence,
            "classes": classes,
            "known": len(classes) == 1,
            "says": _says(classes, len(bundle.classes)),
            "heads": None if scores is sets.everyone else own,
            "groups": scores.groups,
            "note": _note(scores, met, confidence),
        }
    }


def _sets(bundle: Bundle, centred: bool = False) -> "Sets":
    found = bundle.centred_sets if centred else bundle.sets
    if found is None:
        raise UserError(
            f"{bundle.folder}: made by an earlier version, without what --confidence needs: fuse again with "
            "python fusion/stack.py, then python fusion/bundle.py"
        )
    return found


def _says(classes: list[str], n_classes: int) -> str:
    if len(classes) == 1:
        return classes[0]
    if len(classes) == n_classes:
        return f"don't know: any of the {n_classes}"
    if len(classes) <= NAMED:
        return f"don't know: {', '.join(classes[:-1])} or {classes[-1]}"
    return f"don't know: {', '.join(classes[:NAMED])} or {len(classes) - NAMED} more"


def _note(scores: "Scores", met: int, confidence: float) -> str | None:
    from fusion.strategies.conformal import ENOUGH_GROUPS

    groups = f"{scores.groups} group{'s' * (scores.groups != 1)}"
    if math.isinf(scores.limit(confidence)):
        return f"{groups} to calibrate on vouch for {100 * scores.highest:.3g}% at most"
    if met < min(ENOUGH_GROUPS, scores.groups):
        return f"rough: of {groups} to calibrate on, {met} had what this answer goes by, no more and no less"
    return f"rough: calibrated on {groups}" if scores.groups < ENOUGH_GROUPS else None
