"""Databases and archives that hold a corpus: audformat, Hugging Face datasets, WebDataset."""

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from configs import UserError
from configs.sections.datasets import Dataset
from extract.corpora.manifest import Manifest
from extract.corpora.readers.unpacking import suffix_of
from extract.corpora.reading import read_dataset

WAV = b"RIFF\x24\0\0\0WAVEfmt "
OGG = b"OggS and so on"
COLUMNS = {"label": "emotion", "audio": "sound"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(**settings: Any) -> Manifest:
    return read_dataset(TypeAdapter(Dataset).validate_python({"root": "data", **settings}), 0)


def put(name: str, content: str | bytes) -> Path:
    path = Path("data") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- audformat ---


def audformat(**changes: Any) -> None:
    header: dict[str, Any] = {
        "name": "mine",
        "schemes": {"speaker": {"dtype": "int", "labels": {3: {"gender": "male"}, 8: {"gender": "female"}}}},
        "splits": {"train": {"type": "train"}, "test": {"type": "test"}},
        "tables": {
            "emotion.train": {"type": "filewise", "split_id": "train", "columns": {"emotion": {"rater_id": "gold"}}},
            "emotion.test": {"type": "filewise", "split_id": "test", "columns": {"emotion": {}}},
            "files": {"type": "filewise", "columns": {"speaker": {"scheme_id": "speaker"}, "said": {}}},
        },
    }
    put("db.yaml", yaml.safe_dump(header | changes))
    put("db.emotion.train.csv", "file,emotion\nwav/a.wav,anger\nwav/b.wav,joy\n")
    put("db.emotion.test.csv", "file,emotion\nwav/c.wav,joy\n")
    put("db.files.csv", "file,speaker,said\nwav/a.wav,3,so\nwav/b.wav,3,\nwav/c.wav,8,well\n")
    for name in "abc":
        put(f"wav/{name}.wav", "x")


def test_tables_of_an_audformat_database_are_joined_by_file() -> None:
    audformat()
    manifest = read(adapter="audformat", columns={"text": "said"}, metadata=["gender"])
    assert manifest.clips.select("clip_id", "split", "label", "group", "text", "audio", "meta_gender").rows() == [
        ("wav/a", "train", "anger", "3", "so", "wav/a.wav", "male"),
        ("wav/b", "train", "joy", "3", None, "wav/b.wav", "male"),
        ("wav/c", "test", "joy", "8", "well", "wav/c.wav", "female"),
    ]
    assert read(adapter="audformat", tables=["emotion.train"]).counts["clips"] == {"train": 2}


def test_a_pickled_table_is_not_opened() -> None:
    audformat()
    (Path("data") / "db.emotion.train.csv").unlink()
    put("db.emotion.train.pkl", pickle.dumps(print))
    with pytest.raises(UserError, match=r"db\.emotion\.train\.csv: no such table .* a \.pkl is not read"):
        read(adapter="audformat")


@pytest.mark.parametrize(
    ("changes", "settings", "match"),
    [
        ({}, {"columns": {"label": "mood"}}, r"no table has a column 'mood'.*emotion\.train \(emotion\)"),
        ({}, {"columns": {"speaker": "who"}}, "no table of whole files has a column 'who'"),
        ({}, {"tables": ["files"]}, "no table 'files' with a column 'emotion'"),
        ({"tables": {"t": {"type": "segmented", "columns": {"emotion": {}}}}}, {}, "'t' is not of whole files"),
        ({"tables": ["t"]}, {}, "tables must be a mapping of mappings"),
    ],
)
def test_what_a_database_lacks_is_named(changes: dict[str, Any], settings: dict[str, Any], match: str) -> None:
    audformat(**changes)
    with pytest.raises(UserError, match=match):
        read(adapter="audformat", **settings)


# --- Hugging Face datasets ---

FEATURES = {"sound": {"_type": "Audio"}, "emotion": {"names": ["joy", "anger"], "_type": "ClassLabel"}}


def records(*sounds: Any) -> pa.Table:
    cells = [{"bytes": sound, "path": "a.wav"} if isinstance(sound, bytes) else sound for sound in sounds]
    return pa.table(
        {"sound": cells, "emotion": [number % 2 for number in range(len(sounds))], "who": ["x"] * len(sounds)}
    )


def saved(folder: str, table: pa.Table) -> None:
    put(f"{folder}state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    put(f"{folder}dataset_info.json", json.dumps({"features": FEATURES}))
    with pa.ipc.new_stream(put(f"{folder}data-00000-of-00001.arrow", ""), table.schema) as writer:
        writer.write_table(table)


def test_a_saved_dataset_is_unpacked_once_under_its_content() -> None:
    put("dataset_dict.json", json.dumps({"splits": ["train", "test"]}))
    saved("train/", records(WAV, WAV + b"2", None))
    saved("test/", records(WAV))
    manifest = read(adapter="huggingface", columns=COLUMNS, metadata=["who"])
    assert manifest.root == Path("runs/media")
    clips = manifest.clips.select("clip_id", "split", "label", "meta_who").rows()
    assert clips[0] == ("train-000000", "train", "joy", "x")
    assert clips[1:] == [("train-000001", "train", "anger", "x"), ("train-000002", "train", "joy", "x"),
                         ("test-000003", "test", "joy", "x")]  # fmt: skip
    audio = manifest.clips["audio"]
    assert [Path("runs/media", path).read_bytes() for path in audio.drop_nulls()] == [WAV, WAV + b"2", WAV]
    assert audio[0] == audio[3]
    assert audio[2] is None
    times = {path: path.stat().st_mtime_ns for path in Path("runs/media").rglob("*.wav")}
    assert len(times) == 2
    assert read(adapter="huggingface", columns=COLUMNS).clips["audio"].to_list() == audio.to_list()
    assert times == {path: path.stat().st_mtime_ns for path in Path("runs/media").rglob("*") if path.is_file()}


def test_parquet_of_the_hub_says_its_split_and_its_classes() -> None:
    about = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    for name, sounds in (("train-00000-of-00001", [WAV, OGG]), ("validation-00000-of-00001", [WAV])):
        pq.write_table(records(*sounds).replace_schema_metadata(about), put(f"data/{name}.parquet", ""))
    manifest = read(adapter="huggingface", columns=COLUMNS, unpacked="elsewhere")
    assert manifest.clips.select("split", "label").rows() == [("train", "joy"), ("train", "anger"), ("val", "joy")]
    assert all(Path("elsewhere", path).is_file() for path in manifest.clips["audio"])


def test_a_path_instead_of_bytes_stays_below_root() -> None:
    put("1.ogg", OGG)
    pq.write_table(pa.table({"sound": ["1.ogg"], "emotion": ["joy"]}), put("train.parquet", ""))
    assert read(adapter="huggingface", columns=COLUMNS).clips["audio"][0].endswith(".ogg")
    put("../secret.ogg", OGG)
    pq.write_table(pa.table({"sound": ["../secret.ogg"], "emotion": ["joy"]}), put("train.parquet", ""))
    with pytest.raises(UserError, match=r"row 1: sound: no bytes inside, and no file '\.\./secret\.ogg' below data"):
        read(adapter="huggingface", columns=COLUMNS)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (pa.table({"sound": [WAV]}), r"train\.parquet: lacks the column emotion of dataset\.columns; it has sound"),
        (pa.table({"sound": [[1.0, 2.0]], "emotion": ["joy"]}), "holds list, and no file's bytes: save it undecoded"),
        (pa.table({"sound": [b"hello"], "emotion": ["joy"]}), "bytes of no known kind of sound or film, called None"),
    ],
)
def test_what_holds_no_media_ends_in_a_line(table: pa.Table, match: str) -> None:
    pq.write_table(table, put("train.parquet", ""))
    with pytest.raises(UserError, match=match):
        read(adapter="huggingface", columns=COLUMNS)


def test_broken_files_end_in_a_line() -> None:
    with pytest.raises(UserError, match="data: no such dataset"):
        read(adapter="huggingface", columns=COLUMNS)
    put("train.parquet", "PAR1 and no more")
    with pytest.raises(UserError, match=r"train\.parquet: cannot be read as Parquet"):
        read(adapter="huggingface", columns=COLUMNS)
    saved("", records(WAV))
    arrow = Path("data/data-00000-of-00001.arrow")
    arrow.write_bytes(arrow.read_bytes()[:-120])
    with pytest.raises(UserError, match="cannot be read as Arrow"):
        read(adapter="huggingface", columns=COLUMNS)
    with pytest.raises(ValidationError, match=r"columns\.label: name what holds the label"):
        read(adapter="huggingface", columns={"audio": "sound"})


@pytest.mark.parametrize(
    ("content", "name", "suffix"),
    [(WAV, None, ".wav"), (OGG, "x.ogg", ".ogg"), (b"\0\0\0\x18ftypmp42", None, ".mp4"), (b"??", "v.MKV", ".mkv")],
)
def test_media_are_known_by_name_or_by_their_first_bytes(content: bytes, name: str | None, suffix: str) -> None:
    assert suffix_of(content, name) == suffix


# --- WebDataset ---


def tar(name: str, members: dict[str, bytes | str]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            about = tarfile.TarInfo(member)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return put(name, buffer.getvalue())


def test_members_of_a_name_are_a_sample() -> None:
    said = json.dumps({"speaker": "ann", "age": 30, "more": [1]})
    tar("train-000000.tar", {"a/1.wav": WAV, "a/1.cls": "joy\n", "a/1.txt": "oh", "a/1.json": said, "a/2.mp4": b"film",
                             "a/2.cls": "anger", "a/2.pyd": pickle.dumps(print)})  # fmt: skip
    tar("test/shard-0.tar", {"3.wav": WAV, "3.cls": "joy"})
    columns = {"label": "cls", "text": "txt", "speaker": "speaker"}
    manifest = read(adapter="webdataset", columns=columns, metadata=["age"])
    assert manifest.clips.select("clip_id", "split", "label", "text", "speaker", "meta_age").rows() == [
        ("a/1", "train", "joy", "oh", "ann", "30"),
        ("a/2", "train", "anger", None, None, None),
        ("3", "test", "joy", None, None, None),
    ]
    first, film, last = manifest.clips.select("audio", "video").rows()
    assert (first[1], film[0]) == (None, film[1])
    assert first == last
    assert manifest.counts["members_not_opened"] == {"pyd": 1}
    assert len(list(Path("runs/media").rglob("*.*"))) == 2


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({"1.wav": WAV}, r"no sample has cls \(dataset\.columns\); they have wav, audio"),
        ({"1.cls": b"\xff"}, r"train\.tar: 1\.cls: not UTF-8"),
        ({"1.json": "[]"}, r"train\.tar: 1\.json: must hold an object"),
        ({"1.json": "{"}, r"train\.tar: 1\.json: not JSON"),
    ],
)
def test_what_a_shard_lacks_is_named(members: dict[str, bytes | str], match: str) -> None:
    tar("train.tar", members)
    with pytest.raises(UserError, match=match):
        read(adapter="webdataset", columns={"label": "cls"})


def test_a_shard_that_is_cut_short_ends_in_a_line() -> None:
    with pytest.raises(UserError, match="data: no such folder"):
        read(adapter="webdataset", columns={"label": "cls"})
    path = tar("train.tar", {"1.wav": WAV * 100, "1.cls": "joy"})
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UserError, match=r"train\.tar: cannot be read as an uncompressed tar file"):
        read(adapter="webdataset", columns={"label": "cls"})
