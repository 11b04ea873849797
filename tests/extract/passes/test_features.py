"""Features from elsewhere take the way of all encoders: one pass, one store, and everything that comes of it."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from foreign_features import KINDS, Clips, made_up
from shells import REPOSITORY
from small_project import PROFILE, make, of_profile, run
from store_tools import all_files

from cache import Store
from configs import UserError
from configs.profiles import load
from configs.schema import Encoder
from extract.corpora.manifest import read_manifest
from heads.fitting.coverage import coverage

CLIPS = made_up(24, 3)
for i, values in enumerate(CLIPS.values()):
    values += 2 * (i % 2)  # the label


def extract(path: Path, *arguments: str, **more: Any) -> Any:
    encoder = {"family": "features", "modality": "video", "source": {"path": str(path), **more}}
    return of_profile("extract/run", "--encoder", "given", f"encoders.given={json.dumps(encoder)}", *arguments)


def errors() -> dict[str, tuple[str, str]]:
    rows = pl.read_parquet("runs/small/stores/given/errors.parquet").iter_rows()
    return {clip: (stage, reason) for clip, stage, reason in rows}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cache.disk.writing.os.fsync", lambda descriptor: None)
    monkeypatch.setattr("small_project.save_checkpoints", lambda *_: None)  # no encoder is run here
    heads = {"linear": {"kind": "linear", "inputs": ["given"], "c": 0.1}, "words": PROFILE["heads"]["words"]}
    encoders = {"given": {"family": "features", "modality": "video", "source": "features.npz"}}
    make(tmp_path, ["manifest"], changes={"encoders": encoders, "heads": heads})
    return tmp_path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    return {kind: make(CLIPS, root / kind.replace(" ", "_")) for kind, make in KINDS.items() if kind != "npz"} | {
        "npz": KINDS["npz"](CLIPS, root / "npz")
    }


def test_stores_are_equal_whatever_the_format(project: Path, sources: dict[str, Path]):
    first = {}
    for kind, path in sources.items():
        said = extract(path, "store.dtype=float32")
        assert said.code == 0, said.err
        store = Path("runs/small/stores/given")
        named = Store(store).fields.get("columns") is not None
        files = all_files(store.resolve())
        assert first.setdefault(named, files) == files, kind
        assert ("24 reused" in said.out) == (files is not first[named]), kind  # the same store, found by its content
        assert all(np.array_equal(Store(store)[clip], CLIPS[clip]) for clip in CLIPS)
    assert len(first) == 2
    indices = [files["index.parquet"] for files in first.values()]
    assert pl.read_parquet(indices[0]).drop("fingerprint").equals(pl.read_parquet(indices[1]).drop("fingerprint"))
    assert first[True]["values.zarr/c/0/0"] == first[False]["values.zarr/c/0/0"]


def test_only_what_changed_is_done_again(project: Path):
    path = KINDS["npz"](CLIPS, project / "features")
    assert "24 new" in extract(path).out
    KINDS["npz"](CLIPS | {"c3": CLIPS["c3"] + 1}, project / "features")
    assert "(0 new, 1 changed), 23 reused" in extract(path).out
    assert np.array_equal(Store("runs/small/stores/given")["c3"], (CLIPS["c3"] + 1).astype("f2"))
    assert run("cache/verify", "runs/small/stores/given").code == 0


@pytest.mark.parametrize("shifted", [["c3"], list(CLIPS)])
def test_two_kinds_of_one_width_keep_apart(shifted: list[str], project: Path):
    """Also where they agree on most clips: neither may change what the other one has."""
    other = {clip: values + 5 * (clip in shifted) for clip, values in CLIPS.items()}
    for _ in range(2):
        for name, clips in (("one", CLIPS), ("two", other)):
            encoder = {"family": "features", "modality": "video"}
            given = json.dumps(encoder | {"source": str(KINDS["npz"](clips, project / name))})
            assert of_profile("extract/run", "--encoder", name, f"encoders.{name}={given}").code == 0
    one, two = (Store(f"runs/small/stores/{name}") for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    for store, clips in ((one, CLIPS), (two, other)):
        assert all(np.array_equal(store[clip], values.astype("f2")) for clip, values in clips.items())


def test_what_cannot_be_taken_is_missing_and_said(project: Path):
    clips: Clips = dict(CLIPS)
    del clips["c0"]
    clips["c1"] = np.full((2, 3), np.nan, dtype=np.float32)
    clips["c2"] = np.zeros((2, 4), dtype=np.float32)
    clips["c3"] = np.zeros((0, 3), dtype=np.float32)
    clips["c4"] = np.full((1, 3), 1e6, dtype=np.float32)
    clips["nobody"] = clips["c5"]
    said = extract(KINDS["npz"](clips, project / "features"))
    assert said.code == 3
    assert "of no clip that is read here, and left out: 1: 'nobody'" in said.out
    assert "5 of 24 clips failed, more than store.max_error_share" in said.err
    found = errors()
    assert found["c0"] == ("read", "the source has no array of it")
    assert found["c1"] == ("read", "2 of 2 time steps hold NaN or infinity")
    assert found["c2"] == ("read", "4 numbers a time step, and not 3 (its shape is 2 x 4)")
    assert found["c3"] == ("read", "holds nothing (its shape is 0 x 3)")
    assert found["c4"][0] == "store"
    assert "store.dtype: float32" in found["c4"][1]
    assert found.keys() == {f"c{i}" for i in range(5)}
    assert extract(project / "features.npz", "store.dtype=float32", "store.max_error_share=0.2").code == 0
    assert "c4" not in errors()


def test_a_clip_that_has_nothing_of_the_kind_is_no_failure(project: Path):
    """The manifest has a text for c1 to c23, and none for c0."""
    table = Path("data/clips.csv")
    table.write_text(table.read_text().replace('c0,happy,"i am so happy today !"', 'c0,happy,""'))
    assert of_profile("extract/manifest").code == 0
    clips = {clip: values for clip, values in CLIPS.items() if clip != "c0"}
    KINDS["npz"](clips, project / "features")
    said = of_profile("extract/run", "--encoder", "given", "encoders.given.modality=text")
    assert said.code == 0, said.err
    assert errors()["c0"][0] == "absent"
    profile = load("small.yaml", ["encoders.given.modality=text"])
    found = coverage(profile, read_manifest(profile.manifest_path), "given", Store("runs/small/stores/given"))
    assert (found.wanted, found.stored, found.failed, found.untried) == (23, 23, 0, 0)


def test_heads_fusion_and_new_clips(project: Path, checkpoints: Path):
    KINDS["npz"](CLIPS, project / "features")
    text = json.dumps(PROFILE["encoders"]["text"] | {"model": str(checkpoints / "distilbert")})
    both = of_profile("extract/run", f"encoders.text={text}")
    assert both.code == 0, both.err
    assert [line.split(" in ")[0] for line in both.out.splitlines() if " in runs" in line] == [
        "given: 24 of 24 clips",
        "text: 24 of 24 clips",
    ]
    for step in (("heads/train", "--head", "linear"), ("heads/train", "--head", "words"), ("fusion/stack",)):
        done = of_profile(*step)
        assert done.code == 0, done.err
    bundled = of_profile("fusion/bundle")
    assert "given: features that were computed elsewhere: of new clips they are missing" in bundled.out
    answered = run("fusion/predict", "--bundle", "runs/small/bundle", "--text", "i am so happy", "--json")
    assert answered.code == 0, answered.err
    answer = json.loads(answered.out)
    assert answer["heads"]["linear"]["prediction"] is None
    assert answer["missing"] == [
        {"what": "given", "clip": "text", "why": "features that were computed elsewhere: of a new clip there are none"}
    ]
    refused = run("fusion/predict", "--bundle", "runs/small/bundle", "--text", "x", "--encoder", "given=.")
    assert "--encoder given: its features were computed elsewhere" in refused.err


def test_an_interrupted_import_goes_on_to_the_same_bytes(project: Path, monkeypatch: pytest.MonkeyPatch):
    path = KINDS["hdf5"](CLIPS, project / "features")
    block = "encoders.given.block_clips=5"
    assert extract(path, block).code == 0
    whole = all_files(Path("runs/small/stores/given").resolve())
    for file in sorted(Path("runs/stores").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    from extract.arrays.names import Arrays

    read, calls = Arrays.read, 0

    def dying(self: Arrays, clip_id: str, content_hash: str | None = None) -> Any:
        nonlocal calls
        calls += content_hash is not None
        if calls == 17:
            time.sleep(0.2)  # until what came before is stored
            raise KeyboardInterrupt
        return read(self, clip_id, content_hash)

    monkeypatch.setattr(Arrays, "read", dying)
    assert extract(path, block, "store.commit_seconds=0").code == 130
    monkeypatch.setattr(Arrays, "read", read)
    assert 0 < len(Store("runs/small/stores/given")) < len(CLIPS)
    assert extract(path, block).code == 0
    assert all_files(Path("runs/small/stores/given").resolve()) == whole


def test_pooling_over_time(project: Path):
    KINDS["npz"](CLIPS, project / "features")
    assert of_profile("extract/run", "encoders.given.pooling=mean", "store.dtype=float32").code == 0
    store = Store("runs/small/stores/given")
    assert all(np.allclose(store[clip], values.mean(axis=0), atol=1e-6) for clip, values in CLIPS.items())


# --- what a profile says ---


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"family": "features", "source": "x"}, "modality: missing"),
        ({"family": "features", "modality": "audio"}, "source: missing"),
        (
            {"family": "features", "modality": "audio", "source": "x", "layer": 3},
            "layer: features are read as they are",
        ),
        ({"family": "features", "modality": "audio", "source": "x", "model": "./x"}, "model: features are read"),
        ({"family": "features", "modality": "audio", "source": "x", "pooling": 4.0}, "none or mean"),
        ({"family": "features", "modality": "audio", "source": {"path": "x", "pattern": "("}}, "no regular expression"),
        ({"family": "features", "modality": "audio", "source": {"path": "x", "pattern": "a"}}, "exactly one pair"),
        ({"family": "features", "modality": "audio", "source": {"path": "x", "rows": {"a": True}}}, "write 1, 0"),
        ({"family": "hubert", "model": "./x", "modality": "audio"}, "modality: only of 'family: features'"),
        ({"family": "hubert", "model": "./x", "source": "x"}, "source: only of 'family: features'"),
        ({"family": "hubert"}, "model: missing, and it has no default"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        Encoder.model_validate(settings)


def test_a_profile_is_the_same_when_it_was_written_out(project: Path):
    from heads.fitting.outputs import resolved

    profile = load("small.yaml")
    Path("again.yaml").write_text(resolved(profile))
    assert load("again.yaml") == profile
    with pytest.raises(UserError, match=r"encoders\.given: modality: missing"):
        load("small.yaml", ["encoders.given.modality=null"])


# --- cache/ingest.py ---


def test_ingest_is_the_same_pass_and_says_what_the_profile_needs(project: Path):
    path = KINDS["frames"](CLIPS, project / "faces")
    said = run(
        *("cache/ingest", str(path), "--encoder", "faces", "--modality", "video", "--config", "small.yaml"),
        *("--columns", "f[01]", "--rows", "confidence=0.98", "encoders.faces.pooling=mean"),
    )
    assert said.code == 0, said.err
    lines = yaml.safe_load(said.out.split("'encoders:'")[1])
    profile = yaml.safe_load(Path("small.yaml").read_text())
    profile["encoders"] |= lines
    Path("small.yaml").write_text(yaml.safe_dump(profile))
    again = of_profile("extract/run", "--encoder", "faces")
    assert "0 clips to compute (0 new, 0 changed), 24 reused" in again.out
    assert Store("runs/small/stores/faces").fields["columns"] == ["f0", "f1"]
    other = run("cache/ingest", str(path), "--encoder", "faces", "--config", "small.yaml", "--width", "2")
    assert "24 reused" in other.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["features.npz", "--encoder", "x"], "--modality: say what"),
        (["features.npz", "--encoder", "x", "--modality", "audio", "--rows", "a"], "write COLUMN=VALUE"),
        (["nothing", "--encoder", "x", "--modality", "audio"], "encoders.x: nothing: no such file or folder"),
        (["features.pkl", "--encoder", "x", "--modality", "audio"], "python cache/unpickle.py features.pkl"),
        (["features.npz", "--encoder", "x", "--modality", "audio", "encoders.x.layer=2"], "layer: features are read"),
        (["other.npz", "--encoder", "x", "--modality", "audio"], "none of its 1 arrays is of one of the 24 clips"),
    ],
)
def test_ingest_refuses_in_one_line(arguments: list[str], said: str, project: Path):
    KINDS["npz"](CLIPS, project / "features")
    KINDS["npz"]({"other": CLIPS["c0"]}, project / "other")
    Path("features.pkl").write_bytes(b"\x80\x04N.")
    done = run("cache/ingest", *arguments, "--config", "small.yaml")
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not Path("runs/small/stores/x").exists()


# --- at a corpus's size ---

WITH_PEAK = f"""
import atexit, runpy, sys
status = lambda: [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
atexit.register(lambda: print(status(), file=sys.stderr))
runpy.run_path({str(REPOSITORY / "cache/ingest.py")!r}, run_name="__main__")
"""


@pytest.mark.soak
def test_1440_utterances_of_three_modalities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Equal stores whatever the format, and memory that does not grow with the source; prints seconds and peaks."""
    monkeypatch.chdir(tmp_path)
    sizes = {"audio": (74, 100), "video": (35, 100), "text": (768, 20)}  # as MMSA's: numbers in a step, steps at most
    Path("data").mkdir()
    rows = [f"c{i},{('happy', 'sad')[i % 2]},{'test' if i % 5 == 0 else 'train'}" for i in range(1440)]
    Path("data/clips.csv").write_text("\n".join(["id,label,split", *rows]) + "\n")
    columns = {"clip_id": "id", "label": "label", "split": "split"}
    Path("small.yaml").write_text(
        yaml.safe_dump(
            PROFILE
            | {"encoders": {}, "heads": {"a": {"metadata": ["x"]}}}
            | {"dataset": PROFILE["dataset"] | {"columns": columns, "metadata": []}, "store": {"dtype": "float32"}}
        )
    )
    assert of_profile("extract/manifest").code == 0
    for modality, (dim, longest) in sizes.items():
        clips = made_up(1440, dim, longest)
        wanted: dict[bool, bytes] = {}
        for kind, write in KINDS.items():
            path = write(clips, tmp_path / f"{modality} {kind}")
            begun = time.monotonic()
            ingest = [str(path), "--encoder", modality, "--modality", modality, "--config", "small.yaml"]
            child = subprocess.run(
                [sys.executable, "-c", WITH_PEAK, *ingest], capture_output=True, text=True, check=False
            )
            assert child.returncode == 0, child.stderr
            peak = int(child.stderr.split()[-2]) / 1024
            store = Path("runs/small/stores", modality)
            named = "columns" in Store(store).fields
            print(f"{modality} {kind}: {time.monotonic() - begun:.1f} s, peak {peak:.0f} MiB")
            values = b"".join(each for name, each in sorted(all_files(store.resolve()).items()) if "values" in name)
            assert wanted.setdefault(False, values) == values, kind
            assert named == (kind in ("parquet", "csv", "frames"))
            for file in sorted(Path("runs/stores").rglob("*"), reverse=True):  # nothing to be found again
                file.unlink() if file.is_file() else file.rmdir()
