"""What all readers have in common, and what an array must be to be a clip's features."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from configs import UserError, one_line

MOST_BYTES = 2**32  # of one array
LFS_POINTER = b"version https://git-lfs"
NUMBERS = "fiub"  # kinds of NumPy types


class ArrayError(Exception):
    """An array that cannot be a clip's features, in one line without the array's name."""


class Reader(Protocol):
    """The arrays of a source. One thread at a time.

    ``columns``: what the numbers of a time step are, where the source says it. ``notes``: lines on what was taken and
    what was left.
    """

    columns: tuple[str, ...] | None
    notes: list[str]

    def names(self) -> list[str]:
        """Of all arrays, in the source's order."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an array, without its values where the format allows; 0 for a number of rows that is not known yet.

        Raises ArrayError, OSError.
        """

    def read(self, name: str) -> np.ndarray:
        """An array as it is stored. Raises ArrayError, OSError."""


def as_features(array: np.ndarray, width: int) -> np.ndarray:
    """An array as (time, width) float32 in C order: a vector is one time step, leading axes of length 1 go.

    Raises:
        ArrayError: it holds no numbers, nothing, NaN or infinity, or is of another shape.
    """
    refuse_type(array.dtype)
    shape = matrix_shape(array.shape)
    if 0 in shape:
        raise ArrayError(f"holds nothing (its shape is {shown(array.shape)})")
    if shape[1] != width:
        raise ArrayError(f"{shape[1]} numbers a time step, and not {width} (its shape is {shown(array.shape)})")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array.reshape(shape), dtype=np.float32)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        large = np.isfinite(array).all()
        what = "numbers beyond float32" if large else "NaN or infinity"
        raise ArrayError(f"{(~finite).sum()} of {len(values)} time steps hold {what}")
    return values


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(time, dim) of an array of this shape. Raises ArrayError."""
    short = shape
    while len(short) > 2 and short[0] == 1:
        short = short[1:]
    if len(short) == 1:
        return 1, short[0]
    if len(short) != 2:
        raise ArrayError(f"its shape is {shown(shape)}, and not (time, dim) or (dim,)")
    return short[0], short[1]


def refuse_type(dtype: np.dtype) -> None:
    """Raises ArrayError where values of a type are no real numbers."""
    if dtype.kind not in NUMBERS:
        kinds = {"c": "complex numbers", "U": "text", "S": "text", "O": "Python objects", "T": "text"}
        raise ArrayError(f"holds {kinds.get(dtype.kind, f'values of type {dtype}')} and not numbers")


def refuse_size(shape: tuple[int, ...], itemsize: int) -> None:
    """Raises ArrayError where an array would not be held in memory."""
    n_bytes = itemsize
    for length in shape:
        n_bytes *= length
    if n_bytes > MOST_BYTES:
        raise ArrayError(f"{n_bytes:,} bytes in one array (its shape is {shown(shape)}), more than {MOST_BYTES:,}")


def shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def read_npy(file: BinaryIO, n_bytes: int | None = None) -> np.ndarray:
    """The array of a ``.npy`` file that is open; ``n_bytes``: of the file, where it is known. Raises ArrayError."""
    start = file.tell()
    _npy_header(file, n_bytes)
    file.seek(start)
    return _told(lambda: np.lib.format.read_array(file, allow_pickle=False))


def npy_shape(file: BinaryIO, n_bytes: int | None = None) -> tuple[int, ...]:
    """Of the array of a ``.npy`` file that is open. Raises ArrayError."""
    return _npy_header(file, n_bytes)


def _npy_header(file: BinaryIO, n_bytes: int | None) -> tuple[int, ...]:
    begun = file.read(len(LFS_POINTER))
    if begun == LFS_POINTER:
        raise ArrayError("a Git LFS pointer: fetch the file with 'git lfs pull'")
    file.seek(-len(begun), 1)
    start = file.tell()
    if not begun.startswith(np.lib.format.MAGIC_PREFIX):
        raise ArrayError("no .npy file by its first bytes")
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = _told(lambda: np.lib.format.read_magic(file))
    if version not in readers:
        raise ArrayError("a structured array")
    shape, _, dtype = _told(lambda: readers[version](file))
    if dtype.hasobject:
        raise ArrayError("holds Python objects, which only unpickling reads: save it as numbers")
    refuse_type(dtype)
    refuse_size(shape, dtype.itemsize)
    held = file.tell() - start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if n_bytes is not None and held > n_bytes:
        raise ArrayError(f"cut short: {n_bytes:,} bytes of {held:,}")
    return tuple(shape)


def _told(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (ValueError, EOFError, OverflowError, SyntaxError, TypeError, MemoryError) as error:
        raise ArrayError(f"cannot be read: {one_line(error, 200)}") from error


@contextmanager
def opened(path: Path, what: str) -> Iterator[BinaryIO]:
    """A file that is to be a source. Raises UserError where it cannot be opened, or is a Git LFS pointer."""
    try:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise UserError(f"{path}: a Git LFS pointer: fetch the file with 'git lfs pull'")
            file.seek(0)
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be read as {what}: {error.strerror or one_line(error)}") from error
