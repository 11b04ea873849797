"""A profile's dataset, by whatever reader it names."""

from collections.abc import Callable
from typing import Any

from configs.sections.datasets import AvamergDataset, CorporaDataset, Dataset, PublicDataset, TableDataset
from extract.corpora.avamerg import read_avamerg
from extract.corpora.manifest import Manifest
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


def read_dataset(dataset: Dataset, seed: int) -> Manifest:
    """The manifest of a dataset; ``seed`` is for splits that are drawn.

    Raises:
        UserError: it is not there, or not what its reader expects; see each of them.
        MissingMedia: media files are missing, and that is not allowed.
    """
    if isinstance(dataset, CorporaDataset):
        manifests = {name: read_dataset(each, seed) for name, each in dataset.corpora.items()}
        return joined(manifests, dataset)
    if isinstance(dataset, AvamergDataset):
        return read_avamerg(dataset)
    if isinstance(dataset, TableDataset):
        return read_table(dataset, seed)
    assert isinstance(dataset, PublicDataset)
    return finish(READERS[dataset.adapter](dataset), dataset, seed)
