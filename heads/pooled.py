"""The linear head's input: each modality's mean and standard deviation over all time steps of the speaker's clips."""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from configs import UserError
from extract.manifest import Manifest, Unit
from heads.batches import Source

OTHERS = ("listener", "listener_response")  # whose clips say little about how the speaker feels


def unit_statistics(manifest: Manifest, units: Sequence[Unit], sources: Mapping[str, Source]) -> np.ndarray:
    """(units, 2 * sum of the modalities' dims) float32; NaN where a unit's speaker has nothing in a modality.

    Raises:
        UserError: a source holds nothing of any unit.
    """
    roles = dict(zip(manifest.clips["clip_id"], manifest.clips["role"], strict=True))
    parts = []
    for source in sources.values():
        rows: list[np.ndarray | None] = []
        for unit in units:
            spoken = [clip_id for clip_id in unit.clip_ids if roles[clip_id] not in OTHERS and clip_id in source]
            steps = [np.asarray(source[clip_id], dtype=np.float32) for clip_id in spoken]
            rows.append(_mean_and_deviation(np.concatenate(steps)) if steps else None)
        width = next((len(row) for row in rows if row is not None), 0)
        if not width:
            raise UserError("linear head: a store holds none of the units' clips; run the extraction for this manifest")
        parts.append(np.stack([np.full(width, np.nan, np.float32) if row is None else row for row in rows]))
    return np.concatenate(parts, axis=1)


def _mean_and_deviation(steps: np.ndarray) -> np.ndarray:
    return np.concatenate([steps.mean(0), steps.std(0)])  # (time, dim) -> (2 * dim,)


def statistics_features() -> Pipeline:
    """Unfitted: missing modalities take the training units' mean (nothing, once standardised) and a flag."""
    return Pipeline([("missing", SimpleImputer(add_indicator=True)), ("scale", StandardScaler())])
