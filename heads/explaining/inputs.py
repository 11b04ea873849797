"""What a head says of a unit without its sound, its pictures, its text or a field: for whoever asks several heads."""

from dataclasses import dataclass

import numpy as np

from configs.schema import Profile
from extract.corpora.manifest import Manifest, Unit
from heads.explaining.media import Media
from heads.explaining.occlusion import Removal, answers
from heads.explaining.scene import Scene
from heads.fitting.cross_validation import open_stores
from heads.fitting.saved import TrainedHead
from heads.models.presence import inputs_found


@dataclass(frozen=True)
class Said:
    """Log-probabilities (classes,) of a unit as it is and, by what was taken away, without that: a modality or a field.

    None where nothing is left that the head could read: it then has nothing to say. Of what the head does not read, or
    what is not there, there is no entry. ``values``: of the fields among them.
    """

    base: np.ndarray | None
    without: dict[str, np.ndarray | None]
    values: dict[str, str]


def said_without(profile: Profile, manifest: Manifest, unit: Unit, trained: TrainedHead, fold: int | None) -> Said:
    """Ask a head, or a plain baseline, about a unit and about the unit without each of its kinds of input.

    A modality is taken away from all encoders that read it, and in all clips.

    Args:
        fold: whose models answer; None: the average of all folds, as for val and test units.
    Raises:
        UserError: a store is not what the head was trained on, or a metadata field is missing.
    """
    no_words = dict.fromkeys(trained.settings.stores, "words stay together here")
    scene = Scene(profile, manifest, unit, trained, open_stores(profile, trained.settings), Media(), no_words)
    removals: dict[str, Removal] = {}
    names: dict[str, set[str]] = {}  # by what was taken away: inputs or a field, as found_inputs calls them
    for name, modality in scene.modalities.items():
        if (own := scene.without_input(name)) is not None:
            before = removals.get(modality, Removal())
            removals[modality] = Removal({**before.arrays, **own.arrays}, {**before.texts, **own.texts})
            names.setdefault(modality, set()).add(name)
    values = {name: (column, str(value)) for name, (column, value) in scene.fields().items() if value is not None}
    for name, (column, _) in values.items():
        removals[name], names[name] = Removal(columns=(column,)), {name}
    found = answers(trained, fold, manifest, unit, scene.stores, list(removals.values()))
    there = set(inputs_found(trained.settings, manifest, [unit], scene.stores)[0])
    return Said(
        base=found.base if there else None,
        without={
            what: log_p if there - names[what] else None for what, log_p in zip(removals, found.variants, strict=True)
        },
        values={name: value for name, (_, value) in values.items()},
    )
