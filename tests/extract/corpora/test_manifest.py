import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shells import REPOSITORY

import extract.manifest
from cache import StoreError
from configs import UserError
from extract.corpora.manifest import COLUMNS, Manifest, make_manifest, read_manifest, write_manifest
from extract.corpora.media_paths import misplaced

ROWS = [("happy", "train"), ("sad", "train"), ("happy", "train"), ("sad", "train"), ("happy", "test"), ("sad", "test")]
TABLE_PROFILE = """
name: mine
folds: 2
dataset:
  {adapter: table, root: ., table: t.csv, columns: {clip_id: id, conversation_id: dialogue, text: said, label: label,
   split: split}}
encoders: {text: {family: transformer, model: ./model}}
heads: {words: {kind: bag_of_words, inputs: [text]}}
"""

ROOT = Path("data/set")


def table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    full = [
        {"clip_id": f"c{i}", "conversation_id": "talk", "index": i, "split": "train", "group": "g", "label": "sad"}
        | row
        for i, row in enumerate(rows)
    ]
    return pl.DataFrame(full, infer_schema_length=None)


def build(*rows: dict[str, Any], root: Path = ROOT, **counts: Any) -> Manifest:
    return make_manifest(table(list(rows)), root, ["happy", "sad"], counts, "source")


def test_a_unit_sees_its_past_and_not_its_future() -> None:
    manifest = build(
        {"label": None, "index": 9}, {"index": 2}, {"label": None, "index": -1}, {"index": 4, "label": "happy"}
    )
    assert [(unit.unit_id, unit.clip_ids, unit.label) for unit in manifest.units()] == [
        ("c1", ("c2", "c1"), "sad"),
        ("c3", ("c2", "c1", "c3"), "happy"),
    ]


def test_units_do_not_depend_on_the_order_of_a_foreign_table() -> None:
    manifest = build({"label": None}, {}, {"conversation_id": "other"})
    turned = Manifest(manifest.clips.reverse(), manifest.root, manifest.classes, manifest.counts)
    assert sorted(turned.units(), key=lambda unit: unit.unit_id) == sorted(manifest.units(), key=lambda u: u.unit_id)


def test_clips_are_ordered_by_split_then_conversation_then_index() -> None:
    rows = [("test", "a", 0), ("val", "b", 1), ("val", "b", 0), ("train", "c", 0)]
    clips = build(*({"split": s, "conversation_id": c, "index": i, "group": c} for s, c, i in rows)).clips
    assert clips["clip_id"].to_list() == ["c3", "c2", "c1", "c0"]
    assert clips.columns[: len(COLUMNS)] == list(COLUMNS)


def test_counts_say_what_there_is() -> None:
    counts = build({"text": "x"}, {"label": None}, {"label": None, "conversation_id": "b"}, dropped=3).counts
    assert counts["clips"] == {"train": 3}
    assert counts["conversations"] == {"train": 2}
    assert counts["units"] == {"train": {"happy": 0, "sad": 1}}
    assert counts["clips_with"] == {"text": 1, "audio": 0, "video": 0}
    assert counts["conversations_without_unit"] == 1
    assert counts["dropped"] == 3


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"clip_id": "x"}, {"clip_id": "x"}], "clip_id is not unique: x"),
        ([{"clip_id": None}], "clip_id is missing"),
        ([{"group": None}], "group is missing for clip: c0"),
        ([{"split": "dev"}], "split is none of train, val, test for clip: c0"),
        ([{"role": "host"}], "role is none of .* for clip: c0"),
        ([{"label": "glad"}], "label is not among the classes for clip: c0"),
        ([{"index": 1}, {"index": 1}], "same index in conversation: talk"),
        ([{}, {"split": "test", "group": "h"}], "more than one split has clips of conversation: talk"),
        ([{}, {"split": "test", "conversation_id": "b"}], "more than one split has clips of group: g"),
        ([{"label": None}], "no clip carries a label"),
        ([{"audio": "../x.wav"}], r"audio of c0: '\.\./x\.wav' goes up"),
        ([{}, {"video": "/x.mp4"}], r"video of c1: '/x\.mp4' is absolute"),
        ([{"label": "glad"}] * 9, r"c0, c1, c2 \(and 6 more\)"),
    ],
)
def test_a_broken_contract_is_one_line_with_the_first_offenders(rows: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(UserError, match="source: .*" + problem) as error:
        build(*rows)
    assert "\n" not in str(error.value)


def test_splits_that_share_groups_must_be_declared() -> None:
    rows: list[dict[str, Any]] = [{}, {"split": "test", "conversation_id": "b"}]
    assert build(*rows, groups_across_splits=1).counts["groups_across_splits"] == 1
    with pytest.raises(UserError, match="group: g"):
        build(*rows)


words = st.text(st.characters(codec="utf-8"), max_size=8)
free = st.dictionaries(st.sampled_from(["meta_age", "meta_ü", "privileged_cause"]), st.none() | words, min_size=3)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "conversation_id": words,
                "text": st.none() | words,
                "speaker": st.none() | words,
                "turn_id": st.none() | words,
                "role": st.none() | st.sampled_from(["speaker", "listener", "context"]),
                "label": st.none() | st.sampled_from(["happy", "sad"]),
                "video": st.none() | st.just("a/ü b.mp4"),
            }
        ).flatmap(lambda row: free.map(lambda more: row | more)),
        min_size=1,
        max_size=8,
    ).filter(lambda rows: any(row["label"] for row in rows)),
    note=words,
)
def test_writing_then_reading_gives_it_back_and_the_same_bytes(tmp_path: Path, rows: list[Any], note: str) -> None:
    manifest = build(*rows, note=note)
    path = tmp_path / "new" / "manifest.parquet"
    write_manifest(manifest, path)
    back = read_manifest(path)
    assert back.clips.equals(manifest.clips)
    assert back.clips.schema == manifest.clips.schema
    assert (back.root, back.classes, back.counts) == (ROOT, manifest.classes, manifest.counts)
    assert back.units() == manifest.units()
    first = path.read_bytes()
    write_manifest(back, path)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["manifest.parquet"]


def test_a_refused_manifest_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(build({}), path)
    before = path.read_bytes()
    good = build({})
    with pytest.raises(UserError, match="not among the classes"):
        write_manifest(Manifest(good.clips, good.root, ("happy",), good.counts), path)
    assert path.read_bytes() == before


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(["..", ".", "", "a", "in", "out", "b.wav", "C:", "\\", "\0", "ü"]), max_size=5))
def test_no_path_that_passes_leaves_root(tmp_path: Path, parts: list[str]) -> None:
    root = tmp_path / "root"
    if not root.exists():
        (tmp_path / "elsewhere").mkdir()
        (root / "a").mkdir(parents=True)
        (root / "in").symlink_to(root / "a")
        (root / "out").symlink_to(tmp_path / "elsewhere")
        (root / "b.wav").symlink_to(tmp_path / "elsewhere/b.wav")
    path = "/".join(parts)
    problems = list(misplaced([None, path], root))
    if problems:
        ((position, why),) = problems
        assert position == 1
        assert why.startswith(repr(path))
    else:
        assert (root / path).resolve().is_relative_to(root.resolve())
        assert str(Path(path)) == path
    if parts and set(parts) <= {"a", "in", "ü"}:
        assert not problems


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    with pytest.raises(UserError, match=r"manifest\.parquet: no such manifest"):
        read_manifest(path)
    write_manifest(build({}), path)
    whole = path.read_bytes()
    for broken in (b"", b"text", whole[:-20], whole[: len(whole) // 2]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"manifest\.parquet: not (a readable Parquet|what was written)") as error:
            read_manifest(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path", ["../secret.wav", "/etc/passwd", "a/../../b.wav", "C:/x.wav", "a\\b.wav", "a//b.wav", ""]
)
def test_a_manifest_from_elsewhere_reads_nothing_outside_of_its_root(tmp_path: Path, path: str) -> None:
    write_manifest(build({}), tmp_path / "ours.parquet")
    about = pl.read_parquet_metadata(tmp_path / "ours.parquet")["emocache"]
    clips = pl.read_parquet(tmp_path / "ours.parquet").with_columns(audio=pl.lit(path))
    clips.write_parquet(tmp_path / "theirs.parquet", metadata={"emocache": about})
    with pytest.raises(UserError, match=r"theirs\.parquet: audio of "):
        read_manifest(tmp_path / "theirs.parquet")


def test_columns_types_and_metadata_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    about = {"emocache": json.dumps({"root": "r", "classes": ["happy", "sad"], "counts": {}})}
    clips = build({}).clips
    clips.write_parquet(path, metadata=about)
    assert read_manifest(path).root == Path("r")
    for broken, metadata, problem in [
        (clips.drop("group"), about, "lacks the column 'group'"),
        (clips.cast({"index": pl.Int64}), about, "column 'index' is Int64, and must be Int32"),
        (clips.with_columns(clip_id=pl.lit("a ")), about, "clip_id 'a ': an id has no white space"),
        (clips, {"emocache": "[" * 5000}, "nested too deeply"),
        (clips, {"emocache": '{"root": "r", "classes": [1], "counts": {}}'}, "metadata 'emocache'"),
        (clips.with_columns(age=1), about, "column 'age' is unknown"),
        (clips.with_columns(meta_age=1), about, "column 'meta_age' is unknown"),
        (clips, {}, "metadata 'emocache'"),
        (clips, {"emocache": '{"root": "r"}'}, "metadata 'emocache'"),
        (clips, {"emocache": "["}, "metadata 'emocache'"),
    ]:
        broken.write_parquet(path, metadata=metadata)
        with pytest.raises(UserError, match=r"manifest\.parquet: .*" + problem):
            read_manifest(path)


PROFILE = """
name: small
dataset: {adapter: table, root: ., table: t.csv, columns: {clip_id: id, label: emotion, split: part, text: words}}
encoders: {text: {family: transformer, model: ./nowhere}}
heads: {text: {inputs: [text]}}
"""


def test_the_script_writes_prints_and_fails_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(PROFILE, encoding="utf-8")
    rows = [f"{i},{('sad', 'happy')[i % 2]},{('train', 'test')[i > 4]},oh {i}\n" for i in range(6)]
    (tmp_path / "t.csv").write_text(f"id,emotion,part,words\n{''.join(rows)}", encoding="utf-8")
    script = REPOSITORY / "extract/manifest.py"

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(script), "--config", "p.yaml", *more]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run("folds=2")
    assert done.returncode == 0, done.stderr
    assert "6 clips in 6 conversations" in done.stdout
    manifest = read_manifest(tmp_path / "runs/small/manifest.parquet")
    assert manifest.root == Path()
    assert json.loads((tmp_path / "runs/small/manifest.json").read_text(encoding="utf-8")) == manifest.counts
    failed = run("dataset.table=other.csv")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: other.csv: no such table")
    assert failed.stderr.count("\n") == 1


def test_the_script_lists_all_missing_media_and_says_where_groups_are_too_few(tmp_path: Path) -> None:
    columns = "{clip_id: id, label: emotion, split: part, speaker: who, audio: file}"
    profile = PROFILE.replace("{clip_id: id, label: emotion, split: part, text: words}", columns)
    (tmp_path / "p.yaml").write_text(profile, encoding="utf-8")
    rows = [f"{i},{('sad', 'Sad')[i % 2]},train,anna,gone{i}.wav" for i in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["id,emotion,part,who,file", *rows]), encoding="utf-8")

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(REPOSITORY / "extract/manifest.py"), "--config", "p.yaml", *more]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)

    listed = tmp_path / "runs/small/missing_media.csv"
    done = run()
    assert done.returncode == 2
    assert "all 8 are listed in runs/small/missing_media.csv" in done.stderr
    assert listed.read_text(encoding="utf-8").splitlines()[:2] == ["kind,file,place", "audio,gone0.wav,row 1"]
    assert not listed.with_name("manifest.parquet").exists()
    done = run("dataset.missing_media=allow")
    assert done.returncode == 0
    strict = run("dataset.missing_media=allow", "--strict", "--no-overview")
    assert strict.returncode == 2
    assert listed.with_name("manifest.parquet").exists()
    assert len(listed.read_text(encoding="utf-8").splitlines()) == 9
    assert "warning: label: differ in case or white space only" in done.stdout
    line = (
        "the training units are of 1 group(s), too few for folds = 5: fewer folds do not help; dataset.columns.group: "
        "id makes 8 (speakers are then shared between folds, as report and audit say)\n"
    )
    assert f"warning: {line}" in done.stdout
    assert strict.stderr == f"error: {line}"
    assert "speakers of train: 'anna'\n" in done.stdout
    for i in range(8):
        (tmp_path / f"gone{i}.wav").touch()
    assert run("folds=2", "dataset.columns.group=id").returncode == 0
    assert not listed.exists()


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        (["1,sad,test,x,t", "2,happy,test,y,u"], "no unit is in train: heads cannot be trained"),
        (["1,sad,train,x,t", "2,sad,train,y,u"], "every training unit is labelled 'sad': there is nothing"),
        (
            [f"{i},{name},train,p{i},t{i}" for i, name in enumerate("abc")],
            "no class with more than 1 unit(s), too few for folds = 5: fewer",
        ),
        (["1,sad,train,x,t", "2,happy,train,y,u"], "all but one training unit are labelled 'sad': in the fold"),
        (
            [f"{i},{'sad' if i else 'happy'},train,p{i},t{i}" for i in range(5)] + ["9,happy,train,q,u"],
            "no class with more than 4 unit(s), too few for folds = 5: set folds to 4 or fewer",
        ),
        (
            [f"{i},{('sad', 'happy')[i % 4 > 1]},train,p{i % 2},t{i}" for i in range(9)],
            "of 2 group(s), too few for folds = 5: set folds to 2 or fewer; dataset.columns.group: talk makes 9",
        ),
    ],
)
def test_what_no_head_can_be_trained_on_is_said_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[str], warning: str
) -> None:
    monkeypatch.chdir(tmp_path)
    columns = "{clip_id: id, label: emotion, split: part, speaker: who, conversation_id: talk}"
    Path("p.yaml").write_text(PROFILE.replace("{clip_id: id, label: emotion, split: part, text: words}", columns))
    Path("t.csv").write_text("\n".join(["id,emotion,part,who,talk", *rows]))
    with pytest.raises(UserError, match=re.escape(warning)):
        extract.manifest.main(config="p.yaml", overview=False, strict=True)


def test_a_second_manifest_at_once_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"c{i},d{i},so it goes,{label},{split}\n" for i, (label, split) in enumerate(ROWS))
    Path("t.csv").write_text(f"id,dialogue,said,label,split\n{rows}")
    Path("mine.yaml").write_text(TABLE_PROFILE)
    refused = []

    def amid(*arguments: Any) -> None:
        with pytest.raises(StoreError, match=rf"another process makes it .*\(process {os.getpid()}\)") as caught:
            extract.manifest.main(config="mine.yaml")
        refused.append(caught)
        write_manifest(*arguments)

    monkeypatch.setattr(extract.manifest, "write_manifest", amid)
    extract.manifest.main(config="mine.yaml")
    assert len(refused) == 1
    assert read_manifest(Path("runs/mine/manifest.parquet")).clips.height == len(ROWS)
    assert {path.name for path in Path("runs/mine").iterdir()} == {"manifest.parquet", "manifest.json", "overview.html"}


def folded(*folds: int | None, **more: Any) -> list[dict[str, Any]]:
    return [{"conversation_id": str(i), "group": str(i), "fold": fold} | more for i, fold in enumerate(folds)]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (folded(0, 1, None), r"1 training units have no fold and others have one \(the first without is 'c2'\)"),
        (folded(0, 2), "folds of training units are 0, 2: there must be two or more, from 0 on"),
        (folded(0, 0), "folds of training units are 0: "),
        (folded(0, 1, group="g"), "more than one fold has clips of group: g"),
        (
            [*folded(0, 1), {"split": "test", "fold": 0, "conversation_id": "x", "group": "x"}],
            "'c2' has a fold, and is",
        ),
        (folded(0, 1, conversation_id="talk"), "more than one fold has clips of conversation: talk"),
    ],
)
def test_folds_of_a_manifest_are_whole_or_refused(rows: list[dict[str, Any]], match: str) -> None:
    with pytest.raises(UserError, match=match):
        build(*rows)


def test_a_manifest_without_folds_is_read(tmp_path: Path) -> None:
    write_manifest(build({}, {"label": "happy"}), tmp_path / "manifest.parquet")
    content = read_manifest(tmp_path / "manifest.parquet")
    about = {"root": "data", "classes": ["happy", "sad"], "counts": {}}
    content.clips.drop("fold").write_parquet(tmp_path / "foreign.parquet", metadata={"emocache": json.dumps(about)})
    assert [unit.fold for unit in read_manifest(tmp_path / "foreign.parquet").units()] == [None, None]
