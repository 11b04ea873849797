"""A trained head: its folds' models and what is needed to use them again, in memory and on disk.

On disk it is a folder: ``head.json`` and ``fold0.safetensors`` ... (or ``fold0.skops`` ... for a linear head).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, assert_never
from zipfile import BadZipFile

import numpy as np
import skops.io
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.pipeline import Pipeline

from cache import differing_fields
from configs import UserError
from configs.schema import Head
from extract.manifest import Manifest, Unit
from heads import linear, training
from heads.bag_of_words import unit_texts
from heads.batches import Source, UnitData
from heads.model import HeadSizes, SequenceHead
from heads.pooled import unit_statistics
from heads.training import FoldModel

FORMAT = 1  # of the folder; a change of its layout or of a model's arithmetic makes it another


@dataclass(frozen=True)
class TrainedHead:
    """One model per fold and the settings they share."""

    name: str
    settings: Head
    classes: tuple[str, ...]
    seed: int
    stores: dict[str, dict[str, Any]]  # modality: fingerprint and, where known, the fields it was made of
    models: list[FoldModel] | list[Pipeline]

    def read(self, manifest: Manifest, units: Sequence[Unit], sources: Mapping[str, Source]) -> UnitData | np.ndarray:
        """What this head reads of some units; ``sources`` are stores, or live arrays by clip id.

        Raises:
            UserError: a source is missing, is not what the head was trained on, or a metadata field is missing.
        """
        return read_units(self.settings, manifest, units, self._checked(sources))

    def log_probabilities(self, fold: int, data: UnitData | np.ndarray, indices: np.ndarray) -> np.ndarray:
        """One fold's model on some of the units that :meth:`read` returned: (units, classes) float64."""
        model = self.models[fold]
        if isinstance(model, Pipeline):
            assert isinstance(data, np.ndarray)
            return linear.log_probabilities(model, data[indices], len(self.classes))
        assert isinstance(data, UnitData)
        return training.log_probabilities(model, data, indices)

    def _checked(self, sources: Mapping[str, Source]) -> dict[str, Source]:
        """The head's own sources, in its order; those of another encoder are refused."""
        for modality, trained in self.stores.items():
            if modality not in sources:
                raise UserError(f"head {self.name!r} reads the {modality} store, which was not given")
            given = getattr(sources[modality], "fingerprint", None)  # live arrays have none
            if given is not None and given != trained["fingerprint"]:
                changed = differing_fields(getattr(sources[modality], "fields", {}), trained["fields"])
                raise UserError(
                    f"the {modality} store is not the one that head {self.name!r} was trained on: fingerprint "
                    f"{given}, trained on {trained['fingerprint']}"
                    + (f" (they differ in {', '.join(changed)})" if changed else "")
                    + ": train the head again, or extract with the old settings"
                )
        return {modality: sources[modality] for modality in self.stores}


def read_units(
    settings: Head, manifest: Manifest, units: Sequence[Unit], sources: Mapping[str, Source]
) -> UnitData | np.ndarray:
    """What a head with these settings reads of some units: tensors, or a row per unit for a linear head."""
    match settings.kind:
        case "bag_of_words":
            return unit_texts(manifest, units)
        case "linear":
            return unit_statistics(manifest, units, sources)
        case "sequence":
            return UnitData(manifest, units, sources, settings.metadata, settings.privileged)
        case _:
            assert_never(settings.kind)


def predict(head: TrainedHead, manifest: Manifest, units: Sequence[Unit], sources: Mapping[str, Source]) -> np.ndarray:
    """Log-probabilities of any units: (units, classes) float64, the average of the folds' models, re-normalised.

    Args:
        head: trained just now, or from :func:`load_head`.
        manifest: holds the units' clips; classes and labels need not be those of training.
        sources: for each input of the head a :class:`cache.Store`, or a dict of arrays (time, dim) by clip id; a clip
            that is not in it is missing.
    Raises:
        UserError: a source is missing or has another fingerprint, or the manifest lacks a metadata field.
    """
    data = head.read(manifest, units, sources)
    everything = np.arange(len(units))
    return training.average([head.log_probabilities(fold, data, everything) for fold in range(len(head.models))])


def save_head(head: TrainedHead, folder: Path) -> None:
    """Write a trained head into a new folder; nothing in it is pickled."""
    folder.mkdir(parents=True)
    folds: list[dict[str, Any]] = []
    for fold, model in enumerate(head.models):
        if isinstance(model, Pipeline):
            folds.append({"file": f"fold{fold}.skops"})
            skops.io.dump(model, folder / folds[-1]["file"])
        else:
            network = model.network
            folds.append(
                {"file": f"fold{fold}.safetensors", "sizes": asdict(network.sizes), "vocabularies": model.vocabularies}
            )
            save_file(network.state_dict(), folder / folds[-1]["file"])
    about = {
        "format": FORMAT,
        "name": head.name,
        "settings": head.settings.model_dump(mode="json"),
        "classes": head.classes,
        "seed": head.seed,
        "stores": head.stores,
        "folds": folds,
    }
    (folder / "head.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_head(folder: Path | str) -> TrainedHead:
    """Load what :func:`save_head` wrote.

    Raises:
        UserError: the folder holds no head, or a file of it is missing, damaged or of another format.
    """
    about_path = Path(folder) / "head.json"
    if not about_path.is_file():
        raise UserError(f"{about_path}: not found: train the head with heads/train.py")
    try:
        about = json.loads(about_path.read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise UserError(f"{about_path}: format {about['format']}, this version reads {FORMAT}: train it again")
        models: list[Any] = [_load_fold(Path(folder), fold) for fold in about["folds"]]
        settings, classes = Head.model_validate(about["settings"]), tuple(about["classes"])
        return TrainedHead(about["name"], settings, classes, about["seed"], about["stores"], models)
    except (ValueError, KeyError, TypeError, OSError, RuntimeError, SafetensorError, BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: not a head that can be read ({reason}): train it again") from error


def _load_fold(folder: Path, fold: dict[str, Any]) -> FoldModel | Pipeline:
    path = folder / fold["file"]
    if not path.is_file():
        raise UserError(f"{path}: not found: train the head again")
    if path.suffix == ".skops":
        # scikit-learn's own types, and the one of NumPy that an imputer keeps; nothing else
        return skops.io.load(path, trusted=["numpy.dtype"])
    network = SequenceHead(HeadSizes(**fold["sizes"])).to(training.default_device())
    network.load_state_dict(load_file(path))
    network.eval()
    return FoldModel(network, fold["vocabularies"])
