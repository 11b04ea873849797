"""AvaMERG -> manifest.

The data set of Zhang et al., "Towards Multimodal Empathetic Response Generation: A Rich Text-Speech-Vision Avatar-based
Benchmark", WWW 2025.

Two layouts are read, told apart record by record: the original one (``turns[].dialogue_history[]`` and the
listener's ``response``; media named after conversation, utterance and profile) and the mapped one that users make of
it (``turn.dialogue[]``, one turn a record, media named in the record).
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StrictInt, StrictStr, ValidationError
from tqdm import tqdm

from configs import UserError, one_line, some
from configs.outside import read_json
from configs.sections.datasets import AvamergDataset
from configs.tables import LONGEST, filled, lookalikes, said
from extract.corpora.avamerg_labels import CLASSES, project
from extract.corpora.avamerg_media import MediaIndex, padded
from extract.corpora.manifest import TO_PREDICT, Manifest, make_manifest, not_here, straddling
from extract.corpora.rows import joined_labels
from extract.corpora.splits import connected, natural

__all__ = ["read_avamerg"]


# What is read of a record. Pydantic says which key is missing or of the wrong type, and where.
def _short(text: str | None) -> str | None:
    if text and len(text) > LONGEST:
        raise ValueError(f"has {len(text):,} characters; no more than {LONGEST:,} are a name")
    return text


def _text(text: str | None) -> str | None:
    (text or "").encode()  # half of a surrogate pair is legal JSON and no text: refused here, with its key
    return text


Said = Annotated[StrictStr | None, AfterValidator(_text), AfterValidator(said)]
Filled = Annotated[StrictStr | None, AfterValidator(_text), AfterValidator(filled)]
Number = BeforeValidator(lambda value: filled(value) if type(value) in (int, float) else value)  # ids are 12 or "00012"
Id = Annotated[
    StrictStr, Number, AfterValidator(_text), AfterValidator(_short), AfterValidator(lambda text: filled(text) or "")
]
Role = Annotated[
    Literal["speaker", "listener", "listener_response"],
    BeforeValidator(lambda role: role.strip().lower() if isinstance(role, str) else role),
]


class _Utterance(BaseModel):
    index: Annotated[StrictInt, Field(ge=0, lt=2**31)]
    role: Role
    text: Said
    audio_name: Filled = None
    audio_path: Filled = None
    video_name: Filled = None
    video_path: Filled = None


class _HistoryUtterance(BaseModel):
    index: Annotated[StrictInt, Field(ge=0, lt=2**31 - 1)]
    role: Role
    utterance: Said


class _Empathy(BaseModel):
    speaker_emotion: Filled = None
    event_scenario: Filled = None
    emotion_cause: Filled = None
    goal_to_response: Filled = None


class _MappedTurn(BaseModel):
    turn_id: Id
    context: Said = None
    dialogue: list[_Utterance]
    chain_of_empathy: _Empathy | None = None


class _OriginalTurn(BaseModel):
    turn_id: Id
    context: Said = None
    dialogue_history: list[_HistoryUtterance]
    response: Said = None
    chain_of_empathy: _Empathy | None = None


class _Profile(BaseModel):
    age: Filled = None
    gender: Filled = None
    timbre: Filled = None
    ID: Annotated[Filled, Number, AfterValidator(_short)] = None


class _Record(BaseModel):
    conversation_id: Id
    speaker_profile: _Profile | None = None
    listener_profile: _Profile | None = None
    topic: Filled = None
    turn: _MappedTurn | None = None
    turns: list[_OriginalTurn] | None = None


@dataclass(frozen=True)
class _Turn:
    """One turn of either layout, with what its record says about the people."""

    file: Path
    place: str  # file and record, for errors
    split: str
    original: bool
    turn_id: str
    context: str | None
    utterances: list[_Utterance]
    empathy: _Empathy
    metadata: dict[str, str | None]
    profiles: dict[str, str | None]  # role -> profile ID of who speaks


def read_avamerg(dataset: AvamergDataset, to_predict: bool = False) -> Manifest:
    """Read AvaMERG's JSON and find its media.

    ``meta_*`` columns stand on every clip of a conversation; ``privileged_*`` only on the clip that carries the label,
    for they describe that turn. Units whose emotion reaches no class are dropped and counted.

    Args:
        to_predict: the emotions are not known, or not to be looked at: units stand where they would in training, or
            where the speaker speaks last in a conversation without any label, and their class is ``TO_PREDICT``.

    Raises:
        UserError: a file is missing or broken, a record lacks a key or has a wrong type, a turn occurs twice, a
            conversation lies in two splits, or a media name is ambiguous.
    """
    for name, folder in (("root", dataset.root), ("media_root", dataset.media)):
        if isinstance(folder, Path) and not os.path.isdir(folder):  # noqa: PTH112 (a Path raises where it is too long)
            raise UserError(f"dataset.{name} = {not_here(folder, 'folder')}")
    counts: dict[str, Any] = {}
    conversations = _read_turns(dataset, counts)
    every_turn = [turn for turns in conversations.values() for turn in turns]
    wants_media = any(
        turn.original or any(u.audio_name or u.audio_path or u.video_name or u.video_path for u in turn.utterances)
        for turn in every_turn
    )
    media = MediaIndex(dataset.media if wants_media else None)
    groups = _groups(dataset, conversations)
    tally: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for conversation, turns in tqdm(conversations.items(), desc="conversations", disable=None, leave=False):
        labels = _labels(turns, dataset.units, tally, dropped, to_predict)
        rows += _clips(conversation, turns, labels, dataset.context, media, tally)
    if not rows:
        raise UserError(f"dataset.files: the files below {dataset.root} hold no utterance")
    if to_predict and all(row["label"] is None for row in rows):
        files = some(dataset.files.values())
        raise UserError(f"{files} below {dataset.root}: no speaker says anything: nothing to predict")
    clips = pl.DataFrame(rows, infer_schema_length=None).with_columns(
        pl.col("conversation_id").replace_strict(groups, return_dtype=pl.String).alias("group")
    )
    counts |= dict(sorted(tally.items()))
    counts["dropped_labels"] = dict(sorted(dropped.items()))
    counts["links_not_followed"] = media.links[:3]
    if dataset.group != "conversation":  # the published splits share speakers: say so, and leave them as published
        counts["groups_across_splits"] = len(straddling(clips))
    named = [name for name in clips.columns if name == "speaker" or name.startswith("meta_")]
    counts["warnings"] = [line for name in named for line in lookalikes(name, clips[name], clips["clip_id"], "clip")]
    classes: list[str] = [TO_PREDICT]
    if not to_predict:
        clips, told = joined_labels(clips, dataset.labels, counts["warnings"])
        counts |= told
        left = (dataset.labels.get(each, each) for each in CLASSES)
        classes = list(dict.fromkeys(each for each in left if each))
    allow = to_predict or dataset.missing_media == "allow"
    return make_manifest(clips, dataset.media, classes, counts, str(dataset.root), media.missing, allow)


def _read_turns(dataset: AvamergDataset, counts: dict[str, Any]) -> dict[str, list[_Turn]]:
    """Every conversation's turns in the order of their ids; conversations in the order of the files."""
    files = {
        split: [dataset.root / name for name in glob(pattern, root_dir=dataset.root, recursive=True)]  # noqa: PTH207
        for split, pattern in dataset.files.items()
    }
    if not any(files.values()):
        raise UserError(f"dataset.files: no file below {dataset.root} matches {some(dataset.files.values())}")
    counts["files"] = {split: len(found) for split, found in files.items()}
    counts["splits_without_file"] = [split for split, found in files.items() if not found]
    conversations: dict[str, list[_Turn]] = {}
    places: dict[tuple[str, str], _Turn] = {}
    for split, found in files.items():
        for file in sorted(found, key=lambda file: natural(str(file))):
            for conversation, turn in _read_file(file, split):
                turns = conversations.setdefault(conversation, [])
                if turns and turns[0].split != split:
                    raise UserError(
                        f"conversation {conversation} lies in two splits: {turns[0].split} ({turns[0].file}) and "
                        f"{split} ({file})"
                    )
                other = places.setdefault((conversation, turn.turn_id), turn)
                if other is not turn:
                    raise UserError(f"{turn.place}: turn {turn.turn_id} of it is also in {other.place}")
                turns.append(turn)
    return {
        conversation: sorted(turns, key=lambda turn: natural(turn.turn_id))
        for conversation, turns in conversations.items()
    }


def _read_file(file: Path, split: str) -> Iterator[tuple[str, _Turn]]:
    records = read_json(file)
    if not isinstance(records, list):
        raise UserError(f"{file}: must hold a list of conversations, found {type(records).__name__}")
    for number, raw in enumerate(records, start=1):
        conversation = raw.get("conversation_id") if isinstance(raw, dict) else None
        named = isinstance(conversation, str | int)
        place = f"{file}: record {number}" + (f" (conversation {one_line(conversation, 80)})" if named else "")
        try:
            record = _Record.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            problem = f"lacks {key}" if first["type"] == "missing" else f"{key or 'it'}: {first['msg']}"
            raise UserError(f"{place}: {problem}") from error
        if (record.turn is None) == (record.turns is None):
            raise UserError(f"{place}: needs either turn (mapped layout) or turns (original layout)")
        if not record.conversation_id:
            raise UserError(f"{place}: conversation_id is empty")
        for turn in _turns(record, file, place, split):
            yield padded(record.conversation_id), turn


def _turns(record: _Record, file: Path, place: str, split: str) -> Iterator[_Turn]:
    speaker, listener = record.speaker_profile or _Profile(), record.listener_profile or _Profile()
    metadata = {"meta_topic": record.topic}
    for who, profile in (("speaker", speaker), ("listener", listener)):
        for field in ("age", "gender", "timbre", "id"):
            metadata[f"meta_{who}_{field}"] = getattr(profile, "ID" if field == "id" else field)
    profiles = {"speaker": speaker.ID, "listener": listener.ID, "listener_response": listener.ID}
    for turn in [record.turn] if record.turn else record.turns or []:
        utterances = turn.dialogue if isinstance(turn, _MappedTurn) else _with_response(turn)
        indices = [utterance.index for utterance in utterances]
        if len(set(indices)) != len(indices):
            raise UserError(f"{place}: turn {turn.turn_id} has two utterances of the same index")
        empathy, original = turn.chain_of_empathy or _Empathy(), isinstance(turn, _OriginalTurn)
        yield _Turn(file, place, split, original, turn.turn_id, turn.context, utterances, empathy, metadata, profiles)


def _with_response(turn: _OriginalTurn) -> list[_Utterance]:
    history = [_Utterance(index=u.index, role=u.role, text=u.utterance) for u in turn.dialogue_history]
    if turn.response is not None:
        after = max((u.index for u in history), default=-1) + 1
        history.append(_Utterance(index=after, role="listener_response", text=turn.response))
    return history


def _labels(
    turns: list[_Turn], units: str, tally: Counter[str], dropped: Counter[str], to_predict: bool
) -> dict[int, tuple[_Turn, str | None]]:
    """Index of the utterance at which a label stands -> (its turn, its class or None where it was dropped)."""
    labelled = [turn for turn in turns if turn.empathy.speaker_emotion]
    tally["turns_without_label"] += len(turns) - len(labelled)
    if to_predict and not labelled:
        labelled = [turn for turn in turns if any(utterance.role == "speaker" for utterance in turn.utterances)]
    found: dict[int, tuple[_Turn, str | None]] = {}
    for turn in labelled[-1:] if units == "last" else labelled:
        spoken = [utterance.index for utterance in turn.utterances if utterance.role == "speaker"]
        if not spoken:
            tally["turns_without_speaker"] += 1
            continue
        emotion = str(turn.empathy.speaker_emotion)
        label = TO_PREDICT if to_predict else project(emotion)
        if label is None:
            dropped[emotion] += 1
        at = max(spoken)
        if at in found and found[at][1] != label:  # two turns, two labels, one utterance: neither can be trusted
            tally["turns_in_conflict"] += 1
            label = None
        found[at] = (turn, label)
    return found


def _clips(
    conversation: str,
    turns: list[_Turn],
    labels: dict[int, tuple[_Turn, str | None]],
    context: bool,
    media: MediaIndex,
    tally: Counter[str],
) -> Iterator[dict[str, Any]]:
    spoken: dict[int, tuple[_Turn, _Utterance]] = {}
    for turn in turns:
        for utterance in turn.utterances:
            _, earlier = spoken.get(utterance.index, (turn, utterance))
            if earlier.text != utterance.text:
                tally["utterances_that_differ_between_turns"] += 1
            # A response that a later turn has as history is an utterance like any other.
            if utterance.role != "listener_response" or earlier.role == "listener_response":
                spoken[utterance.index] = (turn, utterance)
    if context and labels:
        turn, _ = labels[min(labels)]
        if turn.context is not None:
            yield _row(conversation, turn, f"dia{conversation}ctx", index=-1, role="context", text=turn.context)
    for index, (turn, utterance) in sorted(spoken.items()):
        profile = turn.profiles[utterance.role]
        row = _row(conversation, turn, f"dia{conversation}utt{index}", index=index, role=utterance.role)
        row |= {"text": utterance.text, "speaker": profile}
        for kind in ("audio", "video"):
            named = getattr(utterance, f"{kind}_path"), getattr(utterance, f"{kind}_name")
            if any(named):
                row[kind] = media.named(kind, *named, turn.place)
            else:
                row[kind] = media.spoken(kind, conversation, index, profile, turn.place, turn.original)
        if index in labels:
            turn, label = labels[index]
            row |= {"turn_id": turn.turn_id, "label": label}
            row |= {f"privileged_{name}": getattr(turn.empathy, name) for name in _PRIVILEGED}
        yield row


_PRIVILEGED = ("event_scenario", "emotion_cause", "goal_to_response", "speaker_emotion")
_EMPTY = dict.fromkeys(
    ["turn_id", "text", "audio", "video", "label", "speaker", *(f"privileged_{name}" for name in _PRIVILEGED)]
)


def _row(conversation: str, turn: _Turn, clip_id: str, **values: Any) -> dict[str, Any]:
    about = {"clip_id": clip_id, "conversation_id": conversation, "split": turn.split}
    return _EMPTY | about | turn.metadata | values


def _groups(dataset: AvamergDataset, conversations: dict[str, list[_Turn]]) -> dict[str, str]:
    """Conversation -> group."""
    if dataset.group == "conversation":
        return {conversation: conversation for conversation in conversations}
    speakers = {name: {turn.profiles["speaker"] for turn in turns} for name, turns in conversations.items()}
    if dataset.group == "both":
        return connected((name, speaker) for name, found in speakers.items() for speaker in found)
    groups = {}
    for name, found in speakers.items():
        speaker = min((s for s in found if s is not None), default=None)
        if speaker is None or len(found) != 1:
            problem = "several speakers" if len(found) > 1 else "no speaker_profile.ID"
            raise UserError(
                f"dataset.group = 'speaker': conversation {name} has {problem} ({conversations[name][0].place}); use "
                "'both' or 'conversation'"
            )
        groups[name] = speaker
    return groups
