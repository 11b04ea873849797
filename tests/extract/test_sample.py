"""The committed sample keeps what its README promises."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import av
import pytest
import soundfile

SAMPLE = Path(__file__).parents[2] / "extract" / "sample"
SPLITS = ("train", "val", "test")
CLASS_OF = {
    "joyful": "happy",
    "furious": "angry",
    "annoyed": "angry",
    "terrified": "fear",
    "afraid": "fear",
    "lonely": "sad",
}
CLASSES = {"happy", "surprised", "angry", "fear", "sad", "disgusted", "contempt"}


@pytest.fixture(scope="module")
def records():
    return {split: json.loads((SAMPLE / f"json/mapped_{split}_data.json").read_text("utf-8")) for split in SPLITS}


def clips(records, split):
    return [clip for record in records[split] for clip in record["turn"]["dialogue"]]


def test_counts_and_classes(records):
    assert {split: len(items) for split, items in records.items()} == {"train": 35, "val": 7, "test": 21}
    assert sum(len(clips(records, split)) for split in SPLITS) == 210
    for items in records.values():
        words = [record["turn"]["chain_of_empathy"]["speaker_emotion"] for record in items]
        frequency = Counter(CLASS_OF.get(word, word) for word in words)
        assert set(frequency) == CLASSES
        assert len(set(frequency.values())) == 1


def test_label_stands_at_a_speaker_who_is_then_answered(records):
    for split in SPLITS:
        for record in records[split]:
            roles = [clip["role"] for clip in record["turn"]["dialogue"]]
            assert roles in (["speaker", "listener_response"], ["speaker", "listener", "speaker", "listener_response"])


def test_people_stay_in_one_split(records):
    splits_of = defaultdict(set)
    for split in SPLITS:
        for record in records[split]:
            assert record["speaker_profile"]["ID"] != record["listener_profile"]["ID"]
            for role in ("speaker", "listener"):
                splits_of[record[f"{role}_profile"]["ID"]].add(split)
    assert len(splits_of) == 8
    assert all(len(splits) == 1 for splits in splits_of.values())


def test_no_words_are_shared_between_splits(records):
    said = {
        split: {re.sub(r"[^a-z ]", "", clip["text"].lower()) for clip in clips(records, split) if clip["text"]}
        for split in SPLITS
    }
    assert not said["train"] & said["val"]
    assert not said["train"] & said["test"]
    assert not said["val"] & said["test"]


def test_named_files_are_the_files_and_lie_where_their_names_say(records):
    named = set()
    for split in SPLITS:
        for record in records[split]:
            for clip in record["turn"]["dialogue"]:
                person = record["speaker_profile" if clip["role"] == "speaker" else "listener_profile"]["ID"]
                for kind, suffix in (("audio", "ogg"), ("video", "mp4")):
                    if f"{kind}_path" in clip:
                        name = f"dia{record['conversation_id']}utt{clip['index']}_{person}.{suffix}"
                        assert clip[f"{kind}_name"] == name
                        assert clip[f"{kind}_path"] == f"{split}_{kind}/{name}"
                        named.add(clip[f"{kind}_path"])
    assert named == {str(p.relative_to(SAMPLE)) for kind in ("audio", "video") for p in SAMPLE.glob(f"*_{kind}/*")}


def test_untidy_as_promised(records):
    all_clips = [clip for split in SPLITS for clip in clips(records, split)]
    assert sum("audio_path" not in clip for clip in all_clips) == 3
    assert sum("video_path" not in clip for clip in all_clips) == 3
    assert sum(not clip["text"] for clip in all_clips) == 2


def test_exactly_the_two_files_of_the_readme_are_broken(records):
    broken = set()
    for path in sorted(SAMPLE.glob("*_audio/*.ogg")):
        name = str(path.relative_to(SAMPLE))
        try:
            assert soundfile.info(path).samplerate == 16_000
            with av.open(str(path)) as file:
                seconds = sum(frame.samples / frame.rate for frame in file.decode(audio=0))
            assert 0.8 < seconds < 6, name
        except (soundfile.LibsndfileError, av.FFmpegError):
            broken.add(name)
    for path in sorted(SAMPLE.glob("*_video/*.mp4")):
        name = str(path.relative_to(SAMPLE))
        try:
            with av.open(str(path)) as file:
                shapes = {(frame.width, frame.height) for frame in file.decode(video=0)}
            assert shapes == {(160, 160)}, name
        except av.FFmpegError:
            broken.add(name)
    assert len(broken) == 2
    assert broken == set(re.findall(r"`(\w+/dia\w+\.(?:ogg|mp4))`", (SAMPLE / "README.md").read_text("utf-8")))
    inputs = {
        clip.get(f"{kind}_path")
        for split in SPLITS
        for clip in clips(records, split)
        if clip["role"] != "listener_response"
        for kind in ("audio", "video")
    }
    assert broken <= inputs


def test_small_enough_to_commit():
    files = [p for p in SAMPLE.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert sum(p.stat().st_size for p in files) < 8e6
