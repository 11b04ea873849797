"""What an encoder says of clips, a vector each: its mean over time; and these in two dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from sklearn.decomposition import PCA
from tqdm import tqdm

from cache import Store
from configs import UserError
from extract.corpora.manifest import Manifest

FEWEST = 4  # points of which there is something to see
NEIGHBOURS, DISTANCE = 15, 0.1  # UMAP's own defaults
BEFORE_UMAP = 50  # principal components that it reads


@dataclass(frozen=True)
class Points:
    """``clips``: their rows of the manifest. ``n_known``: how many the store has, of which these may be a sample.

    ``values``: (clips, dim) float32; each dimension has mean 0 and deviation 1 over these clips, or is 0 throughout
    where it never changes."""

    clips: pl.DataFrame
    values: np.ndarray
    n_known: int


def read_points(manifest: Manifest, store: Store, every: bool, most: int, seed: int) -> Points:
    """The clips that are labelled, or every one, of those that the store has; of more than ``most`` a sample.

    Raises:
        UserError: there are too few.
        StoreError: values are not those that were written.
    """
    known = manifest.clips if every else manifest.clips.filter(pl.col("label").is_not_null())
    known = known.filter(pl.col("clip_id").is_in(store.clip_ids))
    if known.height < FEWEST:
        what = "of the manifest's clips" if every else "of the manifest's labelled clips"
        raise UserError(
            f"{store.path}: holds {known.height} {what}, too few for a map: run "
            f"'python extract/run.py --encoder {store.path.name}'{'' if every else ', or take --every clip'}"
        )
    chosen = known
    if known.height > most:
        chosen = known[np.sort(np.random.default_rng(seed).choice(known.height, most, replace=False))]
    values = np.empty((chosen.height, store.dim), dtype=np.float32)
    for row, clip_id in enumerate(tqdm(chosen["clip_id"], "features", unit="clip", disable=None, delay=2)):
        values[row] = store[clip_id].mean(axis=0, dtype=np.float32)
    values -= values.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = values.std(axis=0, dtype=np.float64).astype(np.float32)
    values /= np.where(deviation > 0, deviation, 1)
    return Points(chosen, values, known.height)


def centred(values: np.ndarray, owners: Sequence[str | None]) -> np.ndarray:
    """Less the mean over all clips of the same speaker; those of nobody known keep what they have."""
    result = values.copy()
    numbers = {owner: number for number, owner in enumerate(dict.fromkeys([None, *owners]))}  # nobody is 0
    codes = np.array([numbers[owner] for owner in owners])
    ends = np.cumsum(np.bincount(codes, minlength=len(numbers)))
    for own in np.split(np.argsort(codes, kind="stable"), ends[:-1])[1:]:
        result[own] -= values[own].mean(axis=0)
    return result


def principal(values: np.ndarray, seed: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """(points, 2) along the two directions in which points differ most, and which shares of all variance these hold."""
    n_points, dim = values.shape
    pca = PCA(min(2, dim), svd_solver="covariance_eigh" if n_points > dim else "full", random_state=seed)
    placed = pca.fit_transform(values)
    if dim == 1:
        placed = np.hstack([placed, np.zeros_like(placed)])
    return placed, tuple(float(share) for share in pca.explained_variance_ratio_)


def neighbourly(values: np.ndarray, seed: int) -> np.ndarray:
    """(points, 2) by UMAP: near each other where they are; axes and far distances mean nothing.

    Raises:
        UserError: umap-learn is not installed.
    """
    try:
        from umap import UMAP
    except ImportError as error:
        raise UserError("--method umap: needs the package umap-learn: pip install -e '.[map]'") from error
    n_components = min(BEFORE_UMAP, *values.shape)
    reduced = PCA(n_components, svd_solver="randomized", random_state=seed).fit_transform(values)
    neighbours = min(NEIGHBOURS, len(values) - 1)
    init = "spectral" if len(values) > 2 * NEIGHBOURS else "random"  # of a few points there are too few eigenvectors
    model = UMAP(n_neighbors=neighbours, min_dist=DISTANCE, init=init, random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(reduced))
