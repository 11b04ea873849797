"""Units as one row each: an input's mean and deviation over all time steps of the speaker's clips, and metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from configs import UserError
from extract.corpora.manifest import Manifest, Unit
from heads.data.batches import categories, labelled_values, metadata_column, seen_clips
from heads.data.features import Source

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

OTHERS = ("listener", "listener_response")  # whose clips say little about how the speaker feels


@dataclass(frozen=True)
class UnitRows:
    """What is known of each unit, as columns."""

    statistics: np.ndarray  # (units, columns) float32, from unit_statistics; no columns without stores
    metadata: dict[str, list[str | None]]  # field: a value for each unit

    def vocabularies(self, indices: np.ndarray) -> dict[str, list[str]]:
        """The categories of each metadata field among some units, sorted."""
        return {field: categories(values, indices) for field, values in self.metadata.items()}

    def codes(self, vocabularies: Mapping[str, Sequence[str]]) -> np.ndarray:
        """(units, fields) float32: the place of each value in its vocabulary, from 0; NaN for none and unseen ones."""
        columns = []
        for field, words in vocabularies.items():
            places = {word: place for place, word in enumerate(words)}
            columns.append([np.nan if value is None else places.get(value, np.nan) for value in self.metadata[field]])
        n_units = len(self.statistics)
        return np.array(columns, dtype=np.float32).reshape(len(columns), n_units).T


def unit_rows(
    manifest: Manifest,
    units: Sequence[Unit],
    sources: Mapping[str, Source],
    fields: Sequence[str] = (),
    privileged: bool = False,
    context_clips: int | None = None,
    deviations: bool = True,
) -> UnitRows:
    """Statistics of units, as :func:`unit_statistics` gives them, and each field's value on their labelled clips.

    Raises:
        UserError: a source holds nothing of any unit; a field that the manifest lacks, or that is derived from the
            label while ``privileged`` is False.
    """
    statistics = unit_statistics(manifest, units, sources, context_clips, deviations)
    columns = {field: metadata_column(manifest, field, privileged) for field in fields}
    return UnitRows(statistics, {field: labelled_values(manifest, units, name) for field, name in columns.items()})


def unit_statistics(
    manifest: Manifest,
    units: Sequence[Unit],
    sources: Mapping[str, Source],
    context_clips: int | None = None,
    deviations: bool = True,
) -> np.ndarray:
    """Mean and deviation of each dimension over all time steps of what a unit's speaker said.

    One clip is in memory at a time, however large the stores are.

    Args:
        sources: by input; their columns stand in this order, means before deviations.
        context_clips: how many clips before the labelled one count; None: all.
        deviations: False leaves them out.
    Returns:
        (units, 2 * sum of the inputs' dims) float32, or half as many columns; NaN where a unit's speaker has
        nothing of an input.
    Raises:
        UserError: a source holds nothing of any unit.
    """
    roles = dict(zip(manifest.clips["clip_id"], manifest.clips["role"], strict=True))
    spoken = [[clip for clip in seen_clips(unit, context_clips) if roles[clip] not in OTHERS] for unit in units]
    parts = [np.empty((len(units), 0), np.float32)]
    for name, source in sources.items():
        width = next((source[clip].shape[1] for clips in spoken for clip in clips if clip in source), 0)
        width = width or getattr(source, "width", 0)  # live features know it without a clip
        if not width:
            raise UserError(
                f"the {name} store holds none of the units' clips: run 'python extract/run.py --encoder {name}'"
            )
        rows = np.full((len(units), 2 * width if deviations else width), np.nan, np.float32)
        sums: dict[str, _Sums] = {}
        for row, clips in zip(rows, spoken, strict=True):
            # a conversation's later units see the clips of its earlier ones: those are not read twice
            sums = {clip: sums[clip] if clip in sums else _sums(source[clip]) for clip in clips if clip in source}
            if sums:
                mean, deviation = _mean_and_deviation(list(sums.values()))
                row[:width] = mean
                if deviations:
                    row[width:] = deviation
        parts.append(rows)
    return np.concatenate(parts, axis=1)


_Sums = tuple[int, np.ndarray, np.ndarray]  # of a clip: time steps, mean (dim,), squared distances from it (dim,)


def _sums(values: np.ndarray) -> _Sums:
    # (time, dim); torch widens fp16 thirty times faster than NumPy, and wants an array that it may write to
    steps = torch.from_numpy(np.array(values)).float().numpy()
    mean = steps.mean(0)
    steps = steps - mean
    return len(steps), mean, np.einsum("td,td->d", steps, steps)


def _mean_and_deviation(clips: Sequence[_Sums]) -> tuple[np.ndarray, np.ndarray]:
    """Of all time steps of some clips together (Chan, Golub and LeVeque 1983)."""
    counts = np.array([n for n, _, _ in clips], dtype=np.float64)
    shares = counts / counts.sum()  # (clips,)
    means = np.array([mean for _, mean, _ in clips])  # (clips, dim)
    mean = shares @ means
    between = shares @ (means - mean) ** 2
    within = sum(squares for _, _, squares in clips) / counts.sum()
    return mean, np.sqrt(between + within)


def statistics_features() -> "Pipeline":
    """Unfitted: missing inputs take the training units' mean (nothing, once standardised) and a flag."""
    from sklearn.impute import SimpleImputer  # seconds to import, and who predicts fits nothing
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    return Pipeline([("missing", SimpleImputer(add_indicator=True)), ("scale", StandardScaler())])
