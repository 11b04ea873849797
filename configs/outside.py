"""Reading small files that come from outside: whatever they are, reading them ends, soon, in a value or in one line."""

import json
import os
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from configs import UserError, one_line

LARGEST = 2**30  # bytes; nothing that a person or a tool writes as JSON or YAML comes near it
MOST_NODES = 100_000  # of a YAML file, aliases written out


def open_to_read(path: Path) -> int:
    """A descriptor of a file, of its bytes as they are; a pipe that nobody writes is not waited for. Raises OSError."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))


def read_at(descriptor: int, n_bytes: int, at: int) -> bytes:
    """Up to ``n_bytes`` of an open file from ``at`` on; where it is read next stays as it is."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, n_bytes, at)
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        os.lseek(descriptor, at, os.SEEK_SET)
        return os.read(descriptor, n_bytes)
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)


def read_outside(path: Path, largest: int = LARGEST) -> bytes:
    """All bytes of a regular file (or of what a link leads to).

    Raises:
        UserError: there is none, it is something else (a folder, a pipe, a device), it is larger than ``largest``
            bytes, or the operating system refuses it.
    """
    try:
        descriptor = open_to_read(path)
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise UserError(f"{path}: no regular file (a folder, a pipe or a device): give a file")
            if state.st_size > largest:
                raise UserError(f"{path}: {state.st_size:,} bytes; no more than {largest:,} are read")
            return file.read(largest)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: no regular file (a folder): give a file") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"{_short(path)}: cannot be read ({reason})") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it cannot be read (see :func:`read_outside`), is not JSON, is nested too deeply, names a key twice.
    """
    return parse_json(read_outside(path), path)


def parse_json(content: bytes | str, where: object) -> Any:
    """JSON in UTF-8, with or without a byte order mark; ``where`` begins the error's line. Raises UserError."""
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return json.loads(text, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except ValueError as error:  # a key twice, an integer of thousands of digits
        raise UserError(f"{where}: not valid JSON: {one_line(error, 200)}") from error
    except RecursionError as error:
        raise UserError(f"{where}: JSON that is nested too deeply") from error


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. Raises UserError as :func:`parse_yaml`, and where it cannot be read."""
    return parse_yaml(read_outside(path, largest=2**24), path)


def parse_yaml(content: bytes | str, where: object) -> Any:
    """YAML of plain values; ``where`` begins the error's line.

    Raises:
        UserError: it is not YAML, names a key twice, is nested too deeply, or its aliases make more of it than
            ``MOST_NODES`` values.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return _load(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except RecursionError as error:
        raise UserError(f"{where}: YAML that is nested too deeply") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{where}: not valid YAML: {one_line(error, 300)}") from error


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                name = str(key.value)
                if name in seen and name != "<<":
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{name}: stands twice in one mapping", key.start_mark
                    )
                seen.add(name)
        return super().construct_mapping(node, deep)


def _load(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > MOST_NODES:
            raise yaml.YAMLError(f"its aliases (*name) stand for more than {MOST_NODES:,} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: Any, known: dict[int, int]) -> int:
    """How many values a node stands for when every alias in it is written out."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_NODES + 1  # what contains itself has no end
    children: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    known[id(node)] = 1 + sum(_count(child, known) for child in children)
    return known[id(node)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r}: stands twice in one object")
    return mapping


def _short(path: Path) -> str:
    text = str(path).replace("\0", "\\0")
    return text if len(text) <= 300 else f"{text[:300]}..."
