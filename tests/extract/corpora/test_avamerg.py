import copy
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from configs.sections.datasets import AvamergDataset
from extract.corpora.avamerg import read_avamerg
from extract.corpora.avamerg_labels import CLASSES, PROJECTION, project
from extract.corpora.manifest import Manifest
from extract.corpora.media_paths import MissingMedia

Build = Callable[..., AvamergDataset]
SPEAKER = {"age": "elderly", "gender": "male", "timbre": "low", "ID": 69}
LISTENER = {"age": "young", "gender": "female", "timbre": "high", "ID": 72}
SAID = ["I failed the exam.", "Oh no, how come?", "I did not study.", "You will do better."]


def empathy(emotion: str = "afraid") -> dict[str, str]:
    return {
        "speaker_emotion": emotion,
        "event_scenario": "An exam.",
        "emotion_cause": "It went badly.",
        "goal_to_response": "To console.",
    }


def mapped(conversation: str, emotion: str = "afraid", turn_id: str = "1", **utterance: Any) -> dict[str, Any]:
    """A record of the mapped layout: speaker, listener, speaker, listener's response."""
    roles = ["speaker", "listener", "speaker", "listener_response"]
    return {
        "conversation_id": conversation,
        "turn": {
            "turn_id": turn_id,
            "context": "I failed an exam once.",
            "dialogue": [
                {"index": i, "role": role, "text": text} | utterance
                for i, (role, text) in enumerate(zip(roles, SAID, strict=True))
            ],
            "chain_of_empathy": empathy(emotion),
        },
        "speaker_profile": dict(SPEAKER),
        "listener_profile": dict(LISTENER),
        "topic": "School",
    }


def original(conversation: str, emotions: tuple[str, str] = ("afraid", "sad")) -> dict[str, Any]:
    """A record of the original layout: two turns, the second with a longer history."""
    roles = ["speaker", "listener", "speaker"]
    history = [
        {"index": i, "role": role, "utterance": text}
        for i, (role, text) in enumerate(zip(roles, SAID[:3], strict=True))
    ]
    turns = [
        {
            "turn_id": str(number),
            "context": "I failed an exam once.",
            "dialogue_history": copy.deepcopy(history[: 2 * number + 1]),
            "response": SAID[2 * number + 1],
            "chain_of_empathy": empathy(emotion),
        }
        for number, emotion in enumerate(emotions)
    ]
    return {
        "conversation_id": conversation,
        "turns": turns,
        "speaker_profile": dict(SPEAKER),
        "listener_profile": dict(LISTENER),
        "topic": "School",
    }


@pytest.fixture
def avamerg(tmp_path: Path) -> Callable[..., AvamergDataset]:
    """``avamerg(train=[record, ...], val=..., media=[path, ...], **settings)`` writes a dataset below tmp_path."""

    def build(media: tuple[str, ...] = (), settings: dict[str, Any] | None = None, **splits: Any) -> AvamergDataset:
        (tmp_path / "json").mkdir(exist_ok=True)
        for split, records in splits.items():
            (tmp_path / "json" / f"mapped_{split}_data.json").write_text(json.dumps(records), encoding="utf-8")
        for path in media:
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"media")
        return AvamergDataset.model_validate({"adapter": "avamerg", "root": tmp_path, **(settings or {})})

    return build


def rows(manifest: Manifest) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in manifest.clips.to_dicts()}


def test_a_mapped_record_lands_in_its_columns(avamerg: Build) -> None:
    manifest = read_avamerg(avamerg(train=[mapped("12")], media=("a/dia00012utt2_69.wav", "v/dia12utt02_69.mp4")))
    clips = rows(manifest)
    assert list(clips) == [f"dia00012utt{i}" for i in range(4)]
    assert [clip["audio"] for clip in clips.values()] == [None] * 4  # the record names no media at all
    assert [clip["text"] for clip in clips.values()] == SAID
    assert [clip["speaker"] for clip in clips.values()] == ["69", "72", "69", "72"]
    assert [clip["label"] for clip in clips.values()] == [None, None, "fear", None]
    assert [clip["turn_id"] for clip in clips.values()] == [None, None, "1", None]
    assert [clip["role"] for clip in clips.values()] == ["speaker", "listener", "speaker", "listener_response"]
    assert {clip["group"] for clip in clips.values()} == {"00012"}
    assert {(clip["meta_speaker_age"], clip["meta_listener_id"], clip["meta_topic"]) for clip in clips.values()} == {
        ("elderly", "72", "School")
    }
    assert [clip["privileged_emotion_cause"] for clip in clips.values()] == [None, None, "It went badly.", None]
    (unit,) = manifest.units()
    assert unit.clip_ids == ("dia00012utt0", "dia00012utt1", "dia00012utt2")  # not the answer


def test_both_layouts_of_one_conversation_make_the_same_units(avamerg: Build) -> None:
    one = read_avamerg(avamerg(train=[mapped("7", "sad")]))
    other = read_avamerg(avamerg(train=[original("7", ("afraid", "sad"))]))
    assert one.units() == other.units()
    assert one.clips.drop("turn_id").equals(other.clips.drop("turn_id"))


def test_every_labelled_turn_is_a_unit_when_asked(avamerg: Build) -> None:
    manifest = read_avamerg(avamerg(train=[original("7", ("angry", "sad"))], settings={"units": "every"}))
    first, second = manifest.units()
    assert (first.unit_id, first.clip_ids, first.label) == ("dia00007utt0", ("dia00007utt0",), "angry")
    assert (second.unit_id, len(second.clip_ids), second.label) == ("dia00007utt2", 3, "sad")
    # The first turn's response is in the second turn's history: a listener's clip, once, after the first unit.
    assert Counter(manifest.clips["role"]) == {"speaker": 2, "listener": 1, "listener_response": 1}


@pytest.mark.parametrize("turn_id", ["0", "2"])
def test_turns_of_one_mapped_conversation_may_come_in_several_records(avamerg: Build, turn_id: str) -> None:
    early = mapped("7", "angry", turn_id=turn_id)
    early["turn"]["dialogue"] = early["turn"]["dialogue"][:1]
    early["turn"]["dialogue"].append({"index": 1, "role": "listener_response", "text": "Another answer."})
    manifest = read_avamerg(avamerg(train=[mapped("7", "sad"), early], settings={"units": "every"}))
    assert [(unit.unit_id, unit.label) for unit in manifest.units()] == [
        ("dia00007utt0", "angry"),
        ("dia00007utt2", "sad"),
    ]
    assert (
        manifest.clips["text"].to_list() == SAID
    )  # what is history in one turn outranks what is a response in another
    assert manifest.counts["utterances_that_differ_between_turns"] == 1


def test_turns_sort_by_number_so_that_the_tenth_is_the_last(avamerg: Build) -> None:
    records = [mapped("7", "sad", turn_id="10"), mapped("7", "angry", turn_id="9")]
    (unit,) = read_avamerg(avamerg(train=records)).units()
    assert unit.label == "sad"


def test_two_labels_on_one_utterance_are_trusted_neither(avamerg: Build) -> None:
    records = [mapped("7", "sad", turn_id="1"), mapped("7", "angry", turn_id="2"), mapped("8")]
    manifest = read_avamerg(avamerg(train=records, settings={"units": "every"}))
    assert [unit.unit_id for unit in manifest.units()] == ["dia00008utt2"]
    assert manifest.counts["turns_in_conflict"] == 1


@pytest.mark.parametrize(("units", "text"), [("last", "Later."), ("every", "I failed an exam once.")])
def test_context_is_a_first_clip_of_text_that_no_unit_has_as_future(avamerg: Build, units: str, text: str) -> None:
    record = original("7")
    record["turns"][1]["context"] = "Later."
    manifest = read_avamerg(avamerg(train=[record], settings={"context": True, "units": units}))
    first = manifest.clips.row(0, named=True)
    assert (first["clip_id"], first["index"], first["role"], first["text"]) == ("dia00007ctx", -1, "context", text)
    assert all(unit.clip_ids[0] == "dia00007ctx" for unit in manifest.units())


def test_what_is_absent_is_null(avamerg: Build) -> None:
    record = mapped("7")
    for key in ("speaker_profile", "listener_profile", "topic"):
        del record[key]
    record["turn"]["dialogue"][1]["text"] = "  "
    clips = read_avamerg(avamerg(train=[record])).clips
    empty = [name for name in clips.columns if name.startswith("meta_")]
    assert empty
    assert clips.select("audio", "video", "speaker", *empty).null_count().row(0) == (4,) * (3 + len(empty))
    assert clips["text"].null_count() == 1


@pytest.mark.parametrize("path", ["media\\deep\\dia00007utt{}_1.wav", "./media//deep/dia00007utt{}_1.wav"])
def test_a_path_is_used_whatever_its_separators(avamerg: Build, path: str) -> None:
    record = mapped("7")
    record["turn"]["dialogue"][0]["audio_path"] = path.format(0)
    files = ("media/deep/dia00007utt0_1.wav", "other/dia00007utt0_1.wav")
    clips = read_avamerg(avamerg(train=[record], media=files)).clips
    assert clips["audio"].to_list() == ["media/deep/dia00007utt0_1.wav", None, None, None]


def test_a_mapped_record_that_names_one_modality_finds_the_other_by_its_name(avamerg: Build) -> None:
    record = mapped("12")
    record["turn"]["dialogue"][2]["video_name"] = "dia00012utt2_69.mp4"
    manifest = read_avamerg(avamerg(train=[record], media=("a/dia12utt02_69.wav", "v/dia00012utt2_69.mp4")))
    assert manifest.clips["audio"].to_list() == [None, None, "a/dia12utt02_69.wav", None]
    assert manifest.clips["video"].to_list() == [None, None, "v/dia00012utt2_69.mp4", None]
    assert manifest.counts["missing_files"] == {}  # nothing that was named is missing


@pytest.mark.parametrize("path", ["data\\v5_0\\x.mp4", "../x.mp4", "/etc/x.mp4", "C:\\data\\x.mp4", None])
def test_a_path_that_is_not_below_root_falls_back_to_the_name(avamerg: Build, path: str | None) -> None:
    record = mapped("7")
    record["turn"]["dialogue"][0] |= {"video_path": path, "video_name": "x.mp4"}
    clips = read_avamerg(avamerg(train=[record], media=("deep/down/x.mp4", "deep/._x.mp4"))).clips
    assert clips["video"][0] == "deep/down/x.mp4"


def test_a_name_at_two_places_is_an_error_with_both(avamerg: Build) -> None:
    record = mapped("7", audio_name="x.wav")
    with pytest.raises(UserError, match=r"record 1 \(conversation 7\).*a/x\.wav, b/x\.wav"):
        read_avamerg(avamerg(train=[record], media=("a/x.wav", "b/x.wav")))


def test_a_named_file_that_is_not_there_is_null_and_counted(avamerg: Build) -> None:
    record = mapped("7")
    for i, utterance in enumerate(record["turn"]["dialogue"]):
        utterance["audio_name"] = f"gone{i}.wav"
    manifest = read_avamerg(avamerg(train=[record]))
    assert manifest.clips["audio"].null_count() == 4
    assert manifest.counts["missing_files"] == {"audio": 4}
    assert manifest.counts["missing_files_first"] == ["gone0.wav", "gone1.wav", "gone2.wav"]


def test_missing_media_can_be_refused(avamerg: Build) -> None:
    dataset = avamerg(train=[mapped("1", audio_name="gone.wav")])
    refusing = dataset.model_copy(update={"missing_media": "refuse"})
    with pytest.raises(MissingMedia, match=r"audio: .*record 1 .*no file 'gone\.wav'") as error:
        read_avamerg(refusing)
    assert {(each.kind, each.file) for each in error.value.missing} == {("audio", "gone.wav")}
    assert read_avamerg(dataset).counts["missing_files"] == {"audio": len(error.value.missing)}
    read_avamerg(refusing, to_predict=True)  # new clips are answered as far as they go


def test_the_original_layout_finds_media_by_who_speaks(avamerg: Build) -> None:
    media = ("w/dia00007utt0_69.wav", "w/dia00007utt1_72.wav", "w/dia7utt2_69.wav", "w/dia00007utt2_72.wav")
    manifest = read_avamerg(avamerg(train=[original("7")], media=media))
    assert manifest.clips["audio"].to_list() == [media[0], media[1], media[2], None]
    assert manifest.counts["missing_files"] == {"audio": 1}  # no video was ever there, so none is missing
    assert manifest.counts["missing_files_first"] == ["dia00007utt3_72"]


def test_the_original_layout_without_profiles_takes_the_only_file(avamerg: Build) -> None:
    record = original("7")
    del record["speaker_profile"], record["listener_profile"]
    assert read_avamerg(avamerg(train=[record], media=("dia7utt0_5.mp4",))).clips["video"][0] == "dia7utt0_5.mp4"
    with pytest.raises(UserError, match=r"dia7utt0_5\.mp4, dia7utt0_6\.mp4"):
        read_avamerg(avamerg(train=[record], media=("dia7utt0_6.mp4",)))


def test_white_space_makes_no_other_topic_and_case_is_warned_of(avamerg: Build) -> None:
    records = [
        mapped(str(number)) | {"topic": topic} for number, topic in enumerate(["work", " work\u00a0", "Work", " "])
    ]
    manifest = read_avamerg(avamerg(train=records))
    assert set(manifest.clips["meta_topic"]) == {"work", "Work", None}
    (warning,) = [line for line in manifest.counts["warnings"] if line.startswith("meta_topic")]
    assert "'work' (clip dia00000utt0) and 'Work' (clip dia00002utt0)" in warning


def test_labels_follow_the_projection_to_its_end() -> None:
    assert len(PROJECTION) == 75
    assert project("anxiety") == "sad"  # anxiety -> anxious -> sad
    assert project("confused") == "contempt"
    assert project("fear") == "fear"  # both a key and a class
    never = {key for key in PROJECTION if project(key) is None}
    assert never == {"tired", "weary", "fatigue", "exhaustion", "tiredness", "exhausted"}
    assert {project(key) for key in PROJECTION} - {None} == set(CLASSES)


@given(st.text())
def test_a_projection_ends_in_a_class_or_nowhere(word: str) -> None:
    assert project(word) in {*CLASSES, None}


def test_units_without_a_class_are_dropped_and_listed(avamerg: Build) -> None:
    records = [mapped("1", "tired"), mapped("2", "tired"), mapped("3", "hangry"), mapped("4", "Joyful ")]
    manifest = read_avamerg(avamerg(train=records))
    assert [(unit.unit_id, unit.label) for unit in manifest.units()] == [("dia00004utt2", "happy")]
    assert manifest.counts["dropped_labels"] == {"hangry": 1, "tired": 2}
    assert manifest.clips.height == 16  # their clips stay


def test_groups(avamerg: Build) -> None:
    records = [mapped("1"), mapped("2"), mapped("3"), mapped("4")]
    for record, speaker in zip(records, (5, 5, 6, None), strict=True):
        record["speaker_profile"]["ID"] = speaker

    def groups(group: str, some_records: list[Any]) -> dict[str, str]:
        manifest = read_avamerg(avamerg(train=some_records, settings={"group": group}))
        return dict(manifest.clips.select("conversation_id", "group").unique().iter_rows())

    assert groups("conversation", records)["00002"] == "00002"
    assert groups("speaker", records[:3]) == {"00001": "5", "00002": "5", "00003": "6"}
    assert groups("both", records) == {"00001": "5", "00002": "5", "00003": "6", "00004": "conversation:00004"}
    with pytest.raises(UserError, match=r"conversation 00004 has no speaker_profile\.ID"):
        groups("speaker", records)


def test_speakers_that_published_splits_share_are_said_so(avamerg: Build) -> None:
    settings = {"group": "speaker"}
    manifest = read_avamerg(avamerg(train=[mapped("1")], test=[mapped("2")], settings=settings))
    assert manifest.counts["groups_across_splits"] == 1


def test_files_are_read_in_natural_order_and_splits_come_from_them(avamerg: Build, tmp_path: Path) -> None:
    dataset = avamerg(train_2=[mapped("1", turn_id="x")], train_10=[mapped("2")], test=[mapped("3")])
    dataset = dataset.model_copy(update={"files": dict(dataset.files) | {"train": "json/mapped_train_*.json"}})
    manifest = read_avamerg(dataset)
    assert {unit.unit_id: unit.split for unit in manifest.units()} == {
        "dia00001utt2": "train",
        "dia00002utt2": "train",
        "dia00003utt2": "test",
    }
    assert manifest.counts["splits_without_file"] == ["val"]
    (tmp_path / "json/mapped_train_10_data.json").write_text(json.dumps([mapped("1", turn_id="x")]), encoding="utf-8")
    with pytest.raises(UserError, match=r"train_10_data\.json.*also in.*train_2_data\.json"):
        read_avamerg(dataset)


def test_a_pipe_in_place_of_annotations_is_refused_at_once(avamerg: Build, tmp_path: Path) -> None:
    dataset = avamerg(train=[mapped("1")])
    os.mkfifo(tmp_path / "json/mapped_val_data.json")
    (tmp_path / "json/mapped_test_data.json").symlink_to("/dev/zero")
    for split in ("val", "test"):
        with pytest.raises(UserError, match=rf"mapped_{split}_data\.json: no regular file"):
            read_avamerg(dataset.model_copy(update={"files": {split: dataset.files[split]}}))


def test_a_root_that_is_no_folder_is_told(avamerg: Build, tmp_path: Path) -> None:
    for root in ("gone", "a" * 5000):
        with pytest.raises(UserError, match=r"^dataset\.root = \S{1,300}: no such folder$"):
            read_avamerg(avamerg().model_copy(update={"root": Path(root)}))


def test_no_file_at_all_is_an_error(avamerg: Build) -> None:
    with pytest.raises(UserError, match=r"dataset\.files.*mapped_train_data"):
        read_avamerg(avamerg())


def test_a_conversation_in_two_splits_is_an_error_with_both_files(avamerg: Build) -> None:
    with pytest.raises(UserError, match=r"00012.*mapped_train_data\.json.*mapped_test_data\.json"):
        read_avamerg(avamerg(train=[mapped("12")], test=[mapped("00012")]))


def test_a_turn_given_twice_is_an_error(avamerg: Build) -> None:
    with pytest.raises(UserError, match=r"record 2.*turn 1.*also in.*record 1"):
        read_avamerg(avamerg(train=[mapped("12"), mapped("12")]))


def _without(*keys: Any) -> dict[str, Any]:
    record = mapped("12")
    node: Any = record
    for key in keys[:-1]:
        node = node[key]
    del node[keys[-1]]
    return record


def _with(value: Any, *keys: Any) -> dict[str, Any]:
    record = original("12")
    node: Any = record
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    return record


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (_without("conversation_id"), r"record 1: lacks conversation_id"),
        (_without("turn"), r"conversation 12\): needs either turn"),
        (_without("turn", "turn_id"), r"lacks turn\.turn_id"),
        (_without("turn", "dialogue"), r"lacks turn\.dialogue"),
        (_without("turn", "dialogue", 1, "text"), r"lacks turn\.dialogue\.1\.text"),
        (_with("1", "turns", 0, "dialogue_history", 0, "index"), r"turns\.0\.dialogue_history\.0\.index: .*integer"),
        (_with("host", "turns", 1, "dialogue_history", 2, "role"), r"turns\.1\.dialogue_history\.2\.role: .*'speaker'"),
        (_with(["x"], "turns", 0, "response"), r"turns\.0\.response: .*string"),
        (_with(0, "turns", 1, "dialogue_history", 2, "index"), r"turn 1 has two utterances of the same index"),
        (_with("half \ud83d", "turns", 0, "response"), r"turns\.0\.response: .*surrogates"),
        (_with(" ", "conversation_id"), r"conversation_id is empty"),
        ("text", r"record 1: it: .*"),
    ],
)
def test_a_bad_record_is_named_with_its_key(avamerg: Build, record: Any, problem: str) -> None:
    with pytest.raises(
        UserError, match=r"mapped_train_data\.json: record 1.*" + problem.removeprefix("record 1")
    ) as error:
        read_avamerg(avamerg(train=[record]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('[{"conversation_id": ' + "9" * 5000 + "}]", "not valid JSON"),
        ('[{"conversation_id": ' + "9" * 4000 + "}]", "conversation_id: .*4,000 characters"),
        ('[{"conversation_id": "' + "9" * 5000 + '"}]', "conversation_id: .*5,000 characters"),
        ('[{"conversation_id": ' + "[" * 300 + "]" * 300 + "}]", "conversation_id"),
        ('[{"conversation_id": "1", "conversation_id": "2"}]', "stands twice"),
    ],
    ids=["deep", "digits", "fewer digits", "text", "list", "twice"],
)
def test_json_that_somebody_made_to_break_it_is_one_short_line(
    avamerg: Build, tmp_path: Path, content: str, problem: str
) -> None:
    dataset = avamerg(train=[])
    (tmp_path / "json/mapped_train_data.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"mapped_train_data\.json: .*{problem}") as error:
        read_avamerg(dataset)
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


def test_broken_json_is_named_with_line_and_column(avamerg: Build, tmp_path: Path) -> None:
    dataset = avamerg(train=[])
    (tmp_path / "json/mapped_train_data.json").write_text('[\n{"conversation_id": }\n]', encoding="utf-8")
    with pytest.raises(UserError, match=r"mapped_train_data\.json: not JSON at line 2, column 21"):
        read_avamerg(dataset)
    (tmp_path / "json/mapped_train_data.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(UserError, match="must hold a list"):
        read_avamerg(dataset)


def test_a_turn_without_emotion_or_speaker_is_counted(avamerg: Build) -> None:
    silent, listener_only = mapped("1"), mapped("2")
    del silent["turn"]["chain_of_empathy"]
    listener_only["turn"]["dialogue"] = listener_only["turn"]["dialogue"][1:2]
    manifest = read_avamerg(avamerg(train=[silent, listener_only, mapped("3")]))
    assert len(manifest.units()) == 1
    assert manifest.counts["turns_without_label"] == 1
    assert manifest.counts["turns_without_speaker"] == 1
    assert manifest.counts["conversations_without_unit"] == 2


def test_nothing_labelled_is_an_error(avamerg: Build) -> None:
    with pytest.raises(UserError, match="no clip carries a label"):
        read_avamerg(avamerg(train=[mapped("1", "tired")]))
    with pytest.raises(UserError, match="no utterance"):
        read_avamerg(avamerg(train=[]))


def test_the_seven_classes_may_be_joined_and_dropped(avamerg: Build) -> None:
    records = [mapped("1", "afraid"), mapped("2", "sad"), mapped("3", "joyful")]
    labels = {"fear": "negative", "sad": "negative", "happy": None}
    manifest = read_avamerg(avamerg(train=records, settings={"labels": labels}))
    assert manifest.classes == ("surprised", "angry", "negative", "disgusted", "contempt")
    assert manifest.clips["label"].drop_nulls().to_list() == ["negative", "negative"]
    assert len(manifest.clips) == 8  # of the third conversation nothing is left
    assert manifest.counts["labels_dropped"] == {"happy": 1}
