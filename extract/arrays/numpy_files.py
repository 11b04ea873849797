"""``.npy`` and ``.npz`` files: a folder with one for each clip, one ``.npz``, a tar of ``.npy`` files."""

import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import numpy as np

from configs import UserError, one_line
from extract.arrays.reader import ArrayError, npy_shape, opened, read_npy

FAULTS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError)
T = TypeVar("T")


class Npz:
    """One ``.npz`` with an array for each clip; also one of a folder of them."""

    columns: tuple[str, ...] | None = None

    def __init__(self, path: Path) -> None:
        self.notes: list[str] = []
        self._path = path
        with opened(path, "an .npz file"):
            pass
        try:
            self._zip = zipfile.ZipFile(path)
        except FAULTS as error:
            raise UserError(f"{path}: no .npz file: {one_line(error, 200)}") from error
        entries = [entry for entry in self._zip.infolist() if entry.filename.endswith(".npy")]
        self._entries = {entry.filename.removesuffix(".npy"): entry for entry in entries}
        if len(self._entries) < len(entries):
            raise UserError(f"{path}: holds two arrays of one name")

    def names(self) -> list[str]:
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._of(name, npy_shape)

    def read(self, name: str) -> np.ndarray:
        return self._of(name, read_npy)

    def close(self) -> None:
        self._zip.close()

    def _of(self, name: str, of_npy: Callable[..., T]) -> T:
        entry = self._entries[name]
        try:
            with self._zip.open(entry) as file:
                return of_npy(file, entry.file_size)
        except FAULTS as error:
            raise ArrayError(f"cannot be read: {one_line(error, 200)}") from error


class Folder:
    """Files anywhere below a folder, each with the array of a clip: its name is the path without its ending.

    A ``.npz`` of several arrays has a name for each of them: ``PATH/ARRAY``.
    """

    columns: tuple[str, ...] | None = None

    def __init__(self, path: Path, files: list[str]) -> None:
        self.notes: list[str] = []
        self._root = path
        self._places: dict[str, tuple[str, str | None]] = {}  # file below the folder, array within it
        self._broken: dict[str, str] = {}
        for file in files:
            stem = file[:-4]
            inside: list[str | None] = [None]
            if file.lower().endswith(".npz"):
                try:
                    npz = Npz(path / file)
                    inside = list(npz.names())
                    npz.close()
                except UserError as error:
                    self._broken[stem] = one_line(error).removeprefix(f"{path / file}: ")
            for array in inside:
                name = stem if len(inside) == 1 else f"{stem}/{array}"
                if name in self._places:
                    raise UserError(f"{path}: two files hold {name!r}: {self._places[name][0]} and {file}")
                self._places[name] = file, array

    def names(self) -> list[str]:
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._of(name, Npz.shape, npy_shape)

    def read(self, name: str) -> np.ndarray:
        return self._of(name, Npz.read, read_npy)

    def _of(self, name: str, of_npz: Callable[[Npz, str], T], of_npy: Callable[..., T]) -> T:
        if name in self._broken:
            raise ArrayError(self._broken[name])
        file, array = self._places[name]
        path = self._root / file
        if array is None:
            with path.open("rb") as content:
                return of_npy(content, os.fstat(content.fileno()).st_size)
        try:
            npz = Npz(path)
        except UserError as error:
            raise ArrayError(one_line(error).removeprefix(f"{path}: ")) from error
        try:
            return of_npz(npz, array)
        except KeyError as error:
            raise ArrayError(f"holds no array {array!r} any more") from error
        finally:
            npz.close()


class Tar:
    """``.npy`` files in a tar, as WebDataset has them: nothing is unpacked."""

    columns: tuple[str, ...] | None = None

    def __init__(self, path: Path) -> None:
        self.notes: list[str] = []
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}  # offset and size
        with opened(path, "a tar") as file:
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    members = [each for each in tar if each.isfile() and each.name.endswith(".npy")]
            except tarfile.TarError as error:
                raise UserError(f"{path}: no tar, or a compressed one: {one_line(error, 200)}") from error
        for member in members:
            name = unquote(member.name.removesuffix(".npy"))  # cache/export.py writes a dot in an id as %2E
            if name in self._places:
                raise UserError(f"{path}: holds {name!r} twice")
            self._places[name] = member.offset_data, member.size

    def names(self) -> list[str]:
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._of(name, npy_shape)

    def read(self, name: str) -> np.ndarray:
        return self._of(name, read_npy)

    def _of(self, name: str, of_npy: Callable[..., T]) -> T:
        start, size = self._places[name]
        with self._path.open("rb") as file:
            file.seek(start)
            return of_npy(file, size)
