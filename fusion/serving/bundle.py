"""The whole trained stack in one folder: made here, verified and opened by whoever predicts.

``profile.yaml``     the resolved profile: encoders and their settings, how the dataset was read
``bundle.json``      format, classes, the heads and their temperatures, headers of the stores that they were trained on
``heads/HEAD/``      a head's models with their vocabularies, as heads/train.py wrote them
``baselines/HEAD/``  those of a head's plain baseline, where the fusion reads it
``fusion/``          the fitted fusion, as fusion/stack.py wrote it
``README.md``        the model card, where whoever makes the bundle writes one
``SHA256SUMS``       of every other file: ``sha256sum -c SHA256SUMS`` checks them, too

Frozen encoders stay outside: the profile says where they come from, and the headers say what their weights hash to.
"""

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache import (
    Header,
    claimed,
    copy_published,
    publish_folder,
    read_published,
    verify_whole,
    write_sums,
)
from configs import UserError
from configs.profiles import load
from configs.schema import Head, Profile

if TYPE_CHECKING:  # these import torch or more, which is not needed to verify a folder
    from fusion.strategies.catalogue import Fitted
    from fusion.strategies.conformal import Sets
    from fusion.strategies.speakers import People
    from fusion.tables.predictions import Predictions
    from heads.fitting.saved import TrainedHead

FORMAT = 1
SUMS, ABOUT, PROFILE = "SHA256SUMS", "bundle.json", "profile.yaml"


@dataclass(frozen=True)
class BundledHead:
    """A head of a bundle, or a head's plain baseline, not loaded yet."""

    name: str  # the head's
    folder: Path
    settings: Head
    temperature: float  # fitted on all out-of-fold predictions: softmax(log p / temperature) is calibrated
    vocabularies: dict[str, list[str]]  # field: the categories that any of its models knows

    def load(self) -> "TrainedHead":
        from heads.fitting.saved import load_head

        return load_head(self.folder)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle; heads in the order of the fusion's axes."""

    folder: Path
    digest: str  # of SHA256SUMS, and so of everything
    profile: Profile
    classes: tuple[str, ...]
    heads: tuple[BundledHead, ...]
    stored: dict[str, Header]  # encoder: of the store that the heads were trained on
    baselines: tuple[BundledHead, ...] = ()  # those that the fusion reads

    @cached_property
    def fusion(self) -> "Fitted":
        from fusion.strategies.catalogue import load as load_fitted

        return load_fitted(self.folder / "fusion")

    @cached_property
    def people(self) -> "People | None":
        """What answers for speakers who are met more than once; None where heads were not centred per speaker."""
        from fusion.strategies.speakers import load_centred

        return load_centred(self.folder / "fusion")

    @cached_property
    def sets(self) -> "Sets | None":
        """What sets of classes are drawn by; None where an earlier version made the bundle."""
        from fusion.strategies.conformal import load_sets

        return load_sets(self.folder / "fusion")

    @cached_property
    def centred_sets(self) -> "Sets | None":
        """The same for answers that are centred on their speaker."""
        from fusion.strategies.conformal import load_sets
        from fusion.strategies.speakers import SAVED

        return load_sets(self.folder / "fusion" / SAVED)


def make_bundle(profile: Profile, folder: Path, more: Callable[[Path], None] | None = None) -> None:
    """Write a profile's trained stack into ``folder``, whole or not at all. The same stack gives the same bytes.

    Args:
        more: writes what else is to be in it, into the fresh folder, before its sums are taken.

    Raises:
        UserError: parts do not belong together: a head that was trained on another store than there is now, or a
            fusion of other heads.
        StoreError: something of it is not there, or not what was written; or another process makes it.
    """
    with claimed(folder):
        _make_bundle(profile, folder, more)


def add_to_bundle(folder: Path, more: Callable[[Path], None]) -> None:
    """Let ``more`` write files into a bundle that is there, and take its sums anew. Raises as :func:`open_bundle`."""

    def write(fresh: Path) -> None:
        open_bundle(folder)
        shutil.copytree(folder, fresh, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SUMS))
        more(fresh)
        write_sums(fresh)
        open_bundle(fresh)

    with claimed(folder):
        publish_folder(folder, write)


def _make_bundle(profile: Profile, folder: Path, more: Callable[[Path], None] | None) -> None:
    fused = profile.fusion_path / "model"
    names, classes, baselines = inputs_of(profile)
    parts = [(name, profile.head_path(name) / "model", f"heads/{name}") for name in names]
    parts += [(name, profile.head_path(name) / "baseline" / "model", f"baselines/{name}") for name in baselines]
    trained = [(name, _head_json(model, name)) for name, model, _ in parts]
    for name, about in trained:
        if tuple(about["classes"]) != classes:
            raise UserError(f"{profile.head_path(name)}: its classes are not those of {fused}: fuse the heads again")
    stored: dict[str, Header] = {
        encoder: _header(profile, encoder, [(name, about["stores"]) for name, about in trained])
        for encoder in profile.encoders
        if any(encoder in about["stores"] for _, about in trained)
    }

    def write(fresh: Path) -> None:
        for name, model, place in parts:
            copy_published(model, fresh / place, f"train it again with python heads/train.py --head {name}")
        copy_published(fused, fresh / "fusion", "fuse again with python fusion/stack.py")
        _write_texts(fresh, profile, names, classes, stored, baselines)
        if more:
            more(fresh)
        write_sums(fresh)
        open_bundle(fresh)

    publish_folder(folder, write)


def open_bundle(folder: Path) -> Bundle:
    """Verify every file of a bundle and say what is in it; no model is loaded yet.

    Raises:
        StoreError: no bundle, or a file that is missing, changed, or not among those that the bundle was made of.
        UserError: a bundle of another format, or one that lacks a file that a head of it needs.
    """
    if not (folder / SUMS).is_file():
        raise UserError(f"{folder / SUMS}: not there: {folder} is no bundle; make one with: python fusion/bundle.py")
    digest = verify_whole(folder, f"{_anew(folder)}, or copy it again")
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise UserError(f"{folder}: bundle format {about['format']}, this version reads {FORMAT}: make it again")
        heads, baselines = (
            tuple(_bundled(folder / place / name, name, t) for name, t in temperatures.items())
            for place, temperatures in (("heads", about["temperatures"]), ("baselines", about.get("baselines", {})))
        )
        stored = {name: Header(**header) for name, header in about["stores"].items()}
        return Bundle(folder, digest, load(str(folder / PROFILE)), tuple(about["classes"]), heads, stored, baselines)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder}: not a bundle that can be read ({error}): make it again") from error


def _anew(folder: Path) -> str:
    """What to do about a damaged bundle: make it again, of the profile in whose folder it lies."""
    name = folder.absolute().parent.name
    known = (Path("configs") / f"{name}.yaml").is_file()
    return f"make the bundle again with python fusion/bundle.py --config {name if known else 'PROFILE.yaml'}"


def _bundled(folder: Path, name: str, temperature: float) -> BundledHead:
    saved = _head_json(folder, name)
    for file in (model["file"] for fold in saved["folds"] for model in fold):
        if not (folder / file).is_file():  # the sums name what was copied, which may be less than the head
            raise UserError(f"{folder / file}: missing, by {folder / 'head.json'}: {_anew(folder.parent.parent)}")
    known: dict[str, set[str]] = {}
    for model in (model for fold in saved["folds"] for model in fold):
        for field, words in model.get("vocabularies", {}).items():
            known.setdefault(field, set()).update(words)
    vocabularies = {field: sorted(words) for field, words in known.items()}
    return BundledHead(name, folder, Head.model_validate(saved["settings"]), temperature, vocabularies)


def inputs_of(profile: Profile) -> tuple[list[str], tuple[str, ...], list[str]]:
    """What a profile's fusion reads: heads, classes, and heads whose plain baseline is read.

    Raises:
        StoreError: nothing is fused yet. UserError: it is a fusion of other heads than the profile's.
    """
    fused = profile.fusion_path / "model"
    inputs = json.loads(read_published(fused / "inputs.json", "make it with: python fusion/stack.py"))
    for name in inputs["heads"]:
        if name not in profile.heads:
            raise UserError(f"{fused}: fuses {name!r}, no head of profile {profile.name!r}: fuse its heads again")
    return inputs["heads"], tuple(inputs["classes"]), inputs.get("baselines", [])


def fused_units(profile: Profile, names: list[str], baselines: list[str]) -> "Predictions":
    """What these heads, and the plain baselines of these, say of all units, with what the manifest knows of them."""
    from fusion.strategies.speakers import manifest_speakers
    from fusion.tables.predictions import manifest_metadata, read

    tables = {name: profile.head_path(name) / "predictions.parquet" for name in names}
    beside = {name: profile.head_path(name) / "baseline" / "predictions.parquet" for name in baselines}
    for name, path in (*tables.items(), *beside.items()):
        read_published(path, f"train it again with python heads/train.py --head {name}")
    units = read(tables, beside)
    return replace(
        units,
        metadata=units.metadata | manifest_metadata(profile.manifest_path, units.unit_ids),
        speakers=manifest_speakers(profile.manifest_path, units.unit_ids),
    )


def _head_json(folder: Path, name: str) -> dict[str, Any]:
    remedy = f"make it with: python heads/train.py --head {name}"
    return json.loads(read_published(folder / "head.json", remedy))


def _header(profile: Profile, encoder: str, trained: list[tuple[str, dict[str, Any]]]) -> Header:
    """The header of a store, which must be the one that every head that reads it was trained on."""
    header = Header.read(profile.store_path(encoder))
    for name, stores in trained:
        if encoder in stores and stores[encoder]["fingerprint"] != header.fingerprint:
            raise UserError(
                f"{profile.store_path(encoder)}: not the store that head {name!r} was trained on: train it again with "
                f"python heads/train.py --head {name}"
            )
    return header


def _refuse_stale(profile: Profile, units: "Predictions") -> None:
    """The fitted fusion of the heads' predictions must be the fused ones; those on oof are of other fits."""
    import numpy as np
    import polars as pl

    from fusion.strategies.catalogue import load as load_fitted
    from fusion.strategies.speakers import centred, load_centred

    path = profile.fusion_path / "predictions.parquet"
    people = load_centred(profile.fusion_path / "model")
    fitted = people.fitted if people else load_fitted(profile.fusion_path / "model")
    units = centred(units) if people else units
    rows = units.where(units.splits != "oof")
    fused = pl.read_parquet(read_published(path, "fuse again with python fusion/stack.py"))
    fused = fused.filter(pl.col("split") != "oof")
    same = fused["unit_id"].to_list() == rows.unit_ids.tolist()
    heard = np.flatnonzero(rows.present.any(axis=1))
    if same and len(heard):
        p = fused.select(f"p_{name}" for name in units.classes).to_numpy()[heard]
        log_p = fitted.predict_logits(rows.outputs.where(heard))
        same = np.abs(np.exp(log_p) - p).max() < 1e-6
    if not same:
        raise UserError(f"{path}: does not follow from the heads' predictions: fuse again with python fusion/stack.py")


def _write_texts(
    folder: Path,
    profile: Profile,
    names: list[str],
    classes: tuple[str, ...],
    stored: dict[str, Header],
    baselines: list[str],
) -> None:
    """profile.yaml and bundle.json; nothing in them changes from run to run."""
    import numpy as np

    from fusion.strategies.calibration import fit_temperature, fit_temperatures
    from heads.fitting.outputs import resolved

    tables = {name: profile.head_path(name) / "predictions.parquet" for name in names}
    beside = {name: profile.head_path(name) / "baseline" / "predictions.parquet" for name in baselines}
    units = fused_units(profile, names, baselines)
    _refuse_stale(profile, units)
    oof = units.where(units.splits == "oof")
    temperatures = fit_temperatures(oof.logits, oof.present, oof.labels)
    alone = {}
    for name, own in oof.baselines.items():
        has = ~np.isnan(own).any(axis=1)
        alone[name] = fit_temperature(own[has], oof.labels[has])
    sources = {"manifest": profile.manifest_path, **{f"heads/{name}": path for name, path in tables.items()}}
    sources |= {f"baselines/{name}": path for name, path in beside.items()}
    about = {
        "format": FORMAT,
        "name": profile.name,
        "classes": classes,
        "temperatures": dict(zip(names, temperatures, strict=True)),
        "baselines": alone,  # temperatures, too
        "stores": {name: asdict(header) for name, header in stored.items()},
        "created_from": {
            "emocache": version("emocache"),
            "python": platform.python_version(),
            "torch": version("torch"),
            "transformers": version("transformers"),
            "out_of_fold_units": len(oof.labels),
            "sha256": {name: _digest(path) for name, path in sources.items()},
        },
        "measured": json.loads(read_published(profile.fusion_path / "headline.json", "fuse again")),
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / PROFILE).write_text(resolved(profile), encoding="utf-8")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
