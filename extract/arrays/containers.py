"""One file, or one folder, with an array for each clip: HDF5, safetensors, Zarr."""

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

from configs import UserError, one_line
from extract.arrays.reader import ArrayError, opened, refuse_size, refuse_type

DEEPEST = 20  # groups in groups


class Hdf5:
    """Every dataset of an HDF5 file, by its path; links to other files are not followed."""

    columns: tuple[str, ...] | None = None

    def __init__(self, path: Path) -> None:
        self.notes: list[str] = []
        with opened(path, "HDF5"):
            pass
        try:
            self._file = h5py.File(path, "r", locking=False)
            self._names: list[str] = []
            self._file.visititems(self._take)  # hard links only
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"{path}: cannot be read as HDF5: {one_line(error, 200)}") from error

    def names(self) -> list[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._dataset(name).shape)

    def read(self, name: str) -> np.ndarray:
        dataset = self._dataset(name)
        try:
            return dataset[()]
        except (OSError, RuntimeError, ValueError, KeyError, MemoryError) as error:
            raise ArrayError(f"cannot be read: {one_line(error, 200)}") from error

    def _take(self, name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            self._names.append(name)

    def _dataset(self, name: str) -> Any:
        dataset: Any = self._file[name]
        if dataset.shape is None:
            raise ArrayError("holds nothing (an empty dataset)")
        refuse_type(dataset.dtype)
        refuse_size(dataset.shape, dataset.dtype.itemsize)
        if dataset.external or dataset.is_virtual:
            raise ArrayError("its values lie in another file, which is not opened")
        return dataset


class Safetensors:
    """Every tensor of a safetensors file."""

    columns: tuple[str, ...] | None = None

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.notes: list[str] = []
        with opened(path, "safetensors"):
            pass
        try:
            self._file = safe_open(path, framework="pt")  # NumPy has no bfloat16
            self._names = list(self._file.keys())
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as safetensors: {one_line(error, 200)}") from error

    def names(self) -> list[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        tensor = self._file.get_tensor(name)
        if tensor.is_floating_point() and tensor.element_size() < 4:
            tensor = tensor.float()
        return tensor.numpy()


class Zarr:
    """Every array of a Zarr group, by its path. Where a chunk file is not there, Zarr would fill in; here the array is
    refused."""

    columns: tuple[str, ...] | None = None

    def __init__(self, path: Path) -> None:
        self.notes: list[str] = []
        try:
            group = zarr.open_group(path, mode="r")
            members = group.members(max_depth=DEEPEST)
            self._arrays = {name: found for name, found in members if isinstance(found, zarr.Array)}
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"{path}: cannot be read as a Zarr group: {one_line(error, 200)}") from error

    def names(self) -> list[str]:
        return sorted(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._array(name).shape)

    def read(self, name: str) -> np.ndarray:
        array = self._array(name)
        try:
            there, wanted = array.nchunks_initialized, math.prod(array.cdata_shape)
            if there < wanted:
                raise ArrayError(
                    f"{wanted - there} of its {wanted} chunks are not there (lost, or left out by Zarr as empty: write "
                    "with write_empty_chunks)"
                )
            return np.asarray(array[...])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError) as error:
            raise ArrayError(f"cannot be read: {one_line(error, 200)}") from error

    def _array(self, name: str) -> Any:
        array = self._arrays[name]
        refuse_type(array.dtype)
        refuse_size(array.shape, array.dtype.itemsize)
        if "pickle" in repr(array.metadata).lower():
            raise ArrayError("its values are pickled")
        return array
