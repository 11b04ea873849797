"""What a head answers when something is taken away from a unit: a clip, an input, seconds, a frame, a word, a field.

Everything that is taken away is run again, all of it in one batch; how much the answer changes is its score (erasure:
Li, Monroe and Jurafsky 2016, arXiv:1612.08220; occlusion: Zeiler and Fergus 2014, arXiv:1311.2901).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from cache import Store
from extract.corpora.manifest import Manifest, Unit
from heads.data.features import Source
from heads.data.standardised import Centred, standardised
from heads.explaining.fresh import Fresh
from heads.fitting.saved import TrainedHead, average

ANCHOR = "\x1fanchor"  # no clip is called that


class Arrays(dict[str, np.ndarray]):
    """Arrays (time, dim) by clip id, as a head reads them, with the fingerprint of the store that they come from: heads
    check it."""

    centred = True  # where the head wants them so

    def __init__(self, store: Store | Fresh, source: Source, clip_ids: Sequence[str]) -> None:
        super().__init__({clip: np.array(source[clip]) for clip in clip_ids if clip in source})
        self.fingerprint, self.fields = store.fingerprint, store.fields
        self.width = store.width if isinstance(store, Fresh) else store.dim
        self._source = source

    def left(self, clip: str, values: np.ndarray | None) -> np.ndarray | None:
        """What is left of a clip, as a head reads it; None where it would not."""
        if values is None or not isinstance(self._source, Centred):
            return values
        return self._source.less_mean(clip, values) if clip in self._source else None


@dataclass(frozen=True)
class Removal:
    """What is taken away from a unit, and what is left in its place.

    Attributes:
        arrays: input, clip id: what is left of the clip's features (time, dim); None where they are missing.
        texts: clip id: what is left of a text, for heads that read it from the manifest; None where it is missing.
        columns: of the manifest, made unknown for the labelled clip.
    """

    arrays: Mapping[tuple[str, str], np.ndarray | None] = field(default_factory=dict)
    texts: Mapping[str, str | None] = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    def changed(self, unit: Unit) -> set[str]:
        """The clips that are not what they were."""
        return {clip for _, clip in self.arrays} | set(self.texts) | ({unit.unit_id} if self.columns else set())


@dataclass(frozen=True)
class Answers:
    """Log-probabilities of a unit as it is, (classes,), and of each of its variants, (variants, classes).

    ``data`` is what the head read of them; the unit itself is number 0 of it.
    """

    base: np.ndarray
    variants: np.ndarray
    data: Any


def answers(
    trained: TrainedHead,
    fold: int | None,
    manifest: Manifest,
    unit: Unit,
    stores: Mapping[str, Store | Fresh],
    removals: Sequence[Removal],
) -> Answers:
    """What a head says of a unit and of the unit without each of some things.

    Each variant is a unit of a manifest of its own: clips that it shares with the others keep their names, and are
    encoded once; those that it changed have new ones. So heads of every kind read them as they read anything else.

    Args:
        fold: whose models answer; None: the average of all folds, as for val and test units.
        stores: those that the head reads.
    Raises:
        UserError: a store is not what the head was trained on, or a metadata field is missing.
    """
    read_from = standardised(trained.settings, manifest, stores)
    sources = {name: Arrays(store, read_from[name], unit.clip_ids) for name, store in stores.items()}
    rows = {row["clip_id"]: row for row in manifest.clips.filter(pl.col("clip_id").is_in(unit.clip_ids)).to_dicts()}
    clips, units = list(rows.values()), [unit]
    for number, removal in enumerate(removals):
        names = {clip: f"{clip}\x1f{number}" for clip in removal.changed(unit)}
        for clip, name in names.items():
            columns = dict.fromkeys(removal.columns) if clip == unit.unit_id else {}
            texts = {"text": removal.texts[clip]} if clip in removal.texts else {}
            clips.append(rows[clip] | {"clip_id": name} | columns | texts)
            for read, source in sources.items():
                there = (read, clip) in removal.arrays
                values = source.left(clip, removal.arrays[read, clip]) if there else source.get(clip)
                if values is not None and len(values):
                    source[name] = values
        members = tuple(names.get(clip, clip) for clip in unit.clip_ids)
        units.append(replace(unit, unit_id=members[-1], clip_ids=members))
    # Heads on statistics refuse a store that holds nothing of any unit, and must be told how wide it is.
    clips.append(rows[unit.unit_id] | {"clip_id": ANCHOR, "role": "speaker"})
    units.append(replace(unit, unit_id=ANCHOR, clip_ids=(ANCHOR,)))
    for name, store in stores.items():
        if len(store):
            sources[name][ANCHOR] = store[store.clip_ids[0]]

    changed = Manifest(pl.DataFrame(clips, schema=manifest.clips.schema), manifest.root, manifest.classes, {})
    data = trained.read(changed, units, sources)
    folds = range(len(trained.models)) if fold is None else [fold]
    indices = np.arange(len(units) - 1)
    by_fold = [trained.log_probabilities(k, data, indices) for k in folds]
    log_p = by_fold[0] if fold is not None else average(by_fold)
    return Answers(log_p[0], log_p[1:], data)
