"""Features for other programs, and out of pickles: what goes out comes in again, and nothing in a pickle runs."""

import json
import os
import pickle
import tarfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest
import torch
from foreign_features import mmsa
from hypothesis import given, settings
from hypothesis import strategies as st
from small_project import run
from store_tools import features, write

from cache import Store, StoreWriter
from cache.foreign.exports import FORMATS, write_whole
from cache.foreign.layouts import layout_of
from cache.foreign.pickles import read_pickle
from configs import UserError
from configs.schema import Source
from configs.tables import filled
from extract.arrays.names import Arrays

# --- export ---


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_exported_comes_in_again(kind: str, dtype: str, tmp_path: Path):
    clips = features(20)
    write(tmp_path / "store", clips, dtype=dtype)
    out = tmp_path / f"out{FORMATS[kind][0]}"
    done = run("cache/export", str(tmp_path / "store"), "--out", str(out))
    assert done.code == 0, done.err
    assert "20 clips, 8 numbers" in done.out
    store, arrays = Store(tmp_path / "store"), Arrays(Source(path=out))
    arrays.survey(list(clips))
    assert all(np.array_equal(arrays.read(clip)[0], store[clip]) for clip in clips)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".out")) == []


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.text("aZ0._-/$ é%", min_size=1, max_size=8).filter(
            lambda text: not {"", ".", ".."} & {*text.split("/")} and filled(text) == text
        ),
        st.tuples(st.integers(1, 4), st.integers(-3, 3)),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(sorted(FORMATS)),
)
def test_any_id_comes_in_again(tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, Any], kind: str):
    clips = {name: np.full((n, 2), value, dtype=np.float32) for name, (n, value) in shapes.items()}
    if kind == "hdf5" and any(b.startswith(f"{a}/") for a in clips for b in clips):  # a clip is no group
        return
    out = tmp_path_factory.mktemp("out") / f"out{FORMATS[kind][0]}"
    write_whole(out, FORMATS[kind][1], clips.items())
    arrays = Arrays(Source(path=out))
    arrays.survey(list(clips))
    assert all(np.array_equal(arrays.read(name)[0], values) for name, values in clips.items())


def test_exports_are_what_their_readers_expect(tmp_path: Path):
    write(tmp_path / "store", features(3))
    for ending in (".npz", ".h5", ".parquet", ".tar"):
        assert run("cache/export", str(tmp_path / "store"), "--out", str(tmp_path / f"x{ending}")).code == 0
    store = Store(tmp_path / "store")
    with np.load(tmp_path / "x.npz") as npz, h5py.File(tmp_path / "x.h5") as file:
        assert all(np.array_equal(npz[clip], store[clip]) for clip in store.clip_ids)
        assert all(np.array_equal(file[clip][()], store[clip]) for clip in store.clip_ids)
    table = pl.read_parquet(tmp_path / "x.parquet")
    assert table["clip_id"].to_list() == [clip for clip in store.clip_ids for _ in store[clip]]
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == [f"{clip}.{ending}" for clip in store.clip_ids for ending in ("npy", "json")]
        content = tar.extractfile("clip0.json")
        assert content is not None
        assert json.load(content)["clip_id"] == "clip0"


def test_an_export_says_where_layers_stand(tmp_path: Path):
    fields = {"layers": {"taken": [[0, 1], [4, 3]], "statistics": ["mean", "deviation"]}}
    with StoreWriter(tmp_path / "store", fields, dim=8) as writer:
        writer.append("a", np.ones((1, 8), np.float16), "0" * 32)
        writer.commit()
    done = run("cache/export", str(tmp_path / "store"), "--out", str(tmp_path / "x.npz"))
    assert "its mean, then its deviation, layer after layer: number (width): 0 (1), 4 (3)" in done.out


def test_an_export_that_cannot_be_leaves_what_was(tmp_path: Path):
    write(tmp_path / "store", features(3))
    out = tmp_path / "x.npz"
    out.write_text("before")
    chunk = tmp_path / "store" / "values.zarr" / "c" / "0" / "0"
    chunk.write_bytes(b"\xff" * chunk.stat().st_size)
    done = run("cache/export", str(tmp_path / "store"), "--out", str(out))
    assert done.code == 2
    assert "not those that were written" in done.err
    assert out.read_text() == "before"
    assert "say which format" in run("cache/export", str(tmp_path / "store"), "--out", "x.foo").err
    assert "not a feature store" in run("cache/export", str(tmp_path), "--out", "x.npz").err


# --- pickles ---

HELD = {
    "arrays": [np.arange(6).reshape(2, 3).astype(dtype) for dtype in ("<f4", ">f8", "f2", "<i8", "u1", "?")],
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "texts": np.array(["a", "ö"]),
    "empty": np.zeros((0, 3), dtype=np.float32),
}
PLAIN = {"a": [1, 2.5, None, True, "ö", 3 + 4j], "t": (1, "x"), "o": OrderedDict(k=1), "d": defaultdict(list, k=[1])}


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_plain_values_are_read(protocol: int, tmp_path: Path):
    path = tmp_path / "x.pkl"
    objects = np.array([["a", None], [1.5, np.float32(2)]], dtype=object)
    held = HELD | PLAIN | {"objects": objects, "s": {1, 2}, "b": b"bytes", "n": np.float64(1.5), "flag": np.bool_(True)}
    path.write_bytes(pickle.dumps(held, protocol))
    found = read_pickle(path)
    for one, other in zip(
        [*found.pop("arrays"), *map(found.pop, list(HELD)[1:])],
        [*HELD["arrays"], *list(HELD.values())[1:]],
        strict=True,
    ):
        assert np.array_equal(one, other)
        assert one.dtype.kind == other.dtype.kind
    assert found == {
        "a": [1, 2.5, None, True, "ö", 3 + 4j],
        "t": [1, "x"],
        "o": {"k": 1},
        "d": {"k": [1]},
        "objects": [["a", None], [1.5, 2.0]],
        "s": [1, 2],
        "b": "bytes",
        "n": 1.5,
        "flag": True,
    }


def test_pickles_of_python_2_and_of_numpy_1(tmp_path: Path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"(dp0\nS'caf\\xc3\\xa9'\np1\nS'\\xe9'\np2\ns.")
    assert read_pickle(path) == {"café": "é"}
    content = pickle.dumps(np.arange(3.0), 2)
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_pickle(path).tolist() == [0, 1, 2]


class Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("held", "said"),
    [
        (Runs(), "holds posix.system, which is not unpickled"),
        (np.array([Runs()], dtype=object), "posix.system"),
        (torch.zeros(2), "holds torch._utils.*with PyTorch"),
        (print, r"holds (__builtin__|builtins)\.print"),
        (np.zeros(2, dtype=[("a", "f4")]), "a structured NumPy array"),
        (np.array(["2020"], dtype="M8[D]"), "the NumPy type 'M8'"),
        (Path("x"), "holds pathlib"),
        (range(3), "range"),
    ],
)
def test_anything_else_is_refused_by_name(
    held: Any, said: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(held, protocol))
    with pytest.raises(UserError, match=said):
        read_pickle(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        pickle.dumps(HELD, 4)[:200],
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",  # bytes, more than there can be
        b"\x80\x02cbuiltins\nset\n}U\x01aK\x01sb.",  # attributes of a class
        b"\x80\x02cbuiltins\nset\n)\x81.",  # an object without its class being called
        b"\x80\x02cnumpy\ndtype\nU\x02f4\x85R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb}b.",
        b"cnumpy\nndarray\n.",
        b"P1\n.",
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_what_is_no_pickle_ends_in_one_line(content: bytes, tmp_path: Path):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_pickle(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert ("git lfs pull" in str(error.value)) == content.startswith(b"version")


def test_lists_that_stand_for_more_than_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cache.foreign.pickles.MOST_VALUES", 1000)
    held: list[Any] = []
    for _ in range(40):
        held = [held, held]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(held))
    with pytest.raises(UserError, match="more than 1,000 values"):
        read_pickle(tmp_path / "x.pkl")
    held.append(held)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(held))
    with pytest.raises(UserError, match="nested too deeply"):
        read_pickle(tmp_path / "x.pkl")


# --- layouts ---


def test_mmsas_files_become_what_ingest_and_manifest_read(tmp_path: Path):
    (tmp_path / "aligned_50.pkl").write_bytes(pickle.dumps(mmsa()))
    done = run("cache/unpickle", str(tmp_path / "aligned_50.pkl"))
    assert done.code == 0, done.err
    assert "vision: no vision_lengths: rows of zeros" in done.out
    folder = tmp_path / "aligned_50"
    assert sorted(path.name for path in folder.iterdir()) == ["audio.npz", "clips.parquet", "text.npz", "vision.npz"]
    ids = ["a$_$0", "a$_$1", "b$_$0", "c$_$0"]
    for name, shape in (("audio", (3, 2)), ("vision", (2, 3)), ("text", (4, 4))):
        arrays = Arrays(Source(path=folder / f"{name}.npz"))
        assert [reason for _, reason in arrays.survey(ids).each(ids)] == [""] * 4
        assert {arrays.read(clip)[0].shape for clip in ids} == {shape}
    table = pl.read_parquet(folder / "clips.parquet")
    assert table.columns == ["clip_id", "split", "raw_text", "regression_labels", "annotations"]
    assert table["split"].to_list() == ["train", "train", "val", "test"]
    assert table["raw_text"].to_list() == [f"so {each}" for each in ids]


@pytest.mark.parametrize(
    "held",
    [
        {"a": np.ones((2, 3)), "b": np.ones((4, 3)), "c": np.ones((1, 3))},
        {clip: {"x": np.ones((2, 3)), "label": "happy"} for clip in "abc"},
        {"x": {clip: np.ones((2, 3)) for clip in "abc"}},
        [{"id": clip, "x": np.ones((2, 3)).tolist(), "label": 1.0} for clip in "abc"],
        {"id": ["a", "b", "c"], "x": np.ones((3, 2, 3)), "label": [1, 2, 3]},
        {"train": {"ids": [["a"], ["b"], ["c"]], "x": np.ones((3, 2, 3))}},
    ],
)
def test_layouts_by_clips(held: Any):
    found = layout_of(held, "x")
    assert {name: list(arrays) for name, arrays in found.features.items()} == {"x": ["a", "b", "c"]}
    assert all(values.shape[1] == 3 for values in found.features["x"].values())


@pytest.mark.parametrize(
    "held", [3, [1, 2], {"a": "b"}, {}, [], {"a": {"b": 1}}, {"train": {"id": ["a", "a"], "x": []}}]
)
def test_what_has_no_layout_is_outlined(held: Any, tmp_path: Path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(held))
    done = run("cache/unpickle", str(tmp_path / "x.pkl"))
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert run("cache/unpickle", str(tmp_path / "x.pkl"), "--outline").code == 0
    assert not (tmp_path / "x").exists()
