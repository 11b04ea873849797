"""The command line of extract/run.py, from a profile and a table of clips to stores."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
import yaml
from faulty_server import faulty
from media_tools import Run, write_audio
from s3_server import use_server

from cache import Store
from cache.disk.unfinished import begun
from cache.remote import objects
from configs.profiles import load as load_profile
from extract import manifest
from extract import run as run_module
from extract.corpora.manifest import read_manifest
from extract.encoders.loading import load_encoder

FILES = {"clip_id": "id", "conversation_id": "talk", "index": "at", "role": "role", "split": "part", "label": "emotion"}
READ = [f"c{i}" for i in range(7)]  # c7 is what the listener answers: no unit reads it


@pytest.fixture
def profile(
    checkpoints: Path, media: dict[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """An empty working directory with ``tiny.yaml``, its data and its manifest; the settings in ``tiny.yaml``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    rows = []
    for i in range(8):
        talk, at = ("t0", i) if i < 4 else (f"t{i}", 0)
        if i == 7:
            talk, at = "t0", 4
        sound, picture = (Path(shutil.copy(media[kind][i], "data")) for kind in ("audio", "video"))
        role = {3: "speaker", 7: "listener_response"}.get(i, "")
        label = ["", "", "", "sad", "happy", "sad", "happy", ""][i]
        rows.append([f"c{i}", talk, at, role, "train", label, media["text"][i], sound.name, picture.name])
    names = [*FILES.values(), "words", "sound", "picture"]
    pl.DataFrame(rows, schema=names, orient="row").write_csv("data/clips.csv")
    small = {"batch_tokens": 1, "block_clips": 2}
    stated: dict[str, Any] = {
        "name": "tiny",
        "dataset": {
            "adapter": "table",
            "root": "data",
            "table": "clips.csv",
            "columns": {**FILES, "text": "words", "audio": "sound", "video": "picture"},
        },
        "store": {"dtype": "float32", "commit_seconds": 0, "chunk_mb": 0.001},
        "encoders": {
            "audio": {
                "family": "wav2vec2",
                "model": str(checkpoints / "wav2vec2"),
                "batch_tokens": 1,
                "block_clips": 2,
            },
            "video": {
                "family": "image",
                "model": str(checkpoints / "resnet"),
                "n_frames": 2,
                "batch_tokens": 1,
                "block_clips": 2,
            },
            "text": {"family": "transformer", "model": str(checkpoints / "bert"), **small},
        },
        "heads": {"audio": {"inputs": ["audio"]}},
    }
    write(stated)
    manifest.main(config="tiny.yaml")
    return stated


def write(stated: dict[str, Any]) -> None:
    Path("tiny.yaml").write_text(yaml.safe_dump(stated))


def tree() -> dict[str, tuple[bytes, int]]:
    """Every file below runs/ with its content and the time of its last change."""
    return {
        str(path): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in Path("runs").rglob("*")
    }


def computed(out: str) -> int:
    return int(out.split(" clips to compute")[0].split()[-1])


TINY = ("--config", "tiny.yaml", "--device", "cpu", "--workers", "2")
AUDIO = ("--modality", "audio", *TINY)
STORE = Path("runs/tiny/stores/audio")


@pytest.mark.parametrize("modality", ["audio", "video", "text"])
def test_a_store_holds_what_the_encoder_computes_live(profile: dict[str, Any], run: Run, modality: str) -> None:
    code, out, err = run("--modality", modality, *TINY)
    assert (code, err) == (0, "")
    assert f"{modality}: 7 clips to compute (7 new, 0 changed), 0 reused" in out
    assert f"7 of 7 clips in runs/tiny/stores/{modality}" in out
    store, table = Store(f"runs/tiny/stores/{modality}"), read_manifest("runs/tiny/manifest.parquet")
    assert sorted(store.clip_ids) == READ
    encoder = load_encoder(load_profile("tiny.yaml"), modality, "cpu")
    rows = dict(table.clips.select("clip_id", modality).iter_rows())
    for clip_id in READ:
        source = rows[clip_id] if modality == "text" else table.root / rows[clip_id]
        np.testing.assert_array_equal(store[clip_id], encoder.alone(source))
    assert pl.read_parquet(f"runs/tiny/stores/{modality}/errors.parquet").height == 0

    before = tree()
    code, out, _ = run("--modality", modality, *TINY)
    assert (code, computed(out)) == (0, 0)
    assert "7 reused" in out
    now = tree()
    unchanged = {path for path in before if "values" in path or "index" in path or "store.json" in path}
    assert {path: now[path] for path in unchanged} == {path: before[path] for path in unchanged}


def test_half_precision_costs_little_and_backends_agree(profile: dict[str, Any], run: Run) -> None:
    stores = {}
    for backend in ("zarr", "hdf5"):
        for dtype in ("float32", "float16"):
            name = f"tiny-{backend}-{dtype}"
            settings = [f"name={name}", f"store.backend={backend}", f"store.dtype={dtype}"]
            shutil.copytree("runs/tiny", f"runs/{name}")
            assert run(*AUDIO, *settings)[0] == 0
            stores[backend, dtype] = Store(f"runs/{name}/stores/audio")
    assert stores["zarr", "float32"].fingerprint == stores["hdf5", "float32"].fingerprint
    for clip_id in READ:
        exact, half = stores["zarr", "float32"][clip_id], stores["zarr", "float16"][clip_id]
        np.testing.assert_array_equal(exact, stores["hdf5", "float32"][clip_id])
        np.testing.assert_array_equal(half, stores["hdf5", "float16"][clip_id])
        assert np.abs(half.astype(np.float32) - exact).max() <= 1e-3 * np.abs(exact).max()


def test_a_dry_run_changes_nothing_and_says_how_many_and_why(profile: dict[str, Any], run: Run) -> None:
    before = tree()
    code, out, err = run(*AUDIO, "--dry-run")
    assert (code, err) == (0, "")
    assert "7 clips to compute (7 new, 0 changed), 0 reused, 0 cannot be read, 0 to leave the store" in out
    assert tree() == before

    run(*AUDIO)
    shutil.copy("data/3.wav", "data/1.wav")
    Path("data/2.wav").unlink()
    before = tree()
    code, out, _ = run(*AUDIO, "--dry-run")
    assert code == 0
    assert "1 clips to compute (0 new, 1 changed), 5 reused, 1 cannot be read, 1 to leave the store" in out
    assert "settings changed" not in out

    code, out, _ = run(*AUDIO, "--dry-run", "encoders.audio.layer=0", "encoders.audio.pooling=mean")
    assert "audio: settings changed (layer, pooling): the former store stays; python cache/info.py --unused" in out
    assert "6 clips to compute (6 new, 0 changed), 0 reused" in out
    code, out, _ = run(*AUDIO, "--dry-run", "store.backend=hdf5")
    assert "settings changed (backend)" in out
    assert tree() == before

    # A store of earlier settings would be found again.
    run(*AUDIO, "encoders.audio.layer=0", "store.max_error_share=1")
    before = tree()
    code, out, _ = run(*AUDIO, "--dry-run")
    assert "settings changed (layer)" in out
    assert "1 clips to compute (0 new, 1 changed), 5 reused" in out
    assert tree() == before


def test_settings_that_return_find_their_store_again(profile: dict[str, Any], run: Run) -> None:
    run(*AUDIO)
    first, home = Store(STORE), STORE.resolve()
    code, out, _ = run(*AUDIO, "encoders.audio.layer=1")
    assert (code, computed(out)) == (0, 7)
    assert "audio: settings changed (layer): the former store stays" in out
    assert Store(home).clip_ids == first.clip_ids
    assert Store(STORE).fields["layer"] == 1
    code, out, _ = run(*AUDIO)
    assert (code, computed(out)) == (0, 0)
    assert STORE.resolve() == home
    for setting in ("batch_tokens=5", f"model={Path(profile['encoders']['audio']['model'], '..', 'wav2vec2')}"):
        assert computed(run(*AUDIO, f"encoders.audio.{setting}")[1]) == 0


def test_too_many_errors_end_in_exit_code_3_and_the_rest_is_stored(profile: dict[str, Any], run: Run) -> None:
    Path("data/0.wav").write_text("not a sound")
    Path("data/5.wav").unlink()
    code, out, err = run(*AUDIO, "store.max_error_share=0.2")
    assert code == 3
    assert err == (
        "error: audio: 2 of 7 clips failed, more than store.max_error_share = 0.2 allows; what could be read is "
        "stored\n"
    )
    assert "c0  decode: Invalid data" in out
    assert "c5  read: No such file" in out
    assert sorted(Store(STORE).clip_ids) == [clip_id for clip_id in READ if clip_id not in ("c0", "c5")]
    errors = pl.read_parquet(STORE / "errors.parquet")
    assert errors.sort("clip_id").select("clip_id", "stage").rows() == [("c0", "decode"), ("c5", "read")]

    code, out, err = run(*AUDIO, "store.max_error_share=0.3")
    assert (code, err) == (0, "")
    assert "1 clips to compute (1 new, 0 changed), 5 reused, 1 cannot be read" in out  # what failed is tried again
    shutil.copy("data/1.wav", "data/0.wav")
    shutil.copy("data/1.wav", "data/5.wav")
    assert run(*AUDIO)[0] == 0
    assert sorted(Store(STORE).clip_ids) == READ
    assert pl.read_parquet(STORE / "errors.parquet").height == 0


def test_silent_sound_tracks_are_missing_and_counted_but_no_failures(profile: dict[str, Any], run: Run) -> None:
    for i in (1, 2, 4):
        soundfile.write(f"data/{i}.wav", np.zeros(8000), 16000)
    code, out, err = run(*AUDIO, "store.max_error_share=0")
    assert (code, err) == (0, "")
    assert f"silent from end to end, and therefore missing for this encoder: 3 ({STORE / 'errors.parquet'})" in out
    assert "failed" not in out
    assert sorted(Store(STORE).clip_ids) == ["c0", "c3", "c5", "c6"]
    errors = pl.read_parquet(STORE / "errors.parquet")
    assert errors.rows() == [(f"c{i}", "silent", "its sound track is silent from end to end") for i in (1, 2, 4)]
    code, out, _ = run(*AUDIO, "encoders.audio.silent_audio=kept")
    assert "silent" not in out.partition("settings changed")[2].partition("to compute")[2]
    assert sorted(Store(STORE).clip_ids) == READ


def test_damaged_clips_are_taken_listed_and_counted(profile: dict[str, Any], run: Run) -> None:
    write_audio(Path("data/1.aac"), np.random.default_rng(0).normal(scale=0.1, size=(64_000, 1)), 16000, "aac")
    content = bytearray(Path("data/1.aac").read_bytes())
    at = len(content) // 2
    content[at : at + 40] = bytes(byte ^ 0x5A for byte in content[at : at + 40])
    Path("data/1.wav").write_bytes(content)
    code, out, err = run(*AUDIO)
    assert (code, err) == (0, "")
    assert f"damaged in part, and taken without that: 1 ({STORE / 'damaged.parquet'})" in out
    assert "  c1  1.6%: 0.064 of 4.096 s: Invalid data" in out
    assert json.loads(Path("runs/tiny/extracted/audio.json").read_text())["damaged"] == 1
    _, out, _ = run(*AUDIO)
    assert "damaged in part, and taken without that: 1" in out  # though nothing was decoded
    code, out, err = run(*AUDIO, "encoders.audio.max_damage=0.01")
    assert code == 3
    assert "c1  decode: damaged: 1.6% of it, more than max_damage = 0.01 (0.064 of 4.096 s: " in out
    assert "settings changed (max_damage)" in out  # what one share lets in, a stricter one does not find
    assert "c1" not in Store(STORE)


def test_what_the_listener_answers_is_not_computed(profile: dict[str, Any], run: Run) -> None:
    table = read_manifest("runs/tiny/manifest.parquet")
    assert table.clips.filter(role="listener_response")["clip_id"].to_list() == ["c7"]
    Path("data/7.wav").write_text("and its file is not even opened")
    assert run(*AUDIO)[0] == 0
    assert "c7" not in Store(STORE)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["encoders.audio.layer_s=1"], "tiny.yaml: encoders.audio.layer_s: no such setting"),
        (["encoders.audio.layer=deep"], "tiny.yaml: encoders.audio.layer = 'deep': "),
        (["layer"], "'layer': an override is KEY=VALUE"),
        (["encoders.audio.family=whisper"], "holds a wav2vec2 model, but family is whisper"),
        (["encoders.audio.layer=5"], "layer = 5: "),
        (["encoders.audio.model=./nowhere"], "model './nowhere': no such model folder"),
        (["encoders.audio.model=someone/model"], "is a hub id and needs a revision"),
        (["--device", "abacus"], "--device abacus: "),
        (["--config", "none.yaml"], "none.yaml: no such profile"),
    ],
)
def test_a_mistake_ends_in_one_line_before_any_work(
    profile: dict[str, Any], run: Run, arguments: list[str], expected: str
) -> None:
    before = tree()
    code, out, err = run(*AUDIO, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert expected in err
    assert err.count("\n") == 1
    assert tree() == before


def test_a_modality_that_the_profile_has_no_encoder_for(profile: dict[str, Any], run: Run) -> None:
    del profile["encoders"]["video"]
    write(profile)
    code, _, err = run("--modality", "video", *TINY)
    assert (code, err) == (2, "error: encoders: the profile 'tiny' names none that reads video\n")
    code, _, err = run("--modality", "smell", *TINY)
    assert code == 2
    assert "audio" in err  # what is allowed


def test_without_a_manifest_the_command_that_makes_it_is_named(profile: dict[str, Any], run: Run) -> None:
    Path("runs/tiny/manifest.parquet").unlink()
    code, _, err = run(*AUDIO)
    assert code == 2
    command = "python extract/manifest.py --config tiny.yaml"
    assert err == f"error: runs/tiny/manifest.parquet: no such manifest: make it with '{command}'\n"


def test_a_store_that_is_being_written_is_left_alone(profile: dict[str, Any], run: Run) -> None:
    from extract.passes.engine import open_writer

    loaded = load_profile("tiny.yaml")
    with open_writer(STORE, load_encoder(loaded, "audio", "cpu"), loaded.store):
        code, _, err = run(*AUDIO)
    assert code == 2
    assert "another extraction is writing this store" in err
    assert err.count("\n") == 1


def test_as_a_script_from_a_shell(profile: dict[str, Any]) -> None:
    """Quiet when stderr is no terminal: nothing but errors."""
    script = Path(run_module.__file__)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    arguments = [sys.executable, str(script), "--modality", "text", *TINY]
    ended = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0].startswith("text: 7 clips to compute")
    assert json.loads(Path("runs/tiny/stores/text/store.json").read_text())["dim"] == 16


def stored_bytes() -> dict[str, bytes]:
    return {path.relative_to(STORE).as_posix(): path.read_bytes() for path in STORE.rglob("*") if path.is_file()}


def test_media_and_stores_behind_urls(profile: dict[str, Any], run: Run, s3: Any) -> None:
    """A machine extracts from a bucket into a bucket; another one, with nothing but the profile, goes on from there."""
    assert run(*AUDIO)[0] == 0
    one = stored_bytes()
    for path in Path("data").glob("*.wav"):
        s3.write(f"media/{path.name}", path.read_bytes())
        path.unlink()
    dataset, encoders = profile["dataset"], profile["encoders"]
    columns = {ours: theirs for ours, theirs in dataset["columns"].items() if ours != "video"}
    write(
        profile
        | {"dataset": dataset | {"media_root": "s3://bucket/media", "columns": columns}}
        | {"store": profile["store"] | {"url": "s3://bucket/run"}, "encoders": {"audio": encoders["audio"]}}
    )
    shutil.rmtree("runs")
    manifest.main(config="tiny.yaml")
    code, out, err = run(*AUDIO)
    assert (code, err, computed(out)) == (0, "", 7)
    values = {name for name in one if "values" in name}
    assert {name: stored_bytes()[name] for name in values} == {name: one[name] for name in values}
    assert s3.read("run/audio/values.zarr/c/0/0") == one["values.zarr/c/0/0"]

    shutil.rmtree("runs/tiny/stores")
    shutil.rmtree("runs/stores")
    s3.delete("media/6.wav")
    s3.write("media/5.wav", s3.read("media/0.wav"))
    code, out, err = run(*AUDIO)
    assert computed(out) == 1
    assert "7 clips, more than" not in out
    assert "c6  read: no such object" in out
    assert code == 3  # one clip of seven is more than one in a hundred
    assert len(Store(STORE)) == 6


def test_a_pass_whose_storage_goes_away_is_finished_by_the_same_command(
    profile: dict[str, Any], run: Run, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is then the one of a pass without faults, byte for byte: no clip was left out on the way."""
    for path in Path("data").glob("*.wav"):
        s3.write(f"media/{path.name}", path.read_bytes())
    dataset, audio = profile["dataset"], profile["encoders"]["audio"]
    columns = {ours: theirs for ours, theirs in dataset["columns"].items() if ours != "video"}
    dataset = dataset | {"media_root": "s3://bucket/media", "columns": columns}
    write(profile | {"dataset": dataset, "encoders": {"audio": audio}})
    manifest.main(config="tiny.yaml")
    monkeypatch.setattr(objects, "RETRIES", 0)
    given, gone = 0, True

    def fault(method: str, path: str) -> str | None:
        nonlocal given
        given += method == "GET" and path.endswith(".wav")
        return "reset" if gone and given > 5 else None

    with faulty(s3.endpoint, fault) as endpoint:
        use_server(endpoint, monkeypatch)
        code, out, err = run(*AUDIO)
        assert (code, err.count("\n")) == (2, 1)
        assert "s3://bucket/media: no answer from" in err
        gone = False
        code, out, err = run(*AUDIO)
        assert (code, err) == (0, "")
        assert 0 < computed(out) < 7
    store = stored_bytes()
    for folder in ("runs/tiny/stores", "runs/stores"):
        shutil.rmtree(folder)
    use_server(s3.endpoint, monkeypatch)
    assert run(*AUDIO)[0] == 0
    assert stored_bytes() == store


def test_a_ray_cluster_that_does_not_answer_is_named(
    profile: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    code, _, err = run("--modality", "audio", "--config", "tiny.yaml", "--engine", "ray")
    assert code == 2
    assert err == "error: --engine ray: no cluster at RAY_ADDRESS=127.0.0.1:9: Connection refused\n"


def test_an_extraction_that_was_cut_short_is_known(
    profile: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutError(Exception):
        pass

    def cut(*_: object) -> None:
        raise CutError

    with monkeypatch.context() as patch:
        patch.setattr("extract.passes.extraction.run_pass", cut)
        with pytest.raises(CutError):
            run(*AUDIO)
    store = next(path for path in Path("runs/stores").glob("[!.]*"))
    assert begun(store) == {"tiny.audio": 7}
    assert run(*AUDIO)[0] == 0
    assert begun(store) == begun(STORE) == {}
