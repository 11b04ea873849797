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
from configs.sections.datasets import TableDataset
from extract.corpora.manifest import Manifest
from extract.corpora.media_paths import MissingMedia
from extract.corpora.splits import connected, make_splits
from extract.corpora.table import read_table, read_table_to_predict

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


def test_without_ids_the_row_is_the_id(read: Read) -> None:
    """Two equal texts are two clips, and a conversation is one clip."""
    text = "emotion,part,words\nsad,train,so it goes\n,,\nhappy,train,so it goes\n"
    manifest = read(text, {"label": "emotion", "split": "part", "text": "words"})
    assert manifest.clips.select("clip_id", "conversation_id", "label").rows() == [
        ("row1", "row1", "sad"),
        ("row3", "row3", "happy"),
    ]


def test_all_columns_that_are_not_there_are_named_at_once(read: Read) -> None:
    columns = {"label": "mood", "split": "part", "text": "said", "speaker": "who", "audio": "wav", "video": "mp4"}
    with pytest.raises(UserError, match=r"lacks the column mood, said, who, wav, mp4; it has id, emotion, part$"):
        read(CSV, columns)


def test_absolute_paths_below_the_root_are_meant_from_there(read: Read, tmp_path: Path) -> None:
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav" / "a.wav").touch()
    columns = COLUMNS | {"audio": "file"}
    manifest = read(f"id,emotion,part,file\n1,sad,train,{tmp_path}/wav/a.wav\n", columns)
    assert manifest.clips["audio"].to_list() == ["wav/a.wav"]
    with pytest.raises(UserError, match="is absolute: give it relative to the dataset's root"):
        read(f"id,emotion,part,file\n1,sad,train,{tmp_path}x/a.wav\n", columns)


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
        {"metadata": [" emotion\t"]},
        {"metadata": ["cause", "cause "]},
        {"metadata": ["cause"], "privileged": ["cause\u3000"]},
        {"metadata": [" "]},
        {"columns": COLUMNS | {"text": "emotion "}},
        {"columns": COLUMNS | {"label": "emotion ", "speaker": "emotion"}},
        {"columns": COLUMNS | {"text": ""}},
        {"privileged": ["emotion"]},
        {"classes": ["sad", "sad"]},
        {"classes": ["sad", "sad "]},
        {"classes": ["sad", " "]},
        {"classes": []},
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
    "file",
    [
        "../1.wav",
        "/etc/passwd",
        "C:\\x.wav",
        "a/../../x.wav",
        "link/1.wav",
        "gone.wav",
        ".",
        pytest.param("a" * 900, id="longer than a name may be"),
        pytest.param("a/" * 400 + "/etc", id="long"),
    ],
)
def test_media_outside_root_or_absent_are_errors_with_their_rows(read: Read, tmp_path: Path, file: str) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}_outside"
    outside.mkdir()
    (outside / "1.wav").touch()
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "ok.wav").touch()
    text = f"id,emotion,part,file\n1,sad,train,ok.wav\n2,happy,train,{file}\n3,happy,train,{file}\n"
    with pytest.raises(UserError, match=r"clips\.csv: audio: row 2: .*row 3: ") as error:
        read(text, COLUMNS | {"audio": "file"})
    assert len(str(error.value)) < 800


def test_missing_media_are_refused_with_all_of_them_or_taken_as_missing(read: Read, tmp_path: Path) -> None:
    (tmp_path / "ok.wav").touch()
    rows = ["1,sad,train,ok.wav,gone.mp4", "2,happy,train,./gone.wav,", "3,sad,train, ,no/gone.mp4"]
    text, columns = "\n".join(["id,emotion,part,a,v", *rows]), COLUMNS | {"audio": "a", "video": "v"}
    with pytest.raises(MissingMedia, match=r"audio: row 2: no file 'gone\.wav'.*missing_media: allow") as error:
        read(text, columns)
    missing = [("audio", "gone.wav", "row 2"), ("video", "gone.mp4", "row 1"), ("video", "no/gone.mp4", "row 3")]
    assert list(error.value.missing) == missing
    manifest = read(text, columns, missing_media="allow")
    assert list(manifest.missing) == missing
    assert manifest.counts["missing_files"] == {"audio": 1, "video": 2}
    assert manifest.counts["clips_with"] == {"text": 0, "audio": 1, "video": 0}


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
        ("id,emotion,part\n1,a,train,b\n", {}, r"row 1 has 4 cells, the header 3"),
        ("id,emotion,part\n1,a\n", {}, r"row 1 has 2 cells, the header 3"),
        ("", {}, r"the file is empty"),
        (
            f"id,emotion,part\n1,{'a' * 5000},train\n",
            {},
            r"label is longer than 1,000 characters: row 1 \('a{79}\.\.\. ",
        ),
        ("id,emotion,part\n1,a,train\n ,b,train\n", {}, r"clip_id is needed on every row: row 2 \(empty\)"),
        ("id,emotion,part\na,sad,train\n\n a ,sad,train\n", {}, r"clip_id must be unique: row 1 \('a'\), row 3"),
        ("id,emotion,part\n1,a,train\n1.0,b,train\n", {}, r"clip_id must be unique"),
        ('id,emotion,part\n1,a,train\n2,"b\nc",train\n', {}, r"label holds a line break .*: row 2 \('b\\nc'\)"),
        ("id,emotion,part\n1\x1b[2J,a,train\n", {}, r"clip_id holds a line break or another control character: row 1"),
        ('"id",emotion,part\n"1\u2028",a,train\n"2\u2028x",a,train\n', {}, r"clip_id holds .*: row 2"),
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
    with pytest.raises(UserError, match=r"more than one split has clips of group: ann.*columns\.group: id "):
        read(text, COLUMNS | {"speaker": "who"})
    with pytest.raises(UserError, match="more than one split has clips of group: ann; choose another group"):
        read(text, COLUMNS | {"group": "who"})


FRIENDS = "id,emotion,part,talk,who\n" + "".join(
    f"{talk}_{at},{('sad', 'happy')[(talk + at) % 2]},{('train', 'train', 'test')[talk % 3]},t{talk},{who}\n"
    for talk in range(9)
    for at, who in enumerate(["Ross", "Rachel", "Chandler"][talk % 2 :])
)
DIALOGUES = COLUMNS | {"conversation_id": "talk", "speaker": "who"}


def test_people_who_recur_in_dialogues_leave_the_choice_of_the_group(read: Read) -> None:
    choice = r"columns\.group: talk \(speakers are then shared"
    with pytest.raises(UserError, match=f"more than one split has clips of group: Chandler: .*{choice}"):
        read(FRIENDS, DIALOGUES)
    drawn = {name: theirs for name, theirs in DIALOGUES.items() if name != "split"}
    with pytest.raises(UserError, match=rf"1 group\(s\) cannot fill 2 splits.*{choice}"):
        read(FRIENDS, drawn, splits={"test": 0.2})
    chosen = read(FRIENDS, DIALOGUES | {"group": "talk"})
    assert chosen.counts["speakers_in_several_splits"] == 3
    assert chosen.counts["speakers_in_several_groups"] == 3
    assert chosen.clips["group"].n_unique() == 9


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


def test_something_finer_is_advised_only_where_it_fills_the_splits(read: Read) -> None:
    columns = {"clip_id": "id", "label": "emotion", "conversation_id": "talk", "speaker": "who"}
    with pytest.raises(UserError, match=r"whole; set val or test to 0$"):
        read("id,emotion,talk,who\n1,sad,t,x\n2,happy,t,y\n", columns, splits={"test": 0.2})
    two = "id,emotion,talk,who\n1,sad,t,x\n2,happy,u,x\n"
    with pytest.raises(UserError, match=r"something finer: columns\.group: talk "):
        read(two, columns, splits={"test": 0.2})
    with pytest.raises(UserError, match=r"whole; set val or test to 0$"):
        read(two, columns, splits={"test": 0.2, "val": 0.2})
    assert read(two, columns | {"group": "talk"}, splits={"test": 0.2}).clips["split"].n_unique() == 2


def test_too_few_groups_to_split_is_an_error(read: Read) -> None:
    with pytest.raises(UserError, match=r"1 group\(s\) cannot fill 2 splits \(train, test\)"):
        read(
            "id,emotion,who\n1,sad,x\n2,happy,x\n",
            {"clip_id": "id", "label": "emotion", "speaker": "who"},
            splits={"test": 0.2},
        )


def test_white_space_makes_no_other_speaker_class_or_conversation(read: Read) -> None:
    rows = ["a,sad,train,d1,anna,hi ", "b, sad\u00a0, Train ,d1 ,anna\u200b ,  ", "\tc,sad,train,d2 ,anna,x"]
    columns = DIALOGUES | {"text": "words"}
    clips = read("\n".join(["id,emotion,part,talk,who,words", *rows]), columns, classes=["sad ", "happy"]).clips
    assert clips["clip_id"].to_list() == ["a", "b", "c"]
    for name, value in {"label": "sad", "speaker": "anna", "group": "anna"}.items():
        assert set(clips[name]) == {value}
    assert clips["conversation_id"].to_list() == ["d1", "d1", "d2"]
    assert read("id,emotion,part,is\n1,sad,train, Speaker \n", COLUMNS | {"role": "is"}).clips["role"][0] == "speaker"
    assert clips["text"].to_list() == ["hi ", None, "x"]  # what is said stays as it is written


def test_values_that_differ_in_case_are_warned_of_with_their_rows(read: Read) -> None:
    text = "id,emotion,part,who,age\n1,Happy,train,Anna,Old\n2,happy,train,ben,old\n3,sad,train,anna,young\n"
    warnings = read(text, COLUMNS | {"speaker": "who"}, metadata=["age"]).counts["warnings"]
    assert [line.partition(":")[0] for line in warnings] == ["label", "speaker", "group", "meta_age"] or len(
        warnings
    ) == 3
    assert any("'Happy' (row 1) and 'happy' (row 2)" in line for line in warnings)
    assert any("'Anna' (row 1) and 'anna' (row 3)" in line for line in warnings)
    assert "warnings" not in read(CSV).counts


def test_words_for_nothing_are_kept_as_classes_and_warned_of(read: Read) -> None:
    manifest = read("id,emotion,part\n1,sad,train\n2,nan,train\n3,NA,train\n4,NA,train\n")
    assert manifest.classes == ("NA", "nan", "sad")
    assert [line[:40] for line in manifest.counts["warnings"]] == [
        "label: 'nan' counts as a value (1 rows, ",
        "label: 'NA' counts as a value (2 rows, t",
    ]


def test_whatever_type_a_column_has_nothing_is_nothing_and_whole_numbers_are_whole(read: Read, tmp_path: Path) -> None:
    nan = float("nan")
    frame = pl.DataFrame(
        {
            "id": [1.0, 2.0, 3.0],
            "emotion": [0.0, nan, 1.0],
            "part": ["train"] * 3,
            "age": [23.0, nan, None],
            "weight": [1.5, 2.0, nan],
            "words": [" ", "\u3000", "so"],
        }
    )
    frame.write_parquet(tmp_path / "clips.parquet")
    about = {"adapter": "table", "root": tmp_path, "table": "clips.parquet", "columns": COLUMNS | {"text": "words"}}
    found = read_table(TableDataset.model_validate(about | {"metadata": ["age", "weight"]}), 0)
    assert found.classes == ("0", "1")
    assert found.clips.select("clip_id", "label", "meta_age", "meta_weight", "text").rows() == [
        ("1", "0", "23", "1.5", None),
        ("2", None, None, "2", None),
        ("3", "1", None, None, "so"),
    ]
    csv = "id,emotion,part,age,weight,words\n1.0,0.0,train,23.0,1.5, \n2.0,,train,,2.0,\u3000\n3.0,1.0,train,,,so\n"
    assert read(csv, COLUMNS | {"text": "words"}, metadata=["age", "weight"]).clips.equals(found.clips)
    frame.with_columns(age=pl.Series([[1], [2], [3]])).write_parquet(tmp_path / "clips.parquet")
    with pytest.raises(UserError, match=r"clips\.parquet: column 'age' is not plain text or numbers"):
        read_table(TableDataset.model_validate(about | {"metadata": ["age"]}), 0)


def test_what_was_guessed_of_a_spreadsheets_table_is_noted(read: Read, tmp_path: Path) -> None:
    (tmp_path / "clips.txt").write_bytes(CSV.replace(",", "\t").encode("utf-16"))
    about = {"adapter": "table", "root": tmp_path, "table": "clips.txt", "columns": COLUMNS}
    found = read_table(TableDataset.model_validate(about), 0)
    assert found.clips.equals(read(CSV).clips)
    assert found.counts["notes"] == ["read as UTF-16-LE", "read with tabs between its cells"]


def test_a_root_that_a_temporary_copy_lacks_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / ".dvc/tmp/exps/tmp1"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    about = {"adapter": "table", "root": "data", "table": "clips.csv", "columns": COLUMNS}
    with pytest.raises(UserError, match=r"data/clips\.csv: no such table: 'dvc exp run --temp'.* absolute path"):
        read_table(TableDataset.model_validate(about), 0)
    with pytest.raises(UserError, match=r"gone/clips\.csv: no such table \("):
        read_table(TableDataset.model_validate(about | {"root": tmp_path / "gone"}), 0)


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


def test_a_table_to_predict_asks_for_rows_with_a_label_or_the_last_of_each_conversation(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("id,words,talk,mood\na,hi,t,\nb,oh,t,sad\nc,no,t,\nd,yes,u,happy\n")
    columns = {"clip_id": "id", "text": "words", "conversation_id": "talk", "label": "mood", "audio": "wav"}

    def units(**columns: str) -> list[tuple[str, ...]]:
        return [unit.clip_ids for unit in read_table_to_predict(path, columns, [], None).units()]

    assert units(**columns) == [("a", "b"), ("d",)]
    assert units(**columns | {"label": "none"}) == [("a", "b", "c"), ("d",)]
    assert units(text="words") == [("row1",), ("row2",), ("row3",), ("row4",)]
    with pytest.raises(UserError, match=r"nothing to predict from: no column is called said, wav, video, age; it has"):
        read_table_to_predict(path, {"text": "said", "audio": "wav", "clip_id": "id"}, ["age"], None)


def test_a_column_may_say_the_folds_and_classes_may_be_joined(read: Read) -> None:
    text = "id,emotion,block,who\n1,sad,b,x\n2,joy,a,y\n3,fun,a,y\n4,odd,b,x\n"
    columns = {"clip_id": "id", "label": "emotion", "fold": "block", "speaker": "who"}
    manifest = read(text, columns, labels={"fun": "joy", "odd": None})
    assert manifest.clips.select("clip_id", "label", "split", "fold").rows() == [
        ("1", "sad", "train", 1),
        ("2", "joy", "train", 0),
        ("3", "joy", "train", 0),
    ]
    assert manifest.counts["folds_given"] == {"a": 2, "b": 1}
    with pytest.raises(UserError, match=r"more than one fold has clips of group: x.*write columns\.group: id"):
        read(text.replace("4,odd,b", "4,odd,a"), columns)
    with pytest.raises(UserError, match=r"fold is needed on every training unit, or on none: row 4 \(empty\)"):
        read(text.replace("4,odd,b", "4,odd,"), columns)
