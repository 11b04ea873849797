"""A clip whose content changed is noticed, one that did not is not read again, and media may lie in object storage."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from faulty_server import faulty
from hypothesis import given, settings
from hypothesis import strategies as st
from s3_server import S3Server, use_server

from cache.remote import objects
from cache.remote.objects import ObjectError, UnansweredError
from configs import UserError
from configs.sections.datasets import AvamergDataset, TableDataset
from extract.corpora.avamerg import read_avamerg
from extract.corpora.manifest import make_manifest, read_manifest, write_manifest
from extract.corpora.media_paths import misplaced
from extract.corpora.table import read_table
from extract.media import sources
from extract.media.hashing import ChangedError
from extract.media.sources import Clip, RemoteFile, Sources, local_copy

Hash = Callable[..., list[tuple[str | None, str]]]
ROOT = "s3://bucket/media"


def blake2b(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read, in order."""
    names: list[str] = []
    whole = sources._read
    monkeypatch.setattr(sources, "_read", lambda found: (names.append(Path(found.path).name), whole(found))[1])
    return names


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files were made ten seconds before they are hashed."""
    now = sources.time.time_ns
    monkeypatch.setattr(sources.time, "time_ns", lambda: now() + 10 * 10**9)


@pytest.fixture
def pass_over(tmp_path: Path) -> Hash:
    """One pass over files: hashes, remembered for the next one."""

    def hash_all(*files: Path, trust: bool = True) -> list[tuple[str | None, str]]:
        remembering = Sources(tmp_path / "made" / "sources.parquet", trust)
        found = list(remembering.content_hashes([Clip(file.name, file) for file in files], workers=2))
        remembering.save()
        return found

    return hash_all


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = [tmp_path / f"{name}.wav" for name in "abcd"]
    for file in made:
        file.write_bytes(file.name.encode() * 1000)
    return made


@settings(max_examples=30)
@given(contents=st.lists(st.one_of(st.binary(max_size=100), st.text(max_size=20)), max_size=20))
def test_hashes_are_those_of_the_bytes_and_texts_in_order(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("files")
    clips = []
    for i, content in enumerate(contents):
        if isinstance(content, bytes):
            (folder / str(i)).write_bytes(content)
        clips.append(Clip(str(i), content if isinstance(content, str) else folder / str(i)))
    expected = [blake2b(c.encode() if isinstance(c, str) else c) for c in contents]
    assert list(Sources(None).content_hashes(clips, workers=3)) == [(hash_, "") for hash_ in expected]


def test_only_new_and_changed_files_are_read(files, pass_over, read, later):
    first = pass_over(*files[:3])
    assert sorted(read) == ["a.wav", "b.wav", "c.wav"]
    read.clear()
    assert pass_over(*files[:3]) == first
    assert read == []
    files[1].write_bytes(b"longer than it was" * 1000)
    after = pass_over(files[3], *files[:3])
    assert sorted(read) == ["b.wav", "d.wav"]
    assert after[1:] == [first[0], (blake2b(files[1].read_bytes()), ""), first[2]]
    read.clear()
    pass_over(*files[:2])  # the others left the manifest, and come back
    assert pass_over(*files) == [*after[1:], after[0]]
    assert sorted(read) == ["c.wav", "d.wav"]


def test_a_change_that_keeps_size_and_modification_time_is_noticed(files, pass_over, later):
    before = files[0].stat()
    first = pass_over(*files)
    files[0].write_bytes(files[0].read_bytes()[::-1])
    os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert pass_over(*files) == [(blake2b(files[0].read_bytes()), ""), *first[1:]]


def test_files_that_were_just_written_are_read_again(files, pass_over, read):
    pass_over(*files)
    pass_over(*files)
    assert len(read) == 8  # a second change within a tick of the clock would leave the same times


def test_everything_is_read_again_on_demand(files, pass_over, read, later):
    first = pass_over(*files)
    assert pass_over(*files, trust=False) == first
    assert len(read) == 8
    pass_over(*files)
    assert len(read) == 8


def test_what_was_hashed_before_an_interruption_is_kept(files, tmp_path, read, later):
    interrupted = Sources(tmp_path / "sources.parquet")
    hashes = interrupted.content_hashes([Clip(file.name, file) for file in files], workers=1)
    first = [next(hashes), next(hashes)]
    hashes.close()
    interrupted.save()
    read.clear()
    again = Sources(tmp_path / "sources.parquet")
    assert list(again.content_hashes([Clip(file.name, file) for file in files], workers=1))[:2] == first
    assert read == ["c.wav", "d.wav"]


@pytest.mark.parametrize("content", [b"", b"no parquet", None])
def test_a_broken_memory_is_said_and_made_anew(files, pass_over, tmp_path, read, later, capsys, content):
    first = pass_over(*files)
    memory = tmp_path / "made" / "sources.parquet"
    if content is None:
        pl.read_parquet(memory).rename({"size": "bytes"}).write_parquet(memory)
    else:
        memory.write_bytes(content)
    capsys.readouterr()
    assert pass_over(*files) == first
    printed = capsys.readouterr().out
    assert str(memory) in printed
    assert printed.count("\n") == 1
    assert len(read) == 8
    assert pass_over(*files) == first
    assert len(read) == 8
    assert not capsys.readouterr().out


def test_what_cannot_be_read_is_said_and_never_remembered(files, pass_over, tmp_path, later):
    os.mkfifo(tmp_path / "pipe")
    bad = [tmp_path / "gone", tmp_path, tmp_path / "pipe"]
    for _ in range(2):
        found = pass_over(bad[0], files[0], *bad[1:])
        assert found[0] == (None, "No such file or directory")
        assert found[1] == (blake2b(files[0].read_bytes()), "")
        assert found[2:] == [(None, "not a regular file")] * 2


def test_objects_are_told_apart_by_one_listing(s3):
    names = ["a b.wav", "deep/er/ö#%20?.wav", "c.wav"]
    for name in names:
        s3.write(f"media/{name}", name.encode())
    clips = [Clip(name, RemoteFile(ROOT, name)) for name in [*names, "gone.wav"]]
    clips.insert(1, Clip("text", "a text"))

    def hashes() -> list[tuple[str | None, str]]:
        with s3.requests() as asked:
            found = list(Sources(None).content_hashes(clips, workers=2))
        assert len(asked) == 1
        return found

    first = hashes()
    assert first[1] == (blake2b(b"a text"), "")
    assert first[4] == (None, "no such object")
    assert len({hash_ for hash_, _ in first}) == 5
    s3.write(f"media/{names[0]}", names[0].encode())  # the same bytes again
    assert hashes() == first
    s3.write(f"media/{names[0]}", b"others")
    assert [a == b for a, b in zip(hashes(), first, strict=True)] == [False, True, True, True, True]


def test_an_object_is_on_disk_only_while_it_is_needed(s3, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for size in (0, 10, 3 * 2**20):
        s3.write("media/deep/ö.b.wav", os.urandom(size))
        with local_copy(RemoteFile(ROOT, "deep/ö.b.wav")) as copy:
            assert copy.read_bytes() == s3.read("media/deep/ö.b.wav")
            assert copy.suffix == ".wav"
        assert not list(tmp_path.iterdir())
    with local_copy(tmp_path / "own.wav") as own:
        assert own == tmp_path / "own.wav"
    with (
        pytest.raises(OSError, match=r"s3://bucket/media/gone\.wav: no such object"),
        local_copy(RemoteFile(ROOT, "gone.wav")),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_an_object_that_was_replaced_since_it_was_listed_is_not_taken(s3):
    s3.write("media/a.wav", b"first")
    clip = Clip("a", RemoteFile(ROOT, "a.wav"))
    ((content_hash, _),) = Sources(None).content_hashes([clip], 1)
    with local_copy(clip.source, content_hash) as path:
        assert path.read_bytes() == b"first"
    s3.write("media/a.wav", b"other")
    with pytest.raises(ChangedError, match="changed while it was read"), local_copy(clip.source, content_hash):
        pass


def test_what_concerns_every_object_ends_the_pass(s3, monkeypatch):
    def attempts(root: str) -> Iterator[Callable[[], object]]:
        file = RemoteFile(root, "a.wav")
        yield lambda: list(Sources(None).content_hashes([Clip("a", file)], workers=1))
        yield lambda: local_copy(file).__enter__()

    for attempt in attempts("s3://nobody/media"):
        with pytest.raises(UserError, match="NoSuchBucket"):
            attempt()
    with s3.refusing_keys():
        for attempt in attempts(ROOT):
            with pytest.raises(UserError, match="InvalidAccessKeyId"):
                attempt()


def test_a_table_may_name_objects(s3, tmp_path):
    def table(*names: str) -> TableDataset:
        rows = pl.DataFrame(
            {"id": names, "emotion": ["sad"] * len(names), "part": ["train"] * len(names), "wav": names}
        )
        rows.write_csv(tmp_path / "clips.csv")
        columns = {"clip_id": "id", "label": "emotion", "split": "part", "audio": "wav"}
        about = {"adapter": "table", "root": tmp_path, "media_root": f"{ROOT}/", "table": "clips.csv"}
        return TableDataset.model_validate(about | {"columns": columns})

    s3.write("media/x/a.wav", b"a")
    s3.write("media/b.wav", b"b")
    with s3.requests() as asked:
        manifest = read_table(table("x/a.wav", "b.wav"), seed=0)
    assert len(asked) == 1
    write_manifest(manifest, tmp_path / "manifest.parquet")
    back = read_manifest(tmp_path / "manifest.parquet")
    assert [back.media(path) for path in back.clips["audio"]] == [
        RemoteFile(ROOT, "b.wav"),
        RemoteFile(ROOT, "x/a.wav"),
    ]
    with pytest.raises(UserError, match=r"row 2: no file 'a\.wav' below s3://bucket/media"):
        read_table(table("b.wav", "a.wav"), seed=0)
    for bad in ("../b.wav", "/b.wav", "s3://bucket/media/b.wav"):
        with pytest.raises(UserError, match="row 1"):
            read_table(table(bad), seed=0)


def test_avamerg_media_may_be_objects(s3, tmp_path):
    (tmp_path / "json").mkdir()
    utterance = {"index": 0, "role": "speaker", "text": "Oh.", "audio_name": "dia00001utt0_7.wav"}
    turn = {"turn_id": "1", "dialogue": [utterance], "chain_of_empathy": {"speaker_emotion": "sad"}}
    record = {"conversation_id": "1", "turn": turn, "speaker_profile": {"ID": 7}}
    (tmp_path / "json" / "mapped_train_data.json").write_text(json.dumps([record]))
    for name in ("audio/dia00001utt0_7.wav", "audio/._dia00001utt0_7.wav", "video/dia00001utt0_7.mp4"):
        s3.write(f"media/{name}", b"")
    dataset = AvamergDataset(adapter="avamerg", root=tmp_path, media_root=ROOT)
    with s3.requests() as asked:
        manifest = read_avamerg(dataset)
    assert len(asked) == 1
    assert manifest.root == ROOT
    assert manifest.clips.select("audio", "video").rows() == [("audio/dia00001utt0_7.wav", "video/dia00001utt0_7.mp4")]
    with pytest.raises(UserError, match=r"dataset\.media_root = .*: no such folder"):
        read_avamerg(AvamergDataset(adapter="avamerg", root=tmp_path, media_root=tmp_path / "none"))


def test_paths_to_objects_are_confined_as_others_are():
    paths = ["a/b.wav", None, "../b", "a/../b", "/b", "a//b", "./b", "", "a\\b", "C:/b"]
    assert [at for at, _ in misplaced(paths, ROOT)] == list(range(2, 10))
    clips = pl.DataFrame({"clip_id": ["a"], "conversation_id": ["a"], "index": [0], "split": ["train"], "group": ["a"]})
    clips = clips.with_columns(label=pl.lit("sad"), audio=pl.lit("../a.wav"))
    with pytest.raises(UserError, match="goes up"):
        make_manifest(clips, ROOT, ["sad"], {}, "here")


def test_a_url_is_checked_before_any_work():
    def refused(**settings: object) -> str:
        with pytest.raises(ValueError) as error:  # noqa: PT011 (pydantic's error, whose text is what matters)
            AvamergDataset.model_validate({"adapter": "avamerg", "root": "data"} | settings)
        return str(error.value)

    assert "write s3://bucket/prefix" in refused(media_root="s3:///prefix")
    assert "media_root" in refused(root="s3://bucket/prefix")


@pytest.fixture
def bad(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str | None]]:
    """Five objects behind a server with faults: ``bad["GET"]`` of an object, ``bad["LIST"]`` of a listing."""
    monkeypatch.setattr(objects, "RETRIES", 1)
    monkeypatch.setattr(objects, "BACKOFF", timedelta(milliseconds=1))
    monkeypatch.setattr(sources, "_unanswered", Counter())
    for number in range(5):
        s3.write(f"media/{number}.wav", b"sound")
    faults: dict[str, str | None] = {}
    with faulty(s3.endpoint, lambda method, path: faults.get("LIST" if "list-type" in path else method)) as endpoint:
        use_server(endpoint, monkeypatch)
        yield faults


def fetched(number: int) -> bytes:
    with local_copy(RemoteFile(ROOT, f"{number}.wav")) as path:
        return path.read_bytes()


def test_an_object_that_a_server_does_not_give_costs_that_object(bad):
    for kind in ("503", "cut", "reset", "denied"):
        bad["GET"] = kind
        with pytest.raises(UnansweredError, match=rf"{ROOT}/1\.wav: "):
            fetched(1)
        bad["GET"] = None
        assert fetched(1) == b"sound"


def test_a_server_that_is_gone_ends_the_pass_at_the_first_object(bad):
    bad |= {"GET": "reset", "LIST": "reset"}
    with pytest.raises(UserError, match=rf"{ROOT}: no answer from .*run the same command to go on"):
        fetched(1)
    bad |= {"GET": "expired", "LIST": None}
    with pytest.raises(UserError, match=rf"{ROOT}/1\.wav: .*renew the credentials"):
        fetched(1)


def test_a_server_that_lists_and_gives_nothing_ends_the_pass_too(bad, monkeypatch):
    monkeypatch.setattr(sources, "MOST_UNANSWERED", 3)
    given_between = [("503", UnansweredError), ("503", UnansweredError), (None, None)]
    missing_between = [("denied", UnansweredError), ("denied", UnansweredError), ("gone", ObjectError)]
    for kind, error in [*given_between, *missing_between, *given_between[:2], ("503", UserError)]:
        bad["GET"] = kind
        if error is None:
            fetched(2)
        else:
            with pytest.raises(error) as refused:
                fetched(2)
    assert "3 objects in a row; what was committed is kept" in str(refused.value)
