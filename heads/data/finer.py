"""Finer labels: where a dataset says more than the class (32 emotions that fall into 7), networks can learn that, too.

They are targets of training and never inputs: prediction needs none. What distinguishes ``devastated`` from
``impressed`` is lost on a head that is only told that both are ``surprised``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs import UserError
from heads.data.folds import FoldTask


@dataclass(frozen=True)
class FinerLabels:
    """``classes``: the class of each finer label; the first ones are the classes themselves, for units without any.
    ``ids``: (units,) each unit's finer label, -1 for none and for those that no fitted unit has."""

    classes: list[int]
    ids: Tensor


def finer_labels(task: FoldTask) -> FinerLabels | None:
    """The finer labels that the head's ``auxiliary`` names, as the fitted units have them; None where it names none.

    Raises:
        UserError: the manifest has no such column, or a finer label stands with two classes.
    """
    head, words, labels = task.head, task.data.auxiliary, task.labels
    if head.auxiliary is None:
        return None
    if words is None:
        raise UserError(f"auxiliary = {head.auxiliary!r}: the manifest has no column meta_ or privileged_ of this name")
    class_of: dict[str, int] = {}
    for unit in task.fit:
        if words[unit] is not None and class_of.setdefault(words[unit], int(labels[unit])) != labels[unit]:
            raise UserError(
                f"auxiliary = {head.auxiliary!r}: {words[unit]!r} stands with two classes: a finer label has one"
            )
    known = sorted(class_of)
    numbers = {word: number for number, word in enumerate(known, start=task.n_classes)}
    ids = torch.tensor([numbers.get(word, -1) for word in words])
    return FinerLabels([*range(task.n_classes), *(class_of[word] for word in known)], ids)


class ClassesOf(nn.Module):
    """Logits of finer labels, (batch, finer) -> the classes' log-probabilities, (batch, classes): the log of the sum of
    the probabilities of a class's finer labels."""

    belongs: Tensor

    def __init__(self, classes: list[int]) -> None:
        super().__init__()
        belongs = torch.full((max(classes) + 1, len(classes)), -torch.inf)
        belongs[classes, torch.arange(len(classes))] = 0
        self.register_buffer("belongs", belongs, persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        return (logits.float().log_softmax(dim=1).unsqueeze(1) + self.belongs).logsumexp(dim=2)
