"""The kinds of heads: what each reads of units, how a fold of it is fitted, and how it is loaded again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from configs.schema import Head
from extract.corpora.manifest import Manifest, Unit
from heads.data.batches import Source, UnitData
from heads.data.folds import FoldModel, FoldTask, Record
from heads.data.standardised import standardised
from heads.models import network
from heads.models.bag_of_words import unit_texts
from heads.models.pooled import UnitRows, unit_rows

FEW_UNITS = 2000  # of a fold, up to which its steps are so small that threads wait for each other longer than they work
Read = Callable[[Head, Manifest, Sequence[Unit], Mapping[str, Source]], Any]


@dataclass(frozen=True)
class Kind:
    read_as_given: Read  # of sources that are centred, where the head wants them so
    fit_with: Callable[[FoldTask], tuple[FoldModel, list[Record]]]  # whatever threads there are
    load: Callable[[Path, dict[str, Any]], FoldModel]

    def read(self, head: Head, manifest: Manifest, units: Sequence[Unit], sources: Mapping[str, Source]) -> Any:
        return self.read_as_given(head, manifest, units, standardised(head, manifest, sources))

    def fit(self, task: FoldTask) -> tuple[FoldModel, list[Record]]:
        with _threads_for(task):
            return self.fit_with(task)


@contextmanager
def _threads_for(task: FoldTask) -> Iterator[None]:
    """One thread for a small fold: beside other busy processes, two take ten times as long. The fold alone decides, so
    that whoever fits it gives the same numbers."""
    threads = torch.get_num_threads()
    if len(task.train) < FEW_UNITS and not task.head.fine_tune:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _late(module: str, function: str) -> Callable[..., Any]:
    """A function whose module is imported when it is called: scikit-learn, skops and XGBoost take seconds that a
    prediction by networks alone need not wait for."""
    return lambda *arguments: getattr(import_module(module), function)(*arguments)


def _rows(head: Head, manifest: Manifest, units: Sequence[Unit], sources: Mapping[str, Source]) -> UnitRows:
    return unit_rows(manifest, units, sources, head.metadata, head.privileged, head.context_clips)


def _tensors(head: Head, manifest: Manifest, units: Sequence[Unit], sources: Mapping[str, Source]) -> UnitData:
    data = UnitData(
        manifest,
        units,
        sources,
        head.metadata,
        head.privileged,
        context_clips=head.context_clips,
        statistics=network.n_segments(head) if head.pooling == "statistics" else None,
        auxiliary=head.auxiliary,
    )
    data.rows = _rows(head, manifest, units, sources) if head.starts_linear else None
    return data


_NETWORK = Kind(_tensors, _late("heads.fitting.training", "fit_fold"), network.load_fold)

KINDS = {
    "sequence": _NETWORK,
    "transformer": _NETWORK,
    "cross_modal": _NETWORK,
    "linear": Kind(_rows, _late("heads.models.linear", "fit_fold"), _late("heads.models.linear", "load_fold")),
    "xgboost": Kind(_rows, _late("heads.models.boosted", "fit_fold"), _late("heads.models.boosted", "load_fold")),
    "bag_of_words": Kind(
        lambda head, manifest, units, sources: unit_texts(manifest, units, head.context_clips),
        _late("heads.models.bag_of_words", "fit_fold"),
        _late("heads.models.bag_of_words", "load_fold"),
    ),
}
# Settings that change training but not what is read: trials that differ in nothing else share what was read.
NOT_READ = {"loss", "lr", "hidden", "lstm_layers", "attention_heads", "dropout", "modality_dropout", "time_masking"}
NOT_READ |= {"noise", "mixup", "label_smoothing", "logit_adjustment", "sampling", "weight_decay", "warmup", "schedule"}
NOT_READ |= {"epochs", "patience", "batch_size", "accumulate", "largest_gradient", "ema", "seeds", "c", "letters"}
NOT_READ |= {"trees", "depth", "eta", "auxiliary_share", "deviations", "layer", "layers"}


def what_is_read(head: Head) -> str:
    """Of two heads for which this is the same, ``read`` gives the same."""
    return f"{head.pooling} {head.model_dump_json(exclude=NOT_READ)}"
