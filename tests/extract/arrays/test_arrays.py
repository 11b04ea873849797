"""Arrays that others computed: equal whatever they lie in, found by the clips' ids, refused where they are none."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import kaldiio
import numpy as np
import polars as pl
import pytest
import torch
import zarr
from foreign_features import KINDS, made_up
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from configs import UserError
from configs.schema import Source
from extract.arrays.names import Arrays, match
from extract.arrays.reader import ArrayError, as_features
from extract.media.hashing import ChangedError

CLIPS = made_up(12, 3)


def read_all(path: Path, **said: object) -> dict[str, np.ndarray]:
    arrays = Arrays(Source(path=path, **said))  # type: ignore[arg-type]
    ids = list(CLIPS)
    return {
        clip: arrays.read(clip)[0] for clip, (found, _) in zip(ids, arrays.survey(ids).each(ids), strict=True) if found
    }


def why(path: Path, clip: str = "c0", **said: object) -> str:
    """Why a clip has no features."""
    (found,) = Arrays(Source(path=path, **said)).survey([clip]).each([clip])  # type: ignore[arg-type]
    assert found[0] is None
    return found[1]


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_are_equal_whatever_they_lie_in(kind: str, tmp_path: Path):
    path = KINDS[kind](CLIPS, tmp_path / "features")
    found = read_all(path)
    assert found.keys() == CLIPS.keys()
    assert all(found[clip].dtype == np.float32 and np.array_equal(found[clip], CLIPS[clip]) for clip in CLIPS)
    ids = list(CLIPS)
    hashes = list(Arrays(Source(path=path)).survey(ids).each(ids))
    assert hashes == list(Arrays(Source(path=KINDS["npz"](CLIPS, tmp_path / "same"))).survey(ids).each(ids))


# --- what an array must be ---


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((0, 3)), "holds nothing"),
        (np.zeros(0), "holds nothing"),
        (np.float32(1), "its shape is a single number"),
        (np.zeros((2, 2, 3)), "its shape is 2 x 2 x 3"),
        (np.zeros((2, 4)), "4 numbers a time step, and not 3"),
        (np.zeros((2, 3), dtype=complex), "holds complex numbers"),
        (np.array([["a", "b", "c"]]), "holds text"),
        (np.array([[1, 2, np.nan], [1, 2, 3], [np.inf, 0, 0]]), "2 of 3 time steps hold NaN or infinity"),
        (np.full((2, 3), 1e300), "2 of 2 time steps hold numbers beyond float32"),
    ],
)
def test_what_are_no_features_is_said(array: np.ndarray, said: str):
    with pytest.raises(ArrayError, match=said):
        as_features(np.asarray(array), 3)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int16", "uint8", "bool"])
def test_numbers_of_any_type_are_features(dtype: str):
    array = np.array([[0, 1, 1], [1, 0, 1]], dtype=dtype)
    assert np.array_equal(as_features(array, 3), array.astype(np.float32))


def test_a_vector_is_a_time_step_and_a_batch_of_one_is_none():
    assert as_features(np.arange(3), 3).shape == (1, 3)
    assert as_features(np.zeros((1, 5, 3)), 3).shape == (5, 3)


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from("CF"))
def test_order_in_memory_changes_nothing(n: int, dim: int, order: str):
    values = np.arange(n * dim, dtype=np.float64).reshape(n, dim)
    assert np.array_equal(as_features(np.asarray(values, order=order), dim), values)  # type: ignore[call-overload]


# --- ids ---


def test_an_array_is_found_by_its_whole_name_or_its_last_part():
    found = match(["a", "x/b", "c", "d"], ["a", "y/a", "x/b", "y/c", "z/c", "q"], None)
    assert found.array == {"a": "a", "x/b": "x/b"}
    assert found.several == {"c": ["y/c", "z/c"]}
    assert found.strangers == ["y/a", "q"]


def test_a_pattern_says_what_of_a_name_is_the_id():
    found = match(["a", "b"], ["a/audio", "b/audio", "a/video", "zz/audio"], "^(.+)/audio$")
    assert found.array == {"a": "a/audio", "b": "b/audio"}
    assert found.strangers == ["zz/audio"]
    assert found.unlike == ["a/video"]


def test_where_no_id_matches_both_sides_are_shown(tmp_path: Path):
    path = KINDS["npz"]({"x_c0": CLIPS["c0"]}, tmp_path / "features")
    with pytest.raises(UserError, match=r"none of its 1 arrays .* 'x_c0', and the clips are 'c0', 'c1'.*pattern"):
        Arrays(Source(path=path)).survey(["c0", "c1"])
    ((found, _),) = Arrays(Source(path=path, pattern="x_(.+)")).survey(["c0"]).each(["c0"])
    assert found


def test_arrays_of_no_clip_are_counted_and_named(tmp_path: Path):
    arrays = Arrays(Source(path=KINDS["npz"](CLIPS, tmp_path / "features")))
    assert any("left out: 10: 'c2', 'c3', 'c4' (and 7 more)" in note for note in arrays.survey(["c0", "c1"]).notes)


def test_the_width_is_that_of_most_arrays_or_the_one_that_is_said(tmp_path: Path):
    odd = CLIPS | {"c0": np.zeros((2, 5), dtype=np.float32)}
    path = KINDS["npz"](odd, tmp_path / "features")
    assert "5 numbers a time step, and not 3" in why(path)
    assert list(read_all(path, width=5)) == ["c0"]
    with pytest.raises(UserError, match=r"source\.width = 4: none of its arrays is"):
        Arrays(Source(path=path, width=4))
    two = KINDS["npz"]({"c0": odd["c0"], "c1": odd["c1"]}, tmp_path / "two")
    with pytest.raises(UserError, match=r"as many arrays .* source\.width says"):
        Arrays(Source(path=two))


def test_an_array_that_changes_after_it_was_looked_at_is_not_taken(tmp_path: Path):
    path = KINDS["npy"](CLIPS, tmp_path / "features")
    arrays = Arrays(Source(path=path))
    ((content, _),) = arrays.survey(["c0"]).each(["c0"])
    np.save(path / "part0" / "c0.npy", CLIPS["c0"] + 1)
    with pytest.raises(ChangedError):
        arrays.read("c0", content)
    (path / "part0" / "c0.npy").unlink()
    with pytest.raises(FileNotFoundError):
        arrays.read("c0", content)


def test_a_worker_that_has_looked_at_nothing_reads_the_same(tmp_path: Path):
    path = KINDS["npy"](CLIPS, tmp_path / "features")
    values, content = Arrays(Source(path=path)).read("c0")
    assert np.array_equal(values, CLIPS["c0"])
    assert Arrays(Source(path=path)).read("c0", content)[1] == content
    with pytest.raises(ChangedError):
        Arrays(Source(path=path)).read("nobody", content)


# --- columns and rows ---


def test_columns_are_chosen_by_name_and_keep_their_names(tmp_path: Path):
    path = KINDS["frames"](CLIPS, tmp_path / "features")
    arrays = Arrays(Source(path=path, columns=["f2", "f0"]))
    arrays.survey(["c1"])
    assert arrays.columns == ("f2", "f0")
    assert np.array_equal(arrays.read("c1")[0], CLIPS["c1"][:, [2, 0]])
    assert Arrays(Source(path=path, columns=["f[01]"])).columns == ("f0", "f1")
    with pytest.raises(UserError, match=r"no column 'AU\*'; it has frame, confidence, f0"):
        Arrays(Source(path=path, columns=["AU*"]))


def test_rows_are_kept_by_what_stands_in_a_column(tmp_path: Path):
    folder = tmp_path / "faces"
    folder.mkdir()
    (folder / "c0.csv").write_text("frame, success, AU01_r\n1, 1, 0.5\n2, 0, 0.0\n3, 1.0, 0.25\n")
    (folder / "c1.csv").write_text("frame, success, AU01_r\n1, 0, 0.0\n")
    assert any("success" in note for note in Arrays(Source(path=folder)).survey(["c0"]).notes)
    assert read_all(folder, rows={"success": 1})["c0"].tolist() == [[0.5], [0.25]]
    assert "none of its 1 rows" in why(folder, "c1", rows={"success": 1})


def test_semicolons_and_the_quotes_of_opensmile(tmp_path: Path):
    path = tmp_path / "egemaps.csv"
    path.write_text("name;frameTime;F0;jitter\n'c0';0.0;1.5;0.25\n'c0';0.1;2.5;0.5\n'c1';0.0;1;2\n")
    arrays = Arrays(Source(path=path, id_column="name"))
    arrays.survey(["c0"])
    assert arrays.columns == ("F0", "jitter")
    assert arrays.read("c0")[0].tolist() == [[1.5, 0.25], [2.5, 0.5]]


def test_the_first_file_may_be_empty(tmp_path: Path):
    path = KINDS["frames"](CLIPS, tmp_path / "features")
    (path / "a.csv").write_text("")
    (path / "b.csv").write_text("frame, confidence, f0, f1, f2\n")
    assert read_all(path).keys() == CLIPS.keys()
    for clip in CLIPS:
        (path / f"{clip}.csv").unlink()
    with pytest.raises(UserError, match=r"a\.csv: empty"):
        Arrays(Source(path=path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("frame,f0,f1,f2\n1,1,x,3\n", "conversion error"),
        ("frame,f0,f1,f2\n1,1,2\n", "Expected 4 columns, got 3"),
        ("frame,f0,f1\n1,1,2\n", "has no column 'f2'"),
        ("frame,f0,f1,f2\n1,1,,3\n", "1 of 1 time steps hold NaN"),
        ("frame,f0,f1,f2\n", "holds nothing"),
        ("", "empty"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("frame,f0,f1,f2\n1,2,3,4\0\n", "conversion error"),
    ],
)
def test_a_csv_that_is_none_costs_its_clip(content: str, said: str, tmp_path: Path):
    path = KINDS["frames"]({f"a{name}": values for name, values in CLIPS.items()}, tmp_path / "features")
    (path / "c0.csv").write_text(content)
    assert said in why(path)


def test_a_table_may_hold_lists_or_integers_as_ids(tmp_path: Path):
    path = tmp_path / "table.parquet"
    pl.DataFrame({"n": [7, 8, 8], "x": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "y": [1, 2, 3]}).write_parquet(path)
    arrays = Arrays(Source(path=path, id_column="n"))
    arrays.survey(["7", "8"])
    assert arrays.read("8")[0].tolist() == [[3, 4], [5, 6]]
    pl.DataFrame({"clip_id": ["a", "b", "c", "c"], "x": [1, 2, 3, 4]}).write_parquet(path)
    assert "most clips have one row, and 1 have several: c" in Arrays(Source(path=path)).survey(["a"]).notes
    pl.DataFrame({"clip_id": ["c0", "c1"], "x": [[1.0, None], None]}).write_parquet(path)
    assert "1 of 1 time steps hold NaN" in why(path)
    assert "no values" in why(path, "c1")


# --- files that are none, or hold more than numbers ---


def test_nothing_is_unpickled(tmp_path: Path):
    for name in ("x.pkl", "x.joblib"):
        (tmp_path / name).write_bytes(b"\x80\x04N.")
        with pytest.raises(UserError, match=rf"python cache/unpickle\.py .*{name}"):
            Arrays(Source(path=tmp_path / name))
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(UserError, match="safetensors"):
        Arrays(Source(path=tmp_path / "x.pt"))
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "c0.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "c1.npy", np.zeros(3))
    assert "only unpickling reads" in why(folder)
    kaldiio.save_ark(str(tmp_path / "x.ark"), {"c0": np.zeros((2, 3))}, write_function="pickle")
    with pytest.raises(UserError, match="not in Kaldi's binary form"):
        Arrays(Source(path=tmp_path / "x.ark"))


def test_a_list_of_kaldi_runs_nothing(tmp_path: Path):
    path = tmp_path / "feats.scp"
    for line in (f"c0 touch {tmp_path / 'ran'} |", f"c0 | touch {tmp_path / 'ran'}"):
        path.write_text(line)
        with pytest.raises(UserError, match="line 1 is a command, and none is run"):
            Arrays(Source(path=path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("method", [1, 2, 3, 4, 5, 6, 7])
def test_kaldis_compressed_matrices(method: int, tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 200, (9, 5)).astype(np.float32)
    path = str(tmp_path / "x.ark")
    kaldiio.save_ark(path, {"c0": values}, compression_method=method)
    arrays = Arrays(Source(path=Path(path)))
    arrays.survey(["c0"])
    np.testing.assert_allclose(arrays.read("c0")[0], dict(kaldiio.load_ark(path))["c0"], rtol=1e-6, atol=1e-5)


def test_hdf5_that_leads_elsewhere_is_not_followed(tmp_path: Path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["c0"] = np.zeros((2, 3))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["c1"] = np.zeros((2, 3))
        file["c0"] = h5py.ExternalLink("other.h5", "c0")
        layout = h5py.VirtualLayout((2, 3), dtype="f4")
        layout[...] = h5py.VirtualSource(str(tmp_path / "other.h5"), "c0", (2, 3))
        file.create_virtual_dataset("c2", layout)
    with pytest.raises(UserError, match="it has 'c1', 'c2', and the clips are 'c0'"):
        why(tmp_path / "x.h5")
    assert "in another file" in why(tmp_path / "x.h5", "c2")


def test_a_lost_chunk_of_zarr_does_not_read_as_zeros(tmp_path: Path):
    path = KINDS["zarr"](CLIPS, tmp_path / "features")
    (path / "c0" / "c" / "0" / "0").unlink()
    assert "1 of its 1 chunks are not there" in why(path)


def test_bfloat16_tensors(tmp_path: Path):
    values = torch.arange(6.0).reshape(2, 3)
    save_file({"c0": values.bfloat16(), "c1": values.double()}, tmp_path / "x.safetensors")
    assert np.array_equal(read_all(tmp_path / "x.safetensors")["c0"], values.numpy())


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _claim(path: Path) -> None:
    """A header that claims more than there is."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 3)})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_cut, "cut short"),
        (_claim, "bytes in one array"),
        (lambda path: path.write_bytes(b"nothing"), "no .npy file"),
        (lambda path: path.write_bytes(b""), "no .npy file"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
    ],
)
def test_a_broken_npy_costs_its_clip(spoil: Callable[[Path], object], said: str, tmp_path: Path):
    path = KINDS["npy"]({"c0": np.zeros((40, 3)), "c1": np.zeros((1, 3))}, tmp_path / "features")
    spoil(path / "part0" / "c0.npy")
    assert said in why(path)
    assert "c1" in read_all(path)


@pytest.mark.parametrize("ending", [".npz", ".h5", ".safetensors", ".parquet", ".ark", ".scp", ".tar", ".csv"])
@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"version https://git-lfs.github.com/spec/v1\noid x\n"])
def test_what_is_no_such_file_ends_in_one_line(ending: str, content: bytes, tmp_path: Path):
    path = tmp_path / f"x{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        Arrays(Source(path=path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert ("Git LFS" in str(error.value)) == content.startswith(b"version")


def test_a_damaged_member_of_an_npz_costs_its_clip(tmp_path: Path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **CLIPS)  # type: ignore[arg-type]
    with zipfile.ZipFile(path) as file:
        offset = file.getinfo("c0.npy").header_offset
    content = bytearray(path.read_bytes())
    content[offset + 60 : offset + 70] = b"\xff" * 10
    path.write_bytes(content)
    assert "cannot be read" in why(path)
    assert read_all(path).keys() == CLIPS.keys() - {"c0"}


def test_a_folder_says_what_it_lacks(tmp_path: Path):
    with pytest.raises(UserError, match="no such file or folder"):
        Arrays(Source(path=tmp_path / "nothing"))
    with pytest.raises(UserError, match="it has nothing"):
        Arrays(Source(path=tmp_path))
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"give a folder with an \.npy for each clip"):
        Arrays(Source(path=tmp_path / "a.npy"))
    (tmp_path / "a.csv").write_text("x\n1\n")
    with pytest.raises(UserError, match=r"source\.format, arrays or frames"):
        Arrays(Source(path=tmp_path))
    with pytest.raises(UserError, match=r"source\.columns: arrays has no columns"):
        Arrays(Source(path=tmp_path, format="arrays", columns=["x"]))
    zarr.open_group(tmp_path / "group", mode="w")
    with pytest.raises(UserError, match="holds no arrays"):
        Arrays(Source(path=tmp_path / "group"))
