"""What a pickle holds, without running anything that it names: NumPy arrays, numbers, texts, lists, dicts, sets.

NumPy's own classes are never handed to a pickle. What it asks of them is noted by the stand-ins below, and the arrays
are made of the notes, once they are known to be sound.
"""

import pickle
from collections.abc import Callable
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError, one_line

KINDS = "biufcSU"  # of NumPy types whose values are nothing but their bytes; O is read as a list
MOST_VALUES = 10_000_000  # in lists, dicts and sets, what stands in several of them counted as often
DEEPEST = 50
LFS_POINTER = b"version https://git-lfs"


class RefusedError(pickle.UnpicklingError):
    """Something in a pickle that is not read here."""


class _Note:
    """Something of NumPy that a pickle asks for; attributes can be set on it by its own state alone."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("a state for what has none")


class _Callable(_Note):
    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)


class _Type(_Note):
    """A NumPy type, of its name (``f4``) and, in its state, the order of its bytes."""

    __slots__ = ("_name", "_order")

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        self._name = name.decode("latin1") if isinstance(name, bytes) else name
        self._order = "="
        if not isinstance(self._name, str) or len(self._name) > 20:
            raise RefusedError("a NumPy type without a name")

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 4 else None
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "|", "=") or state[2] is not None or state[3] is not None or state[4] is not None:
            raise RefusedError("a structured NumPy array")
        self._order = order

    def made(self) -> np.dtype:
        try:
            found = np.dtype(self._name).newbyteorder(self._order)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise RefusedError(f"the NumPy type {self._name!r}") from error
        if found.kind not in KINDS + "O" or found.names is not None or found.subdtype is not None:
            raise RefusedError(f"the NumPy type {self._name!r}")
        return found


class _Array(_Note):
    __slots__ = ("_content", "_fortran", "_shape", "_type")

    def __init__(self, *_: Any) -> None:
        self._type: Any = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise RefusedError("a NumPy array of no known form")
        self._shape, self._type, self._fortran, self._content = state[-4:]

    @classmethod
    def of_buffer(cls, content: Any, dtype: Any, shape: Any, order: Any) -> "_Array":
        array = cls()
        array.__setstate__((shape, dtype, order == "F", content))
        return array

    def made(self, convert: Callable[[Any], Any]) -> Any:
        """The array; of Python's objects, a list (of lists)."""
        if not isinstance(self._type, _Type) or not isinstance(self._shape, tuple):
            raise RefusedError("a NumPy array of no known form")
        if not all(isinstance(length, int) and length >= 0 for length in self._shape):
            raise RefusedError("a NumPy array of no known shape")
        dtype, order = self._type.made(), "F" if self._fortran else "C"
        if dtype.kind == "O":
            if not isinstance(self._content, list) or len(self._content) != prod(self._shape):
                raise RefusedError("a NumPy array of Python's objects of no known form")
            places = np.arange(len(self._content)).reshape(self._shape, order=order).tolist()  # type: ignore[call-overload]
            items = convert(self._content)
            return _put(places, items)
        content = self._content
        content = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(content, bytes | bytearray) or len(content) != prod(self._shape) * dtype.itemsize:
            raise RefusedError("a NumPy array whose bytes do not fit its shape")
        return np.frombuffer(content, dtype).reshape(self._shape, order=order)  # type: ignore[call-overload]


def _put(places: Any, items: list[Any]) -> Any:
    return [_put(place, items) for place in places] if isinstance(places, list) else items[places]


def _scalar(dtype: Any, content: Any = None) -> Any:
    if not isinstance(dtype, _Type) or dtype.made().kind == "O":
        raise RefusedError("a NumPy number of no known form")
    return _Array.of_buffer(content, dtype, (), "C").made(lambda each: each)[()]


def _encoded(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError("_codecs.encode")
    return text.encode("latin1")


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("multiarray", "_reconstruct"): _Array,
    ("multiarray", "scalar"): _scalar,
    ("numeric", "_frombuffer"): _Array.of_buffer,
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encoded,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytes"): lambda: b"",
    ("builtins", "bytearray"): lambda content=b"", *_: bytes(content) if isinstance(content, bytes) else b"",
    ("builtins", "complex"): complex,
    ("builtins", "list"): list,
    ("builtins", "dict"): dict,
    ("builtins", "int"): int,
    ("builtins", "float"): float,
    ("builtins", "str"): lambda: "",
    ("collections", "OrderedDict"): dict,
    ("collections", "defaultdict"): lambda *_: {},
}
NUMPY = {f"numpy.{core}.{module}": module for core in ("core", "_core") for module in ("multiarray", "numeric")}
OLD = {"__builtin__": "builtins"}  # of Python 2


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = ALLOWED.get((NUMPY.get(module, OLD.get(module, module)), name))
        if found is None:
            raise RefusedError(f"{module}.{name}")
        return _Callable(found)

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError("an object that lies elsewhere (a persistent id)")


def read_pickle(path: Path) -> Any:
    """What a pickle of any protocol holds; texts of Python 2 that are no UTF-8 are read as Latin-1.

    Raises:
        UserError: it is not there, no pickle, a Git LFS pointer, cut short, or names anything but NumPy's arrays, types
            and numbers, and Python's own texts, numbers, lists, dicts and sets; the line has the name.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise UserError(f"{path}: a Git LFS pointer: fetch the file with 'git lfs pull'")
            file.seek(0)
            held = _unpickled(file)
        return _Conversion().of(held, 0)
    except RefusedError as error:
        raise UserError(
            f"{path}: holds {one_line(error, 200)}, which is not unpickled: {_remedy(str(error))}"
        ) from error
    except MemoryError as error:
        raise UserError(f"{path}: takes more memory than there is for it") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or one_line(error)}") from error
    except (
        *(pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError),
        *(AttributeError, UnicodeDecodeError, OverflowError, ImportError, RecursionError, NotImplementedError),
    ) as error:
        raise UserError(
            f"{path}: no pickle, or a damaged one: {one_line(error, 200) or type(error).__name__}"
        ) from error


def _unpickled(file: BufferedReader) -> Any:
    return _Unpickler(file, encoding="bytes").load()


def _remedy(name: str) -> str:
    if name.startswith("torch"):
        return "with PyTorch, where you trust the file, save the arrays as .npz or .safetensors"
    if name.startswith("pandas"):
        return "with pandas, where you trust the file, save the table as .parquet"
    return "with the program that wrote it, where you trust the file, save the arrays as .npz"


class _Conversion:
    """Stand-ins become arrays, bytes become texts."""

    def __init__(self) -> None:
        self._n = 0

    def of(self, held: Any, depth: int) -> Any:
        self._n += 1
        if self._n > MOST_VALUES or depth > DEEPEST:
            raise RefusedError(f"more than {MOST_VALUES:,} values, or lists that are nested too deeply")
        if isinstance(held, _Array):
            return held.made(lambda items: [self.of(each, depth + 1) for each in items])
        if isinstance(held, _Note):
            raise RefusedError("a part of NumPy that is no array")
        if isinstance(held, dict):
            return {self._key(key): self.of(value, depth + 1) for key, value in held.items()}
        if isinstance(held, list | tuple | set | frozenset):
            items = sorted(held, key=repr) if isinstance(held, set | frozenset) else held
            return [self.of(each, depth + 1) for each in items]
        return _text(held) if isinstance(held, bytes | bytearray) else held

    def _key(self, key: Any) -> Any:
        if isinstance(key, tuple | frozenset):
            return "_".join(str(self._key(each)) for each in key)
        return _text(key) if isinstance(key, bytes) else key


def _text(content: bytes | bytearray) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin1")
