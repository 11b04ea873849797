"""Stores as heads open them, and augmented views of training clips: what is learned from beside view 0.

What is judged, or predicted, is read from view 0: a source has views only where something is trained on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cache import Store
from cache.remote.copies import fetch
from configs import UserError
from configs.schema import OF_VIEW, Head, Profile
from extract.corpora.manifest import Manifest


class Centre(Protocol):
    """What takes the mean of its owner from a clip's values: :class:`heads.data.standardised.Centred`."""

    def __contains__(self, clip_id: object) -> bool: ...

    def less_mean(self, clip_id: str, values: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class View:
    """One augmented view of some clips; other clips of its store, which profiles share, are none of it.

    ``centred``: by what its values become less, where a head wants them centred: the means are those of view 0.
    """

    store: Store
    clip_ids: frozenset[str]
    centred: Centre | None = None

    def __contains__(self, clip_id: object) -> bool:
        there = clip_id in self.clip_ids and clip_id in self.store
        return there and (self.centred is None or clip_id in self.centred)

    def __getitem__(self, clip_id: str) -> np.ndarray:
        values = self.store[clip_id]
        return values if self.centred is None else self.centred.less_mean(clip_id, values)

    @property
    def lengths(self) -> dict[str, int]:
        """Time steps of each clip."""
        return {clip: n for clip, n in self.store.lengths.items() if clip in self}


@dataclass(frozen=True)
class Viewed:
    """A source to learn from: view 0, and beside it others, which need not have all of its clips."""

    plain: Any  # a Source
    views: tuple[View, ...]


def views_of(source: Any) -> tuple[Any, tuple[View, ...]]:
    """View 0 of a source, and its augmented ones, if it has any."""
    return (source.plain, source.views) if isinstance(source, Viewed) else (source, ())


def open_store(profile: Profile, name: str) -> Store:
    """The store of an encoder, or of one of its views. Raises UserError where there is none, StoreError."""
    path, url = profile.store_path(name), profile.store_url(name)
    if url and not (path / "store.json").is_file():
        fetch(url, path)
    if not path.exists():
        encoder = name.partition(OF_VIEW)[0]
        raise UserError(f"{path}: no such store: make it with 'python extract/run.py --encoder {encoder}'")
    return Store(path, profile.store.verify_reads)


def open_views(profile: Profile, head: Head) -> dict[str, Store]:
    """The stores of all views that a head learns from, by their names: ``audio@1`` ..."""
    names = [view for name in head.stores for view in profile.views_of(name)] if head.views == "all" else []
    return {name: open_store(profile, name) for name in names}


def with_views(profile: Profile, manifest: Manifest, head: Head, stores: Mapping[str, Store]) -> dict[str, Any]:
    """What a head is trained on: its stores, with their views of the manifest's training clips."""
    opened = open_views(profile, head)
    training = frozenset(clip for unit in manifest.units() if unit.split == "train" for clip in unit.clip_ids)
    sources: dict[str, Any] = dict(stores)
    for name in head.stores if opened else ():
        views = tuple(View(opened[view], training) for view in profile.views_of(name))
        sources[name] = Viewed(stores[name], views) if views else stores[name]
    return sources
