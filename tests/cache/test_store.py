"""What users and other rooms rely on: what goes in comes out, from any reader, after any interruption."""

import multiprocessing
import os
import shutil
import signal
import time

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store_tools import BACKENDS, FIELDS, all_files, features, python, read_into, write, write_many

from cache import Store, StoreError, StoreWriter, differing_fields, fingerprint
from cache.checks import inspect


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    dim=st.integers(1, 17),
    chunk_mb=st.floats(1e-5, 0.01),
    every=st.integers(1, 9),
    dtype=st.sampled_from(["float16", "float32"]),
)
def test_what_goes_in_comes_out(tmp_path_factory, backend, lengths, dim, chunk_mb, every, dtype):
    rng = np.random.default_rng(len(lengths))
    clips = {f"ö{i}": rng.normal(size=(n, dim)).astype(np.float32) for i, n in enumerate(lengths)}
    path = tmp_path_factory.mktemp("store") / "audio"
    write(path, clips, every, backend=backend, dtype=dtype, chunk_mb=chunk_mb)
    store = Store(path)
    assert store.clip_ids == list(clips)
    assert store.lengths == {clip_id: len(values) for clip_id, values in clips.items()}
    for clip_id, values in clips.items():
        assert store[clip_id].dtype == dtype
        np.testing.assert_array_equal(store[clip_id], values.astype(dtype))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_backends_return_identical_bytes_and_foreign_readers_agree(tmp_path, dtype):
    clips = features(40)
    for backend in BACKENDS:
        write(tmp_path / backend, clips, backend=backend, dtype=dtype)
    flat = np.concatenate([values.astype(dtype) for values in clips.values()])
    ours = [np.concatenate([Store(tmp_path / b)[clip_id] for clip_id in clips]) for b in BACKENDS]
    by_zarr = zarr.open_array(tmp_path / "zarr" / "values.zarr", mode="r")[:]
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "zarr" / "values.zarr")}}
    by_tensorstore = tensorstore.open(spec, read=True).result().read().result()
    with h5py.File(tmp_path / "hdf5" / "values.h5") as file:
        by_h5py = file["values"][:]
    for values in (*ours, by_zarr, by_tensorstore, by_h5py):
        assert values.dtype == dtype
        assert values.tobytes() == flat.tobytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_are_read_only(tmp_path, backend):
    write(tmp_path / "s", features(20), backend=backend)
    store = Store(tmp_path / "s")
    for clip_id in store.clip_ids:
        with pytest.raises(ValueError, match="read-only"):
            store[clip_id][0, 0] = 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupted_and_resumed_store_is_byte_identical(tmp_path, backend):
    clips = features(50)
    write(tmp_path / "whole", clips, backend=backend)
    half = dict(list(clips.items())[:22])
    write(tmp_path / "resumed", half, backend=backend)
    write(tmp_path / "resumed", clips, backend=backend)
    assert all_files(tmp_path / "whole") == all_files(tmp_path / "resumed")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_kills", [5, pytest.param(100, marks=pytest.mark.soak)])
def test_killed_at_any_moment_what_was_committed_is_whole(tmp_path, backend, n_kills):
    clips = features(120, dim=64)
    began = time.perf_counter()
    write(tmp_path / "whole", clips, every=3, backend=backend)
    seconds = patience = time.perf_counter() - began
    path, rng, kills, commits = tmp_path / "killed", np.random.default_rng(0), 0, set()
    children = multiprocessing.get_context("forkserver")
    children.set_forkserver_preload(["store_tools"])
    while kills < n_kills or len(commits) <= 2:  # it was killed at different places
        here, there = children.Pipe()
        child = children.Process(target=write_many, args=(path, backend, there))
        child.start()
        there.close()  # a child that cannot begin ends the test, and does not hang it
        here.recv()
        child.join(rng.uniform(0, patience))
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
        if (path / "store.json").is_file():
            assert inspect(path).whole
            store = Store(path)
            for clip_id in store.clip_ids:
                np.testing.assert_array_equal(store[clip_id], clips[clip_id].astype(np.float16))
            if len(store) in commits:  # a busy machine: it got no further
                patience = min(1.3 * patience, 20 * seconds)
            commits.add(len(store))
            if len(store) == len(clips):
                shutil.rmtree(path)  # once more from the start
                patience = seconds
    write(path, clips, every=3, backend=backend)
    assert all_files(path) == all_files(tmp_path / "whole")


@pytest.mark.parametrize("backend", BACKENDS)
def test_replacing_and_dropping_clips(tmp_path, backend):
    clips = features(20)
    write(tmp_path / "s", clips, backend=backend)
    with StoreWriter(tmp_path / "s", FIELDS, 8, backend=backend) as writer:
        writer.append("clip3", clips["clip3"] + 1, "other content")
        writer.drop("clip5")
        assert writer.dead_rows == len(clips["clip3"]) + len(clips["clip5"])
    store = Store(tmp_path / "s")
    assert "clip5" not in store
    assert len(store) == 19
    np.testing.assert_array_equal(store["clip3"], (clips["clip3"] + 1).astype(np.float16))
    np.testing.assert_array_equal(store["clip4"], clips["clip4"].astype(np.float16))
    with pytest.raises(KeyError, match="clip5"):
        store["clip5"]


@pytest.mark.parametrize(
    ("other", "differs"),
    [({"fields": {**FIELDS, "layer": 4}}, "layer"), ({"backend": "hdf5"}, "backend"), ({"dtype": "float32"}, "dtype")],
)
def test_a_writer_refuses_a_store_of_other_settings(tmp_path, other, differs):
    clips = features(3)
    write(tmp_path / "s", clips)
    settings = {"fields": FIELDS, "backend": "zarr", "dtype": "float16"} | other
    with pytest.raises(StoreError, match=rf"s: holds a store of other settings \({differs}\)$"):
        StoreWriter(tmp_path / "s", settings["fields"], 8, settings["dtype"], settings["backend"])
    assert Store(tmp_path / "s").clip_ids == list(clips)


def test_a_digest_is_of_the_clips_that_it_names(tmp_path):
    clips = features(6)
    write(tmp_path / "a", clips)
    write(tmp_path / "b", dict(reversed(clips.items())))
    a, b = Store(tmp_path / "a"), Store(tmp_path / "b")
    assert a.digest(clips) == b.digest(reversed(clips)) != a.digest(list(clips)[:5])
    assert a.digest(["clip1", "absent"]) == b.digest(["clip1"])
    write(tmp_path / "a", {"more": clips["clip2"]})
    assert Store(tmp_path / "a").digest(clips) == b.digest(clips)  # whatever else is in it
    with StoreWriter(tmp_path / "a", FIELDS, 8) as writer:
        writer.append("clip2", clips["clip2"] + 1, "other content")
    assert Store(tmp_path / "a").digest(clips) != b.digest(clips)


def test_a_lost_chunk_is_noticed_and_only_its_clips_are_redone(tmp_path):
    clips = features(40)
    write(tmp_path / "s", clips)
    lost = sorted((tmp_path / "s" / "values.zarr" / "c").iterdir())[1] / "0"
    lost.unlink()
    with pytest.raises(StoreError, match="chunk file is missing"):
        Store(tmp_path / "s")
    with StoreWriter(tmp_path / "s", FIELDS, 8) as writer:
        kept = len(writer.content_hashes)
    assert 0 < kept < 40
    write(tmp_path / "s", clips)
    store = Store(tmp_path / "s")
    for clip_id, values in clips.items():
        np.testing.assert_array_equal(store[clip_id], values.astype(np.float16))


def test_a_lost_chunk_reads_as_nan_elsewhere_and_never_as_zeros(tmp_path):
    write(tmp_path / "s", features(40))
    (tmp_path / "s" / "values.zarr" / "c" / "0" / "0").unlink()
    assert np.isnan(zarr.open_array(tmp_path / "s" / "values.zarr", mode="r")[0]).all()


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path):
    clips = features(5)
    with StoreWriter(tmp_path / "s", FIELDS, 8) as writer:
        with pytest.raises(StoreError, match=f"another extraction is writing this store .process {os.getpid()}"):
            StoreWriter(tmp_path / "s", FIELDS, 8)
        with python(
            "from store_tools import features, write\nwrite(Path(path), features(5))", path=str(tmp_path / "s")
        ) as b:
            _, said = b.communicate()
        assert f"another extraction is writing this store (process {os.getpid()})" in said
        writer.append("clip0", clips["clip0"], "h")
    assert Store(tmp_path / "s").clip_ids == ["clip0"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((0, 8), np.float32), "time >= 1"),
        (np.zeros((3, 7), np.float32), "expected"),
        (np.zeros(8, np.float32), "expected"),
        (np.full((2, 8), np.nan, np.float32), "NaN"),
        (np.full((2, 8), 1e6, np.float32), "exceed float16"),
    ],
)
def test_bad_values_are_refused_and_leave_no_trace(tmp_path, values, message):
    with StoreWriter(tmp_path / "s", FIELDS, 8) as writer, pytest.raises(ValueError, match=message):
        writer.append("bad", values, "h")
    with StoreWriter(tmp_path / "s", FIELDS, 8) as writer:
        writer.append("good", np.ones((2, 8), np.float32), "h")
    assert Store(tmp_path / "s").clip_ids == ["good"]


def test_what_is_no_store_says_so(tmp_path):
    with pytest.raises(StoreError, match=r"no store\.json"):
        Store(tmp_path)
    write(tmp_path / "s", features(3))
    (tmp_path / "s" / "index.parquet").write_bytes(b"nonsense")
    with pytest.raises(StoreError, match=r"index\.parquet: damaged \(its SHA-256"):
        Store(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text("{")
    with pytest.raises(StoreError, match=r"store\.json: damaged \(its SHA-256"):
        Store(tmp_path / "s")


def test_the_index_is_a_table_that_anyone_can_read(tmp_path):
    clips = features(4)
    write(tmp_path / "s", clips)
    table = pq.read_table(tmp_path / "s" / "index.parquet").to_pydict()
    assert table["clip_id"] == list(clips)
    assert table["length"] == [len(v) for v in clips.values()]
    assert table["start"] == [sum(table["length"][:i]) for i in range(4)]
    assert set(table["fingerprint"]) == {Store(tmp_path / "s").fingerprint}
    assert table["content_hash"][2] == "hash of clip2"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_goes_to_worker_processes(tmp_path, method):
    clips = features(6)
    write(tmp_path / "s", clips)
    store = Store(tmp_path / "s")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=read_into, args=(store, "clip4", queue))
    worker.start()
    np.testing.assert_array_equal(queue.get(timeout=60), clips["clip4"].astype(np.float16))
    worker.join()


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=6))
def test_a_fingerprint_depends_on_content_and_not_on_order(fields):
    shuffled = dict(reversed(fields.items()))
    assert fingerprint(fields) == fingerprint(shuffled)
    changed = {**fields, "layer": object}
    changed["layer"] = "another" if fields.get("layer") != "another" else "third"
    assert fingerprint(changed) != fingerprint(fields)
    assert differing_fields(fields, changed) == ["layer"]
