"""What a pre-training leaves, and whether a head may start from it: ``runs/PROFILE/pretrained/HEAD``.

``pretrained.json`` is the header; each fold has its weights, ``fold0.safetensors`` and on; a transductive pre-training
has one file for all. Which head is meant is the one that was pre-trained, whoever starts from it.
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
from configs import Profile, UserError
from configs.schema import Head
from extract.corpora.manifest import Manifest, Unit
from heads.models.network import n_segments

FORMAT = 1
HEADER = "pretrained.json"
TRANSDUCTIVE = "TRANSDUCTIVE: pre-trained, without labels, on clips of held-out folds, val and test, too."


def write_pretrained(
    profile: Profile, name: str, about: dict[str, Any], weights: Sequence[Mapping[str, Tensor]], history: list[Any]
) -> Path:
    """Publish a pre-training; its folder. Raises StoreError.

    Args:
        about: what :func:`described` gave, ``seed`` and ``transductive``.
        weights: of each fold.
    """

    def write(folder: Path) -> None:
        files: list[str] = []
        for fold, each in enumerate(weights):
            files.append("all.safetensors" if about["transductive"] else f"fold{fold}.safetensors")
            if files[-1] not in files[:-1]:
                (folder / files[-1]).write_bytes(serialised(dict(each)))
        (folder / HEADER).write_text(json.dumps(about | {"weights": files}, indent=2) + "\n", encoding="utf-8")
        (folder / "history.json").write_text(json.dumps(history, indent=2) + "\n", encoding="utf-8")
        settings = yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        (folder / "profile.yaml").write_text(settings, encoding="utf-8")

    publish_folder(profile.pretrained_path(name), write)
    return profile.pretrained_path(name)


def described(
    profile: Profile,
    head: Head,
    manifest: Manifest,
    units: Sequence[Unit],
    folds: np.ndarray,
    stores: Mapping[str, Store],
) -> dict[str, Any]:
    """What the network of a head is, what it reads, and which folds it is trained in: what must not differ."""
    return {
        "format": FORMAT,
        "kind": head.kind,
        "inputs": {name: [stores[name].fingerprint, stores[name].dim] for name in head.inputs},
        "hidden": head.hidden,
        "attention_heads": head.attention_heads,
        "layers": [head.layers, head.lstm_layers],
        "time": [head.time, n_segments(head)],
        "folds": folds_hash(manifest, units, folds),
    }


def folds_hash(manifest: Manifest, units: Sequence[Unit], folds: np.ndarray) -> str:
    """A hash of the split and the group of each clip, and of the fold of each training unit."""
    fold_of = {unit.unit_id: int(fold) for unit, fold in zip(units, folds, strict=True) if fold >= 0}
    rows = sorted(manifest.clips.select("clip_id", "split", "group").iter_rows())
    content = json.dumps([[*row, fold_of.get(row[0])] for row in rows])
    return hashlib.sha256(content.encode()).hexdigest()


def starting_weights(
    profile: Profile,
    head: Head,
    manifest: Manifest,
    units: Sequence[Unit],
    folds: np.ndarray,
    stores: Mapping[str, Store],
    fold: int,
) -> dict[str, Tensor]:
    """The weights that a fold of a head starts from; none where it starts afresh.

    Raises:
        UserError: there are none yet, or they are of another network, other stores or other folds.
        StoreError: they are not what was written.
    """
    if head.start_from is None:
        return {}
    folder, again = profile.pretrained_path(head.start_from), make_it(head.start_from)
    about = header_of(profile, head.start_from)
    wanted = json.loads(json.dumps(described(profile, head, manifest, units, folds, stores)))
    for key, value in wanted.items():
        if about.get(key) != value:
            raise UserError(f"{folder / HEADER}: made for other {key} than head wants that starts from it: {again}")
    return deserialised(read_published(folder / about["weights"][fold], again))


def header_of(profile: Profile, name: str) -> dict[str, Any]:
    """What the pre-training of a head says of itself. Raises UserError, StoreError."""
    path = profile.pretrained_path(name) / HEADER
    if not path.is_file():
        raise UserError(f"{path}: not there: {make_it(name)}")
    return json.loads(read_published(path, make_it(name)))


def pretraining_digest(profile: Profile, head: Head) -> str | None:
    """A hash of all that a head starts from; None where it starts afresh. Raises StoreError."""
    if head.start_from is None:
        return None
    return verify_whole(profile.pretrained_path(head.start_from), make_it(head.start_from))


def make_it(name: str) -> str:
    return f"make it with python heads/pretrain.py --head {name}"
