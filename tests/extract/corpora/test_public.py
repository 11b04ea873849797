"""Corpora in the layouts in which they are published: MELD, IEMOCAP, and any by EmoBox's partition."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from configs import UserError
from configs.sections.datasets import Dataset
from extract.corpora.manifest import Manifest
from extract.corpora.media_paths import MissingMedia
from extract.corpora.readers.meld import mended_text
from extract.corpora.reading import read_dataset


def read(root: Path, **settings: Any) -> Manifest:
    return read_dataset(TypeAdapter(Dataset).validate_python({"root": root, **settings}), 0)


def put(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


# --- MELD ---

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
TIMES = '"00:16:16,059","00:16:21,731"'


def meld(root: Path) -> None:
    train = [
        "1,also I was the point person,Chandler,neutral,neutral,0,0,8,21," + TIMES,
        "2,You must\x92ve had your hands full.,The Interviewer,joy,positive,0,1,8,21," + TIMES,
        '3,"Oh, no.",Ross,sadness,negative,125,3,8,21,' + TIMES,
    ]
    put(
        root,
        {
            "train_sent_emo.csv": HEADER + "\n".join(train) + "\n",
            "dev_sent_emo.csv": HEADER + "1,Itâ€™s me.,Joey,neutral,neutral,0,0,4,7," + TIMES + "\n",
            "test_sent_emo.csv": HEADER + "1,Why?,Joey,surprise,negative,0,0,4,7," + TIMES + "\n",
            "train/train_splits/dia0_utt0.mp4": "x",
            "train/train_splits/dia0_utt1.mp4": "x",
            "train/train_splits/._dia0_utt1.mp4": "x",
            "dev/dev_splits_complete/dia0_utt0.mp4": "x",
            "test/output_repeated_splits_test/dia0_utt0.mp4": "",
            "test/output_repeated_splits_test/final_videos_testdia0_utt0.mp4": "x",
        },
    )


def test_meld_is_dialogues_of_units_with_its_own_splits(tmp_path: Path) -> None:
    meld(tmp_path)
    manifest = read(tmp_path, adapter="meld")
    clips = manifest.clips.select("clip_id", "conversation_id", "index", "split", "label", "group", "speaker")
    assert clips.rows() == [
        ("train_dia0_utt0", "train_dia0", 0, "train", "neutral", "train_dia0", "Chandler"),
        ("train_dia0_utt1", "train_dia0", 1, "train", "joy", "train_dia0", "The Interviewer"),
        ("train_dia125_utt3", "train_dia125", 3, "train", "sadness", "train_dia125", "Ross"),
        ("dev_dia0_utt0", "dev_dia0", 0, "val", "neutral", "dev_dia0", "Joey"),
        ("test_dia0_utt0", "test_dia0", 0, "test", "surprise", "test_dia0", "Joey"),
    ]
    units = {unit.unit_id: unit.clip_ids for unit in manifest.units()}
    assert units["train_dia0_utt1"] == ("train_dia0_utt0", "train_dia0_utt1")
    assert manifest.clips["text"][1] == "You must’ve had your hands full."
    assert manifest.clips["text"][3] == "It’s me."
    assert manifest.clips["privileged_sentiment"][2] == "negative"
    assert manifest.counts["utterances_with_mended_characters"] == 2


def test_a_clip_of_meld_that_is_not_there_is_missing(tmp_path: Path) -> None:
    meld(tmp_path)
    manifest = read(tmp_path, adapter="meld")
    there = "train/train_splits/dia0_utt0.mp4"
    assert manifest.clips.select("audio", "video").row(0) == (there, there)
    assert manifest.clips.select("audio", "video").row(2) == (None, None)
    assert manifest.counts["missing_files"] == {"audio": 1, "video": 1}
    assert manifest.counts["missing_files_first"] == ["train/train_splits/dia125_utt3.mp4"] * 2
    assert (
        manifest.clips["video"][4] == "test/output_repeated_splits_test/dia0_utt0.mp4"
    )  # that it is broken, decoding says
    assert manifest.counts["files_that_are_no_utterance"] == 1
    with pytest.raises(MissingMedia, match=r"train_sent_emo\.csv row 3: no file 'train/train_splits/dia125_utt3.mp4'"):
        read(tmp_path, adapter="meld", missing_media="refuse")


def test_meld_without_films_is_text_and_without_a_table_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_sent_emo\.csv: no such table"):
        read(tmp_path, adapter="meld")
    put(tmp_path, {"train_sent_emo.csv": HEADER + "1,Hi.,Joey,joy,positive,0,0,4,7,a,b\n"})
    warnings = read(tmp_path, adapter="meld", label="sentiment").counts["warnings"]
    assert any("text alone is read" in line for line in warnings)
    assert any("no table dev_sent_emo.csv, test_sent_emo.csv" in line for line in warnings)
    put(tmp_path, {"test_sent_emo.csv": HEADER + "1,Hi, you.,Joey,joy,positive,0,0,4,7,a,b\n"})
    with pytest.raises(UserError, match="row 1 has other cells than the header"):
        read(tmp_path, adapter="meld")
    put(tmp_path, {"test_sent_emo.csv": "Utterance,Speaker\nHi,Joey\n"})
    with pytest.raises(UserError, match="lacks the column Emotion, Sentiment, Dialogue_ID, Utterance_ID; it has"):
        read(tmp_path, adapter="meld")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("naïve café", "naïve café"),
        ("\x93no\x94 \x96", "“no” –"),
        ("cafÃ© â€“", "café –"),
        ("Ã", "Ã"),
        ("it’s", "it’s"),
    ],
)
def test_only_broken_characters_are_mended(text: str, whole: str) -> None:
    assert mended_text(text) == whole


# --- IEMOCAP ---


def iemocap(root: Path, sessions: int = 2) -> None:
    for n in range(1, sessions + 1):
        name = f"Ses0{n}F_impro01"
        lines = [
            "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]",
            "",
            f"[10.0100 - 11.3925]\t{name}_M000\texc\t[4.5000, 3.5000, 3.0000]",
            "C-E2:\tExcited;\t()",
            f"[6.2901 - 8.2357]\t{name}_F000\tneu\t[2.5000, 2.5000, 2.5000]",
            f"[12.1000 - 13.0000]\t{name}_F001\txxx\t[2.5000, 3.0000, 3.0000]",
            f"[14.1000 - 15.0000]\t{name}_M001\thap\t[4.0000, 3.0000, 3.0000]",
        ]
        put(
            root / f"Session{n}",
            {
                f"dialog/EmoEvaluation/{name}.txt": "\n".join(lines),
                f"dialog/EmoEvaluation/._{name}.txt": b"\xff\0",
                f"dialog/EmoEvaluation/Categorical/{name}_e1_cat.txt": "no label",
                f"dialog/transcriptions/{name}.txt": f"{name}_F000 [006.2901-008.2357]: Excuse me.\n",
                **{f"sentences/wav/{name}/{name}_{turn}.wav": "x" for turn in ("F000", "M000", "F001", "M001")},
            },
        )


def test_sessions_of_iemocap_are_its_folds(tmp_path: Path) -> None:
    iemocap(tmp_path)
    manifest = read(tmp_path, adapter="iemocap")
    first = manifest.clips.head(4)
    assert first.select("clip_id", "index", "label", "speaker", "group", "fold").rows() == [
        ("Ses01F_impro01_F000", 0, "neutral", "Session1_F", "Session1", 0),
        ("Ses01F_impro01_M000", 1, "happy", "Session1_M", "Session1", 0),
        ("Ses01F_impro01_F001", 2, None, "Session1_F", "Session1", 0),
        ("Ses01F_impro01_M001", 3, "happy", "Session1_M", "Session1", 0),
    ]
    assert first["text"].to_list() == ["Excuse me.", None, None, None]
    assert first["audio"][0] == "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    assert manifest.counts["folds_given"] == {"Session1": 3, "Session2": 3}
    assert manifest.counts["labels_outside_of_merge"] == {"no agreement": 2}
    assert first["privileged_valence"][1] == "4.5000"


@pytest.mark.parametrize(
    ("merge", "classes"),
    [
        ("four", ("happy", "neutral")),
        ("five", ("excited", "happy", "neutral")),
        ("all", ("excited", "happy", "neutral")),
    ],
)
def test_merges_of_iemocap(tmp_path: Path, merge: str, classes: tuple[str, ...]) -> None:
    iemocap(tmp_path, sessions=1)
    manifest = read(tmp_path, adapter="iemocap", merge=merge, dialogues=False)
    assert manifest.classes == classes
    assert [len(unit.clip_ids) for unit in manifest.units()] == [1, 1, 1]
    assert len(manifest.clips) == 3  # what has no class is nobody's context
    assert manifest.clips["fold"].null_count() == 3  # of one session


def test_what_is_no_iemocap_ends_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Session1/dialog/EmoEvaluation: no such folder"):
        read(tmp_path, adapter="iemocap")
    put(tmp_path, {"Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": "nothing"})
    with pytest.raises(UserError, match="no line of a label"):
        read(tmp_path, adapter="iemocap")


# --- EmoBox ---


def emobox(root: Path, folds: dict[str, list[tuple[str, str]]], spelling: str = "_", **names: str) -> None:
    """``{"1/test": [(key, label)]}`` as JSONL; ``names`` are those of the keys for file and label."""
    file, label = names.get("file", "wav"), names.get("label", "emo")
    for place, entries in folds.items():
        fold, part = place.split("/")
        lines = [{"key": key, file: f"downloads/mine/wav/{key}.wav", label: emotion} for key, emotion in entries]
        path = root / "mine" / f"fold_{fold}" / f"mine_{part}_fold{spelling}{fold}.jsonl"
        put(root, {str(path.relative_to(root)): "\n".join(map(json.dumps, lines)) + "\n"})
    put(root, {"mine/label_map.json": json.dumps({"anger": "Angry", "boredem": "Boredom", "Neutral": "Neutral"})})


def test_emobox_folds_predict_whom_they_test(tmp_path: Path) -> None:
    a, b, c = ("01-a", "anger"), ("02-b", "boredem"), ("03-c", "neutral")
    emobox(tmp_path, {"1/test": [a, c], "1/train": [b], "2/test": [b], "2/train": [a, c]})
    emobox(
        tmp_path, {"1/test": [b], "1/train": [a, c]}, spelling="", file="audio", label="label"
    )  # the former spelling
    put(tmp_path / "media", {f"wav/{key}.wav": "x" for key, _ in (a, b, c)})
    settings: dict[str, Any] = {"adapter": "emobox", "corpus": "mine", "media_root": tmp_path / "media"}
    manifest = read(tmp_path, **settings, pattern=r"^(?P<speaker>\d\d)")
    assert manifest.clips.select("clip_id", "label", "audio", "split", "fold", "group").rows() == [
        ("01-a", "Angry", "wav/01-a.wav", "train", 0, "01"),
        ("02-b", "Boredom", "wav/02-b.wav", "train", 1, "02"),
        ("03-c", "Neutral", "wav/03-c.wav", "train", 0, "03"),
    ]
    assert manifest.counts["folds_given"] == {"1": 2, "2": 1}
    assert manifest.counts["notes"] == ["paths are taken without their first part, downloads/mine"]
    assert read(tmp_path, **settings, map_labels=False).classes == ("anger", "boredem", "neutral")
    shared = read(tmp_path, **settings, pattern=r"^(?P<speaker>\d)")  # all are speaker 0
    assert shared.counts["groups_across_folds"] == 1
    assert any("folds share 1 group(s) (0)" in line for line in shared.counts["warnings"])


def test_a_single_fold_of_emobox_is_splits(tmp_path: Path) -> None:
    put(tmp_path, {f"downloads/mine/wav/{key}.wav": "x" for key in "abc"})
    emobox(tmp_path, {"1/test": [("a", "anger")], "1/train": [("b", "neutral")], "1/valid": [("c", "odd")]})
    manifest = read(tmp_path, adapter="emobox", corpus="mine")
    assert dict(manifest.clips.select("clip_id", "split").iter_rows()) == {"a": "test", "b": "train"}
    assert manifest.counts["labels_not_in_label_map"] == {"odd": 1}


@pytest.mark.parametrize(
    ("folds", "match"),
    [
        ({"1/test": [("a", "anger")]}, "fold 1 lacks its train or its test file"),
        (
            {"1/test": [("a", "anger")], "1/train": [], "2/test": [("a", "anger")], "2/train": []},
            "mine_test_fold_2.jsonl: a is in 1 and in 2",
        ),
        (
            {"1/test": [("a", "anger")], "1/train": [("a", "neutral")]},
            "a is 'neutral', and 'anger' in another file",
        ),
        ({"1/test": [("a", "odd")], "1/train": []}, "knows none of the labels 'odd'; or write map_labels: false"),
    ],
)
def test_a_partition_that_contradicts_itself_is_refused(tmp_path: Path, folds: dict[str, Any], match: str) -> None:
    emobox(tmp_path, folds)
    with pytest.raises(UserError, match=match):
        read(tmp_path, adapter="emobox", corpus="mine")


def test_lines_and_corpora_that_are_not_there_are_named(tmp_path: Path) -> None:
    emobox(tmp_path, {"1/test": [("a", "anger")], "1/train": []})
    with pytest.raises(UserError, match=r"other: no such corpus \(dataset.root and dataset.corpus; there: mine\)"):
        read(tmp_path, adapter="emobox", corpus="other")
    with pytest.raises(UserError, match=r"no file of the partition below it.*downloads/mine/wav/a\.wav, for one"):
        read(tmp_path, adapter="emobox", corpus="mine")
    put(tmp_path, {"downloads/mine/wav/b.wav": "x"})
    emobox(tmp_path, {"1/train": [("b", "neutral")]})
    with pytest.raises(MissingMedia, match=r"no file .downloads/mine/wav/a\.wav."):
        read(tmp_path, adapter="emobox", corpus="mine")
    put(tmp_path, {"mine/fold_1/mine_train_fold_1.jsonl": '{"key": "b", "wav": "b.wav"}\n'})
    with pytest.raises(UserError, match=r"mine_train_fold_1\.jsonl: line 1: emo: Field required"):
        read(tmp_path, adapter="emobox", corpus="mine")
