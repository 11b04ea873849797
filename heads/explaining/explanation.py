"""Why a trained head answered as it did for one unit: what each thing that it read is worth, and where it looked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from cache import Store, read_published
from configs import UserError
from configs.advice import completed
from configs.schema import Profile
from extract.corpora.manifest import Manifest, Unit
from heads.data.live_text import LiveText, Span
from heads.explaining.attention import Attention, attention_of
from heads.explaining.fresh import Fresh
from heads.explaining.media import Media
from heads.explaining.occlusion import Answers, answers
from heads.explaining.scene import Cut, Scene, What, cuts_of
from heads.fitting.cross_validation import open_stores
from heads.fitting.saved import TrainedHead, load_head

LEAST = 1e-300  # a probability whose logarithm is a number
SAME = 1e-3  # nats; folds' models in other batches differ by far less


@dataclass(frozen=True)
class Piece:
    """Something that was taken away, and what became of the answer.

    Attributes:
        start, stop: of seconds and frames the shares of the clip's length, of words the characters of its text.
        lost: nats of log-probability that the explained class lost; below zero where it gained.
        p: the class's probability without it. ``becomes``: the class that is named then.
        attention: its share of the attention that its group has; None where there is none.
    """

    name: str
    clip_id: str | None
    start: float
    stop: float
    lost: float
    p: float
    becomes: str
    attention: float | None


@dataclass(frozen=True)
class Group:
    """Things of one kind that were taken away one at a time. ``clip_id``: the clip that they are of, if it is one."""

    what: What
    clip_id: str | None
    pieces: tuple[Piece, ...]

    @property
    def effect(self) -> float:
        """Nats by which the answer moves, summed over all that is taken away."""
        return sum(abs(piece.lost) for piece in self.pieces)

    @property
    def shares(self) -> list[float]:
        """Of each piece, its signed share of the effect: in the units that attention has."""
        return [piece.lost / self.effect if self.effect else 0.0 for piece in self.pieces]

    @property
    def has_attention(self) -> bool:
        return bool(self.pieces) and all(piece.attention is not None for piece in self.pieces)

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's, of attention and the size of the effect; None for fewer than three, or where one is constant."""
        attention = np.array([piece.attention for piece in self.pieces], dtype=float)
        effect = np.abs([piece.lost for piece in self.pieces])
        if not self.has_attention or len(effect) < 3 or not np.ptp(attention) or not np.ptp(effect):
            return None
        return float(spearmanr(attention, effect).statistic)


@dataclass(frozen=True)
class ClipView:
    """A clip of the unit. ``seconds``: by modality, how long it is, where that is known. ``missing``: input: why."""

    clip_id: str
    number: int  # from 1
    role: str | None
    speaker: str | None
    text: str | None
    labelled: bool
    read: bool  # whether the head reads anything of it
    seconds: dict[str, float]
    missing: dict[str, str]
    groups: dict[str, Group]  # modalities, audio, video, words: those that there are
    notes: list[str]


@dataclass(frozen=True)
class Explanation:
    """``difference``: the largest between these log-probabilities and those of predictions.parquet.

    Of a new clip split, label and difference are None.
    """

    profile: str
    head: str
    kind: str
    inputs: list[str]
    modalities: dict[str, str]  # of each encoder among the inputs
    privileged: bool
    transductive: str | None  # what is
    unit_id: str
    split: str | None
    fold: int | None
    label: str | None
    classes: tuple[str, ...]
    p: tuple[float, ...]
    explained: str
    difference: float | None
    everything: Group  # modalities of the whole conversation, and metadata
    clips: Group
    views: list[ClipView]
    across: dict[str, dict[str, float]]  # "video asks text": clip id: share
    notes: list[str] = field(default_factory=list)

    @property
    def predicted(self) -> str:
        return self.classes[int(np.argmax(self.p))]

    @property
    def groups(self) -> list[Group]:
        """All of them, those of more than one clip first."""
        found = [self.everything, self.clips, *(group for view in self.views for group in view.groups.values())]
        return [group for group in found if group.pieces]


def explain(
    profile: Profile,
    manifest: Manifest,
    unit: Unit,
    name: str,
    media: Media,
    live: Mapping[str, LiveText | str],
    window: float,
    explained: str | None = None,
) -> Explanation:
    """Explain the answer of the profile's head ``name`` for a unit, by the models that its predictions come from.

    Args:
        live: each text encoder, or why there is none: words are then not taken away.
        window: seconds of audio that are taken away at a time.
        explained: the class; default: the one that the head names.
    Raises:
        UserError: no trained head, no prediction of the unit, another store than it was trained on, no such class.
    """
    trained = load_head(profile.head_path(name) / "model")
    row = _prediction(profile, name, unit)
    fold = row["fold"] if row["split"] == "oof" else None
    if explained is not None and explained not in trained.classes:
        raise UserError(f"--class {explained}: no such class; head {name} knows {', '.join(trained.classes)}")
    stores = open_stores(profile, trained.settings)
    found = explain_new(profile, manifest, unit, trained, stores, media, live, window, fold, explained)
    recorded = np.exp([row[f"logit_{label}"] for label in trained.classes])
    difference = float(np.abs(np.log(np.maximum(recorded, LEAST) / np.maximum(found.p, LEAST))).max())
    notes = list(found.notes)
    if difference > SAME:
        notes.append(
            f"predictions.parquet has other probabilities (by {difference:.3g} nats): the manifest, a store or the "
            f"model changed since; train it again: {completed(f'python heads/train.py --head {name}')}"
        )
    return replace(
        found,
        transductive=_transductive(profile, name),
        split=row["split"],
        label=unit.label,
        difference=difference,
        notes=notes,
    )


def explain_new(
    profile: Profile,
    manifest: Manifest,
    unit: Unit,
    trained: TrainedHead,
    stores: Mapping[str, Store | Fresh],
    media: Media,
    live: Mapping[str, LiveText | str],
    window: float,
    fold: int | None = None,
    explained: str | None = None,
) -> Explanation:
    """Explain what a head says of a unit, whoever labelled or predicted it before.

    Args:
        stores: what the head's encoders say of the unit's clips.
        fold: whose models answer; None: the average of all folds.
        live, window, explained: as :func:`explain` takes them.
    Raises:
        UserError: a store is not what the head was trained on.
    """
    scene = Scene(profile, manifest, unit, trained, stores, media, live)
    cuts = cuts_of(scene, window)
    found = answers(trained, fold, manifest, unit, scene.stores, [cut.removal for cut in cuts])

    models = [m for k, several in enumerate(trained.models) if fold in (None, k) for m in several]
    attention = attention_of(models, found.data, 0)
    target = int(found.base.argmax()) if explained is None else trained.classes.index(explained)
    groups = _groups(scene, cuts, found, target, attention)
    nothing = Group("clips", None, ())
    return Explanation(
        profile=profile.name,
        head=trained.name,
        kind=trained.settings.kind,
        inputs=[*trained.settings.inputs, *trained.settings.metadata],
        modalities=scene.modalities,
        privileged=trained.settings.privileged,
        transductive=None,
        unit_id=unit.unit_id,
        split=None,
        fold=fold,
        label=None,
        classes=trained.classes,
        p=tuple(np.exp(found.base).tolist()),
        explained=trained.classes[target],
        difference=None,
        everything=groups.get(("inputs", None), nothing),
        clips=groups.get(("clips", None), nothing),
        views=_views(scene, groups),
        across={
            f"{asking} asks {answering}": dict(zip(scene.seen, shares.tolist(), strict=True))
            for (asking, answering), shares in attention.across.items()
            if asking != answering
        },
        notes=scene.notes,
    )


def _prediction(profile: Profile, name: str, unit: Unit) -> dict[str, Any]:
    path = profile.head_path(name) / "predictions.parquet"
    content = read_published(path, f"run python heads/train.py --head {name}")
    split = "oof" if unit.split == "train" else unit.split
    rows = pl.read_parquet(content).filter(unit_id=unit.unit_id, split=split).to_dicts()
    if not rows:
        raise UserError(f"{path}: has no {split} prediction of {unit.unit_id}: run python heads/train.py --head {name}")
    return rows[0]


def _transductive(profile: Profile, name: str) -> str | None:
    content = read_published(profile.head_path(name) / "metrics.json", f"run python heads/train.py --head {name}")
    return json.loads(content)["transductive"]


def _views(scene: Scene, groups: Mapping[tuple[What, str | None], Group]) -> list[ClipView]:
    kinds: tuple[What, ...] = ("modalities", "audio", "video", "words")
    return [
        ClipView(
            clip_id=clip,
            number=number,
            role=scene.rows[clip]["role"],
            speaker=scene.rows[clip]["speaker"],
            text=scene.texts[clip],
            labelled=clip == scene.unit.unit_id,
            read=clip in scene.seen or scene.has_text(clip),
            seconds=scene.seconds[clip],
            missing=scene.missing(clip),
            groups={kind: groups[kind, clip] for kind in kinds if (kind, clip) in groups},
            notes=scene.clip_notes[clip],
        )
        for number, clip in enumerate(scene.unit.clip_ids, start=1)
    ]


def _groups(
    scene: Scene, cuts: Sequence[Cut], found: Answers, target: int, attention: Attention
) -> dict[tuple[What, str | None], Group]:
    shares = _Shares(scene, attention)
    pieces: dict[tuple[What, str | None], list[Piece]] = {}
    for cut, log_p in zip(cuts, found.variants, strict=True):
        piece = Piece(
            name=cut.name,
            clip_id=cut.clip_id,
            start=float(cut.start),
            stop=float(cut.stop),
            lost=float(found.base[target] - log_p[target]),
            p=float(np.exp(log_p[target])),
            becomes=scene.trained.classes[int(log_p.argmax())],
            attention=shares.of(cut),
        )
        pieces.setdefault((cut.what, cut.group_clip), []).append(piece)
    return {key: Group(*key, tuple(some)) for key, some in pieces.items()}


class _Shares:
    """The attention that falls on what was cut out; of several encoders that read the same, their mean."""

    def __init__(self, scene: Scene, attention: Attention) -> None:
        places = {clip: place for place, clip in enumerate(scene.seen)}
        self._scene, self._attention, self._places = scene, attention, places
        self._tokens: dict[str, list[tuple[Span, float]]] = {clip: [] for clip in scene.unit.clip_ids}
        self._token_clips: set[str] = set()
        if not scene.reads_words:
            return
        steps = [(name, place, weights) for (name, place), weights in attention.steps.items() if len(weights) > 1]
        read = [(name, place, weights) for name, place, weights in steps if isinstance(scene.live.get(name), LiveText)]
        for name, place, weights in read:
            clip, live = scene.seen[place], scene.live[name]
            assert isinstance(live, LiveText)
            if len(weights) != len(scene.stores[name][clip]):
                continue
            texts = {c: scene.texts[c] or "" for c in scene.unit.clip_ids if scene.has(name, c)}
            parts = texts if scene.joins_texts(name) else {clip: texts[clip]}
            owners = live.clip_of_token(parts, len(weights))
            if owners is None:
                continue
            self._token_clips |= set(parts)
            among = len({other for other, there, _ in read if there == place})
            for owner, weight in zip(owners, (weights / among).tolist(), strict=True):
                if owner is not None:
                    self._tokens[owner[0]].append((owner[1], weight))
            special = sum(w for owner, w in zip(owners, weights.tolist(), strict=True) if owner is None)
            by = f" by {name}" if among > 1 else ""
            scene.clip_notes[clip].append(f"{special:.0%} of the attention to its text{by} falls on special tokens.")

    def of(self, cut: Cut) -> float | None:
        if cut.what == "clips":
            if len(self._attention.clips) > 1:
                place = self._places.get(cut.clip_id or "")
                return None if place is None else float(self._attention.clips[place])
            if len(self._token_clips) > 1 and cut.clip_id in self._token_clips:
                return sum(weight for _, weight in self._tokens[cut.clip_id])
            return None
        if cut.what == "words" and cut.clip_id in self._token_clips:
            return sum(w for (start, stop), w in self._tokens[cut.clip_id] if start < cut.stop and cut.start < stop)
        if cut.what in ("audio", "video"):
            place = self._places.get(cut.clip_id or "", -1)
            keys = [(name, place) for name in self._scene.stored(cut.what)]
            every = [self._attention.steps[key] for key in keys if key in self._attention.steps]
            shares = [_between(weights, cut.start, cut.stop) for weights in every if len(weights) > 1]
            return float(np.mean(shares)) if shares else None
        return None


def _between(weights: np.ndarray, start: float, stop: float) -> float:
    """What lies between two shares of the length of what weights stand over in equal parts."""
    total = np.concatenate([[0.0], np.cumsum(weights)])
    ends = np.interp([start * len(weights), stop * len(weights)], np.arange(len(total)), total)
    return float(ends[1] - ends[0])
