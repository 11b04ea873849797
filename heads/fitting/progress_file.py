"""What a killed training goes on from: the models that are finished, and the last epoch of the one that is not."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import polars as pl
import torch
import typer

from cache import Store, writable, write_atomically, write_text_atomically
from configs.schema import Head, Profile
from heads.data.folds import FoldModel, Record
from heads.data.views import open_views
from heads.pretraining.folder import pretraining_digest

VERSION = 4  # raise it with any change after which a training gives other numbers
SECONDS_BETWEEN = 10.0  # the least between two states of a network: short trainings write none
DIGEST_BYTES = 32


class Progress:
    """A folder beside the head's own, ``.HEAD.progress``, for one training; that of any other is discarded.

    Every file is whole or not there, and begins with its digest or has it in another: a damaged one is told from a
    whole one, and what it held is computed again.
    """

    def __init__(self, folder: Path, key: str) -> None:
        """
        Args:
            key: from :func:`training_key`; where the folder has another one, what is in it is thrown away.
        """
        self._folder, note = folder, folder / "key"
        if folder.is_dir() and (not note.is_file() or note.read_text(encoding="utf-8", errors="replace") != key):
            if any(folder.iterdir()):
                typer.echo(f"{folder}: left by a training with other settings, data or code: discarded", err=True)
            shutil.rmtree(folder)
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_text_atomically(note, key)

    def epoch_file(self, stem: str) -> Path:
        """Where the training of the model ``stem`` keeps its last epoch."""
        return self._folder / f"{stem}.epoch"

    def keep(self, stem: str, model: FoldModel, history: list[Record]) -> None:
        """Keep a finished model; its epoch file goes."""
        folder = self._folder / stem
        shutil.rmtree(folder, ignore_errors=True)
        with writable(folder):
            folder.mkdir()
            about = model.save(folder, stem)
            digests = {path.name: _digest(path.read_bytes()).hex() for path in sorted(folder.iterdir())}
            record = {"about": about, "history": history, "digests": digests}
            _write(self._folder / f"{stem}.done", json.dumps(record).encode())
        self.epoch_file(stem).unlink(missing_ok=True)

    def finished(
        self, stem: str, load: Callable[[Path, dict[str, Any]], FoldModel]
    ) -> tuple[FoldModel, list[Record]] | None:
        """The model ``stem`` and its history, if it was kept; None, with a warning, if it was damaged since.

        Args:
            load: of the head's kind.
        """
        path, folder = self._folder / f"{stem}.done", self._folder / stem
        content = _read(path)
        if content is None:
            return None
        record = json.loads(bytes(content))
        for name, digest in record["digests"].items():
            if not (folder / name).is_file() or _digest((folder / name).read_bytes()).hex() != digest:
                _warn(folder / name)
                return None
        return load(folder, record["about"]), record["history"]


def training_key(profile: Profile, head: Head, stores: Mapping[str, Store]) -> str:
    """A hash of all that decides what training a head gives: two trainings with the same one give the same."""
    clip_ids = pl.read_parquet(profile.manifest_path, columns=["clip_id"], glob=False)["clip_id"].to_list()
    read = {**stores, **open_views(profile, head)}
    decides = {
        "version": [VERSION, torch.__version__, torch.cuda.is_available()],
        "head": head.model_dump(mode="json", include=head.used),
        "seed": profile.seed,
        "folds": profile.folds,
        "metric": profile.fusion.metric,
        "manifest": _digest(profile.manifest_path.read_bytes()).hex(),
        "stores": {name: [store.fingerprint, store.digest(clip_ids)] for name, store in read.items()},
        "start": pretraining_digest(profile, head.start_from) if head.start_from else None,
    }
    return _digest(json.dumps(decides, sort_keys=True).encode()).hex()


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Replace a file by a dict of tensors, numbers, strings, lists and dicts of them."""
    buffer = BytesIO()
    torch.save(state, buffer)
    _write(path, buffer.getbuffer())


def read_state(path: Path | None, device: torch.device) -> dict[str, Any] | None:
    """What :func:`write_state` wrote; None where there is no such file, or, with a warning, where it is damaged."""
    content = _read(path) if path is not None else None
    if content is None:
        return None
    try:
        return torch.load(BytesIO(content), map_location=device, weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError):  # of another version of torch
        _warn(path)
        return None


def _write(path: Path, content: Any) -> None:
    with writable(path):
        write_atomically(path, _digest(content), content)


def _read(path: Path) -> memoryview | None:
    if not path.is_file():
        return None
    content = memoryview(path.read_bytes())
    if _digest(content[DIGEST_BYTES:]) != content[:DIGEST_BYTES]:
        _warn(path)
        return None
    return content[DIGEST_BYTES:]


def _digest(content: Any) -> bytes:
    return hashlib.sha256(content).digest()


def _warn(path: Path | None) -> None:
    typer.echo(f"warning: {path}: damaged, and not used: what it held is trained again", err=True)
