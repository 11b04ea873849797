"""Kaldi's binary archives and their lists. Read here and not by a library: those that there are unpickle, and run the
commands that a list may hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from configs import UserError
from extract.arrays.reader import ArrayError, opened, refuse_size

LONGEST_KEY = 4096  # bytes
FLOATS = {b"FM ": "<f4", b"DM ": "<f8", b"FV ": "<f4", b"DV ": "<f8"}
STEPS = {b"CM2": ("<u2", 65535), b"CM3": ("u1", 255)}  # of matrices compressed between a least and a largest value
PERCENTILES = 4  # of each column of a CM, between which a byte is a place: the 0th, 25th, 75th and 100th


class Kaldi:
    """An ``.ark``, or what an ``.scp`` lists: ``ID FILE.ark:OFFSET`` a line."""

    columns: tuple[str, ...] | None = None

    def __init__(self, path: Path) -> None:
        self.notes: list[str] = []
        self._places = dict[str, tuple[Path, int]]()
        listed = _listed(path) if path.suffix.lower() == ".scp" else _archived(path)
        for name, place in listed:
            if name in self._places:
                raise UserError(f"{path}: holds {name!r} twice")
            self._places[name] = place

    def names(self) -> list[str]:
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        path, offset = self._places[name]
        with path.open("rb") as file:
            file.seek(offset)
            return _header(file)[1]

    def read(self, name: str) -> np.ndarray:
        path, offset = self._places[name]
        with path.open("rb") as file:
            file.seek(offset)
            return _matrix(file)


def _listed(path: Path) -> Iterator[tuple[str, tuple[Path, int]]]:
    with opened(path, "a Kaldi list") as file:
        lines = file.read().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: line {number} is not UTF-8: is it a list (.scp)?") from error
        if not text:
            continue
        name, *rest = text.split(None, 1)
        place = "".join(rest)
        if place.startswith("|") or place.endswith("|"):
            raise UserError(f"{path}: line {number} is a command, and none is run here: write what it gives to an .ark")
        if place.endswith("]"):
            raise UserError(f"{path}: line {number}: ranges of rows are not read: copy them with copy-feats")
        file_name, colon, offset = place.rpartition(":")
        if not (colon and offset.isdigit()):
            file_name, offset = place, "0"
        if not file_name:
            raise UserError(f"{path}: line {number}: 'ID FILE.ark:OFFSET' is wanted")
        beside = path.parent / file_name
        yield name, (beside if beside.is_file() else Path(file_name), int(offset))


def _archived(path: Path) -> Iterator[tuple[str, tuple[Path, int]]]:
    with opened(path, "a Kaldi archive") as file:
        size = path.stat().st_size
        while file.tell() < size:
            key = bytearray()
            while (byte := file.read(1)) not in (b" ", b"") and len(key) < LONGEST_KEY:
                key += byte
            offset = file.tell()
            try:
                name = key.strip().decode()
                _, _, n_bytes = _header(file)
                if not name or file.tell() + n_bytes > size:
                    raise ArrayError("it is cut short")
            except (ArrayError, UnicodeDecodeError) as error:
                raise UserError(f"{path}: cannot be read as a Kaldi archive from byte {offset} on: {error}") from error
            yield name, (path, offset)
            file.seek(n_bytes, 1)


def _header(file: BinaryIO) -> tuple[bytes, tuple[int, ...], int]:
    """Kind, shape, and the bytes of values that follow. Raises ArrayError."""
    if file.read(2) != b"\0B":
        raise ArrayError("not in Kaldi's binary form: convert it with copy-feats ark,t:OLD ark:NEW")
    kind = file.read(3)
    if kind in FLOATS:
        shape: tuple[int, ...] = tuple(_length(file) for _ in range(2 if kind.endswith(b"M ") else 1))
        n_bytes = np.dtype(FLOATS[kind]).itemsize
    elif kind in (b"CM ", *STEPS):
        kind += file.read(1) if kind in STEPS else b""
        about = file.read(16)
        if len(about) < 16:
            raise ArrayError("cut short")
        shape = tuple(int(n) for n in np.frombuffer(about, "<i4", 2, 8))
        file.seek(-16, 1)
        n_bytes = np.dtype(STEPS[kind[:3]][0]).itemsize if kind[:3] in STEPS else 1
    else:
        read = ", ".join(each.decode().strip() for each in (*FLOATS, b"CM", *STEPS))
        raise ArrayError(f"of a kind that is not read, {kind!r}; those that are: {read}")
    if min(shape, default=0) < 0:
        raise ArrayError(f"damaged: its shape is {shape}")
    refuse_size(shape, n_bytes)
    for length in shape:
        n_bytes *= length
    if kind == b"CM ":
        n_bytes += 16 + 2 * PERCENTILES * shape[1]
    elif kind[:3] in STEPS:
        n_bytes += 16
    return kind[:3], shape, n_bytes


def _length(file: BinaryIO) -> int:
    held = file.read(5)
    if len(held) < 5 or held[0] != 4:
        raise ArrayError("cut short, or no matrix")
    return int.from_bytes(held[1:], "little", signed=True)


def _matrix(file: BinaryIO) -> np.ndarray:
    kind, shape, n_bytes = _header(file)
    content = file.read(n_bytes)
    if len(content) < n_bytes:
        raise ArrayError("cut short")
    if kind in FLOATS:
        return np.frombuffer(content, FLOATS[kind]).reshape(shape)
    least, extent = (np.float32(each) for each in np.frombuffer(content, "<f4", 2))
    if kind in STEPS:
        dtype, steps = STEPS[kind]
        return least + extent / np.float32(steps) * np.frombuffer(content, dtype, offset=16).reshape(shape)
    n_rows, n_columns = shape
    marks = np.frombuffer(content, "<u2", PERCENTILES * n_columns, 16).reshape(n_columns, PERCENTILES, 1)
    low, first, third, high = np.moveaxis(least + extent * np.float32(1 / 65535) * marks, 1, 0)  # (columns, 1) each
    places = np.frombuffer(content, "u1", offset=16 + 2 * PERCENTILES * n_columns).reshape(n_columns, n_rows)
    at = places.astype(np.float32)
    values = np.where(places <= 64, low + (first - low) * at / 64, first + (third - first) * (at - 64) / 128)
    return np.where(places <= 192, values, third + (high - third) * (at - 192) / 63).T.astype(np.float32)
