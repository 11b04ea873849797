"""What a head reads of one unit, and everything of it that can be taken away by itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any, Literal

import numpy as np
import polars as pl

from cache import Store
from configs import Profile
from extract.corpora.manifest import Manifest, Unit
from heads.data.batches import LISTENER, SPEAKER, metadata_column, seen_clips
from heads.data.live_text import LiveText, Span, source_text, without, words
from heads.explaining.media import Media
from heads.explaining.occlusion import Removal
from heads.fitting.cross_validation import open_stores
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
    """A unit as one head reads it: which clips, what of each is there, and how to take it away."""

    def __init__(
        self, profile: Profile, manifest: Manifest, unit: Unit, trained: TrainedHead, media: Media, live: LiveText | str
    ) -> None:
        self.unit, self.trained, self.media, self.live, self.manifest = unit, trained, media, live, manifest
        head = trained.settings
        self.stores: dict[str, Store] = dict(open_stores(profile, head))
        clips = manifest.clips.filter(pl.col("clip_id").is_in(unit.clip_ids))
        self.rows: dict[str, dict[str, Any]] = {row["clip_id"]: row for row in clips.to_dicts()}
        self.texts: dict[str, str | None] = {clip: self.rows[clip]["text"] or None for clip in unit.clip_ids}
        if head.is_network:
            self.seen = seen_clips(unit, head.context_clips)
        elif head.kind == "bag_of_words":
            self.seen = unit.clip_ids
        else:
            self.seen = tuple(clip for clip in unit.clip_ids if self.rows[clip]["role"] not in OTHERS)
        stored = self.stores.get("text")
        self.conversation = bool(stored and stored.fields.get("conversation"))
        self.notes: list[str] = []
        self.clip_notes: dict[str, list[str]] = {clip: [] for clip in unit.clip_ids}
        self.seconds: dict[str, dict[str, float]] = {clip: {} for clip in unit.clip_ids}
        self._errors = {modality: _errors(store) for modality, store in self.stores.items()}
        if "text" in head.inputs:
            self._prepare_texts()

    def has(self, modality: str, clip: str) -> bool:
        """Whether the head reads this modality of this clip, and it is there."""
        if modality == "text" and self.conversation:  # only where text is read
            return self.texts[clip] is not None and self.unit.unit_id in self.stores["text"]
        if clip not in self.seen or modality not in self.trained.settings.inputs:
            return False
        if modality == "text" and modality not in self.stores:
            return self.texts[clip] is not None  # a bag of words
        return clip in self.stores[modality]

    @property
    def reads_words(self) -> bool:
        return "text" in self.trained.settings.inputs and ("text" not in self.stores or isinstance(self.live, LiveText))

    def without_text(self, changes: Mapping[str, str | None]) -> Removal:
        """Other texts, or none, for some clips. Where they are encoded together, the encoder is needed."""
        if "text" not in self.stores:
            return Removal(texts=changes)
        if not self.conversation:
            left = dict(zip(changes, self._encoded(list(changes.values())), strict=True))
            return Removal({("text", clip): values for clip, values in left.items()})
        joined = source_text(self.unit, self.texts | dict(changes), conversation=True)
        return Removal({("text", self.unit.unit_id): self._encoded([joined])[0]})

    def _encoded(self, texts: list[str | None]) -> list[np.ndarray | None]:
        if not any(texts):
            return [None] * len(texts)
        assert isinstance(self.live, LiveText)
        return self.live.encode(texts)

    def without_clip(self, clip: str) -> Removal:
        """The clip's place stays, and its role; all that it says is missing."""
        removal = Removal({(m, clip): None for m in self.stores if m != "text" and self.has(m, clip)})
        if "text" in self.trained.settings.inputs and self.has("text", clip):
            text = self.without_text({clip: None})
            removal = Removal({**removal.arrays, **text.arrays}, text.texts)
        return removal

    def phrases(self) -> list[tuple[str, Span]]:
        """The words of all texts that are there, by clip; several at a time where they are many."""
        spans = {c: words(self.texts[c] or "") for c in self.unit.clip_ids if self.has("text", c)}
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

    def _prepare_texts(self) -> None:
        """Encode every text that will be asked for, in one go; check that the encoder still says what the store has."""
        if "text" not in self.stores:
            return
        if isinstance(self.live, str):
            self.notes.append(f"Words are not taken away: {self.live}")
            return
        spans = self.phrases()
        changes = [{clip: without(self.texts[clip] or "", *span)} for clip, span in spans]
        own = [self.unit.unit_id] if self.conversation else [c for c in self.seen if self.has("text", c)]
        if self.conversation:
            changes += [{clip: None} for clip in self.unit.clip_ids]
            sources = [source_text(self.unit, self.texts | change, True) for change in changes]
            originals = [source_text(self.unit, self.texts, True)]
        else:
            sources = [text for change in changes for text in change.values()]
            originals = [self.texts[clip] for clip in own]
        self.live.encode([*originals, *sources])
        for clip, values in zip(own, self.live.encode(originals), strict=True):
            if not self.has("text", clip):
                continue
            stored = self.stores["text"][clip].astype(np.float32)
            if values is None or values.shape != stored.shape or not np.allclose(values, stored, rtol=0.02, atol=0.02):
                self.live = (
                    f"the text of {clip} is not the one that the store was computed from: run "
                    "python extract/run.py --modality text"
                )
                self.notes.append(f"Words are not taken away: {self.live}")
                return

    def missing(self, clip: str) -> dict[str, str]:
        """Why the head reads nothing of some modalities of a clip that it sees."""
        reasons: dict[str, str] = {}
        for modality in self.trained.settings.inputs:
            if clip in self.seen and not self.has(modality, clip):
                known = self._errors.get(modality, {}).get(clip, "not in the store: run python extract/run.py")
                reasons[modality] = known if self.rows[clip][modality] else "the dataset has none"
        return reasons


def _errors(store: Store) -> dict[str, str]:
    path = store.path / "errors.parquet"
    if not path.is_file():
        return {}
    rows = pl.read_parquet(path, columns=["clip_id", "stage", "reason"], glob=False).iter_rows()
    return {clip: f"could not be read ({stage}: {reason})" for clip, stage, reason in rows}


def cuts_of(scene: Scene, window: float) -> list[Cut]:
    """All that can be taken away; ``window``: seconds of audio at a time."""
    return [*_everything(scene), *_clips(scene), *_within(scene, window)]


def _everything(scene: Scene) -> Iterator[Cut]:
    """A modality of all clips at once, and each field of metadata."""
    head, unit = scene.trained.settings, scene.unit
    for modality in head.inputs:
        clips = [clip for clip in unit.clip_ids if scene.has(modality, clip)]
        if not clips:
            continue
        if modality == "text":
            removal = scene.without_text(dict.fromkeys(clips))
        else:
            removal = Removal({(modality, clip): None for clip in clips})
        yield Cut("inputs", None, modality, None, 0, 1, removal)
    columns = {name: metadata_column(scene.manifest, name, head.privileged) for name in head.metadata}
    networks = [model.network for models in scene.trained.models for model in models if hasattr(model, "network")]
    if any(network.sizes.speaker_identity for network in networks):
        columns |= {SPEAKER: "speaker", LISTENER: "meta_listener_id"}
    for name, column in columns.items():
        value = scene.rows[unit.unit_id].get(column)
        if value is not None:
            yield Cut("inputs", None, f"{name}: {value}", None, 0, 1, Removal(columns=(column,)))
        else:
            scene.notes.append(f"The metadata field {name} is unknown for this unit: there is nothing to take away.")


def _clips(scene: Scene) -> Iterator[Cut]:
    """Each clip, and each modality of each clip."""
    modalities = scene.trained.settings.inputs
    for number, clip in enumerate(scene.unit.clip_ids, start=1):
        there = [modality for modality in modalities if scene.has(modality, clip)]
        encodes_rest = scene.conversation and "text" in there and not scene.reads_words
        if encodes_rest:
            scene.clip_notes[clip].append("Its text is encoded with the others': without the encoder it stays.")
            continue
        if clip in scene.seen or there:
            yield Cut("clips", None, f"clip {number}", clip, 0, 1, scene.without_clip(clip))
        for modality in there:
            change = scene.without_text({clip: None}) if modality == "text" else Removal({(modality, clip): None})
            yield Cut("modalities", clip, modality, clip, 0, 1, change)


def _within(scene: Scene, window: float) -> Iterator[Cut]:
    """Seconds, frames and words of each clip."""
    modalities: tuple[Literal["audio", "video"], ...] = ("audio", "video")
    for modality in modalities:
        for clip in scene.seen:
            if modality in scene.stores and scene.has(modality, clip):
                yield from _windows(scene, modality, clip, window)
    if scene.reads_words:
        for clip, (start, stop) in scene.phrases():
            text = scene.texts[clip] or ""
            removal = scene.without_text({clip: without(text, start, stop)})
            yield Cut("words", clip, text[start:stop], clip, start, stop, removal)


def _windows(scene: Scene, modality: Literal["audio", "video"], clip: str, window: float) -> Iterator[Cut]:
    """Runs of time steps, which are equal parts of the clip: about ``window`` seconds of audio, a frame of video."""
    store = scene.stores[modality]
    values, fields = store[clip], store.fields
    n_steps = len(values)
    known: Any = {"audio": scene.media.heard, "video": scene.media.seen}[modality]
    seconds = known[clip].seconds if clip in known else _seconds(fields, n_steps) if modality == "audio" else None
    if seconds is not None:
        scene.seconds[clip][modality] = seconds
    if n_steps == 1:
        scene.clip_notes[clip].append(f"The {modality} store keeps one vector a clip: it was taken away as a whole.")
        return
    n_windows = min(n_steps, MOST_WINDOWS)
    if modality == "audio" and seconds is not None:
        n_windows = min(n_windows, max(1, round(seconds / window)))
    if modality == "video" and fields.get("boundary") is not None:
        # A step is a patch of a frame, and the layers above want whole segments.
        n_windows = scene.media.seen[clip].segments if clip in scene.media.seen else 1
        n_windows = n_windows if n_steps % n_windows == 0 else 1
    if n_windows == 1:
        scene.clip_notes[clip].append(f"The {modality} cannot be cut any finer here: it was taken away as a whole.")
        return
    edges = np.linspace(0, n_steps, n_windows + 1).round().astype(int)
    for k, (first, end) in enumerate(pairwise(edges), start=1):
        start, stop = first / n_steps, end / n_steps
        if modality == "audio" and seconds is not None:
            name = f"{start * seconds:.1f}-{stop * seconds:.1f} s"
        else:
            name = f"{'frame' if n_windows == n_steps else 'part'} {k} of {n_windows}"
        left = np.delete(values, slice(first, end), axis=0)
        yield Cut(modality, clip, name, clip, start, stop, Removal({(modality, clip): left}))


def _seconds(fields: Mapping[str, Any], n_steps: int) -> float | None:
    """How long an audio clip is by its time steps: 50 a second, or as many as it was pooled to."""
    pooling = fields.get("pooling")
    if isinstance(pooling, int | float):
        return n_steps / pooling
    return n_steps / 50 if pooling == "none" else None
