"""How fast a feature store is read and written, beside the other ways of keeping the same arrays."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import tensorstore
import typer
import zarr
from tqdm import tqdm

from cache import Store, StoreWriter
from configs.command_line import command

try:  # optional: pip install datasets
    import datasets
    import datasets.arrow_writer
except ImportError:
    datasets = None

DIM = 768
SLOW = {"zarr-python", "tensorstore, no cache"}  # read a whole chunk each time: 50 items tell their rate
Read = Callable[[int], np.ndarray]


def main(
    items: Annotated[int, typer.Option(min=10, help="Clips.")] = 500,
    mb: Annotated[float, typer.Option(min=0.01, help="Megabytes (2**20 bytes) of a clip.")] = 0.5,
    small: Annotated[int, typer.Option(min=10, help="Mean-pooled clips, 1 x 768, of a second set.")] = 5_000,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians are printed.")] = 3,
    folder: Annotated[Path | None, typer.Option(help="Where to write; default: the system's temporary folder.")] = None,
) -> None:
    """Compare the store with a memory map, with other libraries on the same files, and with one file per clip.

    Everything is read from a warm page cache, every byte is touched, and rounds of all ways are interleaved. Writing
    includes the sync to disk on both sides.
    """
    steps = max(1, round(mb * 2**20 / (2 * DIM)))
    with tempfile.TemporaryDirectory(dir=folder, prefix="store-benchmark-") as temporary:
        for title, n, length in (
            (f"{items} clips of {mb:g} MB", items, steps),
            (f"{small} clips of 1 x {DIM}", small, 1),
        ):
            home = Path(temporary) / f"{length}"
            home.mkdir()
            print(f"\n{title}, float16")
            _write(home, n, length, repeats)
            _read(home, n, length, repeats)
            shutil.rmtree(home)


def _write(home: Path, n: int, length: int, repeats: int) -> None:
    """Raw: the same arrays into one file, one write each, one sync."""
    # a few different clips, over and over: making 0.5 GB of random numbers would take longer than writing them
    values = [_values(i, length) for i in range(16)]

    def raw(path: Path) -> None:
        with path.open("wb") as file:
            for i in range(n):
                file.write(values[i % 16])
            file.flush()
            os.fsync(file.fileno())

    def store(path: Path, backend: str) -> None:
        with StoreWriter(path, {"benchmark": 1}, DIM, backend=backend) as writer:
            for i in range(n):
                writer.append(f"clip{i}", values[i % 16], f"{i:032x}")

    ways: dict[str, Callable[[Path], object]] = {
        "raw file": raw,
        "StoreWriter, zarr": lambda path: store(path, "zarr"),
        "StoreWriter, hdf5": lambda path: store(path, "hdf5"),
    }

    def timed(name: str) -> float:
        path = home / "written"
        started = time.perf_counter()
        ways[name](path)
        seconds = time.perf_counter() - started
        path.unlink() if path.is_file() else shutil.rmtree(path)
        return seconds

    _report("writing", n, n * length * DIM * 2, _interleaved(list(ways), timed, repeats))


def _read(home: Path, n: int, length: int, repeats: int) -> None:
    ways = _ready(home, n, length)
    order = np.random.default_rng(0).permutation(n).tolist()
    reference = ways["np.memmap"]
    for name, read in ways.items():
        for i in order[:20]:
            if not np.array_equal(np.asarray(read(i)), reference(i)):
                raise AssertionError(f"{name} reads other numbers than np.memmap")
    for title, places in (("random", order), ("sequential", list(range(n)))):

        def timed(name: str, places: list[int] = places) -> float:
            read, some = ways[name], places[:50] if name in SLOW else places
            started = time.perf_counter()
            for i in some:
                _touch(read(i))
            return (time.perf_counter() - started) / len(some) * n

        _report(f"reading, {title}", n, n * length * DIM * 2, _interleaved(list(ways), timed, repeats))


def _ready(home: Path, n: int, length: int) -> dict[str, Read]:
    """Write the same clips in every way, and say how clip ``i`` is read from each."""
    for backend in ("zarr", "hdf5"):
        with StoreWriter(home / backend, {"benchmark": 1}, DIM, backend=backend) as writer:
            for i in range(n):
                writer.append(f"clip{i}", _values(i, length), f"{i:032x}")
    flat_file = np.memmap(home / "flat", dtype=np.float16, mode="w+", shape=(n * length, DIM))
    (home / "npy").mkdir()
    for i in range(n):
        values = flat_file[i * length : (i + 1) * length]
        values[:] = _values(i, length)
        np.save(home / "npy" / f"clip{i}.npy", values)
    flat_file.flush()

    flat = np.memmap(home / "flat", dtype=np.float16, mode="r", shape=(n * length, DIM))
    stores = {backend: Store(home / backend) for backend in ("zarr", "hdf5")}
    unchecked = Store(home / "zarr", verify_reads=False)
    by_zarr: Any = zarr.open_array(home / "zarr" / "values.zarr", mode="r")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(home / "zarr" / "values.zarr")}}
    uncached = tensorstore.open(spec, read=True).result()
    cached = tensorstore.open({**spec, "context": {"cache_pool": {"total_bytes_limit": 2**34}}}, read=True).result()
    by_h5py = h5py.File(home / "hdf5" / "values.h5")["values"]

    def at(array: Any) -> Read:
        return lambda i: array[i * length : (i + 1) * length]

    ways: dict[str, Read] = {
        "np.memmap": at(flat),
        "Store, zarr": lambda i: stores["zarr"][f"clip{i}"],
        "Store, hdf5": lambda i: stores["hdf5"][f"clip{i}"],
        "Store, zarr, unchecked": lambda i: unchecked[f"clip{i}"],
        "zarr-python": at(by_zarr),
        "tensorstore": lambda i: cached[i * length : (i + 1) * length].read().result(),
        "tensorstore, no cache": lambda i: uncached[i * length : (i + 1) * length].read().result(),
        "h5py": at(by_h5py),
        "a .npy a clip": lambda i: np.load(home / "npy" / f"clip{i}.npy", mmap_mode="r"),
    }
    if datasets is not None:
        rows = ({"values": flat[i * length : (i + 1) * length]} for i in range(n))
        features = datasets.Features({"values": datasets.Array2D((length, DIM), "float16")})
        with datasets.arrow_writer.ArrowWriter(path=str(home / "arrow"), features=features) as arrow:
            for row in rows:
                arrow.write(row)
            arrow.finalize()
        table = datasets.Dataset.from_file(str(home / "arrow")).with_format("numpy")
        ways["datasets"] = lambda i: table[i]["values"]
    return ways


def _values(i: int, length: int) -> np.ndarray:
    """Clip ``i``: (length, 768), float16, different for each i and cheap to make."""
    steps = np.arange(length * DIM, dtype=np.uint32).reshape(length, DIM)
    return ((steps * np.uint32(2654435761) + np.uint32(i * 40503)) % np.uint32(2048)).astype(np.float16)


def _touch(values: np.ndarray) -> np.uint64:
    """Read every byte: the sum of its 64-bit words."""
    return values.reshape(-1).view(np.uint64).sum()


def _interleaved(names: list[str], timed: Callable[[str], float], repeats: int) -> dict[str, float]:
    """Median seconds of each way; a round goes through all of them, so that a busy moment hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in tqdm(range(repeats), "rounds", disable=None, leave=False):
        for name in names:
            seconds[name].append(timed(name))
    return {name: statistics.median(times) for name, times in seconds.items()}


def _report(title: str, n: int, n_bytes: int, seconds: dict[str, float]) -> None:
    first = next(iter(seconds))
    print(f"{title:<24}{'items/s':>12}{'MB/s':>10}{'of ' + first:>16}")
    for name, taken in seconds.items():
        print(f"  {name:<22}{n / taken:>12,.0f}{n_bytes / taken / 1e6:>10,.0f}{seconds[first] / taken:>16.2f}")


if __name__ == "__main__":
    command(main)
