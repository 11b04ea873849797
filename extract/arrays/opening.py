"""Which reader takes a source: what is there says it, or the profile."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from configs import UserError, some
from configs.schema import Source
from extract.arrays.reader import Reader

ARRAYS, TABLES = (".npy", ".npz"), (".csv", ".tsv")
FORMATS = {  # of files, by their endings
    **dict.fromkeys((".h5", ".hdf5", ".hdf", ".he5", ".csd"), "hdf5"),
    **dict.fromkeys((".scp", ".ark"), "kaldi"),
    **dict.fromkeys((".parquet", ".csv", ".tsv", ".txt"), "table"),
    **{".npz": "npz", ".safetensors": "safetensors", ".tar": "tar"},
}
PICKLES = (".pkl", ".pickle", ".pk", ".p", ".joblib", ".dill")
TORCH = (".pt", ".pth", ".bin", ".ckpt")
ZARR = ("zarr.json", ".zgroup", ".zarray")
OF_FOLDERS, OF_ROWS = ("arrays", "frames", "zarr"), ("table", "frames")


def open_source(source: Source) -> Reader:
    """The arrays of a source.

    Raises:
        UserError: it is not there, of no known kind, would have to be unpickled, is damaged as a whole, or holds no
            arrays; or what the profile says of it does not fit.
    """
    path = source.path
    if not os.path.exists(path):  # noqa: PTH110 (a Path raises where the name is too long)
        raise UserError(f"{str(path)[:300]}: no such file or folder of features")
    files = _files_below(path) if path.is_dir() else []
    kind = source.format or (_kind_of_folder(path, files) if path.is_dir() else _kind_of_file(path))
    if path.is_dir() != (kind in OF_FOLDERS):
        raise UserError(f"{path}: {kind} is a {'folder' if kind in OF_FOLDERS else 'file'}, and this is none")
    for setting in ("columns", "rows", "id_column"):
        fits = ("table",) if setting == "id_column" else OF_ROWS
        if getattr(source, setting) and kind not in fits:
            raise UserError(f"{path}: source.{setting}: {kind} has no columns: leave it out")
    reader = _open(kind, source, files)
    if not reader.names():
        raise UserError(f"{path}: holds no arrays (read as {kind})")
    return reader


def _open(kind: str, source: Source, files: list[str]) -> Reader:
    from extract.arrays import containers, kaldi, numpy_files, tables  # each brings a library

    path = source.path
    arrays, frames = ([file for file in files if file.lower().endswith(kinds)] for kinds in (ARRAYS, TABLES))
    readers: dict[str, Callable[[], Reader]] = {
        "arrays": lambda: numpy_files.Folder(path, _some_of(arrays, path, ARRAYS)),
        "frames": lambda: tables.Frames(path, _some_of(frames, path, TABLES), source),
        "table": lambda: tables.Table(path, source),
        "npz": lambda: numpy_files.Npz(path),
        "hdf5": lambda: containers.Hdf5(path),
        "safetensors": lambda: containers.Safetensors(path),
        "zarr": lambda: containers.Zarr(path),
        "kaldi": lambda: kaldi.Kaldi(path),
        "tar": lambda: numpy_files.Tar(path),
    }
    return readers[kind]()


def _some_of(files: list[str], path: Path, endings: tuple[str, ...]) -> list[str]:
    if not files:
        raise UserError(f"{path}: holds no {' or '.join(endings)} file")
    return files


def _files_below(path: Path) -> list[str]:
    """Of every file that is not hidden, its path below a folder, sorted."""
    found = []
    for folder, inner, files in os.walk(path):
        inner[:] = sorted(each for each in inner if not each.startswith("."))
        below = Path(folder).relative_to(path)
        found += [(below / file).as_posix() for file in files if not file.startswith(".")]
    return sorted(found)


def _kind_of_folder(path: Path, files: list[str]) -> str:
    if any((path / name).is_file() for name in ZARR):
        return "zarr"
    endings = Counter(Path(file).suffix.lower() for file in files)
    has = {"arrays": sum(endings[each] for each in ARRAYS), "frames": sum(endings[each] for each in TABLES)}
    if all(has.values()):
        raise UserError(f"{path}: holds {ARRAYS[0]} and {TABLES[0]} files: say which: source.format, arrays or frames")
    if any(has.values()):
        return "arrays" if has["arrays"] else "frames"
    for file in files:
        _refuse_code(path / file)
    singles = [file for file in files if Path(file).suffix.lower() in FORMATS]
    if singles:
        raise UserError(f"{path}: a folder: name the file in it: {some(singles)}")
    raise UserError(f"{path}: holds no features that are read here (it has {some(files) or 'nothing'})")


def _kind_of_file(path: Path) -> str:
    _refuse_code(path)
    if path.suffix.lower() == ".npy":
        raise UserError(f"{path}: one array says of no row whose it is: give a folder with an .npy for each clip")
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: features are not read from '{path.suffix}' files; from {some(FORMATS, 20)}")
    return FORMATS[path.suffix.lower()]


def _refuse_code(path: Path) -> None:
    ending = path.suffix.lower()
    if ending in PICKLES:
        raise UserError(f"{path}: a pickle can run any program, and is not read: python cache/unpickle.py {path}")
    if ending in TORCH:
        raise UserError(f"{path}: PyTorch's own files are pickles, and are not read: save it as .safetensors or .npz")
