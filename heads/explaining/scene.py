"""What a head reads of one unit, and everything of it that can be taken away by itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np
import polars as pl

from cache import Store, read_small
from configs.advice import completed
from configs.schema import Profile
from extract.corpora.manifest import Manifest, Unit
from heads.data.batches import LISTENER, SPEAKER, metadata_column, seen_clips
from heads.data.live_text import LiveText, Span, source_text, without
from heads.data.scripts import words
from heads.explaining.fresh import Fresh
from heads.explaining.media import Media
from heads.explaining.occlusion import Removal
from heads.fitting.saved import TrainedHead
from heads.models.pooled import OTHERS

MOST_WINDOWS = 40  # of a clip's time
MOST_WORDS = 240  # of a unit; of longer texts, neighbouring words are taken away together
What = Literal["inputs", "clips", "modalities", "audio", "video", "words"]


@dataclass(frozen=True)
class Cut:
    """Something to take away, before it is known what that does."""

    what: What
    group_clip: str | None
    name: str
    clip_id: str | None
    start: float
    stop: float
    removal: Removal


class Scene:
    """A unit as one head reads it: which clips, what of each is there, and how to take it away.

    Inputs have the names of encoders; words, seconds and frames belong to a modality, and are taken away from all the
    encoders that read it.

    Args:
        stores: what the head reads.
        live: by text encoder, or why there is none: words are then not taken away.
    """

    def __init__(
        self,
        profile: Profile,
        manifest: Manifest,
        unit: Unit,
        trained: TrainedHead,
        stores: Mapping[str, Store | Fresh],
        media: Media,
        live: Mapping[str, LiveText | str],
    ) -> None:
        self.unit, self.trained, self.media, self.manifest = unit, trained, media, manifest
        head = trained.settings
        self.stores = dict(stores)
        self.modalities = {name: profile.modality_of(name) for name in head.inputs}
        self.live = {name: live[name] for name in self.stored("text")}
        clips = manifest.clips.filter(pl.col("clip_id").is_in(unit.clip_ids))
        self.rows: dict[str, dict[str, Any]] = {row["clip_id"]: row for row in clips.to_dicts()}
        self.texts: dict[str, str | None] = {clip: self.rows[clip]["text"] or None for clip in unit.clip_ids}
        if head.is_network:
            self.seen = seen_clips(unit, head.context_clips)
        elif head.kind == "bag_of_words":
            self.seen = unit.clip_ids
        else:
            self.seen = tuple(clip for clip in unit.clip_ids if self.rows[clip]["role"] not in OTHERS)
        self.notes: list[str] = []
        self.clip_notes: dict[str, list[str]] = {clip: [] for clip in unit.clip_ids}
        self.seconds: dict[str, dict[str, float]] = {clip: {} for clip in unit.clip_ids}
        self._errors = {name: _errors(store) for name, store in self.stores.items()}
        self.reads_words = self._prepare_texts()

    def stored(self, modality: str) -> list[str]:
        """The stores of a modality."""
        return [name for name in self.stores if self.modalities[name] == modality]

    def joins_texts(self, name: str) -> bool:
        """Whether an encoder reads what is said in a clip together with what was said before."""
        return bool(self.stores[name].fields.get("conversation")) if name in self.stores else False

    def has(self, name: str, clip: str) -> bool:
        """Whether the head reads this input of this clip, and it is there."""
        if self.joins_texts(name):
            return self.texts[clip] is not None and self.unit.unit_id in self.stores[name]
        if clip not in self.seen:
            return False
        return clip in self.stores[name] if name in self.stores else self.texts[clip] is not None  # a bag of words

    def has_text(self, clip: str) -> bool:
        return any(self.has(name, clip) for name, modality in self.modalities.items() if modality == "text")

    def without_text(self, changes: Mapping[str, str | None], only: str | None = None) -> Removal:
        """Other texts, or none, for some clips. Where they are encoded together, the encoder is needed.

        Args:
            only: change what this input reads, and no other.
        """
        names = self.stored("text") if only is None else [only]
        if not self.stores:
            return Removal(texts=changes)
        arrays: dict[tuple[str, str], np.ndarray | None] = {}
        for name in names:
            if self.joins_texts(name):
                joined = source_text(self.unit, self.texts | dict(changes), conversation=True)
                arrays[name, self.unit.unit_id] = self._encoded(name, [joined])[0]
            else:
                left = dict(zip(changes, self._encoded(name, list(changes.values())), strict=True))
                arrays |= {(name, clip): values for clip, values in left.items() if self.has(name, clip)}
        return Removal(arrays)

    def _encoded(self, name: str, texts: list[str | None]) -> list[np.ndarray | None]:
        if not any(texts):
            return [None] * len(texts)
        live = self.live[name]
        assert isinstance(live, LiveText)
        return live.encode(texts)

    def without_input(self, name: str) -> Removal | None:
        """An input is missing in all clips; None where it is in none."""
        clips = [clip for clip in self.unit.clip_ids if self.has(name, clip)]
        if clips and self.modalities[name] == "text":
            return self.without_text(dict.fromkeys(clips), only=name)
        return Removal({(name, clip): None for clip in clips}) if clips else None

    def fields(self) -> dict[str, tuple[str, Any]]:
        """Of each metadata field that the head reads, who speaks and listens among them: its column, and its value."""
        head = self.trained.settings
        columns = {name: metadata_column(self.manifest, name, head.privileged) for name in head.metadata}
        networks = [model.network for models in self.trained.models for model in models if hasattr(model, "network")]
        if any(network.sizes.speaker_identity for network in networks):
            columns |= {SPEAKER: "speaker", LISTENER: "meta_listener_id"}
        row = self.rows[self.unit.unit_id]
        return {name: (column, row.get(column)) for name, column in columns.items()}

    def without_clip(self, clip: str) -> Removal:
        """The clip's place stays, and its role; all that it says is missing."""
        names = [name for name in self.stores if self.modalities[name] != "text" and self.has(name, clip)]
        removal = Removal({(name, clip): None for name in names})
        if self.has_text(clip):
            text = self.without_text({clip: None})
            removal = Removal({**removal.arrays, **text.arrays}, text.texts)
        return removal

    def phrases(self) -> list[tuple[str, Span]]:
        """The words of all texts that are there, by clip; several at a time where they are many."""
        spans = {c: words(self.texts[c] or "") for c in self.unit.clip_ids if self.has_text(c)}
        together = ceil(sum(map(len, spans.values())) / MOST_WORDS) or 1
        if together > 1:
            self._note_once(f"The texts are long: {together} neighbouring words are taken away together.")
        return [
            (clip, (some[0][0], some[-1][1]))
            for clip, each in spans.items()
            for some in (each[i : i + together] for i in range(0, len(each), together))
        ]

    def _note_once(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _prepare_texts(self) -> bool:
        """Whether words can be taken away: every text that will be asked for is encoded here, in one go, and what the
        encoders say is checked against the stores."""
        if "text" not in self.modalities.values():
            return False
        for name in self.stored("text"):
            problem = self._prepare_text(name)
            if problem:
                self.notes.append(f"Words are not taken away: {problem}")
                return False
        return True

    def _prepare_text(self, name: str) -> str | None:
        """What is in the way, if anything."""
        live, joins = self.live[name], self.joins_texts(name)
        if isinstance(live, str):
            return live
        changes = [{clip: without(self.texts[clip] or "", *span)} for clip, span in self.phrases()]
        own = [self.unit.unit_id] if joins else [c for c in self.seen if self.has(name, c)]
        if joins:
            changes += [{clip: None} for clip in self.unit.clip_ids]
            sources = [source_text(self.unit, self.texts | change, True) for change in changes]
            originals = [source_text(self.unit, self.texts, True)]
        else:
            sources = [text for change in changes for text in change.values()]
            originals = [self.texts[clip] for clip in own]
        live.encode([*originals, *sources])
        for clip, values in zip(own, live.encode(originals), strict=True):
            if not self.has(name, clip):
                continue
            stored = self.stores[name][clip].astype(np.float32)
            if values is None or values.shape != stored.shape or not np.allclose(values, stored, rtol=0.02, atol=0.02):
                return completed(
                    f"the text of {clip} is not the one that the store was computed from: run "
                    f"python extract/run.py --encoder {name}"
                )
        return None

    def missing(self, clip: str) -> dict[str, str]:
        """Why the head reads nothing of some inputs of a clip that it sees."""
        reasons: dict[str, str] = {}
        for name, modality in self.modalities.items():
            if clip in self.seen and not self.has(name, clip):
                known = self._errors.get(name, {}).get(clip, completed("not in the store: run python extract/run.py"))
                reasons[name] = known if self.rows[clip][modality] else "the dataset has none"
        return reasons


def _errors(store: Store | Fresh) -> Mapping[str, str]:
    if isinstance(store, Fresh):
        return store.failures
    path = store.path / "errors.parquet"
    if not path.is_file():
        return {}
    rows = pl.read_parquet(read_small(store.path, path.name), columns=["clip_id", "stage", "reason"]).iter_rows()
    return {clip: f"could not be read ({stage}: {reason})" for clip, stage, reason in rows}


def cuts_of(scene: Scene, window: float) -> list[Cut]:
    """All that can be taken away; ``window``: seconds of audio at a time."""
    return [*_everything(scene), *_clips(scene), *_within(scene, window)]


def _everything(scene: Scene) -> Iterator[Cut]:
    """An input of all clips at once, and each field of metadata."""
    for name in scene.modalities:
        removal = scene.without_input(name)
        if removal is not None:
            yield Cut("inputs", None, name, None, 0, 1, removal)
    for name, (column, value) in scene.fields().items():
        if value is not None:
            yield Cut("inputs", None, f"{name}: {value}", None, 0, 1, Removal(columns=(column,)))
        else:
            scene.notes.append(f"The metadata field {name} is unknown for this unit: there is nothing to take away.")


def _clips(scene: Scene) -> Iterator[Cut]:
    """Each clip, and each input of each clip."""
    joins = any(scene.joins_texts(name) for name in scene.modalities)
    for number, clip in enumerate(scene.unit.clip_ids, start=1):
        there = [name for name in scene.modalities if scene.has(name, clip)]
        if joins and scene.has_text(clip) and not scene.reads_words:
            scene.clip_notes[clip].append("Its text is encoded with the others': without the encoder it stays.")
            continue
        if clip in scene.seen or there:
            yield Cut("clips", None, f"clip {number}", clip, 0, 1, scene.without_clip(clip))
        for name in there:
            is_text = scene.modalities[name] == "text"
            change = scene.without_text({clip: None}, only=name) if is_text else Removal({(name, clip): None})
            yield Cut("modalities", clip, name, clip, 0, 1, change)


def _within(scene: Scene, window: float) -> Iterator[Cut]:
    """Seconds, frames and words of each clip."""
    modalities: tuple[Literal["audio", "video"], ...] = ("audio", "video")
    for modality in modalities:
        for clip in scene.seen:
            names = [name for name in scene.stored(modality) if scene.has(name, clip)]
            if names:
                yield from _windows(scene, modality, names, clip, window)
    if scene.reads_words:
        for clip, (start, stop) in scene.phrases():
            text = scene.texts[clip] or ""
            removal = scene.without_text({clip: without(text, start, stop)})
            yield Cut("words", clip, text[start:stop], clip, start, stop, removal)


def _windows(
    scene: Scene, modality: Literal["audio", "video"], names: list[str], clip: str, window: float
) -> Iterator[Cut]:
    """Equal parts of the clip, about ``window`` seconds of audio or a frame of video: each is taken away from all those
    encoders that have at least as many time steps."""
    known: Any = {"audio": scene.media.heard, "video": scene.media.seen}[modality]
    seconds = known[clip].seconds if clip in known else None
    parts: dict[str, int] = {}  # encoder: how many it can be cut into
    for name in names:
        fields, n_steps = scene.stores[name].fields, len(scene.stores[name][clip])
        if seconds is None and modality == "audio":
            seconds = _seconds(fields, n_steps)
        parts[name] = n_steps
        if modality == "video" and fields.get("boundary") is not None:
            # A step is a patch of a frame, and the layers above want whole segments.
            n_segments = scene.media.seen[clip].segments if clip in scene.media.seen else 1
            parts[name] = n_segments if n_steps % n_segments == 0 else 1
    if seconds is not None:
        scene.seconds[clip][modality] = seconds
    finest = max(parts.values())
    n_windows = min(finest, MOST_WINDOWS)
    if modality == "audio" and seconds is not None:
        n_windows = min(n_windows, max(1, round(seconds / window)))
    # An encoder whose steps are fewer than the windows cannot lose one of them alone.
    cut = {name: n for name, n in parts.items() if n_windows > 1 and n >= n_windows}
    for name in names:
        if name not in cut:
            one = len(scene.stores[name][clip]) == 1
            why = f"The {name} store keeps one vector a clip" if one else f"The {name} cannot be cut any finer here"
            so = "what is taken away of the others stays in it" if cut else "it was taken away as a whole"
            scene.clip_notes[clip].append(f"{why}: {so}.")
    if not cut:
        return
    for k in range(n_windows):
        start, stop = k / n_windows, (k + 1) / n_windows
        left = {}
        for name in cut:
            values = scene.stores[name][clip]
            edges = np.linspace(0, len(values), n_windows + 1).round().astype(int)
            left[name, clip] = np.delete(values, slice(edges[k], edges[k + 1]), axis=0)
            if len(cut) == 1:
                start, stop = edges[k] / len(values), edges[k + 1] / len(values)
        if modality == "audio" and seconds is not None:
            label = f"{start * seconds:.1f}-{stop * seconds:.1f} s"
        else:
            whole = all(len(scene.stores[name][clip]) == n_windows for name in cut)
            label = f"{'frame' if whole else 'part'} {k + 1} of {n_windows}"
        yield Cut(modality, clip, label, clip, start, stop, Removal(left))


def _seconds(fields: Mapping[str, Any], n_steps: int) -> float | None:
    """How long an audio clip is by its time steps: as many a second as its encoder gives, or as it was pooled to."""
    pooling, rate = fields.get("pooling"), fields.get("steps_per_second", 50)
    if isinstance(pooling, int | float):
        return n_steps / pooling
    return n_steps / rate if pooling == "none" and rate else None
