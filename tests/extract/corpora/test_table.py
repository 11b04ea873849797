import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from configs import UserError
from configs.schema import TableDataset
from extract.corpora.manifest import Manifest
from extract.corpora.splits import connected, make_splits
from extract.corpora.table import read_table

Read = Callable[..., Manifest]
COLUMNS = {"clip_id": "id", "label": "emotion", "split": "part"}
CSV = "id,emotion,part\n001,sad,train\n002,happy,Dev\n003,sad,test\n"


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """``read(csv text, columns, **settings)`` writes the table below tmp_path and reads it."""

    def build(text: str, columns: dict[str, str] = COLUMNS, seed: int = 0, **more: Any) -> Manifest:
        (tmp_path / "clips.csv").write_text(text, encoding="utf-8")
        about = {"adapter": "table", "root": tmp_path, "table": "clips.csv", "columns": columns, **more}
        return read_table(TableDataset.model_validate(about), seed)

    return build


def test_a_row_is_a_clip_and_its_own_conversation(read: Read) -> None:
    manifest = read(CSV)
    assert manifest.clips.select("clip_id", "conversation_id", "index", "split", "label", "group").rows() == [
        ("001", "001", 0, "train", "sad", "001"),
        ("002", "002", 0, "val", "happy", "002"),
        ("003", "003", 0, "test", "sad", "003"),
    ]
    assert manifest.classes == ("happy", "sad")
    assert [unit.clip_ids for unit in manifest.units()] == [("001",), ("002",), ("003",)]


def test_conversations_keep_the_order_of_rows_or_of_their_index(read: Read) -> None:
    text = "id,emotion,part,talk,at,words\nb,sad,train,t,5,hi\na,,train,t,2,\nc,happy,train,u,1,yes\n"
    columns = COLUMNS | {"conversation_id": "talk", "text": "words"}
    by_row = read(text, columns)
    assert by_row.clips["clip_id"].to_list() == ["b", "a", "c"]
    assert by_row.clips["text"].to_list() == ["hi", None, "yes"]
    by_index = read(text, columns | {"index": "at"})
    assert [unit.clip_ids for unit in by_index.units()] == [("a", "b"), ("c",)]


def test_parquet_is_read_like_csv(read: Read, tmp_path: Path) -> None:
    from_csv = read("id,emotion,part,age\n1,sad,train,30\n2,happy,train,\n", metadata=["age"])
    frame = pl.DataFrame({"id": [1, 2], "emotion": ["sad", "happy"], "part": ["train"] * 2, "age": [30, None]})
    frame.write_parquet(tmp_path / "clips.parquet")
    about = {"adapter": "table", "root": tmp_path, "table": "clips.parquet", "columns": COLUMNS, "metadata": ["age"]}
    assert read_table(TableDataset.model_validate(about), 0).clips.equals(from_csv.clips)
    assert from_csv.clips["meta_age"].to_list() == ["30", None]


def test_privileged_columns_are_kept_apart(read: Read) -> None:
    text = "id,emotion,part,cause,place\n1,sad,train,loss,home\n2,happy,train,,\n"
    clips = read(text, metadata=["place"], privileged=["cause"]).clips
    assert clips.columns[-2:] == ["meta_place", "privileged_cause"]
    assert clips["privileged_cause"].to_list() == ["loss", None]


@pytest.mark.parametrize(
    "more",
    [
        {"metadata": ["cause"], "privileged": ["cause"]},
        {"metadata": ["emotion"]},
        {"privileged": ["emotion"]},
        {"classes": ["sad", "sad"]},
    ],
)
def test_a_profile_may_not_mix_features_with_the_label(read: Read, more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(CSV, **more)


def test_groups_default_to_the_speaker_and_never_cut_a_conversation(read: Read) -> None:
    rows = ["1,sad,train,t,ann", "2,happy,train,t,bob", "3,sad,train,u,bob", "4,sad,train,v,cid", "5,sad,train,w,"]
    text = "\n".join(["id,emotion,part,talk,who", *rows])
    columns = COLUMNS | {"conversation_id": "talk", "speaker": "who"}
    clips = read(text, columns).clips
    groups = ["ann", "ann", "ann", "cid", "conversation:w"]
    assert dict(clips.select("clip_id", "group").iter_rows()) == dict(zip("12345", groups, strict=True))
    assert clips["speaker"].to_list() == ["ann", "bob", "bob", "cid", None]
    assert read(text, columns | {"group": "talk"}).clips["group"].to_list() == ["t", "t", "u", "v", "w"]


def test_media_are_found_and_written_with_slashes(read: Read, tmp_path: Path) -> None:
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav/1.wav").touch()
    text = "id,emotion,part,file\n1,sad,train,.\\wav\\1.wav\n2,happy,train,\n"
    assert read(text, COLUMNS | {"audio": "file"}).clips["audio"].to_list() == ["wav/1.wav", None]


@pytest.mark.parametrize(
    "file", ["../1.wav", "/etc/passwd", "C:\\x.wav", "a/../../x.wav", "link/1.wav", "gone.wav", "."]
)
def test_media_outside_root_or_absent_are_errors_with_their_rows(read: Read, tmp_path: Path, file: str) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}_outside"
    outside.mkdir()
    (outside / "1.wav").touch()
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "ok.wav").touch()
    text = f"id,emotion,part,file\n1,sad,train,ok.wav\n2,happy,train,{file}\n3,happy,train,{file}\n"
    with pytest.raises(UserError, match=r"clips\.csv: audio: row 2: .*row 3: "):
        read(text, COLUMNS | {"audio": "file"})


@pytest.mark.parametrize(
    ("text", "more", "problem"),
    [
        ("id,emotion\n1,sad\n", {}, r"lacks the column part; it has id, emotion"),
        ("id,emotion,part\n1,sad,train\n1,sad,train\n", {}, r"clip_id must be unique: row 1 \('1'\), row 2"),
        ("id,emotion,part\n,sad,train\n", {}, r"clip_id is needed on every row: row 1 \(empty\)"),
        (
            "id,emotion,part\n1,sad,train\n2,glad,train\n",
            {"classes": ["sad"]},
            r"label is not among .*row 2 \('glad'\)",
        ),
        ("id,emotion,part\n1,sad,train\n2,sad,trian\n", {}, r"split must be one of .*row 2 \('trian'\)"),
        ("id,emotion,part\n1,sad,\n", {}, r"split must be one of .*row 1 \(empty\)"),
        ("id,emotion,part\n1,,train\n", {}, r"no clip carries a label"),
        ("id,emotion,part,emotion\n1,a,train,b\n", {}, r"more than one column is called emotion"),
        ("id,emotion,part\n1,a,train,b\n", {}, r"cannot be read"),
        ("", {}, r"cannot be read"),
    ],
)
def test_a_bad_table_is_one_clear_line(read: Read, text: str, more: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=r"clips\.csv: " + problem) as error:
        read(text, **more)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("id,emotion,part,talk,at\n1,a,train,t,x\n", r"index must be a whole number: row 1 \('x'\)"),
        ("id,emotion,part,talk,at\n1,a,train,t,\n", r"index must be a whole number: row 1 \(empty\)"),
        ("id,emotion,part,talk,at\n1,a,train,t,1\n2,a,train,t,1\n", r"same index in conversation: t"),
        ("id,emotion,part,talk,at\n1,a,train,t,1\n2,a,test,t,2\n", r"more than one split has clips of conversation: t"),
        ("id,emotion,part,talk,at\n1,a,train,,1\n", r"conversation_id is needed on every row: row 1"),
    ],
)
def test_a_bad_conversation_is_one_clear_line(read: Read, text: str, problem: str) -> None:
    with pytest.raises(UserError, match=r"clips\.csv: .*" + problem):
        read(text, COLUMNS | {"conversation_id": "talk", "index": "at"})


def test_a_group_in_two_splits_is_an_error(read: Read) -> None:
    text = "id,emotion,part,who\n1,sad,train,ann\n2,happy,test,ann\n"
    with pytest.raises(UserError, match="more than one split has clips of group: ann"):
        read(text, COLUMNS | {"speaker": "who"})


def test_drawn_splits_keep_speakers_whole_whatever_the_order_of_rows(read: Read) -> None:
    rows = [f"{who}{i},{label},{who}" for who in "abcdefghij" for i, label in enumerate(["sad", "happy"] * 3)]
    columns = {"clip_id": "id", "label": "emotion", "speaker": "who"}

    def draw(lines: list[str], seed: int) -> pl.DataFrame:
        return read("\n".join(["id,emotion,who", *lines]), columns, seed, splits={"val": 0.2, "test": 0.3}).clips

    clips = draw(rows, 0)
    assert Counter(clips["split"]) == {"train": 30, "val": 12, "test": 18}
    assert clips.group_by("speaker").agg(pl.col("split").n_unique())["split"].max() == 1
    assert draw(random.Random(1).sample(rows, len(rows)), 0).equals(clips)
    assert any(not draw(rows, seed).equals(clips) for seed in range(1, 4))


def test_too_few_groups_to_split_is_an_error(read: Read) -> None:
    with pytest.raises(UserError, match=r"1 group\(s\) cannot fill 2 splits \(train, test\)"):
        read(
            "id,emotion,who\n1,sad,x\n2,happy,x\n",
            {"clip_id": "id", "label": "emotion", "speaker": "who"},
            splits={"test": 0.2},
        )


units = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30).map(str)), min_size=1, max_size=120)


@settings(deadline=None, max_examples=60)
@given(units, st.sampled_from([(0.0, 0.2), (0.1, 0.1), (0.3, 0.0), (0.01, 0.9)]), st.integers(0, 9), st.randoms())
def test_split_maker(drawn: list[tuple[str, str]], shares: tuple[float, float], seed: int, rng: random.Random) -> None:
    val, test = shares
    wanted = {"train"} | ({"val"} if val else set()) | ({"test"} if test else set())
    labels, groups = zip(*drawn, strict=True)
    if len(set(groups)) < len(wanted):
        with pytest.raises(UserError, match="cannot fill"):
            make_splits(labels, groups, val=val, test=test, seed=seed)
        return
    homes = make_splits(labels, groups, val=val, test=test, seed=seed)
    assert set(homes) == set(groups)
    assert set(homes.values()) == wanted  # none is left empty
    shuffled = rng.sample(drawn, len(drawn))
    again = make_splits(
        [label for label, _ in shuffled], [group for _, group in shuffled], val=val, test=test, seed=seed
    )
    assert again == homes


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from("aaaab"), min_size=20, max_size=200), st.integers(0, 9))
def test_with_single_units_the_class_shares_are_as_wanted(labels: list[str], seed: int) -> None:
    homes = make_splits(labels, [str(i) for i in range(len(labels))], val=0.2, test=0.3, seed=seed)
    for split, share in {"train": 0.5, "val": 0.2, "test": 0.3}.items():
        for label, total in Counter(labels).items():
            got = sum(homes[str(i)] == split for i, one in enumerate(labels) if one == label)
            assert abs(got - share * total) < 2


pairs = st.lists(st.tuples(st.integers(0, 8).map(str), st.none() | st.integers(0, 8).map(str)), max_size=25)


@given(pairs, st.randoms())
def test_connected_conversations_are_those_that_share_a_group(
    links: list[tuple[str, str | None]], rng: random.Random
) -> None:
    names = connected(links)
    assert set(names) == {conversation for conversation, _ in links}
    by_group: dict[str, set[str]] = {}
    for conversation, group in links:
        if group is not None:
            by_group.setdefault(group, set()).add(names[conversation])
    assert all(len(found) == 1 for found in by_group.values())
    # No more is joined than has to be: growing one conversation's reach step by step ends at its component.
    for start, name in names.items():
        reach, before = {start}, set()
        while reach != before:
            before = set(reach)
            shared = {group for conversation, group in links if conversation in reach and group is not None}
            reach |= {conversation for conversation, group in links if group in shared}
        assert reach == {conversation for conversation, other in names.items() if other == name}
    assert connected(rng.sample(links, len(links))) == names
