"""A store at a URL: another machine gets it whole, only what differs travels, and nobody's work is overwritten."""

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from s3_server import use_server

from cache import Store, StoreError, StoreWriter, attach
from cache.checks import inspect
from cache.checksums import REMOTE_NOTES
from cache.remote import objects
from cache.remote.copies import BackgroundPush, DivergedError, Transferred, fetch, push

FIELDS = {"family": "test", "layer": 3}
URL = "s3://bucket/run/audio"


def write(path: Path, names: str, backend: str = "zarr", **fields: object) -> None:
    """Clips named after single letters; a chunk holds 16 rows, a clip 10 to 35."""
    with StoreWriter(path, FIELDS | fields, 8, "float32", backend, chunk_mb=512 / 2**20) as writer:
        for name in names:
            rng = np.random.default_rng(ord(name))
            writer.append(name, rng.normal(size=(rng.integers(10, 36), 8)).astype(np.float32), f"hash of {name}")


def same(a: Path, b: Path) -> bool:
    """Whether two stores are the same, byte for byte, apart from notes of what travelled."""
    contents = [
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (a, b)
    ]
    for content in contents:
        content.pop(Path(REMOTE_NOTES), None)
    return contents[0] == contents[1]


def chunk_files(store: Path) -> dict[str, bytes]:
    return {file.relative_to(store).as_posix(): file.read_bytes() for file in store.glob("values.zarr/c/*/0")}


def sent(asked: list[str]) -> list[str]:
    return [line.removeprefix("PUT /bucket/run/audio/") for line in asked if line.startswith("PUT")]


@pytest.mark.parametrize("backend", ["zarr", "hdf5"])
def test_another_machine_gets_the_whole_store_and_goes_on(s3, tmp_path, backend):
    here, there = tmp_path / "here" / "audio", tmp_path / "there" / "audio"
    write(here, "abcdef", backend)
    attach(here, "errors.parquet", lambda file: file.write(b"none"))
    assert push(here, URL).files == len(s3.listed("run/audio")) - 1  # checksums.json comes with the others
    fetch(URL, there)
    assert same(here, there)
    assert inspect(there).whole
    write(there, "ghi", backend)
    push(there, URL)
    fetch(URL, here)
    assert Store(here).clip_ids == list("abcdefghi")
    assert same(here, there)


def test_only_what_differs_travels_and_the_index_comes_last(s3, tmp_path):
    store, copy = tmp_path / "audio", tmp_path / "copy"
    write(store, "abcdefghij")
    push(store, URL)
    fetch(URL, copy)
    before = chunk_files(store)
    write(store, "k")
    changed = {path for path, content in chunk_files(store).items() if before.get(path) != content}
    with s3.requests() as asked:
        push(store, URL)
    assert {path for path in sent(asked) if "/c/" in path} == changed
    assert sent(asked)[-2:] == ["index.parquet", "checksums.json"]
    with s3.requests() as asked:
        assert push(store, URL) == Transferred(0, 0)
    assert len(asked) == 1  # one listing
    with s3.requests() as asked:
        fetch(URL, copy)
    assert {line.removeprefix("GET /bucket/run/audio/") for line in asked if "/c/" in line} == changed
    with s3.requests() as asked:
        assert fetch(URL, copy) == Transferred(0, 0)
    assert len(asked) == 1
    assert same(store, copy)


def test_a_url_that_holds_nothing_leaves_the_store_as_it_is(s3, tmp_path):
    assert fetch(URL, tmp_path / "audio") == Transferred(0, 0)
    assert not (tmp_path / "audio").exists()
    write(tmp_path / "audio", "ab")
    assert fetch(URL, tmp_path / "audio") == Transferred(0, 0)
    assert Store(tmp_path / "audio").clip_ids == ["a", "b"]


def cut_the_line(monkeypatch: pytest.MonkeyPatch, method: str, after: int) -> None:
    """Let ``method`` of Objects fail from its ``after``-th call on."""
    whole, calls = getattr(objects.Objects, method), 0

    def cut(self, *arguments):
        nonlocal calls
        calls += 1
        if calls > after:
            raise objects.ObjectError(f"{self.url}: no answer")
        return whole(self, *arguments)

    monkeypatch.setattr(objects.Objects, method, cut)


@pytest.mark.parametrize("left", [1, 2, 3, 4, 7, 13])
def test_what_was_interrupted_goes_on_and_leaves_whole_stores(s3, tmp_path, left):
    first, store, copy = tmp_path / "first", tmp_path / "audio", tmp_path / "copy"
    write(store, "abcd")
    push(store, URL)
    fetch(URL, copy)
    shutil.copytree(store, first)
    write(store, "efghij")
    changed = chunk_files(store).items() - chunk_files(first).items()
    after = len(changed) + 4 - left  # files that are written before the line is cut; 4 are no chunks

    with pytest.MonkeyPatch.context() as patch, s3.requests() as asked:
        cut_the_line(patch, "write", after)
        with pytest.raises(StoreError, match="no answer"):
            push(store, URL)
    assert len(sent(asked)) == after
    reader = tmp_path / "reader"
    fetch(URL, reader)  # whoever comes now finds the former state, or the new one
    assert inspect(reader).whole
    assert Store(reader).clip_ids in (list("abcd"), list("abcdefghij"))
    with s3.requests() as asked:
        push(store, URL)
    assert len([path for path in sent(asked) if "/c/" in path]) == max(0, left - 4)

    shutil.copytree(copy, tmp_path / "clone")
    with s3.requests() as asked:
        fetch(URL, tmp_path / "clone")
    n_reads = len(asked) - 1
    with pytest.MonkeyPatch.context() as patch:
        cut_the_line(patch, "read", n_reads - left)
        with pytest.raises(StoreError, match="no answer"):
            fetch(URL, copy)
    assert Store(copy).clip_ids == list("abcd")
    assert all((Store(copy)[clip] == Store(first)[clip]).all() for clip in "abcd")
    fetch(URL, copy)
    assert same(store, copy)
    assert inspect(copy).whole


def test_damaged_objects_are_found_and_named(s3, tmp_path):
    write(tmp_path / "audio", "abcdef")
    push(tmp_path / "audio", URL)
    for number, key in enumerate(s3.listed("run/audio")):
        content = s3.read(key)
        middle = len(content) // 2
        s3.write(key, content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        with pytest.raises(StoreError, match=key.removeprefix("run/audio/")) as refused:
            fetch(URL, tmp_path / str(number))
        assert URL in str(refused.value)
        assert "\n" not in str(refused.value)
        assert not (tmp_path / str(number) / "store.json").exists()  # no store at all, rather than half of one
        s3.write(key, content)
    fetch(URL, tmp_path / "whole")
    assert same(tmp_path / "audio", tmp_path / "whole")


def test_a_lost_object_is_named_and_pushed_again(s3, tmp_path):
    write(tmp_path / "audio", "abcdef")
    push(tmp_path / "audio", URL)
    for number, key in enumerate(s3.listed("run/audio")):
        s3.delete(key)
        if not key.endswith("index.parquet"):  # without it there is no store to fetch
            with pytest.raises(StoreError, match=f"{key}: no such object"):
                fetch(URL, tmp_path / str(number))
        with s3.requests() as asked:
            push(tmp_path / "audio", URL)
        assert set(sent(asked)) <= {key.removeprefix("run/audio/"), "checksums.json"}
        fetch(URL, tmp_path / str(number))
        assert same(tmp_path / "audio", tmp_path / str(number))


def test_a_damaged_chunk_is_not_pushed(s3, tmp_path):
    write(tmp_path / "audio", "abcdef")
    chunk = tmp_path / "audio" / "values.zarr" / "c" / "1" / "0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(StoreError, match=r"c/1/0: damaged.*--repair"):
        push(tmp_path / "audio", URL)
    assert "run/audio/index.parquet" not in s3.listed()


def test_two_machines_that_write_one_url_are_told_so(s3, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, "ab")
    write(two, "cd")
    push(one, URL)
    for attempt in (lambda: push(two, URL), lambda: fetch(URL, two)):
        with pytest.raises(DivergedError, match="another machine") as refused:
            attempt()
        assert "\n" not in str(refused.value)
    shutil.rmtree(two)
    fetch(URL, two)
    write(one, "e")
    push(one, URL)
    write(two, "f")
    with pytest.raises(DivergedError), s3.requests() as asked:
        push(two, URL)
    assert not sent(asked)  # it was seen before anything was overwritten
    with pytest.raises(DivergedError):
        fetch(URL, two)
    assert Store(two).clip_ids == ["a", "b", "f"]


def test_of_two_that_push_at_the_same_moment_one_is_refused(s3, tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, "ab")
    push(one, URL)
    fetch(URL, two)
    write(one, "c")
    write(two, "d")
    whole = objects.Objects.write

    def overtaken(self, path, content, replacing="*"):
        monkeypatch.setattr(objects.Objects, "write", whole)
        push(one, URL)
        return whole(self, path, content, replacing)

    monkeypatch.setattr(objects.Objects, "write", overtaken)
    with pytest.raises(DivergedError):
        push(two, URL)
    assert s3.read("run/audio/index.parquet") == (one / "index.parquet").read_bytes()
    with pytest.raises(StoreError, match="the values of 1 clips are not those"):  # both wrote the last chunk
        fetch(URL, tmp_path / "copy")
    push(one, URL)
    fetch(URL, tmp_path / "copy")
    assert same(one, tmp_path / "copy")


@pytest.mark.parametrize("first", [push, lambda folder, url: fetch(url, folder)])
def test_a_process_that_died_as_its_index_was_sent_knows_it_again(s3, tmp_path, first):
    write(tmp_path / "audio", "ab")
    push(tmp_path / "audio", URL)
    write(tmp_path / "audio", "c")
    whole = objects.Objects.write

    def dying(self, path, content, replacing="*"):
        version = whole(self, path, content, replacing)
        if path == "index.parquet":
            raise KeyboardInterrupt
        return version

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects.Objects, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            push(tmp_path / "audio", URL)
    write(tmp_path / "audio", "d")
    first(tmp_path / "audio", URL)
    push(tmp_path / "audio", URL)
    fetch(URL, tmp_path / "copy")
    assert Store(tmp_path / "copy").clip_ids == list("abcd")
    assert same(tmp_path / "audio", tmp_path / "copy")


def test_equal_stores_need_no_notes(s3, tmp_path):
    write(tmp_path / "audio", "ab")
    push(tmp_path / "audio", URL)
    (tmp_path / "audio" / REMOTE_NOTES).unlink()
    assert fetch(URL, tmp_path / "audio").files
    write(tmp_path / "audio", "c")
    push(tmp_path / "audio", URL)
    fetch(URL, tmp_path / "copy")
    assert same(tmp_path / "audio", tmp_path / "copy")


def test_a_new_store_takes_what_is_there_unless_its_settings_differ(s3, tmp_path):
    write(tmp_path / "audio", "abc")
    push(tmp_path / "audio", URL)
    write(tmp_path / "same", "")
    fetch(URL, tmp_path / "same")
    assert Store(tmp_path / "same").clip_ids == ["a", "b", "c"]
    write(tmp_path / "other", "", layer=4)
    with pytest.raises(StoreError, match=r"other settings \(layer\)"):
        fetch(URL, tmp_path / "other")


def test_a_background_push_takes_every_commit_in_the_end(s3, tmp_path):
    store = tmp_path / "audio"
    with StoreWriter(store, FIELDS, 8, "float32", chunk_mb=512 / 2**20) as writer:
        background = BackgroundPush(store, URL)
        for number in range(20):
            writer.append(f"clip{number}", np.full((5, 8), number, np.float32), "hash")
            writer.commit()
            background()
    background.finish()
    fetch(URL, tmp_path / "copy")
    assert same(store, tmp_path / "copy")


def test_a_background_push_outlives_a_bad_line_but_not_another_writer(s3, tmp_path, monkeypatch, capsys):
    store = tmp_path / "audio"
    write(store, "ab")
    background = BackgroundPush(store, URL)
    with pytest.MonkeyPatch.context() as patch:
        cut_the_line(patch, "write", 2)
        background()
        background._running.exception()  # wait for it
    background()
    assert "no answer; the store here is kept" in capsys.readouterr().out
    background._running.result()
    fetch(URL, tmp_path / "other")
    write(tmp_path / "other", "c")
    push(tmp_path / "other", URL)
    write(store, "d")
    background()
    background._running.exception()
    with pytest.raises(DivergedError):
        background()
    with pytest.raises(DivergedError):
        background.finish()


def test_no_such_bucket_bad_credentials_and_wrong_endpoints_end_in_one_line(s3, tmp_path, monkeypatch):
    write(tmp_path / "audio", "ab")

    def refusal(url: str = URL) -> str:
        lines = []
        for attempt in (lambda: push(tmp_path / "audio", url), lambda: fetch(url, tmp_path / "copy")):
            with pytest.raises(StoreError) as refused:
                attempt()
            lines.append(str(refused.value))
        assert lines[0] == lines[1]
        assert url in lines[0]
        assert "\n" not in lines[0]
        return lines[0]

    assert "NoSuchBucket" in refusal("s3://nobody/run/audio")
    with s3.refusing_keys():
        assert "InvalidAccessKeyId" in refusal()
    assert "not a URL of object storage" in refusal("ftp://bucket/run/audio")
    monkeypatch.setattr(objects, "RETRIES", 1)
    use_server("http://127.0.0.1:9", monkeypatch)
    assert "check AWS_ENDPOINT_URL" in refusal()


def test_a_server_that_never_answers_is_given_up(s3, tmp_path, monkeypatch):
    import socket

    monkeypatch.setattr(objects, "RETRIES", 1)
    monkeypatch.setattr(objects, "SILENCE", timedelta(seconds=0.5))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_server(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        with pytest.raises(StoreError, match="no answer"):
            fetch(URL, tmp_path / "copy")
