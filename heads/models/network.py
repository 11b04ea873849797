"""A network with what feeds it: made for a fold, used for prediction, saved and loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from scipy.special import log_softmax
from torch import Tensor, nn

from configs import UserError
from configs.schema import Head
from extract.media.decoding import default_device
from heads.data.batches import LISTENER, ROLES, SPEAKER, UnitData, categories
from heads.data.finer import finer_labels
from heads.data.folds import FoldTask
from heads.data.layers import Layer, lacks_layer
from heads.models.cross_modal import CrossModalHead
from heads.models.parts import ClipEncoder, HeadSizes
from heads.models.sequence import SequenceHead

if TYPE_CHECKING:
    from heads.models.linear import LinearModel

__all__ = ["HeadSizes", "Network", "NetworkModel", "build", "clip_encoders", "load_fold", "new_model", "rate_at"]

PREDICTION_UNITS = 64  # the most in a batch
PREDICTION_VALUES = 2**26  # the most numbers of features in a batch of more than one unit, padding counted
Network = SequenceHead | CrossModalHead


@dataclass(frozen=True)
class NetworkModel:
    """A trained network, the vocabularies (training categories of each field, sorted) that feed it, and what its logits
    are added to."""

    network: Network
    vocabularies: dict[str, list[str]]
    base: "LinearModel | None" = None
    share: float = 1.0  # of the network's logits that is added

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def log_probabilities(self, data: UnitData, indices: np.ndarray) -> np.ndarray:
        """Log-probabilities of some units, (units, classes) float64, without dropout."""
        if self.base is None:
            return log_softmax(self.logits(data, indices), axis=1)
        base = self.base.log_probabilities(data.rows, indices)
        return log_softmax(base + self.share * self.logits(data, indices), axis=1) if self.share else base

    @property
    def layers(self) -> dict[str, dict[int, float]]:
        """Input: what each of its layers counts in the mix; of the linear base, where this answers alone."""
        if self.base is not None and not self.share:
            return self.base.layers
        mixes = {name: encoder.mix for name, encoder in clip_encoders(self.network).items()}
        return {name: mix.weights for name, mix in mixes.items() if mix is not None}

    @torch.inference_mode()
    def logits(self, data: UnitData, indices: np.ndarray) -> np.ndarray:
        """What the network alone says, (units, classes) float64."""
        self.network.eval()
        ids = data.metadata_ids(self.vocabularies)
        parts = _prediction_parts(data, indices)
        result = np.empty((len(indices), self.network.sizes.classes))
        found: list[Tensor] = []  # fetched at the end: a GPU that is waited for at each batch stands still between them
        for batch in data.batches([indices[part] for part in parts], ids):
            logits: Tensor = self.network(batch.to(self.device))
            found.append(logits.double())
        for positions, values in zip(parts, found, strict=True):
            result[positions] = values.cpu().numpy()
        return result

    def save(self, folder: Path, stem: str) -> dict[str, Any]:
        # safetensors' own writer says of a full disk that it panicked
        (folder / f"{stem}.safetensors").write_bytes(serialised(self.network.state_dict()))
        about = {
            "file": f"{stem}.safetensors",
            "sizes": asdict(self.network.sizes),
            "vocabularies": self.vocabularies,
        }
        if self.base is None:
            return about
        return about | {"base": self.base.save(folder, f"{stem}.base"), "share": self.share}


def _prediction_parts(data: UnitData, indices: np.ndarray) -> list[np.ndarray]:
    """Positions in ``indices`` cut into batches: like lengths together, so that there is little padding."""
    costs = data.costs()[indices]
    order = np.argsort(costs, kind="stable")
    parts: list[np.ndarray] = []
    start = n_clips = 0
    for stop, position in enumerate(order):  # costs rise: the last unit's longest clip is as long as any
        n_clips += data.n_clips[indices[position]]
        full = n_clips * (costs[position] // 1000) > PREDICTION_VALUES or stop - start == PREDICTION_UNITS
        if full and stop > start:
            parts.append(order[start:stop])
            start, n_clips = stop, data.n_clips[indices[position]]
    return [*parts, order[start:]] if len(order) else parts


def build(sizes: HeadSizes, tails: Mapping[str, nn.Module] | None = None) -> Network:
    """A network, on the CPU, with random weights.

    Args:
        tails: the pretrained tails of ``sizes.tails``; default: tails of the same shapes, whose weights hold anything
            until ``load_state_dict``.
    """
    if tails is None:
        tails = {}
        if sizes.tails:
            from extract.encoders.tail import build_tail  # transformers takes seconds to import

            tails = {name: build_tail(about) for name, about in sizes.tails.items()}
    return CrossModalHead(sizes, tails) if sizes.kind == "cross_modal" else SequenceHead(sizes, tails)


def load_fold(folder: Path, about: dict[str, Any]) -> NetworkModel:
    """What :meth:`NetworkModel.save` wrote, on the GPU where there is one."""
    network = build(HeadSizes(**about["sizes"]))
    network.load_state_dict(load_file(folder / about["file"]))
    network.to(torch.device(default_device())).eval()
    if "base" not in about:
        return NetworkModel(network, about["vocabularies"])
    from heads.models.linear import load_fold as load_base  # scikit-learn takes seconds to import

    return NetworkModel(network, about["vocabularies"], load_base(folder, about["base"]), about["share"])


def new_model(task: FoldTask) -> NetworkModel:
    """An untrained network for a fold, on the GPU where there is one; scalers and vocabularies come from ``fit``.

    Raises:
        UserError: a tail that does not fit its store; speaker identity without known speakers.
    """
    head, data = task.head, task.data
    tails: dict[str, nn.Module] = {}
    if head.fine_tune:
        from extract.encoders.tail import load_tail  # transformers takes seconds to import

        for name, settings in head.fine_tune.items():
            tails[name] = load_tail(task.encoders[name], settings, task.stored[name])
    identity = knows_speakers(data, task.fit) if head.speaker_identity is None else head.speaker_identity
    vocabularies = fit_vocabularies(data, task.fit, [*data.fields, *([SPEAKER, LISTENER] if identity else [])])
    if identity and not vocabularies[SPEAKER]:
        raise UserError("speaker_identity: true, but the manifest names no speaker of a training unit: set it to false")
    finer = finer_labels(task)
    sizes = HeadSizes(
        kind=head.kind,
        classes=task.n_classes,
        dims={name: features.dim for name, features in data.features.items() if features.dim},
        roles=1 + len(ROLES),
        vocabularies={field: 1 + len(words) for field, words in vocabularies.items()},
        hidden=head.hidden,
        attention_heads=head.attention_heads,
        dropout=head.dropout,
        lstm_layers=head.lstm_layers,
        layers=head.layers,
        time=head.pooling,
        segments=n_segments(head),
        speaker_identity=identity,
        finer=finer.classes if finer else [],
        tails={name: tail.about for name, tail in tails.items()},  # type: ignore[misc]
        mixes={
            name: _mix(name, features.layers, head.layer) for name, features in data.features.items() if features.layers
        },
    )
    network = build(sizes, tails).to(torch.device(default_device()))
    fit_scalers(network, data, task.fit)
    if task.start:  # with the scalers that its weights were trained behind
        left = network.load_state_dict(dict(task.start), strict=False).unexpected_keys
        assert not left, f"weights of another network: {left[0]}"
    return NetworkModel(network, vocabularies)


def _mix(name: str, layers: Sequence[Layer], wanted: int | str | None) -> dict[str, Any]:
    """What :class:`LayerMix` takes for an input of several layers: all of them, or the one that the head names."""
    chosen = [layer for layer in layers if not isinstance(wanted, int) or layer.number == wanted]
    if not chosen:
        raise UserError(lacks_layer(name, layers, wanted))
    widths = {layer.span[1] - layer.span[0] for layer in chosen}
    if len(widths) > 1:
        raise UserError(
            f"{name}: its layers have different widths and cannot be mixed: set the head's layer to a number"
        )
    numbers, starts = [layer.number for layer in chosen], [layer.span[0] for layer in chosen]
    return {"numbers": numbers, "starts": starts, "width": widths.pop()}


def n_segments(head: Head) -> int:
    """The most vectors that an input of a clip becomes."""
    return head.segments if head.kind == "cross_modal" else 1


def clip_encoders(network: nn.Module) -> dict[str, ClipEncoder]:
    """What encodes each input; its ``tail`` is None where none is trained."""
    return {module.modality: module for module in network.modules() if isinstance(module, ClipEncoder)}


def knows_speakers(data: UnitData, fit: np.ndarray) -> bool:
    """Whether, in every split, units outside ``fit`` have speakers that occur in it: only then does it help."""
    inside = {data.metadata[SPEAKER][i] for i in fit} - {None}
    known: dict[str, bool] = {}
    for i in np.setdiff1d(np.arange(len(data.units)), fit):
        split = data.units[i].split
        known[split] = known.get(split, False) or data.metadata[SPEAKER][i] in inside
    return bool(known) and all(known.values())


def fit_vocabularies(data: UnitData, indices: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, list[str]]:
    """The categories of each metadata field among some units, sorted."""
    columns = {field: data.metadata.get(field, []) for field in (data.fields if fields is None else fields)}
    return {
        field: categories(values, indices) if values else []  # none in a manifest that knows no listeners
        for field, values in columns.items()
    }


def fit_scalers(network: nn.Module, data: UnitData, indices: np.ndarray) -> None:
    """Set the network's feature scalers to the mean and deviation over all clips of some units."""
    clips = data.clips_of(indices)
    for name, encoder in clip_encoders(network).items():
        if encoder.tail is None:
            mean, deviation = data.features[name].moments(clips)
            encoder.mean.copy_(torch.from_numpy(mean))
            encoder.scale.copy_(torch.from_numpy(deviation))


def rate_at(step: int, n_steps: int, warmup: float, schedule: Literal["cosine", "linear", "constant"]) -> float:
    """The learning rate at a step, as a share of its peak.

    It rises linearly in the first ``warmup`` of all steps; then it falls to 0 as half a cosine or as a line, or stays.
    """
    rising = round(warmup * n_steps)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, n_steps - rising)
    return {"cosine": 0.5 * (1 + cos(pi * done)), "linear": 1 - done, "constant": 1.0}[schedule]
