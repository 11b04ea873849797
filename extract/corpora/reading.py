"""A profile's dataset, by whatever reader it names."""

from collections.abc import Callable
from typing import Any

import polars as pl

from configs import UserError, some
from configs.outside import read_outside
from configs.sections.datasets import AvamergDataset, CorporaDataset, Dataset, DatasetFiles, PublicDataset, TableDataset
from configs.tables import filled, shortened
from extract.corpora.avamerg import read_avamerg
from extract.corpora.manifest import Manifest, make_manifest, straddling
from extract.corpora.readers.arrow import read_hugging_face
from extract.corpora.readers.audformat_databases import read_audformat
from extract.corpora.readers.emobox import read_emobox
from extract.corpora.readers.iemocap import read_iemocap
from extract.corpora.readers.meld import read_meld
from extract.corpora.readers.named import read_files, read_folder
from extract.corpora.readers.tars import read_webdataset
from extract.corpora.rows import Rows, finish
from extract.corpora.several import joined
from extract.corpora.table import read_table

READERS: dict[str, Callable[[Any], Rows]] = {
    "folder": read_folder,
    "files": read_files,
    "meld": read_meld,
    "iemocap": read_iemocap,
    "emobox": read_emobox,
    "audformat": read_audformat,
    "huggingface": read_hugging_face,
    "webdataset": read_webdataset,
}
# Counts that are taken again of the clips that are left.
COUNTED_ANEW = (
    *("clips", "conversations", "units", "clips_with", "conversations_without_unit"),
    *("missing_files", "missing_files_first", "speakers_in_several_splits", "speakers_in_several_groups"),
    *("groups_across_splits", "groups_across_folds"),
)


def read_dataset(dataset: Dataset, seed: int) -> Manifest:
    """The manifest of a dataset; ``seed`` is for splits that are drawn.

    Raises:
        UserError: it is not there, or not what its reader expects; see each of them.
        MissingMedia: media files are missing, and that is not allowed.
    """
    manifest = _read(dataset, seed)
    return manifest if dataset.exclude is None else _without(manifest, dataset)


def _read(dataset: Dataset, seed: int) -> Manifest:
    if isinstance(dataset, CorporaDataset):
        manifests = {name: read_dataset(each, seed) for name, each in dataset.corpora.items()}
        return joined(manifests, dataset)
    if isinstance(dataset, AvamergDataset):
        return read_avamerg(dataset)
    if isinstance(dataset, TableDataset):
        return read_table(dataset, seed)
    assert isinstance(dataset, PublicDataset)
    return finish(READERS[dataset.adapter](dataset), dataset, seed)


def _without(manifest: Manifest, dataset: DatasetFiles) -> Manifest:
    """Without the clips that ``dataset.exclude`` names; splits and folds stay as they were drawn with them."""
    path = (dataset.root if dataset.root.is_dir() else dataset.root.parent) / (dataset.exclude or "")
    try:
        lines = read_outside(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: dataset.exclude: not UTF-8 text: write ids of clips, one a line") from error
    ids = {clip_id for line in lines if (clip_id := filled(line))}
    left = manifest.clips.filter(~pl.col("clip_id").is_in(list(ids)))
    if unknown := sorted(ids - set(manifest.clips["clip_id"])):
        raise UserError(f"{path}: dataset.exclude: the dataset has no clip {some(map(shortened, unknown))}")
    counts = {name: value for name, value in manifest.counts.items() if name not in COUNTED_ANEW}
    for part in ("split", "fold"):
        if groups := straddling(left, part):
            counts[f"groups_across_{part}s"] = len(groups)
    if given := counts.get("folds_given"):
        units = left.filter((pl.col("split") == "train") & pl.col("label").is_not_null())["fold"]
        counts["folds_given"] = {name: int((units == number).sum()) for number, name in enumerate(given)}
    counts["excluded"] = len(ids)
    return make_manifest(left, manifest.root, manifest.classes, counts, str(path), manifest.missing)
