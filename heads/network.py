"""A network with what feeds it: made for a fold, used for prediction, saved and loaded."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from heads.batches import ROLES, UnitData
from heads.folds import FoldTask
from heads.model import HeadSizes, ModalityEncoder, SequenceHead

PREDICTION_BATCH = 64  # units


@dataclass(frozen=True)
class NetworkModel:
    """A trained network and the vocabularies (training categories of each field, sorted) that feed it."""

    network: SequenceHead
    vocabularies: dict[str, list[str]]

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def log_probabilities(self, data: UnitData, indices: np.ndarray) -> np.ndarray:
        """Log-probabilities of some units, (units, classes) float64, without dropout."""
        self.network.eval()
        ids = data.metadata_ids(self.vocabularies)
        order = np.argsort(data.costs()[indices], kind="stable")  # like lengths together: little padding
        result = np.empty((len(indices), self.network.sizes.classes))
        for start in range(0, len(order), PREDICTION_BATCH):
            positions = order[start : start + PREDICTION_BATCH]
            logits: Tensor = self.network(data.batch(indices[positions], ids).to(self.device))
            result[positions] = logits.double().log_softmax(dim=1).cpu().numpy()
        return result

    def save(self, folder: Path, stem: str) -> dict[str, Any]:
        save_file(self.network.state_dict(), folder / f"{stem}.safetensors")
        return {
            "file": f"{stem}.safetensors",
            "sizes": asdict(self.network.sizes),
            "vocabularies": self.vocabularies,
        }


def load_fold(folder: Path, about: dict[str, Any]) -> NetworkModel:
    """What :meth:`NetworkModel.save` wrote, on the GPU where there is one."""
    network = SequenceHead(HeadSizes(**about["sizes"])).to(default_device())
    network.load_state_dict(load_file(folder / about["file"]))
    network.eval()
    return NetworkModel(network, about["vocabularies"])


def new_model(task: FoldTask) -> NetworkModel:
    """An untrained network for a fold, on the GPU where there is one; scalers and vocabularies come from ``fit``."""
    head, data = task.head, task.data
    vocabularies = fit_vocabularies(data, task.fit)
    sizes = HeadSizes(
        classes=task.n_classes,
        dims={name: features.dim for name, features in data.features.items() if features.dim},
        roles=1 + len(ROLES),
        vocabularies={field: 1 + len(words) for field, words in vocabularies.items()},
        hidden=head.hidden,
        attention_heads=head.attention_heads,
        dropout=head.dropout,
    )
    network = SequenceHead(sizes).to(default_device())
    fit_scalers(network, data, task.fit)
    return NetworkModel(network, vocabularies)


def default_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit_vocabularies(data: UnitData, indices: np.ndarray) -> dict[str, list[str]]:
    """The categories of each metadata field among some units, sorted."""
    return {
        field: sorted({value for value in (values[i] for i in indices) if value is not None})
        for field, values in data.metadata.items()
    }


def fit_scalers(network: SequenceHead, data: UnitData, indices: np.ndarray) -> None:
    """Set the network's feature scalers to the mean and deviation over all clips of some units."""
    if not network.sizes.dims:
        return
    clips = data.clips_of(indices)
    for name, encoder in network.conversation.modalities.items():
        assert isinstance(encoder, ModalityEncoder)
        mean, deviation = data.features[name].moments(clips)
        encoder.mean.copy_(torch.from_numpy(mean))
        encoder.scale.copy_(torch.from_numpy(deviation))
