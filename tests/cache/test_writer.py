"""What a writer promises when something goes wrong in the middle: all or nothing, and the next one goes on."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_tools import BACKENDS, FIELDS, all_files, features, python, write

from cache import Store, StoreError, StoreWriter, attach
from cache.checks import inspect


def in_parts(values: np.ndarray, cuts: list[int]) -> Iterator[np.ndarray]:
    yield from np.split(values, sorted(cut % len(values) for cut in cuts))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_parts_give_the_same_store_as_whole_arrays(tmp_path_factory, backend, data):
    clips = features(8, longest=200)
    folder = tmp_path_factory.mktemp("stores")
    write(folder / "whole", clips, backend=backend)
    with StoreWriter(folder / "parts", FIELDS, 8, backend=backend, chunk_mb=0.001) as writer:
        for clip_id, values in clips.items():
            cuts = data.draw(st.lists(st.integers(0, 200), max_size=5))
            writer.append(clip_id, in_parts(values, cuts), f"hash of {clip_id}")
    assert all_files(folder / "whole") == all_files(folder / "parts")


def fails_after(values: np.ndarray, problem: str) -> Iterator[np.ndarray]:
    yield values
    if problem == "raises":
        raise RuntimeError("the decoder died")
    yield np.full((1, 8), np.nan, np.float32) if problem == "NaN" else np.zeros((2, 9), np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=20, deadline=None)
@given(
    problem=st.sampled_from(["raises", "NaN", "shape"]),
    n_rows=st.integers(1, 200),  # up to three chunks
    clip_id=st.sampled_from(["clip2", "new"]),
    committed=st.booleans(),
)
def test_a_clip_that_breaks_off_leaves_no_trace(tmp_path_factory, backend, problem, n_rows, clip_id, committed):
    clips = features(6)
    folder = tmp_path_factory.mktemp("stores")
    write(folder / "expected", clips, backend=backend)
    write(folder / "s", dict(list(clips.items())[:4]), backend=backend)
    with StoreWriter(folder / "s", FIELDS, 8, backend=backend) as writer:
        if not committed:
            writer.append("clip4", clips["clip4"], "hash of clip4")
        before = writer.content_hashes
        with pytest.raises((RuntimeError, ValueError)):
            writer.append(clip_id, fails_after(np.ones((n_rows, 8), np.float32), problem), "h")
        assert writer.content_hashes == before
        assert writer.dead_rows == 0
        if committed:
            writer.commit()
            assert inspect(folder / "s").whole
            writer.append("clip4", clips["clip4"], "hash of clip4")
        writer.append("clip5", clips["clip5"], "hash of clip5")
    assert all_files(folder / "s") == all_files(folder / "expected")


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=20, deadline=None)
@given(
    undone=st.lists(
        st.tuples(st.sampled_from(["clip0", "clip3", "a", "b"]), st.integers(1, 150) | st.none()), max_size=6
    )
)
def test_a_rollback_undoes_appends_replacements_and_drops(tmp_path_factory, backend, undone):
    clips = features(6)
    folder = tmp_path_factory.mktemp("stores")
    write(folder / "expected", clips, backend=backend)
    write(folder / "s", dict(list(clips.items())[:4]), backend=backend)
    with StoreWriter(folder / "s", FIELDS, 8, backend=backend) as writer:
        writer.append("clip4", clips["clip4"], "hash of clip4")
        mark = writer.mark()
        for clip_id, length in undone:
            if length is not None:
                writer.append(clip_id, np.ones((length, 8), np.float32), "other")
            elif clip_id in writer:
                writer.drop(clip_id)
        writer.rollback(mark)
        assert writer.mark() == mark
        writer.append("clip5", clips["clip5"], "hash of clip5")
    assert all_files(folder / "s") == all_files(folder / "expected")


def test_what_is_committed_cannot_be_rolled_back(tmp_path):
    with StoreWriter(tmp_path / "s", FIELDS, 8) as writer:
        mark = writer.mark()
        writer.append("a", np.ones((2, 8), np.float32), "h")
        writer.commit()
        with pytest.raises(ValueError, match="commit"):
            writer.rollback(mark)
    assert "a" in Store(tmp_path / "s")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_system_that_refuses_at_any_write_costs_nothing_that_was_committed(tmp_path, monkeypatch, backend, code):
    clips = features(12)
    write(tmp_path / "expected", clips, every=4, backend=backend)
    refuse_at, refusals = 0, []
    while True:
        path, calls = tmp_path / f"s{refuse_at}", 0

        def fsync(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls > refuse_at:  # noqa: B023
                raise OSError(code, os.strerror(code))

        monkeypatch.setattr("cache.disk.writing.os.fsync", fsync)
        try:
            write(path, clips, every=4, backend=backend)
            break
        except StoreError as error:
            refusals.append(str(error))
        finally:
            monkeypatch.undo()
        assert refusals[-1] == f"{path}: cannot be written: {os.strerror(code)}; what was committed is kept"
        assert not list(path.rglob(".*.partial"))
        assert not (path / "store.json").exists() or inspect(path).whole
        write(path, clips, every=4, backend=backend)
        assert all_files(path) == all_files(tmp_path / "expected")
        refuse_at += 3
    assert len(refusals) > 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_commit_that_failed_anywhere_can_be_repeated(tmp_path, monkeypatch, backend):
    clips = features(12)
    write(tmp_path / "expected", clips, backend=backend)
    for refuse_at in range(30):
        path, calls = tmp_path / f"s{refuse_at}", 0
        write(path, dict(list(clips.items())[:6]), backend=backend)

        def fsync(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls == refuse_at:  # noqa: B023
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with StoreWriter(path, FIELDS, 8, backend=backend) as writer:
            mark = writer.mark()
            for clip_id in list(clips)[6:]:
                writer.append(clip_id, clips[clip_id], f"hash of {clip_id}")
            monkeypatch.setattr("cache.disk.writing.os.fsync", fsync)
            try:
                writer.commit()
                failed = False
            except StoreError:
                failed = True
            monkeypatch.undo()
            assert inspect(path).whole
            assert failed == (0 < refuse_at <= calls)
            if not failed:
                with pytest.raises(ValueError, match="commit"):
                    writer.rollback(mark)
        assert all_files(path) == all_files(tmp_path / "expected")


FULL = """
import numpy as np, resource, signal
from cache import StoreError, StoreWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the kernel then refuses with EFBIG, midway in a write
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
with StoreWriter(Path(path), {"family": "test", "layer": 3}, 8, backend="hdf5", chunk_mb=1) as writer:
    writer.append("small", np.ones((9, 8)), "h")
    writer.commit()
    before = writer.mark()
    try:
        writer.append("large", np.ones((100_000, 8)), "h")
    except StoreError as error:
        print(error)
    print(writer.mark() == before)
"""


def test_a_real_refusal_of_the_kernel(tmp_path):
    path = tmp_path / "s"
    with python(FULL, path=str(path)) as child:
        said, problem = child.communicate()
    assert said.splitlines() == [f"{path}: cannot be written: File too large; what was committed is kept", "True"], (
        problem
    )
    assert Store(path).clip_ids == ["small"]
    assert inspect(path).whole
    assert inspect(path).strangers == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_says_so(tmp_path):
    write(tmp_path / "stores" / "s", features(3))
    (tmp_path / "stores").chmod(0o555)
    (tmp_path / "stores" / "s").chmod(0o555)
    try:
        with pytest.raises(StoreError, match=r"cannot be written: Permission denied; what was committed is kept"):
            write(tmp_path / "stores" / "s", features(5))
        with pytest.raises(StoreError, match=r"cannot be written: Permission denied"):
            write(tmp_path / "stores" / "new", features(5))
    finally:
        (tmp_path / "stores").chmod(0o755)
        (tmp_path / "stores" / "s").chmod(0o755)
    assert len(Store(tmp_path / "stores" / "s")) == 3


def test_a_path_that_is_a_file_says_so(tmp_path):
    (tmp_path / "s").write_text("hello")
    with pytest.raises(StoreError, match=r"s: cannot be written: File exists"):
        StoreWriter(tmp_path / "s", FIELDS, 8)


def test_damaged_bookkeeping_is_not_made_official_by_the_next_writer(tmp_path):
    write(tmp_path / "s", features(5))
    index = tmp_path / "s" / "index.parquet"
    content = index.read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), None):
        index.unlink() if damaged is None else index.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"index\.parquet: damaged or missing; python cache/verify\.py"):
            write(tmp_path / "s", features(6))


def test_a_file_of_ones_own_comes_under_the_checksums(tmp_path):
    write(tmp_path / "s", features(3))
    for content in (b"first", b"second"):
        attach(tmp_path / "s", "errors.parquet", lambda file, content=content: file.write(content))
        assert (tmp_path / "s" / "errors.parquet").read_bytes() == content
        assert inspect(tmp_path / "s").whole
    write(tmp_path / "s", features(5))
    assert inspect(tmp_path / "s").whole
    (tmp_path / "s" / "errors.parquet").write_bytes(b"secone")
    assert list(inspect(tmp_path / "s").damaged_files) == ["errors.parquet"]
    with pytest.raises(StoreError, match="not a feature store"):
        attach(tmp_path / "other", "errors.parquet", lambda file: file.write(b""))


GROWS = """
import numpy as np
from cache import Store, StoreWriter

def anonymous():  # MiB that the process holds itself; pages of mapped files are the kernel's to take back
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024

rng = np.random.default_rng(0)
with StoreWriter(Path(path), {"a": 1}, 512, backend=backend, chunk_mb=1) as writer:
    writer.append("first", rng.normal(size=(5000, 512)), "h")
    start = anonymous()
    writer.append("hour", (rng.normal(size=(500, 512)).astype("f2") for _ in range(300)), "h")  # 150 MiB
    writer.commit()
    print(anonymous() - start)
store = Store(path)
start, total = anonymous(), 0.0
for i in range(2000):
    total += sum(float(part[::50].sum(dtype="f4")) for part in store.parts("hour" if i % 500 == 0 else "first"))
print(anonymous() - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells how much memory is anonymous")
@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_depends_neither_on_a_clips_length_nor_on_the_stores_size(tmp_path, backend):
    with python(GROWS, path=str(tmp_path / "s"), backend=backend) as child:
        said, problem = child.communicate()
    assert child.returncode == 0, problem
    writing, reading = map(float, said.split())
    assert writing < 20
    assert reading < 20
