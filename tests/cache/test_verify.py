"""No bit of a store flips unnoticed, repair costs only the clips that are damaged, and a copy is the same store."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shells import REPOSITORY
from store_tools import BACKENDS, FIELDS, all_files, features, write

import cache.convert
import cache.info
import cache.verify
from cache import Store, StoreError, StoreWriter, attach
from cache.checks import inspect
from cache.disk.unfinished import begin, begun, end
from cache.repair import repair
from configs import UserError

ROOT = REPOSITORY
CLIPS = features(40)


@pytest.fixture(scope="module", params=BACKENDS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp(request.param) / "s"
    write(path, CLIPS, backend=request.param)
    attach(path, "errors.parquet", lambda file: file.write(b"clip_id, stage, reason" * 9))
    return path


def run(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "cache" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def convert(store: Path, destination: Path, backend: Literal["zarr", "hdf5"] | None = None) -> None:
    cache.convert.main(store, destination, backend)


def hurt(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def clips_in_chunk(path: Path, i: int) -> set[str]:
    index = pq.read_table(path / "index.parquet").to_pylist()
    rows = 65  # of dim 8 in float16 with chunk_mb 0.001
    return {e["clip_id"] for e in index if e["start"] < (i + 1) * rows and e["start"] + e["length"] > i * rows}


def chunk_files(path: Path) -> list[Path]:
    return sorted(path.glob("values.zarr/c/*/0")) + sorted(path.glob("values/*.h5"))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_in_any_file_is_found_and_the_file_named(written, data):
    name = data.draw(st.sampled_from(sorted(all_files(written))))
    content = (written / name).read_bytes()
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    try:
        hurt(written / name, place, bit)
        assert list(inspect(written).damaged_files) == [name]
    finally:
        (written / name).write_bytes(content)
    assert inspect(written).whole


@pytest.mark.soak
def test_flipped_bits_all_over_every_file_are_found(written):
    for name, content in all_files(written).items():
        for place in range(0, len(content), 3):
            hurt(written / name, place, place % 8)
            assert list(inspect(written).damaged_files) == [name]
            (written / name).write_bytes(content)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_repair_drops_the_damaged_clips_alone_and_the_next_pass_restores_them(written, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "s"
    shutil.copytree(written, path)
    chunk = data.draw(st.sampled_from(range(len(chunk_files(path)))))
    file = chunk_files(path)[chunk]
    kind = data.draw(st.sampled_from(["bit", "cut", "missing"]))
    if kind == "bit":
        hurt(file, data.draw(st.integers(0, file.stat().st_size - 1)), data.draw(st.integers(0, 7)))
    elif kind == "cut":
        with file.open("rb+") as opened:
            opened.truncate(data.draw(st.integers(0, file.stat().st_size - 1)))
    else:
        file.unlink()
    report = inspect(path)
    assert set(report.damaged_files) == {file.relative_to(path).as_posix()}
    if kind == "bit":
        assert len(report.damaged_clips) <= 1
    assert set(report.damaged_clips) <= clips_in_chunk(path, chunk)
    repair(path, report)
    assert inspect(path).whole
    store = Store(path)
    assert set(CLIPS) - set(store.clip_ids) == set(report.damaged_clips)
    for clip_id in store.clip_ids:
        np.testing.assert_array_equal(store[clip_id], CLIPS[clip_id].astype(np.float16))
    write(path, CLIPS, backend=store.backend)
    assert inspect(path).whole
    store = Store(path)
    for clip_id, values in CLIPS.items():
        np.testing.assert_array_equal(store[clip_id], values.astype(np.float16))


def test_swapped_chunks_are_noticed_though_each_is_whole(written, tmp_path):
    shutil.copytree(written, tmp_path / "s")
    first, second, *_ = chunk_files(tmp_path / "s")
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    report = inspect(tmp_path / "s")
    assert set(report.damaged_clips) == clips_in_chunk(written, 0) | clips_in_chunk(written, 1)
    repair(tmp_path / "s", report)
    assert inspect(tmp_path / "s").whole


@pytest.mark.parametrize("name", ["checksums.json", "errors.parquet", "shape"])
def test_what_can_be_made_again_is(written, tmp_path, name):
    path = tmp_path / "s"
    shutil.copytree(written, path)
    if name == "shape":
        name = "values.zarr/zarr.json" if Store(path).backend == "zarr" else "values.h5"
    hurt(path / name, 20)
    repair(path, inspect(path))
    assert inspect(path).whole
    assert Store(path).clip_ids == list(CLIPS)
    if name != "errors.parquet":
        assert all_files(path) == all_files(written)


@pytest.mark.parametrize("name", ["store.json", "index.parquet"])
@pytest.mark.parametrize("how", ["byte", "missing"])
def test_what_cannot_be_made_again_is_said_so(written, tmp_path, name, how):
    path = tmp_path / "s"
    shutil.copytree(written, path)
    if how == "byte":
        hurt(path / name, 30)
        hurt(path / name, 30, bit=3)
    else:
        (path / name).unlink()
    report = inspect(path)
    assert set(report.damaged_files) == {name}
    with pytest.raises(StoreError, match=rf"{name}.*cannot be repaired"):
        repair(path, report)
    with pytest.raises(UserError, match="cannot be repaired") as caught:
        cache.verify.main(path, repair_it=True)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", ["store.json", "index.parquet"])
def test_one_changed_bit_is_found_and_put_right(written, tmp_path, name):
    path = tmp_path / "s"
    shutil.copytree(written, path)
    hurt(path / name, 30)
    with pytest.raises(StoreError, match=rf"{name}: damaged"):
        Store(path)
    assert repair(path, inspect(path)) == [f"{name}: one bit of it had changed, and is put right"]
    assert all_files(path) == all_files(written)


def test_what_looks_odd_is_named_and_is_no_damage(tmp_path):
    ones = np.ones((3, 8), np.float32)
    with StoreWriter(tmp_path / "s", FIELDS, 8) as writer:
        writer.append("zeros", 0 * ones, "silence")
        writer.append("still", ones, "a")
        writer.append("still again", ones, "b")
        writer.append("text", CLIPS["clip1"], "yes")
        writer.append("same text", CLIPS["clip1"], "yes")
    (tmp_path / "s" / "notes.txt").write_text("mine")
    report = inspect(tmp_path / "s")
    assert report.whole
    assert [str(finding) for finding in report.suspicious] == [
        "clip 'zeros': its values are all zero",
        "clip 'still': its values are the same at every time step",
        "clip 'still again': its values are the same at every time step",
        "clip 'still': has the same values as 'still again', from other content",
    ]
    assert report.n_same == 1
    assert [str(finding) for finding in report.strangers] == ["notes.txt: does not belong to the store"]


def test_features_that_were_never_finite_are_damage(tmp_path, monkeypatch):
    monkeypatch.setattr("cache.writer.all_finite", lambda values: True)
    with StoreWriter(tmp_path / "s", FIELDS, 8) as writer:
        writer.append("bad", np.full((3, 8), np.inf, np.float32), "a")
        writer.append("good", CLIPS["clip1"], "b")
    report = inspect(tmp_path / "s")
    assert {k: v.what for k, v in report.damaged_clips.items()} == {"bad": "its values hold NaN or infinity"}
    repair(tmp_path / "s", report)
    assert Store(tmp_path / "s").clip_ids == ["good"]


def test_the_scripts_say_what_they_found_and_what_to_do(written, tmp_path, capsys, monkeypatch):
    path = tmp_path / "runs" / "mine" / "stores" / "audio"
    shutil.copytree(written, path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path)
    cache.verify.main(path)
    hurt(chunk_files(path)[2], -400)
    with pytest.raises(UserError, match="damaged: 1 files, 1 clips; --repair") as caught:
        cache.verify.main(path)
    assert caught.value.exit_code == 1
    cache.verify.main(path, repair_it=True)
    assert "python extract/run.py --config mine --encoder audio" in capsys.readouterr().out
    cache.verify.main(path)
    with pytest.raises(StoreError, match="not a feature store"):
        cache.verify.main(tmp_path)
    with (
        StoreWriter(path, FIELDS, 8, backend=Store(path).backend),
        pytest.raises(StoreError, match="being written by process"),
    ):
        cache.verify.main(path)


def test_exit_codes_and_one_line_errors_of_the_scripts(tmp_path):
    write(tmp_path / "s", CLIPS)
    assert run("verify.py", tmp_path / "s").returncode == 0
    assert run("convert.py", tmp_path / "s", tmp_path / "copy", "--backend", "hdf5").returncode == 0
    hurt(chunk_files(tmp_path / "s")[0], 100)
    said = run("verify.py", tmp_path / "s")
    assert (said.returncode, said.stderr.count("\n")) == (1, 1)
    said = run("info.py", tmp_path)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)


def test_info_says_what_a_store_is(tmp_path, capsys):
    with StoreWriter(tmp_path / "s", FIELDS, 8) as writer:
        writer.append("a", np.ones((3, 8), np.float32), "h")
        writer.append("b", np.ones((7, 8), np.float32), "h")
        writer.append("a", np.ones((4, 8), np.float32), "h2")
        writer.commit()
        cache.info.main(tmp_path / "s")
    errors = pa.table({"clip_id": ["c", "d", "e"], "stage": ["decode", "read", "decode"], "reason": ["x", "y", "z"]})
    attach(tmp_path / "s", "errors.parquet", lambda file: pq.write_table(errors, file))
    said = capsys.readouterr().out
    for expected in ("4 min, 5.5 median, 7 max", "14: 11 live, 3 dead", "float16, 8 a time step, zarr", "by process"):
        assert expected in said
    cache.info.main(tmp_path / "s")
    said = capsys.readouterr().out
    assert "2 decode, 1 read" in said
    assert "damaged " not in said
    damaged = pa.table({"clip_id": ["a"], "share": [0.1], "reason": ["x"]})
    attach(tmp_path / "s", "damaged.parquet", lambda file: pq.write_table(damaged, file))
    cache.info.main(tmp_path / "s")
    assert "1 clips, stored without what could not be decoded" in capsys.readouterr().out


def test_zarr_to_hdf5_and_back_gives_the_same_bytes(written, tmp_path):
    other = "hdf5" if Store(written).backend == "zarr" else "zarr"
    convert(written, tmp_path / "there", other)
    assert Store(tmp_path / "there").backend == other
    assert inspect(tmp_path / "there").whole
    convert(tmp_path / "there", tmp_path / "back", Store(written).backend)
    assert all_files(tmp_path / "back") == all_files(written)
    with pytest.raises(StoreError, match="is another store already"):
        convert(written, tmp_path / "there")
    with pytest.raises(StoreError, match="is the store itself"):
        convert(written, written)
    with pytest.raises(StoreError, match="is no store"):
        convert(written, tmp_path)


def test_a_store_of_more_chunks_than_a_process_may_open_files(written, tmp_path):
    """Read by five readers, with every value in hand, and copied."""
    backend, other = Store(written).backend, "hdf5" if Store(written).backend == "zarr" else "zarr"
    clips = {f"clip{i}": np.full((4, 64), i, dtype=np.float32) for i in range(350)}
    write(tmp_path / "s", clips, every=1000, backend=backend, chunk_mb=0.0005)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        stores = [Store(tmp_path / "s") for _ in range(5)]
        held = [{clip_id: store[clip_id] for clip_id in clips} for store in stores]
        convert(tmp_path / "s", tmp_path / "copy", other)
        assert inspect(tmp_path / "copy").whole
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert all((values[clip_id] == clips[clip_id]).all() for values in held for clip_id in clips)


def test_a_copy_leaves_dead_rows_out_and_goes_on_where_it_was(written, tmp_path):
    path, backend = tmp_path / "s", Store(written).backend
    shutil.copytree(written, path)
    with StoreWriter(path, FIELDS, 8, backend=backend) as writer:
        writer.append("clip3", CLIPS["clip3"], "again")
        writer.drop("clip7")
    write(tmp_path / "copy", {clip_id: CLIPS[clip_id] for clip_id in ("clip0", "clip1")}, backend=backend)
    convert(path, tmp_path / "copy")
    with StoreWriter(tmp_path / "copy", FIELDS, 8, backend=backend) as writer:
        assert writer.dead_rows == 0
    copy, source = Store(tmp_path / "copy"), Store(path)
    assert copy.clip_ids == source.clip_ids
    assert copy.fingerprint == source.fingerprint
    for clip_id in copy.clip_ids:
        np.testing.assert_array_equal(copy[clip_id], source[clip_id])
    hurt(chunk_files(path)[2], -400)
    with pytest.raises(StoreError, match=r"are damaged: python cache/verify\.py"):
        convert(path, tmp_path / "third")
    write(tmp_path / "more", {**CLIPS, "foreign": CLIPS["clip1"]}, backend=backend)
    with pytest.raises(StoreError, match="holds clips that"):
        convert(written, tmp_path / "more")


def test_half_a_store_is_not_copied_as_a_whole(tmp_path, capsys):
    half, copy = tmp_path / "half", tmp_path / "copy"
    write(half, CLIPS)
    begin(half, "mine.audio", 699)
    n_clips = len(Store(half))
    with pytest.raises(StoreError, match=f"mine.audio has not finished: {n_clips} clips are stored, 699 are to be tri"):
        convert(half, copy)
    assert not copy.exists()
    cache.convert.main(half, copy, None, unfinished=True)
    assert "has not finished" in capsys.readouterr().out
    assert begun(copy) == {"mine.audio": 699}  # a copy of a half is one, too
    cache.info.main(copy)
    assert "mine.audio (699 clips)" in capsys.readouterr().out
    end(half, "mine.audio")
    convert(half, copy)
    assert begun(copy) == {}
    assert all_files(copy) == all_files(half)


def test_the_reader_in_the_documentation_reads_both_backends(written):
    text = (ROOT / "docs" / "store.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    store = Store(written)
    for clip_id in store.clip_ids:
        read = names["read_clip"](written, clip_id)  # type: ignore[operator]
        assert read.dtype == store.dtype
        np.testing.assert_array_equal(read, store[clip_id])
