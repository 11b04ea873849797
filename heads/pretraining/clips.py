"""What is learned from without labels: all clips of the manifest that stores hold, and which of them a fold may see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from configs import UserError
from configs.schema import Head
from extract.corpora.manifest import Manifest, Unit
from heads.data.batches import UnitData
from heads.data.features import Source
from heads.data.standardised import standardised
from heads.models.network import n_segments

LONGEST = 32  # clips; longer conversations are cut


@dataclass(frozen=True)
class Unlabelled:
    """Conversations, or pieces of them, as units whose labels mean nothing.

    Attributes:
        groups: of each piece, the groups that its clips belong to.
        several: whether clips have several inputs, so that one can be found by another.
        conversing: whether pieces have several clips, so that one can be told from the rest.
    """

    data: UnitData
    groups: list[frozenset[str]]
    several: bool
    conversing: bool

    def seen_by(self, fold: int | None, units: Sequence[Unit], folds: np.ndarray) -> np.ndarray:
        """The pieces that a fold may see: of train, and of no group that is predicted in it. None: all there are.

        Args:
            folds: (units,) the fold of each, -1 outside train.
        """
        if fold is None:
            return np.arange(len(self.groups))
        held_out = {unit.group for unit, theirs in zip(units, folds, strict=True) if theirs == fold}
        return np.array(
            [
                i
                for i, (piece, groups) in enumerate(zip(self.data.units, self.groups, strict=True))
                if piece.split == "train" and not groups & held_out
            ],
            dtype=int,
        )


def read_unlabelled(name: str, head: Head, manifest: Manifest, sources: Mapping[str, Source]) -> Unlabelled:
    """All clips that the head's sources hold something of, by conversation, what comes after a label included.

    Raises:
        UserError: there is nothing to be learned from them.
    """
    sources = standardised(head, manifest, sources)
    members: dict[str, list[tuple[int, str, str]]] = {}
    split_of: dict[str, str] = {}
    columns = ("conversation_id", "index", "clip_id", "group", "split")
    for conversation, index, clip, group, split in manifest.clips.select(columns).iter_rows():
        if any(clip in source for source in sources.values()):
            members.setdefault(conversation, []).append((index, clip, group))
            split_of[conversation] = split
    pieces, groups = [], []
    for conversation, clips in members.items():
        clips.sort()
        for start in range(0, len(clips), LONGEST):
            part = clips[start : start + LONGEST]
            ids = tuple(clip for _, clip, _ in part)
            pieces.append(Unit(ids[-1], ids, manifest.classes[0], split_of[conversation], part[-1][2]))
            groups.append(frozenset(group for _, _, group in part))
    statistics = n_segments(head) if head.pooling == "statistics" else None
    data = UnitData(manifest, pieces, sources, statistics=statistics)
    has = np.stack([features.lengths > 0 for features in data.features.values()])
    several = bool(((has.sum(0) > 1).sum() > 1) and len(has) > 1)
    conversing = bool((data.n_clips > 1).any())
    if not several and not conversing:
        raise UserError(
            f"head {name}: nothing can be learned without labels: no clip has more than one of its inputs "
            f"({', '.join(head.inputs)}), and no conversation more than one clip"
        )
    return Unlabelled(data, groups, several, conversing)
