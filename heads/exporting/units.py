"""What a head's graph is given of units: the clips that they see, features, roles, people, and ids of metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from heads.data.batches import ROLES
from heads.exporting.graph import Graph, Value
from heads.models.pooled import OTHERS

UNKNOWN, UNSEEN, FIRST = 0, 1, 2  # ids of a metadata field: not given; given, but met by no model; the first category
OTHER_ROLES = [ROLES.index(role) + 1 for role in OTHERS]


@dataclass(frozen=True)
class Units:
    """A batch of units; ``places`` are the clips of the longest one, right-padded, the labelled clip last."""

    graph: Graph
    frames: dict[str, tuple[Value, Value]]  # input: (batch, places, time, dim), and lengths (batch, places)
    mask: Value | None = None  # (batch, places) bool
    roles: Value | None = None  # (batch, places)
    speakers: Value | None = None  # (batch, places)
    fields: Mapping[str, Value] | None = None  # field: ids (batch,)
    words: Mapping[str, Sequence[str]] | None = None  # field: the categories behind the ids, from FIRST on

    @property
    def counts(self) -> Value:
        """(batch,) clips of each unit."""
        assert self.mask is not None
        return self.mask.to(np.int64).sum(1)

    @property
    def last(self) -> Value:
        """(batch, 1) where the labelled clip stands."""
        return self.counts.unsqueeze(1) - 1

    @property
    def size(self) -> Value:
        """(1,) places."""
        assert self.mask is not None
        return self.mask.size(1)

    def within(self, context_clips: int | None) -> "Units":
        """The labelled clip and at most so many before it, moved to the front."""
        if context_clips is None or self.mask is None:
            return self
        seen = self.graph.op("Min", self.counts, self.graph.ints(context_clips + 1)).unsqueeze(1)
        steps = self.graph.arange(self.size)
        places = self.graph.op("Min", steps + (self.counts.unsqueeze(1) - seen), self.size - 1)
        assert self.roles is not None
        return replace(
            self,
            frames={
                name: (values.take(places), lengths.take(places)) for name, (values, lengths) in self.frames.items()
            },
            mask=steps < seen,
            roles=self.roles.take(places),
            speakers=self.speakers.take(places) if self.speakers is not None else None,
        )

    def ids(self, field: str, known: Sequence[str], missing: int, first: int) -> Value:
        """A field's ids (batch,) as one model numbers its own categories, from ``first`` on."""
        assert self.fields is not None
        assert self.words is not None
        places = {word: number for number, word in enumerate(known, start=first)}
        table = np.array([missing] * FIRST + [places.get(word, missing) for word in self.words[field]], np.int64)
        return self.graph.op("Gather", self.graph.constant(table), self.fields[field], axis=0)

    def spoken(self) -> Value:
        """(batch, places) which clips are the unit's own or its speaker's before it: not the others'."""
        assert self.mask is not None
        assert self.roles is not None
        by_others = self.roles.equals(OTHER_ROLES[0]) | self.roles.equals(OTHER_ROLES[1])
        return self.mask & (~by_others | self.graph.arange(self.size).equals(self.last))


def seen_steps(units: Units, name: str) -> Value:
    """(batch, places, time) bool: the time steps of an input that there are."""
    values, lengths = units.frames[name]
    assert units.mask is not None
    return (units.graph.arange(values.size(2)) < lengths.unsqueeze(2)) & units.mask.unsqueeze(2)
