"""What the store's tests share: features, a way to write them, and a script's ``main`` in a process of its own."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from cache import Store, StoreWriter

FIELDS = {"family": "test", "layer": 3}
BACKENDS = ["zarr", "hdf5"]


def features(n_clips: int, dim: int = 8, seed: int = 0, longest: int = 30) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"clip{i}": rng.normal(size=(rng.integers(1, longest), dim)).astype(np.float32) for i in range(n_clips)}


def write(path: Path, clips: dict[str, np.ndarray], every: int = 7, **options: object) -> None:
    dim = next(iter(clips.values())).shape[1]
    options = {"chunk_mb": 0.001, **options}
    with StoreWriter(path, FIELDS, dim, **options) as writer:  # type: ignore[arg-type]
        for i, (clip_id, values) in enumerate(clips.items()):
            if clip_id not in writer.content_hashes:
                writer.append(clip_id, values, f"hash of {clip_id}")
            if i % every == 0:
                writer.commit()


def all_files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def python(code: str, **values: object) -> "subprocess.Popen[str]":
    """A child process that runs ``code``, which finds this module and the given values as names."""
    given = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    start = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom pathlib import Path\n{given}"
    return subprocess.Popen(
        [sys.executable, "-c", start + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# In this module, since a process that is not forked must be able to import them.
def write_many(path: Path, backend: str, started: "multiprocessing.connection.Connection") -> None:
    os.fsync = lambda descriptor: None  # as in conftest.py; this process is the test's own
    clips = features(120, dim=64)
    started.send(True)
    write(path, clips, every=3, backend=backend)


def read_into(store: Store, clip_id: str, queue: "multiprocessing.Queue[np.ndarray]") -> None:
    queue.put(np.array(store[clip_id]))
