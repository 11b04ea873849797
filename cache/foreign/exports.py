"""Arrays of clips in files that other programs read, written clip by clip, whole or not at all."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cache.disk.writing import StoreError, replace_atomically, writable

Clips = Iterable[tuple[str, np.ndarray]]  # ids, and (time, dim)
GROUP_BYTES = 2**26  # of values in a row group


def write_npz(path: Path, clips: Clips) -> None:
    """An array for each clip, under its id: what ``numpy.load`` opens."""
    with zipfile.ZipFile(path, "w") as file:
        for clip_id, values in clips:
            with file.open(zipfile.ZipInfo(f"{clip_id}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(values), allow_pickle=False)


def write_hdf5(path: Path, clips: Clips) -> None:
    """A dataset for each clip, under its id; a ``/`` in an id makes a group."""
    with h5py.File(path, "w") as file:
        for clip_id, values in clips:
            try:
                file.create_dataset(clip_id, data=np.asarray(values))
            except (ValueError, TypeError) as error:
                raise StoreError(f"clip {clip_id!r}: HDF5 cannot have this name: choose another format") from error


def write_parquet(path: Path, clips: Clips) -> None:
    """A row for each time step, in order: ``clip_id``, and the list ``values``, float32."""
    writer: pq.ParquetWriter | None = None
    held: list[tuple[str, np.ndarray]] = []
    n_bytes = 0

    def flush(writer: pq.ParquetWriter) -> None:
        nonlocal n_bytes
        ids = [clip_id for clip_id, values in held for _ in values]
        flat = pa.array(np.concatenate([values for _, values in held]).ravel())
        rows = pa.FixedSizeListArray.from_arrays(flat, held[0][1].shape[1])
        writer.write_table(pa.table([pa.array(ids), rows], schema=writer.schema))
        held.clear()
        n_bytes = 0

    try:
        for clip_id, values in clips:
            held.append((clip_id, np.asarray(values, dtype=np.float32)))
            n_bytes += held[-1][1].nbytes
            if writer is None:
                kind = pa.list_(pa.float32(), values.shape[1])
                writer = pq.ParquetWriter(path, pa.schema([("clip_id", pa.string()), ("values", kind)]))
            if n_bytes >= GROUP_BYTES:
                flush(writer)
        if writer is not None and held:
            flush(writer)
    finally:
        if writer is not None:
            writer.close()


def write_webdataset(path: Path, clips: Clips) -> None:
    """A tar with ``ID.npy`` and ``ID.json`` for each clip. WebDataset ends an id at its first dot: dots, and slashes,
    are written as %2E and %2F; the JSON has the id as it is."""
    with tarfile.open(path, "w") as tar:
        for clip_id, values in clips:
            name = quote(clip_id, safe=" $@+=,;:!'()[]{}#&").replace(".", "%2E")
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(values), allow_pickle=False)
            about = json.dumps({"clip_id": clip_id, "shape": list(values.shape)}).encode()
            for ending, held in (("npy", content.getvalue()), ("json", about)):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(held)
                tar.addfile(member, io.BytesIO(held))


FORMATS: dict[str, tuple[str, Callable[[Path, Clips], None]]] = {
    "npz": (".npz", write_npz),
    "hdf5": (".h5", write_hdf5),
    "parquet": (".parquet", write_parquet),
    "webdataset": (".tar", write_webdataset),
}


def write_whole(path: Path, write: Callable[[Path, Clips], None], clips: Clips) -> None:
    """Raises StoreError where the system refuses, and leaves nothing half written."""
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(path, lambda beside: write(beside, clips))
