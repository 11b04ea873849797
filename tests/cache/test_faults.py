"""Object storage that fails: nothing is lost, no half store is taken for a whole one, and the same command goes on."""

import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from faulty_server import PASSING, Faults, at_random, faulty
from s3_server import S3Server, use_server

from cache import Store, StoreError, StoreWriter
from cache.checks import inspect
from cache.checksums import REMOTE_NOTES
from cache.remote import objects
from cache.remote.copies import BackgroundPush, DivergedError, fetch, push

URL = "s3://bucket/run/audio"
RETRIED = [kind for kind in PASSING if kind != "slow"]


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "RETRIES", 2)
    monkeypatch.setattr(objects, "BACKOFF", timedelta(milliseconds=1))
    monkeypatch.setattr(objects, "SILENCE", timedelta(seconds=0.2))


def write(path: Path, names: str) -> None:
    with StoreWriter(path, {"family": "test"}, 8, "float32", chunk_mb=512 / 2**20) as writer:  # 16 rows in a chunk
        for name in names:
            writer.append(name, np.random.default_rng(ord(name)).normal(size=(20, 8)).astype(np.float32), name)


def same(*folders: Path) -> bool:
    one, two = (
        {
            file.relative_to(folder): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file() and file.name != REMOTE_NOTES
        }
        for folder in folders
    )
    return one == two


def at(method: str, part: str, kind: str, times: int = 10**9) -> Faults:
    """The first ``times`` requests whose path holds ``part``."""
    left = times

    def fault(asked: str, path: str) -> str | None:
        nonlocal left
        if asked != method or part not in path or not left:
            return None
        left -= 1
        return kind

    return fault


def through(faults: Faults, s3: S3Server, work: Callable[[], object]) -> Counter[str]:
    """Do some work against a server with faults, and come back to the one without."""
    met: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch, faulty(s3.endpoint, faults, met) as endpoint:
        use_server(endpoint, patch)
        try:
            work()
        finally:
            use_server(s3.endpoint, patch)
    return met


@pytest.mark.parametrize(
    ("kind", "help_"),
    [
        ("503", r"SlowDown\), after 2 retries: run the same command later"),
        ("reset", "no answer from http://.*: check AWS_ENDPOINT_URL"),
        ("stall", "no answer from"),
        ("expired", r"ExpiredToken\): renew the credentials"),
        ("denied", r"AccessDenied\): the credentials that are set do not allow it"),
        ("gone", "no such object"),
        ("cut", "the answer breaks off: check"),
    ],
)
def test_an_object_that_cannot_be_had_is_named_and_the_same_command_goes_on(s3, tmp_path, kind, help_):
    store, copy = tmp_path / "audio", tmp_path / "copy"
    write(store, "ab")
    attempts = [("GET", lambda: fetch(URL, copy))]
    if kind != "cut":  # of an answer that has no body
        attempts.insert(0, ("PUT", lambda: push(store, URL)))
    else:
        push(store, URL)
    for method, attempt in attempts:
        with pytest.raises(StoreError, match=rf"{URL}/\S*c/1/0: .*{help_}") as refused:
            through(at(method, "/c/1/", kind), s3, attempt)
        assert "\n" not in str(refused.value)
        assert not isinstance(refused.value, DivergedError)
        if method == "PUT":
            assert "run/audio/index.parquet" not in s3.listed()
        else:
            assert not (copy / "store.json").exists()
        attempt()
    assert same(store, copy)


@pytest.mark.parametrize("kind", RETRIED)
def test_what_fails_once_is_asked_again(s3, tmp_path, kind):
    write(tmp_path / "audio", "ab")
    if kind != "cut":
        assert through(at("PUT", "/c/1/", kind, times=1), s3, lambda: push(tmp_path / "audio", URL))[kind] == 1
    push(tmp_path / "audio", URL)
    assert through(at("GET", "/c/1/", kind, times=1), s3, lambda: fetch(URL, tmp_path / "copy"))[kind] == 1
    assert same(tmp_path / "audio", tmp_path / "copy")


def test_an_index_whose_answer_was_lost_is_nobody_elses(s3, tmp_path):
    store = tmp_path / "audio"
    for names in ("ab", "cd"):  # a new index, and one in the place of another
        write(store, names)
        assert through(at("PUT", "index.parquet", "lost", times=1), s3, lambda: push(store, URL))["lost"] == 1
    fetch(URL, tmp_path / "copy")
    assert same(store, tmp_path / "copy")


def test_an_old_content_under_a_new_version_is_never_taken(s3, tmp_path):
    store, copy = tmp_path / "audio", tmp_path / "copy"
    write(store, "abc")
    push(store, URL)
    is_old = True

    def work() -> None:
        nonlocal is_old
        fetch(URL, copy)
        write(store, "de")
        push(store, URL)
        for _ in range(2):
            with pytest.raises(StoreError, match=r"the values of 1 clips .*\(d for one\): fetch it once more"):
                fetch(URL, copy)
            assert inspect(copy).whole
            assert Store(copy).clip_ids == list("abc")
        is_old = False
        fetch(URL, copy)

    through(lambda method, path: "stale" if is_old and method == "GET" and "/c/" in path else None, s3, work)
    assert same(store, copy)


def test_chunks_of_a_fetch_that_died_before_it_looked_at_them_are_looked_at(s3, tmp_path, monkeypatch):
    store, copy = tmp_path / "audio", tmp_path / "copy"
    write(store, "abc")
    push(store, URL)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    def work() -> None:
        fetch(URL, copy)
        write(store, "de")
        push(store, URL)
        with monkeypatch.context() as patch:
            patch.setattr("cache.remote.copies._wrong_values", die)
            with pytest.raises(KeyboardInterrupt):
                fetch(URL, copy)
        with pytest.raises(StoreError, match="the values of 1 clips"):
            fetch(URL, copy)

    through(lambda method, path: "stale" if method == "GET" and "/c/" in path else None, s3, work)
    fetch(URL, copy)
    assert same(store, copy)


def under_faults(s3: S3Server, folder: Path, seed: int, share: float) -> int:
    """A store that grows, pushed and fetched under random faults until all is through; how many commands failed."""
    store, copy, lines = folder / "audio", folder / "copy", list[str]()
    faults = at_random(seed, share)
    for names in ("abc", "def", "ghij"):
        write(store, names)
        for work in (lambda: push(store, URL), lambda: fetch(URL, copy)):
            for _ in range(200):
                try:
                    through(faults, s3, work)
                    break
                except DivergedError:
                    raise
                except StoreError as error:
                    lines.append(str(error))
                    if (copy / "store.json").exists():
                        assert inspect(copy).whole
            else:
                raise AssertionError("never came through")
        assert same(store, copy)
    assert all(URL in line and "\n" not in line for line in lines)
    return len(lines)


def test_random_faults_leave_the_same_bytes(s3, tmp_path):
    under_faults(s3, tmp_path, seed=1, share=0.3)


@pytest.mark.soak
def test_random_faults_of_every_share_leave_the_same_bytes(s3, tmp_path):
    n = int(os.environ.get("EMOCACHE_SOAK_FAULTS", "60"))
    failed = 0
    for seed in range(n):
        (tmp_path / str(seed)).mkdir()
        failed += under_faults(s3, tmp_path / str(seed), seed, share=(0.1, 0.3, 0.6)[seed % 3])
        s3.clear()
    print(f"{n} stores in 3 steps each under random faults: {failed} commands failed, each named its object")
    assert failed


def test_a_background_push_outlives_a_server_that_fails_for_a_while(s3, tmp_path, capsys):
    store = tmp_path / "audio"
    write(store, "ab")
    background = BackgroundPush(store, URL)
    through(at("PUT", "", "503"), s3, lambda: (background(), background._running.exception()))
    write(store, "c")
    background()
    assert "the store here is kept, and pushed again" in capsys.readouterr().out
    background.finish()
    fetch(URL, tmp_path / "copy")
    assert same(store, tmp_path / "copy")
