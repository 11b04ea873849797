"""Folders and file names that say what a clip is; the corpora of ``configs/corpora`` under their published names."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError
from shells import REPOSITORY

from configs import UserError
from configs.sections.datasets import Dataset
from extract.corpora.manifest import Manifest
from extract.corpora.reading import read_dataset

Read = Callable[..., Manifest]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """``read({path: content} or [paths], **settings)`` makes the files below tmp_path and reads them."""

    def build(files: dict[str, str] | list[str], **settings: Any) -> Manifest:
        for name in files:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[name] if isinstance(files, dict) else "x")
        return read_dataset(TypeAdapter(Dataset).validate_python({"root": tmp_path, **settings}), 0)

    return build


def folder(read: Read, files: dict[str, str] | list[str], **settings: Any) -> Manifest:
    return read(files, adapter="folder", **settings)


def test_a_folder_is_a_class_and_files_of_one_name_are_a_clip(read: Read) -> None:
    files = {"sad/1.wav": "x", "sad/1.mp4": "x", "sad/1.txt": " oh \n", "happy/deep/2.OGG": "x", "notes.txt": "by me"}
    manifest = folder(read, files, label_folder=0)
    assert manifest.clips.select("clip_id", "label", "audio", "video", "text", "split").rows() == [
        ("happy/deep/2", "happy", "happy/deep/2.OGG", None, None, "train"),
        ("sad/1", "sad", "sad/1.wav", "sad/1.mp4", "oh", "train"),
    ]
    assert set(folder(read, [], label_folder=-1).clips["label"]) == {"deep", "sad"}
    assert folder(read, [], label_folder=0, pattern=r"(?P<speaker>\d)\.").clips["group"].to_list() == ["2", "1"]


def test_what_is_no_clip_is_counted_and_named(read: Read) -> None:
    files = {
        ".git/a.wav": "x",
        "sad/.b.wav": "x",
        "sad/empty.wav": "",
        "sad/c.pdf": "x",
        "d.wav": "x",
        "sad/e.wav": "x",
    }
    counts = folder(read, files | {"happy/f.wav": "x"}).counts
    assert counts["hidden_files"] == 2
    assert (counts["files_without_content"], counts["files_without_content_first"]) == (1, ["sad/empty.wav"])
    assert counts["files_of_other_kinds"] == {".pdf": 1}
    assert counts["folders_behind_links_not_entered"] == []
    assert (counts["files_outside_of_classes"], counts["files_outside_of_classes_first"]) == (1, ["d.wav"])


def test_folders_behind_links_are_told(read: Read, tmp_path: Path) -> None:
    (tmp_path / "angry").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match=r"links to folders, which are not entered: .*/angry"):
        folder(read, [])
    assert folder(read, ["sad/1.wav", "happy/2.wav"]).counts["folders_behind_links_not_entered"] == [
        f"{tmp_path}/angry"
    ]


def test_texts_alone_are_clips_and_folders_may_be_splits(read: Read) -> None:
    files = {"train/pos/1.txt": "good", "train/neg/2.txt": "bad", "Dev/pos/3.txt": "fine"}
    manifest = folder(read, files, pattern=r"^(?P<split>\w+)/")
    assert manifest.clips.select("split", "label", "text").rows() == [
        ("train", "neg", "bad"),
        ("train", "pos", "good"),
        ("val", "pos", "fine"),
    ]


def test_folds_come_from_names_and_numbers_follow_them(read: Read) -> None:
    files = [f"{label}/f{fold}_{n}.wav" for label in ("sad", "happy") for fold in (10, 2) for n in range(2)]
    manifest = folder(read, files, pattern=r"f(?P<fold>\d+)_")
    assert manifest.counts["folds_given"] == {"2": 4, "10": 4}
    assert {unit.unit_id: unit.fold for unit in manifest.units()}["sad/f10_0"] == 1
    with pytest.raises(UserError, match="more than one fold has clips of group: 0, 1"):
        folder(read, files, pattern=r"f(?P<fold>\d+)_(?P<speaker>\d)")


def test_labels_are_joined_and_dropped_and_counted(read: Read) -> None:
    files = ["sad/1.wav", "glad/2.wav", "happy/3.wav", "xxx/4.wav"]
    manifest = folder(read, files, labels={"glad": "happy", "xxx": None, "fear": "sad"})
    assert manifest.classes == ("happy", "sad")
    assert manifest.counts["labels_joined"] == {"glad -> happy": 1}
    assert manifest.counts["labels_dropped"] == {"xxx": 1}
    assert len(manifest.clips) == 3
    (warning,) = manifest.counts["warnings"]
    assert "dataset.labels: no clip is labelled 'fear'; there are glad, happy, sad, xxx" in warning


@pytest.mark.parametrize(
    ("files", "settings", "match"),
    [
        (
            ["a.wav"],
            {"adapter": "folder"},
            "label_folder = -1 could mean, such as 'a.wav'",
        ),
        (["a/b.pdf"], {"adapter": "folder"}, r"no sound, film or text below it \(there: 1 .pdf\)"),
        (["s/1.wav", "s/1.flac"], {"adapter": "folder"}, "s/1.flac and s/1.wav are both the audio of clip 's/1'"),
        (
            ["s/1.wav"],
            {"adapter": "files", "pattern": r"(?P<label>\d\d)\.wav"},
            "none of 1 files .* 's/1.wav', for one, is not",
        ),
        (
            ["s/1.wav"],
            {"adapter": "files", "pattern": r"(?P<label>\d)\.wav", "codes": {"label": {"2": "sad"}}},
            "s/1.wav: label is '1', which is not among dataset.codes.label",
        ),
    ],
)
def test_what_cannot_be_read_ends_in_a_line(read: Read, files: list[str], settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        read(files, **settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"adapter": "folder", "pattern": "(?P<label>x)"}, "a folder is the label here"),
        ({"adapter": "files", "pattern": "x"}, r"no group \(\?P<label>"),
        ({"adapter": "files", "pattern": "(?P<label>x"}, "is no regular expression"),
        ({"adapter": "files", "pattern": "(?P<label>x)", "clip": ["speaker"]}, "clip: pattern has no group"),
        ({"adapter": "files", "pattern": "(?P<label>x)", "codes": {"who": {"1": "a"}}}, "codes.who: pattern has no"),
        ({"adapter": "files", "pattern": "(?P<label>x)", "codes": {"label": {1: "a"}}}, "put it in quotes"),
        ({"adapter": "files", "pattern": "(?P<label>x)(?P<audio>y)"}, "a group cannot be called 'audio'"),
    ],
)
def test_a_pattern_that_says_nothing_is_refused(read: Read, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        read([], **settings)


# Corpus: files as they are published, and of each clip (label, speaker).
PUBLISHED: dict[str, tuple[list[str], list[tuple[str, str]]]] = {
    "ravdess": (
        [
            "Audio_Speech_Actors_01-24/Actor_12/03-01-06-01-02-01-12.wav",
            "Video_Speech_Actor_12/Actor_12/01-01-06-01-02-01-12.mp4",
            "Video_Speech_Actor_12/Actor_12/02-01-06-01-02-01-12.mp4",
            "Audio_Song_Actors_01-24/Actor_12/03-02-06-01-02-01-12.wav",
            "Audio_Speech_Actors_01-24/Actor_01/03-01-01-01-01-02-01.wav",
        ],
        [("fearful", "12"), ("neutral", "01")],
    ),
    "crema_d": (
        [
            "AudioWAV/1001_DFA_ANG_XX.wav",
            "AudioMP3/1001_DFA_ANG_XX.mp3",
            "VideoFlash/1001_DFA_ANG_XX.flv",
            "AudioWAV/1040_ITH_SAD_X.wav",
            "AudioWAV/1091_IEO_HAP_LO.wav",
        ],
        [("angry", "1001"), ("sad", "1040"), ("happy", "1091")],
    ),
    "emodb": (["wav/03a01Wa.wav", "wav/16b10Tb.wav"], [("anger", "03"), ("sadness", "16")]),
    "savee": (
        ["AudioData/DC/sa01.wav", "AudioVisualClip/DC/sa1.avi", "ALL/JE_n30.wav", "ALL/KL_su07.wav"],
        [("sadness", "DC"), ("neutral", "JE"), ("surprise", "KL")],
    ),
    "tess": (
        [
            "OAF_angry/OAF_back_angry.wav",
            "YAF_pleasant_surprised/YAF_dog_ps.wav",
            "OAF_neutral/OA_bite_neutral.wav",
        ],
        [("angry", "OAF"), ("neutral", "OAF"), ("surprise", "YAF")],
    ),
    "emovo": (["EMOVO/f1/dis-f1-b1.wav", "EMOVO/m3/gio-m3-n5.wav"], [("disgust", "f1"), ("joy", "m3")]),
    "esd": (
        ["0011/Angry/0011_000351.wav", "0001/Sad/evaluation/0001_001051.wav", "0001/0001.txt"],
        [("Sad", "0001"), ("Angry", "0011")],
    ),
    "mead": (
        [
            "M003/audio/angry/level_1/001.m4a",
            "M003/video/front/angry/level_1/001.mp4",
            "M003/video/left_30/angry/level_1/001.mp4",
            "W009/audio/neutral/level_1/022.m4a",
        ],
        [("angry", "M003"), ("neutral", "W009")],
    ),
}


@pytest.mark.parametrize("corpus", PUBLISHED)
def test_corpora_are_read_under_their_published_names(read: Read, corpus: str) -> None:
    files, clips = PUBLISHED[corpus]
    about = yaml.safe_load((REPOSITORY / "configs" / "corpora" / f"{corpus}.yaml").read_text())
    manifest = read(files, **about["dataset"])
    assert Counter(manifest.clips.select("label", "speaker").iter_rows()) == Counter(clips)
    assert manifest.clips["group"].to_list() == manifest.clips["speaker"].to_list()
    audio, video = manifest.clips["audio"], manifest.clips["video"]
    assert audio.is_not_null().all()
    assert (audio != video).sum() == any(path.endswith((".mp4", ".flv", ".avi")) for path in files)


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "configs" / "corpora").glob("*.yaml")), ids=lambda path: path.stem
)
def test_fragments_of_corpora_are_whole_but_for_their_place(path: Path) -> None:
    about = yaml.safe_load(path.read_text())
    TypeAdapter(Dataset).validate_python({"root": "data", **about["dataset"]})
    assert about.keys() <= {"dataset", "folds"}


def test_objects_behind_a_url_are_named_files_too(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("readers.walk", "rows"):
        monkeypatch.setattr(
            f"extract.corpora.{module}.remote_files", lambda root: {"sad/1.wav", "happy/2.wav", "x.pdf"}
        )
    manifest = folder(read, [], media_root="s3://bucket/clips")
    assert manifest.clips.select("label", "audio").rows() == [("happy", "happy/2.wav"), ("sad", "sad/1.wav")]
    assert manifest.root == "s3://bucket/clips"
