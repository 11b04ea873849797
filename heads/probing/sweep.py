"""A linear probe on each layer of a store that holds several, out of fold.

A probe is logistic regression on the labelled clip's mean over time, standardised on a fold's training part, with one
regularisation for all layers: nothing is chosen, so nothing favours a layer. Folds are the profile's, as of all heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from cache import Store
from configs import UserError
from configs.schema import Head, Profile
from extract.corpora.manifest import Manifest, Unit
from heads.data.folds import FoldTask, unit_folds
from heads.data.layers import Layer, layers_of
from heads.fitting.cross_validation import training_part
from heads.metrics.confusions import SCORES
from heads.metrics.scores import differences, evaluate
from heads.models.columns import scalers
from heads.models.linear import DEFAULT_C, choose, fit
from heads.models.pooled import UnitRows, unit_rows


@dataclass(frozen=True)
class Probe:
    """One layer: its scores (:func:`heads.metrics.scores.evaluate`), and how far it is above the encoder's best layer,
    paired on the same resamples of whole groups; None for that layer itself."""

    layer: int
    scores: dict[str, Any]
    over_best: dict[str, dict[str, float]] | None

    def cannot_be_told_apart(self, metric: str) -> bool:
        """From the best layer, by the 95 % interval of what lies between them; also the best layer itself."""
        return self.over_best is None or not self.over_best[metric]["high"] < 0


@dataclass(frozen=True)
class Curve:
    """The layers of one encoder."""

    encoder: str
    origin: str
    fingerprint: str
    n_units: int  # training units that the store has, and on which all layers are probed
    n_missing: int
    metric: str  # that layers are compared by, one of heads.metrics.confusions.SCORES
    probes: list[Probe]

    @property
    def best(self) -> Probe:
        return next(probe for probe in self.probes if probe.over_best is None)

    @property
    def near(self) -> list[int]:
        """Layers that cannot be told apart from the best one, without it."""
        alike = (probe for probe in self.probes if probe.cannot_be_told_apart(self.metric))
        return [probe.layer for probe in alike if probe is not self.best]


def sweep(profile: Profile, manifest: Manifest, name: str, store: Store) -> Curve:
    """Probe every layer of an encoder's store.

    Raises:
        UserError: the store holds other layers than the profile says, or too little of the training units.
    """
    layers, wanted = layers_of(store.fields), profile.encoders[name].layers
    if not layers or (isinstance(wanted, list) and wanted != [layer.number for layer in layers]):
        raise UserError(
            f"{profile.store_path(name)}: holds other layers than encoders.{name} says: "
            f"run 'python extract/run.py --encoder {name}'"
        )
    every = manifest.units()
    in_all = unit_folds(every, profile.folds, profile.seed, profile.manifest_path)
    kept = [i for i, unit in enumerate(every) if in_all[i] >= 0 and unit.unit_id in store]
    units, folds = [every[i] for i in kept], in_all[kept]
    if len(set(folds.tolist())) < 2:
        raise UserError(f"--encoder {name}: the store holds units of {len(set(folds.tolist()))} fold(s): extract more")
    head = Head(kind="linear", inputs=[name], context_clips=0, c=DEFAULT_C, deviations=False)
    rows = unit_rows(manifest, units, {name: store}, context_clips=0)
    labels, groups = [unit.label for unit in units], [unit.group for unit in units]
    metric = profile.fusion.metric if profile.fusion.metric in SCORES else "macro_f1"
    p = {}
    for layer in tqdm(layers, desc=f"layers of {name}", unit="layer", disable=None):
        p[layer.number] = _out_of_fold(head, rows, name, layer, units, folds, manifest.classes, profile.seed)
    draws = profile.fusion.bootstrap, profile.seed
    scores = {number: evaluate(labels, each, manifest.classes, groups, *draws) for number, each in p.items()}
    best = max(scores, key=lambda number: scores[number][metric]["value"])  # the lowest of equals
    others = {str(number): each for number, each in p.items() if number != best}
    apart = differences(labels, others, p[best], manifest.classes, groups, *draws)
    probes = [Probe(number, scores[number], apart.get(str(number))) for number in p]
    n_missing = int((in_all >= 0).sum()) - len(units)
    origin = profile.encoders[name].origin
    return Curve(name, origin, store.fingerprint, len(units), n_missing, metric, probes)


def _out_of_fold(
    head: Head,
    rows: UnitRows,
    name: str,
    layer: Layer,
    units: Sequence[Unit],
    folds: np.ndarray,
    classes: Sequence[str],
    seed: int,
) -> np.ndarray:
    """Probabilities (units, classes), of each unit by the fit that did not see its fold."""
    labels = np.array([classes.index(unit.label) for unit in units])
    _, groups = np.unique([unit.group for unit in units], return_inverse=True)
    p = np.empty((len(units), len(classes)))
    for fold in sorted(set(folds.tolist())):
        train, held = training_part(folds, fold), np.flatnonzero(folds == fold)
        task = FoldTask(head, rows, labels, train, (), len(classes), seed, groups)
        known = scalers(rows, train, {name: layer})
        choice, _ = choose(task, known, {name: layer})
        p[held] = np.exp(fit(task, known, choice, train).log_probabilities(rows, held))
    return p
