"""An answer with a set of classes, or "don't know": what fusion/predict.py, and whoever else answers, adds to it."""

import math
from typing import TYPE_CHECKING, Any

from configs import UserError
from fusion.serving.bundle import Bundle

if TYPE_CHECKING:
    from fusion.strategies.conformal import Sets

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
    ``known``, whether it is a single class; ``says``, the same in words; and what it was calibrated on: ``heads``
    (null: all units together, for these heads were too seldom there alone), ``groups``, and ``rough`` (they are few).

    Raises:
        UserError: as :func:`check_doubt`.
    """
    import numpy as np

    from fusion.strategies.conformal import ENOUGH_GROUPS, checked_confidence

    sets = _sets(bundle, centred=bool(answer.get("centred_on")))
    checked_confidence(confidence)
    if answer["probabilities"] is None:
        return answer | {"set": None}
    names = [head.name for head in bundle.heads]
    present = np.array([answer["heads"][name]["prediction"] is not None for name in names])
    p = np.array([answer["probabilities"][name] for name in bundle.classes])
    inside = sets.sets(p[None], present[None], confidence)[0]
    order = [i for i in np.argsort(-p, kind="stable").tolist() if inside[i]]
    classes, scores = [bundle.classes[i] for i in order], sets.scores_of(present)
    own = [name for name, there in zip(names, present.tolist(), strict=True) if there]
    return answer | {
        "set": {
            "confidence": confidence,
            "classes": classes,
            "known": len(classes) == 1,
            "says": _says(classes, len(bundle.classes), scores.groups, math.isinf(scores.limit(confidence))),
            "heads": None if scores is sets.everyone and sets.patterns else own,
            "groups": scores.groups,
            "rough": scores.groups < ENOUGH_GROUPS,
        }
    }


def _sets(bundle: Bundle, centred: bool = False) -> "Sets":
    found = bundle.centred_sets if centred else bundle.sets
    if found is None:
        raise UserError(
            f"{bundle.folder}: an earlier version made it, without what sets of classes are drawn by: fuse again with "
            "python fusion/stack.py, then python fusion/bundle.py"
        )
    return found


def _says(classes: list[str], n_classes: int, groups: int, unbounded: bool) -> str:
    if len(classes) == 1:
        return classes[0]
    if unbounded:
        many = f"{groups} group{'s' * (groups != 1)}"
        return (
            f"don't know: any of the {n_classes} ({many} to calibrate on vouch for {groups / (groups + 1):.0%} at most)"
        )
    if len(classes) <= NAMED:
        return f"don't know: {', '.join(classes[:-1])} or {classes[-1]}"
    if len(classes) == n_classes:
        return f"don't know: any of the {n_classes}"
    return f"don't know: {', '.join(classes[:NAMED])} or {len(classes) - NAMED} more"
