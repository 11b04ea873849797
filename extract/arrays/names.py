"""Which array is which clip's, and the content of each: what a pass needs to know before it begins."""

import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from configs import UserError, one_line, some
from configs.schema import Source
from configs.tables import shortened
from extract.arrays.opening import open_source
from extract.arrays.reader import ArrayError, as_features, matrix_shape
from extract.media.hashing import ChangedError, new_content_hash


@dataclass(frozen=True)
class Matches:
    """``array``: the name of each clip's array. ``several``: clips for which more than one array stands."""

    array: dict[str, str] = field(default_factory=dict)
    several: dict[str, list[str]] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)  # arrays of no clip
    unlike: list[str] = field(default_factory=list)  # names in which the pattern is not found


def match(clip_ids: Sequence[str], names: Sequence[str], pattern: str | None) -> Matches:
    """The array of each clip: of its id as a whole, or where no name is that, as the last part of a path."""
    found = Matches()
    wanted = set(clip_ids)
    whole: dict[str, list[str]] = {}
    last: dict[str, list[str]] = {}
    for name in names:
        said = name
        if pattern is not None:
            hit = re.search(pattern, name)
            if hit is None or hit[1] is None:
                found.unlike.append(name)
                continue
            said = hit[1]
        whole.setdefault(said, []).append(name)
        last.setdefault(said.rpartition("/")[2], []).append(name)
    used: set[str] = set()
    for clip_id in clip_ids:
        arrays = whole.get(clip_id) or [name for name in last.get(clip_id, []) if name not in wanted]
        used.update(arrays)
        if len(arrays) == 1:
            found.array[clip_id] = arrays[0]
        elif arrays:
            found.several[clip_id] = arrays
    used.update(found.unlike)
    found.strangers.extend(name for name in names if name not in used)
    return found


class Arrays:
    """The arrays of a source as clips' features, each (time, ``width``) float32.

    Raises:
        UserError: as :func:`extract.arrays.opening.open_source`; or no width is the most common one.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._reader = open_source(source)
        self._lock = threading.Lock()  # readers seek, and some libraries know one thread
        self._names: dict[str, str] = {}
        self.width = self._wanted_width()

    @property
    def columns(self) -> tuple[str, ...] | None:
        """What the numbers of a time step are, where the source says it."""
        return self._reader.columns

    def survey(self, clip_ids: Sequence[str]) -> "Survey":
        """The content hash of each clip's array, and why others have none. Every array is read.

        Raises:
            UserError: no clip has an array; the line has examples of both sides.
        """
        names = self._reader.names()
        matches = match(clip_ids, names, self._source.pattern)
        where = self._source.path
        if not matches.array and not matches.several:
            if len(matches.unlike) == len(names):
                raise UserError(f"{where}: source.pattern is found in none of its names: {_examples(names)}")
            raise UserError(
                f"{where}: none of its {len(names)} arrays is of one of the {len(clip_ids)} clips: it has "
                f"{_examples(names)}, and the clips are {_examples(clip_ids)}; source.pattern can say what of a name "
                "is the clip's id"
            )
        self._names = matches.array
        return Survey(self._notes(matches, names), matches, self)

    def read(self, clip_id: str, content_hash: str | None = None) -> tuple[np.ndarray, str]:
        """A clip's features, (time, width) float32, and their hash.

        Args:
            content_hash: that they must have.
        Raises:
            ArrayError: they are none. ChangedError: they are others by now. OSError.
        """
        with self._lock:
            if clip_id not in self._names:  # in a worker, which has made no survey
                self._names |= match([clip_id], self._reader.names(), self._source.pattern).array
            if clip_id not in self._names:
                raise ChangedError("its array is not there any more")
            values = as_features(self._reader.read(self._names[clip_id]), self.width)
        digest = new_content_hash()
        digest.update(f"{len(values)} {self.width} ".encode())
        digest.update(values.astype("<f4", copy=False))
        if content_hash is not None and digest.hexdigest() != content_hash:
            raise ChangedError("changed while it was read")
        return values, digest.hexdigest()

    def _wanted_width(self) -> int:
        widths: Counter[int] = Counter()
        reasons: list[str] = []
        for name in self._reader.names():
            try:
                shape = matrix_shape(self._reader.shape(name))
                widths[shape[1]] += shape[1] > 0
            except (ArrayError, OSError) as error:
                reasons.append(f"{shortened(name)}: {one_line(error, 200)}")
        usual = [width for width, n in widths.most_common(2) if n and n == max(widths.values())]
        if not usual:
            raise UserError(f"{self._source.path}: holds no array of features: {some(reasons, 1)}")
        if self._source.width:
            if not widths[self._source.width]:
                raise UserError(
                    f"{self._source.path}: source.width = {self._source.width}: none of its arrays is; most have "
                    f"{usual[0]} numbers in a time step"
                )
            return self._source.width
        if len(usual) > 1:
            raise UserError(
                f"{self._source.path}: as many arrays have {usual[0]} numbers in a time step as have {usual[1]}: "
                "source.width says which are wanted"
            )
        return usual[0]

    def _notes(self, matches: Matches, names: Sequence[str]) -> list[str]:
        said = [f"{self._source.path}: {len(names)} arrays, {self.width} numbers in a time step"]
        said += self._reader.notes
        if matches.strangers:
            said.append(
                f"of no clip that is read here, and left out: {len(matches.strangers)}: {_examples(matches.strangers)}"
            )
        if matches.unlike:
            said.append(f"without source.pattern in their names: {len(matches.unlike)}: {_examples(matches.unlike)}")
        return said


@dataclass(frozen=True)
class Survey:
    """What a pass is told of a source: ``notes``, lines for people; then what became of each clip."""

    notes: list[str]
    _matches: Matches
    _arrays: Arrays

    def each(self, clip_ids: Sequence[str]) -> Iterator[tuple[str | None, str]]:
        """Of each clip, in order: its content hash, or None and why it has none ("": the source has nothing of it)."""
        for clip_id in clip_ids:
            if clip_id in self._matches.several:
                yield None, f"several arrays are called like it: {some(self._matches.several[clip_id])}"
            elif clip_id not in self._matches.array:
                yield None, ""
            else:
                try:
                    yield self._arrays.read(clip_id)[1], ""
                except (ArrayError, OSError) as error:
                    yield None, one_line(error)


def _examples(names: Sequence[str]) -> str:
    return some(shortened(name) for name in names)
