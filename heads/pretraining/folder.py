"""What a pre-training leaves, and whether a head may start from it: ``runs/PROFILE/pretrained/HEAD``.

``pretrained.json`` is the header; each fold has its weights, ``fold0.safetensors`` and on; a transductive pre-training
has one file for all. HEAD is the one that was pre-trained, whoever starts from it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.torch import load as deserialised
from safetensors.torch import save as serialised
from torch import Tensor

from cache import Store, publish_folder, read_published, verify_whole
from configs import UserError
from configs.schema import Head, Pretraining, Profile, shape_of
from extract.corpora.manifest import Manifest, Unit

FORMAT = 1
HEADER = "pretrained.json"
Start = Mapping[str, Tensor]  # weights of a network, by name


def write_pretrained(
    profile: Profile, name: str, about: dict[str, Any], weights: Sequence[Start], history: list[Any]
) -> Path:
    """Publish a pre-training, whole or not at all; its folder. Raises StoreError.

    Args:
        about: from :func:`described`.
        weights: of each fold; of a transductive pre-training those for all folds, alone.
    """
    transductive = profile.pretrain.get(name, Pretraining()).transductive
    files = ["all.safetensors"] if transductive else [f"fold{fold}.safetensors" for fold in range(len(weights))]
    header = about | {"transductive": transductive, "weights": files}

    def write(folder: Path) -> None:
        for file, each in zip(files, weights, strict=True):
            (folder / file).write_bytes(serialised(dict(each)))
        (folder / HEADER).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
        (folder / "history.json").write_text(json.dumps(history, indent=2) + "\n", encoding="utf-8")
        settings = yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        (folder / "profile.yaml").write_text(settings, encoding="utf-8")

    publish_folder(profile.pretrained_path(name), write)
    return profile.pretrained_path(name)


def described(
    head: Head, manifest: Manifest, units: Sequence[Unit], folds: np.ndarray, stores: Mapping[str, Store]
) -> dict[str, Any]:
    """What must not differ between a pre-training and a training that starts from it: the network's shape, the stores
    that it reads, and the folds."""
    return {
        "format": FORMAT,
        **shape_of(head),
        "stores": {name: [stores[name].fingerprint, stores[name].dim] for name in head.inputs},
        "folds": folds_hash(manifest, units, folds),
    }


def folds_hash(manifest: Manifest, units: Sequence[Unit], folds: np.ndarray) -> str:
    """A hash of the split and the group of each clip, and of the fold of each training unit."""
    fold_of = {unit.unit_id: int(fold) for unit, fold in zip(units, folds, strict=True) if fold >= 0}
    rows = sorted(manifest.clips.select("clip_id", "split", "group").iter_rows())
    content = json.dumps([[*row, fold_of.get(row[0])] for row in rows])
    return hashlib.sha256(content.encode()).hexdigest()


def starts_of(
    profile: Profile,
    head: Head,
    manifest: Manifest,
    units: Sequence[Unit],
    folds: np.ndarray,
    stores: Mapping[str, Store],
) -> Sequence[Start]:
    """The weights that each fold of a head starts from; an empty list where it starts afresh.

    Raises:
        UserError: there are none yet, or they are of another network, other stores or other folds.
        StoreError: they are not what was written.
    """
    if head.start_from is None:
        return []
    folder, again = profile.pretrained_path(head.start_from), make_it(head.start_from)
    header = header_of(profile, head.start_from)
    for key, wanted in described(head, manifest, units, folds, stores).items():
        if header.get(key) != wanted:
            raise UserError(f"{folder / HEADER}: made with other {key} than this training has: {again}")
    read = [deserialised(read_published(folder / file, again)) for file in header["weights"]]
    return read * profile.folds if header["transductive"] else read


def header_of(profile: Profile, name: str) -> dict[str, Any]:
    """What the pre-training of a head says of itself. Raises UserError, StoreError."""
    path = profile.pretrained_path(name) / HEADER
    if not path.is_file():
        raise UserError(f"{path}: not there: {make_it(name)}")
    return json.loads(read_published(path, make_it(name)))


def said_of(profile: Profile, head: Head) -> str | None:
    """What of the pre-training that a head starts from is transductive, for titles. Raises UserError, StoreError."""
    if head.start_from is None or not header_of(profile, head.start_from)["transductive"]:
        return None
    return "pre-trained without labels on clips of held-out folds, val and test, too"


def pretraining_digest(profile: Profile, name: str) -> str:
    """A hash of all that heads find which start from this one. Raises UserError, StoreError."""
    header_of(profile, name)
    return verify_whole(profile.pretrained_path(name), make_it(name))


def make_it(name: str) -> str:
    return f"make it with python heads/pretrain.py --head {name}"
