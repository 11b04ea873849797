"""Several corpora in one profile."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from configs import UserError
from configs.sections.datasets import Dataset
from extract.corpora.manifest import Manifest, read_manifest, write_manifest
from extract.corpora.reading import read_dataset


def corpora(base: Path, **settings: Any) -> Manifest:
    for path in ("one/glad/1.wav", "one/glad/2.wav", "one/sad/1.wav", "two/happy/a.wav", "two/sad/b.wav"):
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).touch()
        (base / path).write_text("x")
    one = {"adapter": "folder", "root": base / "one", "labels": {"glad": "happy"}} | settings.pop("one", {})
    two = {"adapter": "folder", "root": base / "two"} | settings.pop("two", {})
    about = {"adapter": "corpora", "root": base, "corpora": {"one": one, "two": two}} | settings
    return read_dataset(TypeAdapter(Dataset).validate_python(about), 0)


def test_a_corpus_is_a_prefix_and_a_field(tmp_path: Path) -> None:
    manifest = corpora(tmp_path, split={"two": "test"}, one={"pattern": r"(?P<speaker>\d)\."})
    assert manifest.clips.select("clip_id", "group", "speaker", "audio", "split", "label", "meta_corpus").rows() == [
        ("one:glad/1", "one:1", "one:1", "one/glad/1.wav", "train", "happy", "one"),
        ("one:glad/2", "one:2", "one:2", "one/glad/2.wav", "train", "happy", "one"),
        ("one:sad/1", "one:1", "one:1", "one/sad/1.wav", "train", "sad", "one"),
        ("two:happy/a", "two:happy/a", None, "two/happy/a.wav", "test", "happy", "two"),
        ("two:sad/b", "two:sad/b", None, "two/sad/b.wav", "test", "sad", "two"),
    ]
    assert manifest.counts["cross_corpus"] == "trained on one, tested on two"
    assert manifest.counts["corpora"] == {"one": {"train": 3}, "two": {"test": 2}}
    assert manifest.classes == ("happy", "sad")
    write_manifest(manifest, tmp_path / "manifest.parquet")
    again = read_manifest(tmp_path / "manifest.parquet")
    assert all(Path(again.media(path)).is_file() for path in again.clips["audio"])  # type: ignore[arg-type]


def test_corpora_may_lie_anywhere(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    manifest = corpora(tmp_path, root=tmp_path / "empty")
    assert manifest.root == tmp_path
    assert manifest.clips["audio"][0] == "one/glad/1.wav"
    assert "cross_corpus" not in manifest.counts


def test_folds_of_corpora_are_kept_where_all_have_as_many(tmp_path: Path) -> None:
    fold = {"pattern": r"(?P<fold>[12ab])\.wav"}
    both = corpora(tmp_path, one=fold, two=fold)
    assert both.counts["folds_given"] == {"0": 3, "1": 2}
    differ = corpora(tmp_path, one=fold)
    assert differ.clips["fold"].null_count() == 5
    assert any("they differ (one 2, two none)" in line for line in differ.counts["notes"])
    assert corpora(tmp_path, one=fold, split={"two": "test"}).counts["folds_given"] == {"0": 2, "1": 1}


def test_label_spaces_that_do_not_meet_are_told(tmp_path: Path) -> None:
    manifest = corpora(tmp_path, one={"labels": {}}, split={"two": "test"})
    assert any("no training unit is labelled happy: join classes" in line for line in manifest.counts["warnings"])
    with pytest.raises(UserError, match=r"dataset\.classes: lacks glad, which clips are labelled"):
        corpora(tmp_path, one={"labels": {}}, classes=["happy", "sad"])
    with pytest.raises(ValidationError, match="media_root: each corpus has its own"):
        corpora(tmp_path, media_root=tmp_path)
    with pytest.raises(ValidationError, match=r"split\.three: no such corpus"):
        corpora(tmp_path, split={"three": "test"})
