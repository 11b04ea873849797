"""A trained head: its folds' models and what is needed to use them again, in memory and on disk.

On disk it is a folder: ``head.json``, and the files of each model, ``fold0...``, ``fold1...``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from safetensors import SafetensorError
from scipy.special import log_softmax

from cache import differing_fields, verify_published
from configs import UserError, one_line
from configs.schema import Head
from extract.corpora.manifest import Manifest, Unit
from heads.data.batches import Source
from heads.data.folds import FoldModel
from heads.fitting.kinds import KINDS

FORMAT = 3  # of the folder; a change of its layout or of a model's arithmetic makes it another


@dataclass(frozen=True)
class TrainedHead:
    """One model per fold and the settings they share."""

    name: str
    settings: Head
    classes: tuple[str, ...]
    seed: int
    stores: dict[str, dict[str, Any]]  # encoder: fingerprint and, where known, the fields it was made of
    models: list[list[FoldModel]]  # of each fold, one for each seed

    def read(self, manifest: Manifest, units: Sequence[Unit], sources: Mapping[str, Source]) -> Any:
        """What this head reads of some units; ``sources`` are stores, or live arrays by clip id.

        Raises:
            UserError: a source is missing, is not what the head was trained on, or a metadata field is missing.
        """
        return KINDS[self.settings.kind].read(self.settings, manifest, units, self._checked(sources))

    def log_probabilities(self, fold: int, data: Any, indices: np.ndarray) -> np.ndarray:
        """One fold's models on some of the units that :meth:`read` returned: (units, classes) float64."""
        return average([model.log_probabilities(data, indices) for model in self.models[fold]])

    def _checked(self, sources: Mapping[str, Source]) -> dict[str, Source]:
        """The head's own sources, in its order; those of another encoder are refused."""
        for name, trained in self.stores.items():
            if name not in sources:
                raise UserError(f"head {self.name!r} reads the {name} store, which was not given")
            given = getattr(sources[name], "fingerprint", None)  # live arrays have none
            if given is not None and given != trained["fingerprint"]:
                changed = differing_fields(getattr(sources[name], "fields", {}), trained["fields"])
                raise UserError(
                    f"the {name} store is not the one that head {self.name!r} was trained on: fingerprint "
                    f"{given}, trained on {trained['fingerprint']}"
                    + (f" (they differ in {', '.join(changed)})" if changed else "")
                    + ": train the head again, or extract with the old settings"
                )
        return {name: sources[name] for name in self.stores}


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
    return average([head.log_probabilities(fold, data, everything) for fold in range(len(head.models))])


def average(log_p: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of several models' log-probabilities, each (units, classes), re-normalised."""
    return log_softmax(np.mean(np.stack(log_p), axis=0), axis=1)


def model_stem(fold: int, seed: int) -> str:
    """What the names of a model's files begin with."""
    return f"fold{fold}" + (f"seed{seed}" if seed else "")


def save_head(head: TrainedHead, folder: Path) -> None:
    """Write a trained head into a new folder, a part of one that is published; nothing in it is pickled."""
    folder.mkdir(parents=True)
    folds = [
        [model.save(folder, model_stem(fold, seed)) for seed, model in enumerate(models)]
        for fold, models in enumerate(head.models)
    ]
    about = {
        "format": FORMAT,
        "name": head.name,
        "settings": head.settings.model_dump(mode="json", include=head.settings.used),
        "classes": head.classes,
        "seed": head.seed,
        "stores": head.stores,
        "folds": folds,
    }
    (folder / "head.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_head(folder: Path) -> TrainedHead:
    """Load what :func:`save_head` wrote, and its folder's sums vouch for.

    Raises:
        UserError: the folder holds no head, or one of another format, or it is not what was written.
    """
    about_path = folder / "head.json"
    name = folder.parent.name if folder.name == "model" else folder.name  # in a bundle, a head has its folder's name
    if not about_path.is_file():
        raise UserError(f"{about_path}: not found: run python heads/train.py --head {name}")
    again = f"train it again with python heads/train.py --head {name}"
    verify_published(folder, again)
    try:
        about = json.loads(about_path.read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise UserError(f"{about_path}: format {about['format']}, this version reads {FORMAT}: train it again")
        settings, classes = Head.model_validate(about["settings"]), tuple(about["classes"])
        load = KINDS[settings.kind].load
        models = [[load(folder, model) for model in fold] for fold in about["folds"]]
        return TrainedHead(about["name"], settings, classes, about["seed"], about["stores"], models)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename or error}: not found: train it again with python heads/train.py --head {name}"
        ) from error
    except (ValueError, KeyError, TypeError, OSError, RuntimeError, SafetensorError, BadZipFile) as error:
        reason = one_line(error)
        raise UserError(f"{folder}: not a head that can be read ({reason}): train it again") from error
