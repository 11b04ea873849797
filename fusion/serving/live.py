"""From new clips to an answer: live features, the heads that read them, the fusion of what these say."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from time import perf_counter
from typing import Any, Self

import numpy as np
import polars as pl
from scipy.special import log_softmax

from configs.schema import Profile
from extract.corpora.clips import clips_with_media
from extract.corpora.manifest import Manifest, Unit
from extract.media.sources import Clip, Held
from extract.media.tasks import Task
from extract.passes.blocks import Damaged, Failure
from extract.passes.live import NO_NEW_CLIPS, LiveEncoder, LiveFeatures
from fusion.serving.bundle import Bundle, BundledHead
from fusion.serving.doubt import check_doubt, with_set
from fusion.strategies.catalogue import Fitted, FittedBlend
from fusion.strategies.speakers import Met
from fusion.tables.predictions import HeadOutputs
from heads.data.batches import LISTENER, SPEAKER, seen_clips
from heads.data.standardised import FEWEST, standardised
from heads.fitting.saved import TrainedHead, predict
from heads.models.presence import field_value, found_inputs

NOTHING_HELD: Mapping[str, Held] = {}
CONVERSATIONS = 32  # answered together: what is in memory at a time
Failures = Mapping[tuple[str, str], str]  # (encoder, clip id): why there is nothing, or less than there should be
Answer = dict[str, Any]


class Predictor:
    """A bundle ready to answer. Encoders and heads are loaded when something is there for them to read.

    Args:
        profile: the bundle's, with encoders' folders as they are on this machine.
        device, precision: for encoders; see :class:`extract.passes.live.LiveEncoder`.
        confidence: answers have a set of classes that holds the true one so often; None: they have none.

    Raises:
        UserError: see :func:`fusion.serving.doubt.check_doubt`.
    """

    def __init__(
        self,
        bundle: Bundle,
        profile: Profile,
        device: str,
        confidence: float | None = None,
        precision: str | None = None,
    ) -> None:
        self._confidence = None if confidence is None else check_doubt(bundle, confidence)
        self._precision = precision
        self._bundle, self._profile, self._device = bundle, profile, device
        self._fusion = bundle.fusion
        self.heads = bundle.heads + bundle.baselines
        self._names = [head.name for head in bundle.heads] + [f"baseline {head.name}" for head in bundle.baselines]
        self._met = Met(bundle.people) if bundle.people else None
        self._encoders: dict[str, LiveEncoder] = {}
        self._loaded: dict[int, TrainedHead] = {}
        self._open = ExitStack()
        self.encoding = 0.0  # seconds that encoders took so far
        self.tell: Callable[[str], object] = lambda stage: None  # is told what is being done, in words

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def fields(self) -> list[str]:
        """Metadata that heads, or the fusion itself, read."""
        own = categories(self._fusion)
        corpora = ["corpus"] * any(head.settings.standardise == "corpus" for head in self.heads)
        listeners = ["listener_id"] * any(LISTENER in head.vocabularies for head in self.heads)
        return list(
            dict.fromkeys([*(f for head in self.heads for f in head.settings.metadata), *own, *listeners, *corpora])
        )

    @property
    def by_mean(self) -> bool:
        """Whether a head reads features that are centred: on all that is given in one call."""
        return any(head.settings.standardise != "none" for head in self.heads)

    @property
    def centres(self) -> bool:
        """Whether clips are centred on others that are given with them, or were before: they change the answers."""
        return self._met is not None or any(head.settings.standardise != "none" for head in self.heads)

    def forget(self) -> None:
        """Speakers who were met: the next clip of one is the first."""
        self._met = Met(self._bundle.people) if self._bundle.people else None

    def tasks(self) -> list[Task]:
        """What its encoders of sound and pictures want of files; they are loaded. Raises UserError."""
        names = dict.fromkeys(name for head in self.heads for name in head.settings.stores)
        encoders = self._profile.encoders
        media = [name for name in names if not encoders[name].source and encoders[name].modality != "text"]
        return [task for name in media if (task := self.encoder(name).task)]

    def load(self, modalities: Sequence[str] = ("audio", "video", "text")) -> None:
        """Load all that an answer may need, before one is asked for.

        Raises:
            UserError: as :meth:`answers`.
        """
        for h, head in enumerate(self.heads):
            self._load(h, head)
            for name in head.settings.stores:
                encoder = self._profile.encoders[name]
                if not encoder.source and encoder.modality in modalities:
                    self.encoder(name)

    def answers(self, manifest: Manifest, held: Mapping[str, Held] = NOTHING_HELD) -> Iterator[Answer]:
        """An answer for every unit, in the order of the manifest: what :meth:`_answer` gives, ``centred_on``, and
        ``set``: what :func:`fusion.serving.doubt.with_set` says, null without a confidence.

        Args:
            held: by clip id, what is decoded already; its files are not looked at.
        Raises:
            UserError: an encoder cannot be loaded, or is not the one that the heads were trained on.
        """
        conversations = manifest.clips["conversation_id"].unique(maintain_order=True)
        size = max(len(conversations), 1) if self.by_mean else CONVERSATIONS
        for start in range(0, len(conversations), size):
            chosen = conversations[start : start + size].to_list()
            clips = manifest.clips.filter(pl.col("conversation_id").is_in(chosen))
            yield from self._answers(Manifest(clips, manifest.root, manifest.classes, manifest.counts), held)

    def _answers(self, manifest: Manifest, held: Mapping[str, Held]) -> Iterator[Answer]:
        units, rows = manifest.units(), {row["clip_id"]: row for row in manifest.clips.iter_rows(named=True)}
        began = perf_counter()
        sources, failures = self.features(manifest, held)
        self.encoding += perf_counter() - began
        self.tell("asking the heads, and fusing")
        read = [standardised(head.settings, manifest, sources) for head in self.heads]
        inputs = [
            [found_inputs(head.settings, unit, rows, own) for head, own in zip(self.heads, read, strict=True)]
            for unit in units
        ]
        logits = np.full((len(units), len(self.heads), len(self._bundle.classes)), np.nan)
        for h, head in enumerate(self.heads):
            has = [bool(there[h]) for there in inputs]
            if any(has):
                chosen = [unit for unit, known in zip(units, has, strict=True) if known]
                logits[has, h] = predict(self._load(h, head), manifest, chosen, sources)
        metadata = {
            name.removeprefix("meta_"): np.array([rows[unit.unit_id][name] for unit in units], dtype=object)
            for name in manifest.clips.columns
            if name.startswith("meta_")
        }
        pooled = logits[:, : len(self._bundle.heads)]
        baselines = {head.name: logits[:, pooled.shape[1] + b] for b, head in enumerate(self._bundle.baselines)}
        outputs = HeadOutputs(pooled, ~np.isnan(pooled).any(axis=2), metadata, baselines)
        fused = np.full((len(units), logits.shape[2]), np.nan)
        parts = np.full(logits.shape[:2], np.nan)
        outputs, centred_on = self._centred(outputs, [rows[unit.unit_id]["speaker"] for unit in units])
        answered = outputs.present.any(axis=1)
        ways = [(self._fusion, centred_on == 0)]
        ways += [(self._met.people.fitted, centred_on > 0)] if self._met else []
        for fusion, those in ways:
            given = np.flatnonzero(answered & those)
            if len(given):
                fused[given] = fusion.predict_logits(outputs.where(given))
                parts[given] = contributions(fusion, outputs.where(given), fused[given])
        for i, unit in enumerate(units):
            missing = [*self._missing_media(unit, rows, failures), *self._missing_fields(rows[unit.unit_id])]
            for head, there in zip(self.heads, inputs[i], strict=True):
                if set(found_inputs(head.settings, unit, rows, sources)) - set(there):
                    what = head.settings.standardise
                    why = f"head {head.name} is centred on {FEWEST} clips or more of one: give --metadata {what}=NAME"
                    missing.append({"what": what, "clip": None, "why": why})
            answer = self._answer(unit, fused[i], logits[i], parts[i], inputs[i], missing)
            answer |= {"centred_on": int(centred_on[i]) or None, "set": None}
            yield answer if self._confidence is None else with_set(self._bundle, answer, self._confidence)

    def _centred(self, outputs: HeadOutputs, speakers: list[str | None]) -> tuple[HeadOutputs, np.ndarray]:
        """Outputs centred on who is known by now, where heads were in training; and on how many clips, 0 for none."""
        logits, clips = outputs.logits.copy(), np.zeros(len(speakers), dtype=int)
        for i, speaker in enumerate(speakers):
            if self._met and speaker is not None:
                logits[i], clips[i] = self._met.centre(speaker, logits[i])
        return HeadOutputs(logits, outputs.present, outputs.metadata, outputs.baselines), clips

    def _answer(
        self,
        unit: Unit,
        fused: np.ndarray,
        logits: np.ndarray,
        parts: np.ndarray,
        inputs: list[list[str]],
        missing: list[dict[str, str | None]],
    ) -> Answer:
        """
        Args:
            fused: (c,) log-probabilities, NaN where no head says anything.
            logits, parts: (h, c) and (h,), of heads and then of baselines, NaN where one is absent.
            inputs: what there is for each head to read.
        """
        heads = {}
        for h, head in enumerate(self.heads):
            own = log_softmax(logits[h] / head.temperature)
            reads = [*head.settings.inputs, *head.settings.metadata]
            heads[self._names[h]] = self._said(own) | {
                "contribution": None if np.isnan(parts[h]) else float(parts[h]),
                "reads": inputs[h],
                "lacks": [name for name in reads if name not in inputs[h]],
            }
        reasons = "; ".join(f"{each['what']}: {each['why']}" for each in missing)
        error = f"nothing to go on ({reasons})" if np.isnan(fused).any() else None
        return {"unit": unit.unit_id} | self._said(fused) | {"heads": heads, "missing": missing, "error": error}

    def _said(self, log_p: np.ndarray) -> dict[str, Any]:
        if np.isnan(log_p).any():
            return {"prediction": None, "probability": None, "probabilities": None}
        p = dict(zip(self._bundle.classes, np.exp(log_p).tolist(), strict=True))
        best = max(p, key=p.__getitem__)
        return {"prediction": best, "probability": p[best], "probabilities": p}

    def features(
        self, manifest: Manifest, held: Mapping[str, Held] = NOTHING_HELD
    ) -> tuple[dict[str, LiveFeatures], dict[tuple[str, str], str]]:
        """What every encoder that is read gives, and why, by encoder and clip, some clips give nothing."""
        sources: dict[str, LiveFeatures] = {}
        failures: dict[tuple[str, str], str] = {}
        for name in dict.fromkeys(name for head in self.heads for name in head.settings.stores):
            clips = clips_with_media(manifest, self._profile.encoders[name])
            if self._profile.encoders[name].modality != "text":
                clips = [Clip(clip.clip_id, held.get(clip.clip_id, clip.source)) for clip in clips]
            sources[name], failed, damaged = (
                LiveFeatures(self._bundle.stored[name].dim),
                list[Failure](),
                list[Damaged](),
            )
            if self._profile.encoders[name].source:
                failed = [Failure(clip.clip_id, "read", NO_NEW_CLIPS) for clip in clips]
            elif clips:
                self.tell(f"reading and encoding: {name}")
                sources[name], failed, damaged = self.encoder(name).encode(clips)
            failures |= {(name, failure.clip_id): failure.reason for failure in failed}
            failures |= {(name, each.clip_id): f"damaged, the rest is used: {each.reason}" for each in damaged}
        return sources, failures

    def encoder(self, name: str) -> LiveEncoder:
        """One of the profile's, loaded."""
        if name not in self._encoders:
            encoder = self._profile.encoders[name]
            own = None if encoder.kind else self._precision  # a transform has no weights to round
            loaded = LiveEncoder(self._profile, name, self._bundle.stored[name], self._device, own)
            self._encoders[name] = self._open.enter_context(loaded)
        return self._encoders[name]

    def trained(self, name: str) -> TrainedHead:
        """One of the fused heads, loaded."""
        return self._load(self._names.index(name), self.heads[self._names.index(name)])

    def _load(self, h: int, head: BundledHead) -> TrainedHead:
        if h not in self._loaded:
            self._loaded[h] = head.load()
        return self._loaded[h]

    def _missing_media(
        self, unit: Unit, rows: Mapping[str, Mapping[str, Any]], failures: Failures
    ) -> Iterator[dict[str, str | None]]:
        """What an encoder could not take, by its name; what was not given, once for all that would read it."""
        told: set[str] = set()
        for name in dict.fromkeys(name for head in self.heads for name in head.settings.inputs):
            modality = self._profile.modality_of(name)
            readers = [head for head in self.heads if name in head.settings.inputs]
            seen = {clip for head in readers for clip in seen_clips(unit, head.settings.context_clips)}
            clips = [clip for clip in unit.clip_ids if clip in seen]
            for clip in clips:
                if (name, clip) in failures:
                    yield {"what": name, "clip": clip, "why": failures[name, clip]}
            encoder = self._profile.encoders.get(name)
            given = encoder is not None and encoder.source is not None  # nobody could give more of these
            without = [clip for clip in clips if rows[clip][modality] is None and not given]
            if without and modality not in told:
                told.add(modality)
                some = f" for {len(without)} of {len(clips)} clips" if len(without) < len(clips) else ""
                yield {"what": modality, "clip": None, "why": f"not given{some}"}

    def _missing_fields(self, row: Mapping[str, Any]) -> Iterator[dict[str, str | None]]:
        known = {field: set(words) for field, words in categories(self._fusion).items()}
        for head in self.heads:
            for field, words in head.vocabularies.items():
                known.setdefault({SPEAKER: "speaker", LISTENER: "listener_id"}.get(field, field), set()).update(words)
        for field in dict.fromkeys([*self.fields, *known]):
            value = row["speaker"] if field == "speaker" else field_value(row, field)
            if value is None:
                yield {"what": field, "clip": None, "why": "not given"}
            elif field in known and value not in known[field]:
                yield {"what": field, "clip": None, "why": f"{value!r} was not met in training: counts as unknown"}


def contributions(
    fusion: Fitted, outputs: HeadOutputs, fused: np.ndarray, target: np.ndarray | None = None
) -> np.ndarray:
    """By how much each head, and each baseline that is read, raises the fused log-probability of the predicted class.

    It is ``log p(with all heads) - log p(with this head masked)``, of the class with the highest fused probability;
    below zero where a head speaks against it. NaN where a head is absent, or is all there is.

    Args:
        fused: (n, c), what the fusion says of the outputs.
        target: (n,) other classes than the predicted ones.
    Returns:
        (n, heads + baselines).
    """
    n_heads = outputs.present.shape[1]
    result = np.full((len(fused), n_heads + len(outputs.baselines)), np.nan)
    chosen = np.where(np.isnan(fused), -np.inf, fused).argmax(axis=1) if target is None else target

    def note(column: int, rows: np.ndarray, without: HeadOutputs) -> None:
        log_p = fusion.predict_logits(without)
        result[rows, column] = fused[rows, chosen[rows]] - log_p[np.arange(len(rows)), chosen[rows]]

    known = {name: ~np.isnan(own).any(axis=1) for name, own in outputs.baselines.items()}
    voices = outputs.present.sum(axis=1) + sum(known.values())
    for h in range(n_heads):
        rows = np.flatnonzero(outputs.present[:, h] & (voices > 1))
        if len(rows):
            part = outputs.where(rows)
            present, logits = part.present.copy(), part.logits.copy()
            present[:, h], logits[:, h] = False, np.nan
            note(h, rows, replace(part, present=present, logits=logits))
    for b, (name, there) in enumerate(known.items()):
        rows = np.flatnonzero(there & outputs.present.any(axis=1))
        if len(rows):
            part = outputs.where(rows)
            nothing = part.baselines | {name: np.full_like(part.baselines[name], np.nan)}
            note(n_heads + b, rows, replace(part, baselines=nothing))
    return result


def categories(fusion: Fitted) -> dict[str, list[str]]:
    """The metadata that a fusion itself reads, and the categories that it knows."""
    found: dict[str, list[str]] = dict(getattr(getattr(fusion, "features", None), "categories", {}))
    for member in fusion.members.values() if isinstance(fusion, FittedBlend) else ():
        found |= categories(member)
    return {field: words for field, words in found.items() if words}
