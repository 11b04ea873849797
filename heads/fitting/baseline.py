"""What every head must beat: logistic regression on its own inputs, averaged over time and clips."""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from configs.schema import Head
from extract.corpora.manifest import Manifest, Unit
from heads.data.features import Source
from heads.data.standardised import standardised
from heads.fitting.outputs import Predictions
from heads.fitting.saved import average
from heads.models.linear import spread
from heads.models.pooled import UnitRows, unit_rows

C = 0.01  # inverse regularisation: fixed, as a baseline that is tuned is a head


def baseline_log_probabilities(
    head: Head,
    manifest: Manifest,
    units: Sequence[Unit],
    folds: np.ndarray,
    stores: Mapping[str, Source],
    seed: int,
) -> Predictions | None:
    """Mean-pooled logistic regression in the head's folds, on what the head reads and as it weighs classes.

    A unit's features are the means of each store's dimensions over all time steps of the speaker's clips, of those
    clips that the head sees, and its metadata as one-hot columns; all standardised.

    Args:
        units: all of the manifest's.
        folds: (units,) the fold of each training unit, -1 elsewhere.
        stores: those of ``head.inputs``; a bag of words, which reads none, is compared with the text store's.
    Returns:
        ``oof``, each training unit from the fold that did not train on it; ``val`` and ``test`` where there are such
        units, averaged over the folds. None without stores and metadata, or where the training units of a fold are of
        one class.
    Raises:
        UserError: a store holds nothing of the units, or a metadata field is missing or privileged.
    """
    if not stores and not head.metadata:
        return None
    stores = standardised(head, manifest, stores)
    rows = unit_rows(manifest, units, stores, head.metadata, head.privileged, head.context_clips, deviations=False)
    labels = np.array([manifest.classes.index(unit.label) for unit in units])
    splits = np.array([unit.split for unit in units])
    held_out = {split: np.flatnonzero(splits == split) for split in ("val", "test") if split in splits}
    oof = np.flatnonzero(folds >= 0)
    log_p = np.empty((len(units), len(manifest.classes)))
    by_fold: dict[str, list[np.ndarray]] = {split: [] for split in held_out}
    for fold in range(folds.max() + 1):
        train, part = np.flatnonzero((folds >= 0) & (folds != fold)), np.flatnonzero(folds == fold)
        if len(set(labels[train].tolist())) < 2:
            return None
        features = _features(rows, train)
        model = LogisticRegression(
            C=C, class_weight="balanced" if head.loss == "weighted" else None, max_iter=1000, random_state=seed
        )
        with threadpool_limits(1):  # products of a few columns: on two shared cores, two threads took ten times as long
            model.fit(features[train], labels[train])
            log_p[part] = spread(model.predict_proba(features[part]), model.classes_, log_p.shape[1])
            for split, indices in held_out.items():
                by_fold[split].append(spread(model.predict_proba(features[indices]), model.classes_, log_p.shape[1]))
    return {"oof": (oof, log_p[oof])} | {
        split: (indices, average(by_fold[split])) for split, indices in held_out.items()
    }


def _features(rows: UnitRows, train: np.ndarray) -> np.ndarray:
    """(units, columns) float32, standardised by the training units; what is missing is their mean, 0."""
    codes = rows.codes(vocabularies := rows.vocabularies(train))
    one_hot = [codes[:, [column]] == np.arange(len(words)) for column, words in enumerate(vocabularies.values())]
    features = np.concatenate([rows.statistics, *one_hot], axis=1, dtype=np.float32)
    there = ~np.isnan(features)
    counts = np.maximum(there[train].sum(0), 1)
    features[~there] = 0
    mean = features[train].sum(0, dtype=np.float64) / counts
    features -= mean.astype(np.float32)
    features[~there] = 0
    deviation = np.sqrt(np.square(features[train], dtype=np.float64).sum(0) / counts)
    constant = deviation <= 1e-6 * np.abs(mean)
    return features / np.where(constant, 1, deviation).astype(np.float32)
