"""From somebody's files to a profile that runs, as at the command line."""

import sys
import tarfile
import wave
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import configs.new
import extract.manifest
from configs import UserError
from configs.command_line import command
from configs.profiles import load
from extract.corpora.manifest import read_manifest
from extract.starting.layouts import recognise

New = Callable[..., tuple[int, str, str]]
EMOTIONS = ("angry", "happy", "sad")


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> New:
    """``new(*arguments)``: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["new.py", *arguments])
        try:
            command(configs.new.main)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return call


def sound(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(np.zeros(400, np.int16).tobytes())


def made(name: str) -> tuple[dict[str, Any], pl.DataFrame]:
    """The profile that was written, and the manifest that its first stage makes of it."""
    extract.manifest.main(config=name)
    return yaml.safe_load(Path(f"configs/{name}.yaml").read_text()), read_manifest(load(name).manifest_path).clips


def test_a_folder_for_each_class(new: New) -> None:
    """Who speaks, no folder says: what names could say it stands in the profile, as lines to take."""
    for i in range(24):
        sound(Path(f"data/clips/{EMOTIONS[i % 3]}/{'anna' if i < 12 else 'ben'}_{i}.wav"))
    code, out, err = new("data/clips")
    assert (code, err) == (0, "")
    assert "24 (audio 24)" in out
    assert out.endswith("configs/clips.yaml: written\nnext: python configs/use.py clips, then dvc repro\n")
    profile, clips = made("clips")
    assert clips["label"].value_counts(sort=True)["count"].to_list() == [8, 8, 8]
    assert profile["heads"] == {"audio": {"kind": "linear", "inputs": ["audio"]}}
    text = Path("configs/clips.yaml").read_text()
    offered = next(line for line in text.splitlines() if "# pattern:" in line)
    assert offered.endswith("# anna, ben")
    Path("configs/clips.yaml").write_text(
        text.replace(offered, offered.replace("# ", "", 1)).replace("folds: 5", "folds: 2")
    )
    _, clips = made("clips")
    assert clips["speaker"].unique().sort().to_list() == ["anna", "ben"]


def test_a_table_of_media_and_one_of_texts(new: New) -> None:
    rows = ["name;emotion;wav;who;subset;age"]
    for i in range(40):
        sound(Path(f"data/wav/{i}.wav"))
        part = ("train", "dev", "test")[i // 5 % 4 // 2 + i // 30] if i > 9 else "train"
        rows.append(f"u{i};{EMOTIONS[i % 3]};wav/{i}.wav;p{i // 5};{part};{'old' if i % 2 else 'young'}")
    Path("data/clips.csv").write_text("\n".join(rows))
    code, out, err = new("data", "--name", "mine")
    assert (code, err) == (0, "")
    assert "not read: age" in out
    profile, clips = made("mine")
    named = {"label": "emotion", "clip_id": "name", "audio": "wav", "split": "subset", "speaker": "who"}
    assert profile["dataset"] == {"adapter": "table", "root": "data", "table": "clips.csv", "columns": named}
    assert profile["folds"] == clips.filter(pl.col("split") == "train")["speaker"].n_unique()

    pl.DataFrame({"mood": list(EMOTIONS) * 100, "phrase": ["so it goes", "what a day"] * 150}).write_csv("texts.csv")
    assert new("texts.csv")[0] == 0
    profile, clips = made("texts")
    assert profile["dataset"]["root"] == "texts.csv"  # the pipeline watches no more than the table
    assert list(profile["heads"]) == ["text", "words"]
    assert clips["split"].value_counts().filter(pl.col("split") == "test")["count"].item() == 60


def test_a_corpus_is_known_by_its_names(new: New) -> None:
    for actor in range(1, 7):
        for emotion in range(1, 9):
            sound(Path(f"ravdess/Actor_{actor:02}/03-01-{emotion:02}-01-01-01-{actor:02}.wav"))
    code, out, _ = new("ravdess")
    assert code == 0
    assert out.startswith("RAVDESS, by its files' names\n")
    profile, clips = made("ravdess")
    assert profile["folds"] == 6
    assert clips["speaker"].n_unique() == 6
    assert set(clips["label"]) == {*"neutral calm happy sad angry fearful disgust surprised".split()}  # noqa: SIM905


def test_corpora_and_formats_are_known_by_what_only_they_have(tmp_path: Path) -> None:
    def look(name: str, files: dict[str, bytes]) -> dict[str, Any]:
        for file, content in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        return recognise(tmp_path / name, Path(name)).dataset

    assert look("m", {"MELD.Raw/train/train_sent_emo.csv": b""})["adapter"] == "meld"
    assert look("i", {"Session1/dialog/EmoEvaluation/a.txt": b""})["adapter"] == "iemocap"
    assert look("e/savee", {"fold_1/savee_train_fold_1.jsonl": b""})["corpus"] == "savee"
    assert look("d", {"db.yaml": b""})["adapter"] == "audformat"
    assert look("a", {"json/mapped_train_data.json": b"[]"})["adapter"] == "avamerg"
    with BytesIO() as file:
        media = pa.array([{"bytes": b"RIFF", "path": "a.wav"}])
        pq.write_table(pa.table({"audio": media, "Emotion": ["sad"], "sentence": ["so"]}), file)
        found = look("h", {"data/train-00000.parquet": file.getvalue()})
    assert found["columns"] == {"label": "Emotion", "text": "sentence", "audio": "audio"}
    with BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, content in (("a.wav", b"RIFF"), ("a.cls", b"1"), ("a.json", b'{"speaker": "anna"}')):
                about = tarfile.TarInfo(name)
                about.size = len(content)
                tar.addfile(about, BytesIO(content))
        found = look("w", {"train-0.tar": file.getvalue()})
    assert found == {"adapter": "webdataset", "root": "w", "columns": {"label": "cls", "speaker": "speaker"}}


def test_what_cannot_be_decided_is_a_marked_line_with_its_choices(new: New) -> None:
    Path("gone.csv").write_text("emotion,wav\nsad,a.wav\nhappy,b.wav\nsad,c.wav\n")
    line = "error: gone.csv: none of its media is there (a.wav): say where they lie with --media FOLDER\n"
    assert new("gone.csv") == (2, "", line)
    rows = [f"{i},{EMOTIONS[i % 3]},{'good' if i % 2 else 'bad'},what a day it was" for i in range(12)]
    Path("t.csv").write_text("\n".join(["key,first,second,said", *rows]))
    code, out, err = new("t.csv")
    assert (code, out) == (2, "")
    assert err == "error: configs/t.yaml: written, but dataset.columns.label is left to choose: first, second\n"
    text = Path("configs/t.yaml").read_text()
    assert "label: CHOOSE # one of: first, second" in text


def test_it_overwrites_nothing_and_says_what_it_does_not_know(new: New) -> None:
    Path("configs/mine.yaml").write_text("precious")
    Path("t.csv").write_text("emotion,words\nsad,so it goes\nhappy,what a day\nsad,oh no oh\n")
    Path("tars").mkdir()
    Path("tars/a.tar").write_bytes(b"no tar")
    Path("records").mkdir()
    media = pa.array([{"bytes": b"RIFF", "path": "a.wav"}])
    pq.write_table(pa.table({"audio": media, "emotion": ["sad"]}), "records/a.parquet")
    for arguments, line in (
        (("tars",), "tars/a.tar: cannot be read as a tar file"),
        (("records", "--media", "x"), "dataset: media_root: the media are inside the records"),
        (("t.csv", "--name", "mine"), "configs/mine.yaml: exists already, and is not overwritten"),
        (("t.csv", "--name", "a b"), "--name 'a b': letters, digits, - and _ make a name"),
        (("nowhere",), "nowhere: no such folder or table"),
        (("configs",), "configs: not known (mine.yaml): give a table with a row per clip"),
        (("configs/mine.yaml", "--name", "x"), "configs/mine.yaml: neither a folder nor a table"),
    ):
        code, out, err = new(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {line}")
        assert err.count("\n") == 1
    assert Path("configs/mine.yaml").read_text() == "precious"


def test_use_writes_one_word(new: New) -> None:
    Path("dvc.yaml").write_text("# mine\nvars:\n  - configs/sample.yaml\n\nstages: {} # more\n")
    pl.DataFrame({"mood": list(EMOTIONS) * 9, "said": ["so it goes", "what a day", "oh no"] * 9}).write_csv("t.csv")
    assert new("t.csv", "--use")[1].endswith("dvc.yaml: uses configs/t.yaml\n")
    assert Path("dvc.yaml").read_text() == "# mine\nvars:\n  - configs/t.yaml\n\nstages: {} # more\n"
    assert load().name == "t"
    Path("dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(UserError, match=r"'vars:' does not name one profile: write '- configs/t\.yaml' below it"):
        configs.pipeline.select("t")
