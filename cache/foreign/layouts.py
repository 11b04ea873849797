"""Which arrays of what a pickle held are of which clip: the layouts in which corpora ship features.

``{"train": {"id": [...], "audio": (n, time, dim), "audio_lengths": [...], "labels": [...]}, ...}``, as MMSA's files;
and by clips: ``{id: array}``, ``{id: {"audio": array}}``, ``{"audio": {id: array}}``, ``[{"id": ..., ...}]``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from configs import UserError, some

ID_KEYS = ("id", "ids", "clip_id", "segment_id", "utterance_id")
SPLITS = {"valid": "val", "validation": "val", "dev": "val"}  # as a manifest calls them
MASK_OF = {"text": "text_bert"}  # (n, 3, tokens): ids of tokens, which of them are there, segments
Arrays = dict[str, np.ndarray]


@dataclass
class Layout:
    """``features``: by their name, an array for each clip. ``rows``: what else is said of each clip."""

    features: dict[str, Arrays] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put(self, name: str, clip_id: str, value: Any) -> bool:
        """Whether it is something to keep."""
        values = array_of(value)
        if values is not None and values.size != 1 and values.ndim:
            self.features.setdefault(name, {})[clip_id] = values
            return True
        single = values.item() if values is not None and values.size == 1 else value
        if isinstance(single, str | int | float | bool) or single is None:
            self.rows.setdefault(clip_id, {})[name] = single
            return True
        return False


def layout_of(held: Any, name: str) -> Layout:
    """What ``held`` has of clips; ``name`` is that of features which have none.

    Raises UserError, beginning without a file's name, where it is none of the layouts.
    """
    if isinstance(held, Mapping) and held and all(isinstance(each, Mapping) and _key(each) for each in held.values()):
        return _of_splits(held)
    if isinstance(held, Mapping) and _key(held) and isinstance(held[_key(held)], Sequence | np.ndarray):
        return _of_splits({"": held})
    if isinstance(held, Sequence) and held and all(isinstance(each, Mapping) and _key(each) for each in held):
        found = Layout()
        for record in held:
            _put_record(found, clip_name(record[_key(record)]), record)
        return found
    if isinstance(held, Mapping) and held and all(array_of(each) is not None for each in held.values()):
        return Layout({name: {clip_name(key): _sure(each) for key, each in held.items()}})
    if isinstance(held, Mapping) and held and all(isinstance(each, Mapping) and each for each in held.values()):
        return _of_nested(held)
    raise UserError(f"of a layout that is not known here: {outline(held)}")


def outline(held: Any, depth: int = 0) -> str:
    """What something holds, in a line."""
    if isinstance(held, np.ndarray):
        return f"{held.dtype} {' x '.join(map(str, held.shape))}"
    if isinstance(held, Mapping):
        first = next(iter(held.values()), None)
        if isinstance(first, Mapping) and depth < 3:
            return f"{len(held)} of {{{some(map(repr, held), 4)}}}, the first: {outline(first, depth + 1)}"
        return f"{{{some((f'{key!r}: {outline(each, depth + 1)}' for key, each in held.items()), 12 if depth else 4)}}}"
    if isinstance(held, Sequence) and not isinstance(held, str):
        return f"[{len(held)} of {outline(held[0], depth + 1)}]" if held and depth < 4 else f"[{len(held)}]"
    return type(held).__name__


def array_of(value: Any) -> np.ndarray | None:
    """Numbers, as they are or in lists, as an array; None where it is something else."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value) if value.dtype.kind in "fiub" else None
    if isinstance(value, list) and value:
        if all(isinstance(each, int | float) for each in value):
            return np.array(value)
        parts = [array_of(each) for each in value if isinstance(each, list | np.ndarray | np.generic)]
        if len(parts) == len(value) and len({None if each is None else each.shape for each in parts}) == 1:
            return None if parts[0] is None else np.array(parts)
    return None


def clip_name(given: Any) -> str:
    """An id as a text: of several parts (a video, its beginning and end), these with ``_`` between them."""
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if isinstance(given, list):
        return "_".join(map(clip_name, given))
    return str(int(given)) if isinstance(given, float) and given.is_integer() else str(given).strip()


def _of_splits(splits: Mapping[str, Mapping[str, Any]]) -> Layout:
    found = Layout()
    cut: set[str] = set()
    left: dict[str, str] = {}
    for split, held in splits.items():
        ids = [clip_name(each) for each in held[_key(held)]]
        for clip_id in ids:
            if clip_id in found.rows:
                raise UserError(f"names the clip {clip_id!r} twice")
            found.rows[clip_id] = {"split": SPLITS.get(split, split)} if split else {}
        for name, values in held.items():
            if name == _key(held) or name in MASK_OF.values() or name.endswith("_lengths"):
                continue
            if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str) or len(values) != len(ids):
                left[name] = outline(values)
                continue
            lengths = _lengths(name, held, len(ids))
            for i, clip_id in enumerate(ids):
                value = array_of(values[i])
                if value is not None and value.ndim == 2 and len(value) > 1:
                    first, stop = (0, int(lengths[i])) if lengths is not None else _between_zeros(value)
                    cut |= {name} if lengths is None and stop - first < len(value) else set()
                    value = value[first:stop]
                given = values[i] if value is None else value
                if not found.put(name, clip_id, given.item() if isinstance(given, np.generic) else given):
                    left[name] = outline(values)
    for name in sorted(cut):
        found.notes.append(f"{name}: no {name}_lengths: rows of zeros at either end were taken for padding, and cut")
    found.notes += [f"left out: {name}: {what}" for name, what in left.items()]
    return found


def _lengths(name: str, held: Mapping[str, Any], n: int) -> Any:
    """How many time steps each clip has; None where nothing says it."""
    if f"{name}_lengths" in held and len(held[f"{name}_lengths"]) == n:
        return held[f"{name}_lengths"]
    mask = held.get(MASK_OF.get(name, ""))
    if isinstance(mask, np.ndarray) and mask.ndim == 3 and mask.shape[:2] == (n, 3):
        return mask[:, 1].sum(axis=1)
    return None


def _between_zeros(values: np.ndarray) -> tuple[int, int]:
    there = np.flatnonzero(values.any(axis=1))
    return (int(there[0]), int(there[-1]) + 1) if len(there) else (0, 0)


def _of_nested(held: Mapping[Any, Mapping[Any, Any]]) -> Layout:
    """By clips and then by names, or the other way round: there are fewer names than clips."""
    n_inner = len({key for each in held.values() for key in each})
    if n_inner == len(held):
        raise UserError(f"as many keys within as without, so that none can be told for clips: {outline(held)}")
    found = Layout()
    for outer, each in held.items():
        for inner, value in each.items():
            clip_id, name = (outer, inner) if n_inner < len(held) else (inner, outer)
            _put_record(found, clip_name(clip_id), {str(name): value})
    return found


def _put_record(found: Layout, clip_id: str, record: Mapping[str, Any]) -> None:
    for name, value in record.items():
        note = f"left out: {name}, as of {clip_id}: {outline(value)}"
        if (
            name not in ID_KEYS
            and not found.put(name, clip_id, value)
            and not any(each.startswith(f"left out: {name}, ") for each in found.notes)
        ):
            found.notes.append(note)


def _key(held: Mapping[str, Any]) -> str:
    """The key of the clips' ids, "" where there is none."""
    return next((key for key in ID_KEYS if key in held), "")


def _sure(value: Any) -> np.ndarray:
    values = array_of(value)
    assert values is not None
    return values
