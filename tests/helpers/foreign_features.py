"""Made-up features in the files of every kind in which others keep them."""

import csv
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import kaldiio
import numpy as np
import polars as pl
import zarr
from safetensors.numpy import save_file

Clips = dict[str, np.ndarray]  # (time, dim) float32 by clip id


def made_up(n_clips: int, dim: int, longest: int = 6, seed: int = 0) -> Clips:
    rng = np.random.default_rng(seed)
    return {f"c{i}": rng.normal(size=(rng.integers(1, longest + 1), dim)).astype(np.float32) for i in range(n_clips)}


def _npy(clips: Clips, place: Path) -> Path:
    for number, (name, values) in enumerate(clips.items()):
        path = place / f"part{number % 2}" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values)
    return place


def _npz_each(clips: Clips, place: Path) -> Path:
    place.mkdir()
    for name, values in clips.items():
        np.savez_compressed(place / f"{name}.npz", features=values)
    return place


def _npz(clips: Clips, place: Path) -> Path:
    np.savez(place.with_suffix(".npz"), **clips)  # type: ignore[arg-type]
    return place.with_suffix(".npz")


def _hdf5(clips: Clips, place: Path) -> Path:
    with h5py.File(place.with_suffix(".h5"), "w") as file:
        for name, values in clips.items():
            file[f"features/{name}"] = values
    return place.with_suffix(".h5")


def _safetensors(clips: Clips, place: Path) -> Path:
    save_file(clips, place.with_suffix(".safetensors"))
    return place.with_suffix(".safetensors")


def _zarr(clips: Clips, place: Path) -> Path:
    group = zarr.open_group(place, mode="w")
    for name, values in clips.items():
        group.create_array(name, data=values)
    return place


def rows_of(clips: Clips) -> pl.DataFrame:
    """A row a time step: ``clip_id``, then a column for each number."""
    ids = [name for name, values in clips.items() for _ in values]
    numbers = np.concatenate(list(clips.values()))
    return pl.DataFrame({"clip_id": ids} | {f"f{k}": numbers[:, k] for k in range(numbers.shape[1])})


def _parquet(clips: Clips, place: Path) -> Path:
    rows_of(clips).write_parquet(place.with_suffix(".parquet"))
    return place.with_suffix(".parquet")


def _lists(clips: Clips, place: Path) -> Path:
    path = place.with_name("lists.parquet")
    table = {"clip_id": list(clips), "features": [values.tolist() for values in clips.values()]}
    pl.DataFrame(table, schema={"clip_id": pl.String, "features": pl.List(pl.List(pl.Float32))}).write_parquet(path)
    return path


def _csv(clips: Clips, place: Path) -> Path:
    rows_of(clips).write_csv(place.with_suffix(".csv"))
    return place.with_suffix(".csv")


def _frames(clips: Clips, place: Path) -> Path:
    """As OpenFace writes them: a space behind each comma."""
    place.mkdir()
    for name, values in clips.items():
        with (place / f"{name}.csv").open("w", newline="") as file:
            names = [f" f{k}" for k in range(values.shape[1])]
            csv.writer(file).writerows([["frame", " confidence", *names]])
            for number, row in enumerate(values, 1):
                file.write(f"{number}, 0.98, {', '.join(map(repr, row.tolist()))}\n")
    return place


def _ark(clips: Clips, place: Path) -> Path:
    kaldiio.save_ark(str(place.with_suffix(".ark")), clips)
    return place.with_suffix(".ark")


def _scp(clips: Clips, place: Path) -> Path:
    kaldiio.save_ark(str(place.with_suffix(".ark")), clips, scp=str(place.with_suffix(".scp")))
    return place.with_suffix(".scp")


def _tar(clips: Clips, place: Path) -> Path:
    folder = _npy(clips, place)
    with tarfile.open(place.with_suffix(".tar"), "w") as tar:
        for path in sorted(folder.rglob("*.npy")):
            tar.add(path, path.name)
    return place.with_suffix(".tar")


KINDS: dict[str, Callable[[Clips, Path], Path]] = {
    "npy": _npy,
    "npz for each": _npz_each,
    "npz": _npz,
    "hdf5": _hdf5,
    "safetensors": _safetensors,
    "zarr": _zarr,
    "parquet": _parquet,
    "lists": _lists,
    "csv": _csv,
    "frames": _frames,
    "ark": _ark,
    "scp": _scp,
    "tar": _tar,
}


def mmsa() -> dict[str, Any]:
    """As MMSA's files: padded behind (audio, with lengths; text, with a mask) and in front (vision)."""
    held: dict[str, Any] = {}
    for split, ids in (("train", ["a$_$0", "a$_$1"]), ("valid", ["b$_$0"]), ("test", ["c$_$0"])):
        n = len(ids)
        audio, vision, text = np.zeros((n, 5, 2)), np.zeros((n, 4, 3)), np.zeros((n, 6, 4))
        bert = np.zeros((n, 3, 6))
        audio[:, :3], vision[:, 2:], text[:, :4], bert[:, 1, :4] = 1, 2, 3, 1
        audio[:, 2] = 0  # a step of silence, and no padding
        held[split] = {"id": ids, "audio": audio, "vision": vision, "text": text, "text_bert": bert}
        held[split] |= {"audio_lengths": [3] * n, "raw_text": np.array([f"so {each}" for each in ids])}
        held[split] |= {"regression_labels": np.arange(n, dtype=np.float32), "annotations": ["Positive"] * n}
    return held
