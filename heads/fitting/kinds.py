"""The kinds of heads: what each reads of units, how a fold of it is fitted, and how it is loaded again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from configs.schema import Head
from extract.corpora.manifest import Manifest, Unit
from heads.data.batches import Source, UnitData
from heads.data.folds import FoldModel, FoldTask, Record
from heads.models import network
from heads.models.bag_of_words import unit_texts
from heads.models.pooled import unit_rows, unit_statistics


@dataclass(frozen=True)
class Kind:
    read: Callable[[Head, Manifest, Sequence[Unit], Mapping[str, Source]], Any]
    fit: Callable[[FoldTask], tuple[FoldModel, list[Record]]]
    load: Callable[[Path, dict[str, Any]], FoldModel]


def _late(module: str, function: str) -> Callable[..., Any]:
    """A function of this room whose module is imported when it is called: scikit-learn, skops and XGBoost take seconds
    that a prediction by networks alone need not wait for."""
    return lambda *arguments: getattr(import_module(f"heads.{module}"), function)(*arguments)


def _tensors(head: Head, manifest: Manifest, units: Sequence[Unit], sources: Mapping[str, Source]) -> UnitData:
    return UnitData(
        manifest,
        units,
        sources,
        head.metadata,
        head.privileged,
        context_clips=head.context_clips,
        statistics=network.n_segments(head) if head.time == "statistics" else None,
        auxiliary=head.auxiliary,
    )


_NETWORK = Kind(_tensors, _late("fitting.training", "fit_fold"), network.load_fold)

KINDS = {
    "sequence": _NETWORK,
    "transformer": _NETWORK,
    "cross_modal": _NETWORK,
    "linear": Kind(
        lambda head, manifest, units, sources: unit_statistics(manifest, units, sources),
        _late("models.linear", "fit_fold"),
        _late("models.linear", "load_fold"),
    ),
    "xgboost": Kind(
        lambda head, manifest, units, sources: unit_rows(manifest, units, sources, head.metadata, head.privileged),
        _late("models.boosted", "fit_fold"),
        _late("models.boosted", "load_fold"),
    ),
    "bag_of_words": Kind(
        lambda head, manifest, units, sources: unit_texts(manifest, units),
        _late("models.linear", "fit_fold"),
        _late("models.linear", "load_fold"),
    ),
}
# Settings that change training but not what is read: trials that differ in nothing else share what was read.
NOT_READ = {"loss", "lr", "hidden", "lstm_layers", "attention_heads", "dropout", "modality_dropout", "time_masking"}
NOT_READ |= {"noise", "mixup", "label_smoothing", "logit_adjustment", "sampling", "weight_decay", "warmup", "schedule"}
NOT_READ |= {"epochs", "patience", "batch_size", "accumulate", "largest_gradient", "ema", "seeds", "c", "letters"}
NOT_READ |= {"trees", "depth", "eta", "auxiliary_share", "layers"}


def what_is_read(head: Head) -> str:
    """Of two heads for which this is the same, ``read`` gives the same."""
    return head.model_dump_json(exclude=NOT_READ)
