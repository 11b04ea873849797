"""A pass leaves exactly what the clips say now, whatever failed, changed or was interrupted before."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_tools import Load, relative_error, write_audio
from passes import plan_alone, run_alone

from cache import Store
from cache.checks import inspect
from cache.repair import repair
from configs.schema import StoreSettings
from extract.encoders.encoder import LoadedEncoder, Prepared
from extract.media.reading import ClipError
from extract.media.sources import Clip
from extract.passes.blocks import BlockComputer, Failure
from extract.passes.engine import Plan, open_writer, read_damaged, write_errors

SETTINGS = StoreSettings(dtype="float32", chunk_mb=0.001)


def do_pass(
    clips: list[Clip],
    encoder: LoadedEncoder,
    path: Path,
    settings: StoreSettings = SETTINGS,
    block_clips: int = 3,
    workers: int = 2,
) -> tuple[Plan, list[Failure]]:
    with open_writer(path, encoder, settings) as writer, BlockComputer([encoder], workers) as computer:
        plan = plan_alone(clips, writer.content_hashes, block_clips)
        return plan, run_alone(plan, computer.compute(plan.blocks), writer)


def to_compute(plan: Plan) -> list[str]:
    return [job.clip.clip_id for block in plan.blocks for job in block.jobs]


@pytest.fixture
def good(media: dict[str, list[Any]], tmp_path: Path) -> list[Clip]:
    """Eight clips that can be read, in files of their own."""
    copies = [Path(shutil.copy(path, tmp_path / f"good {path.name}")) for path in media["audio"]]
    return [Clip(f"good{i}", path) for i, path in enumerate(copies)]


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, tuple[Clip, str, str]]:
    """A clip for each way to fail, with the stage and a part of the reason."""
    files = {name: tmp_path / f"{name}.wav" for name in ("missing", "empty", "text", "blip", "poison")}
    files["empty"].touch()
    files["text"].write_text("not a sound")
    soundfile.write(files["blip"], np.linspace(0, 0.1, 100), 16000)
    soundfile.write(files["poison"], np.full(1600, np.nan), 16000, subtype="FLOAT")
    folder = tmp_path / "folder.wav"
    folder.mkdir()
    expected = {
        "missing": ("read", "No such file"),
        "empty": ("decode", "the file is empty"),
        "text": ("decode", "Invalid data"),
        "blip": ("encode", "100 samples, shorter than"),
        "poison": ("decode", "not all finite"),
        "folder": ("read", "not a regular file"),
    }
    return {
        name: (Clip(name, {**files, "folder": folder}[name]), stage, why) for name, (stage, why) in expected.items()
    }


def mixed(good: list[Clip], broken: dict[str, tuple[Clip, str, str]]) -> list[Clip]:
    clips = list(good)
    for i, (clip, _, _) in enumerate(broken.values()):
        clips.insert(2 * i, clip)
    return clips


def test_what_fails_is_named_and_missing_and_the_rest_is_stored(
    good: list[Clip], broken: dict[str, tuple[Clip, str, str]], load: Load, tmp_path: Path
) -> None:
    encoder = load("wav2vec2")
    plan, failures = do_pass(mixed(good, broken), encoder, tmp_path / "store")
    store = Store(tmp_path / "store")
    assert store.clip_ids == [clip.clip_id for clip in good]
    for clip in good:
        assert relative_error(store[clip.clip_id], encoder.alone(clip.source)) <= 1e-5
        assert np.abs(store[clip.clip_id]).max(axis=1).min() > 0  # nothing filled with zeros
    found = {failure.clip_id: failure for failure in failures}
    assert len(found) == len(failures) == len(broken)
    for name, (_, stage, why) in broken.items():
        assert found[name].stage == stage
        assert why in found[name].reason
        assert "\n" not in found[name].reason
    assert "missing" not in to_compute(plan)

    write_errors(tmp_path / "store", failures)
    table = pl.read_parquet(tmp_path / "store" / "errors.parquet")
    assert table.columns == ["clip_id", "stage", "reason"]
    assert {(row["clip_id"], row["stage"]) for row in table.to_dicts()} == {
        (name, stage) for name, (_, stage, _) in broken.items()
    }
    write_errors(tmp_path / "store", [])
    none = pl.read_parquet(tmp_path / "store" / "errors.parquet")
    assert none.height == 0
    assert none.schema == table.schema


def test_features_that_are_not_finite_are_not_stored(good: list[Clip], load: Load, tmp_path: Path) -> None:
    encoder = load("wav2vec2")

    def poisoned(inputs: Any, lengths: Any) -> Any:
        hidden = encoder.hidden(inputs, lengths)
        return torch.where(torch.tensor(hidden.shape[1] == 28), torch.nan, hidden)  # the clip of 9111 samples

    _, (failure,) = do_pass(good, replace(encoder, hidden=poisoned), tmp_path / "store")
    assert (failure.clip_id, failure.stage) == ("good4", "store")
    assert "NaN" in failure.reason
    assert len(Store(tmp_path / "store")) == 7


def test_the_second_pass_computes_nothing(good: list[Clip], load: Load, tmp_path: Path) -> None:
    encoder = load("wav2vec2")
    do_pass(good, encoder, tmp_path / "store")
    before = all_files(tmp_path / "store")
    nothing = replace(encoder, prepare=None, hidden=None)  # type: ignore[arg-type]
    plan, failures = do_pass(good, nothing, tmp_path / "store")
    assert (plan.blocks, plan.parts[0].n_reused, plan.parts[0].drop, failures) == ([], len(good), [], [])
    assert all_files(tmp_path / "store") == before


def test_only_what_was_added_or_changed_is_computed(good: list[Clip], load: Load, tmp_path: Path) -> None:
    encoder = load("wav2vec2")
    do_pass(good[:6], encoder, tmp_path / "store")
    before = {clip_id: Store(tmp_path / "store")[clip_id].copy() for clip_id in ("good0", "good1")}
    soundfile.write(good[4].source, np.random.default_rng(5).normal(scale=0.1, size=4000), 16000)
    kept = [clip for clip in good if clip.clip_id != "good2"]
    plan, _ = do_pass(kept, encoder, tmp_path / "store")
    assert to_compute(plan) == ["good4", "good6", "good7"]
    assert (plan.parts[0].n_changed, plan.parts[0].n_reused, plan.parts[0].drop) == (1, 4, ["good2"])
    store = Store(tmp_path / "store")
    assert sorted(store.clip_ids) == [clip.clip_id for clip in kept]
    assert len(store["good4"]) == 12
    for clip_id, values in before.items():
        np.testing.assert_array_equal(store[clip_id], values)


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_clip_that_can_no_longer_be_read_leaves_the_store(
    good: list[Clip], load: Load, tmp_path: Path, how: str
) -> None:
    do_pass(good, load("wav2vec2"), tmp_path / "store")
    Path(good[3].source).unlink()
    if how == "empty":
        Path(good[3].source).touch()
    plan, (failure,) = do_pass(good, load("wav2vec2"), tmp_path / "store")
    assert (failure.clip_id, failure.stage) == ("good3", "read" if how == "gone" else "decode")
    assert to_compute(plan) == ([] if how == "gone" else ["good3"])
    assert "good3" not in Store(tmp_path / "store")
    assert len(Store(tmp_path / "store")) == 7
    # When it is back, so are its features.
    shutil.copy(good[0].source, good[3].source)
    plan, failures = do_pass(good, load("wav2vec2"), tmp_path / "store")
    assert (to_compute(plan), failures) == (["good3"], [])
    assert len(Store(tmp_path / "store")) == 8


def all_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("backend", ["zarr", "hdf5"])
@pytest.mark.parametrize("calls", [0, 1, 3, 4])
def test_an_interrupted_pass_goes_on_to_the_same_bytes(
    good: list[Clip],
    broken: dict[str, tuple[Clip, str, str]],
    load: Load,
    tmp_path: Path,
    backend: str,
    calls: int,
) -> None:
    """Even where clips failed before the interruption: they are tried again, but never in the batch of others."""
    rng = np.random.default_rng(0)
    for clip in good:  # of one length, so that they share batches
        soundfile.write(clip.source, rng.normal(scale=0.1, size=3200), 16000)
    settings = StoreSettings(dtype="float32", chunk_mb=0.001, backend=backend)
    encoder, clips = load("wav2vec2", batch_tokens=20), mixed(good, broken)  # two clips
    batches: list[bytes] = []
    allowed = 100

    def watched(inputs: Any, lengths: Any) -> Any:
        if len(batches) == allowed:
            raise KeyboardInterrupt
        batches.append(inputs["input_values"].numpy().tobytes())
        return encoder.hidden(inputs, lengths)

    watching = replace(encoder, hidden=watched)
    _, expected = do_pass(clips, watching, tmp_path / "whole", settings)
    at_once, batches, allowed = batches, [], calls
    with pytest.raises(KeyboardInterrupt):
        do_pass(clips, watching, tmp_path / "cut", settings)
    assert len(Store(tmp_path / "cut")) < len(good)
    batches, allowed = [], 100
    _, failures = do_pass(clips, watching, tmp_path / "cut", settings)
    assert all_files(tmp_path / "cut") == all_files(tmp_path / "whole")
    assert {*failures} == {*expected}
    assert {*batches} <= {*at_once}
    if calls == 4:
        assert len(batches) < len(at_once)  # what was committed is not computed again


def test_a_store_of_layers_is_as_safe_as_any(good: list[Clip], load: Load, tmp_path: Path) -> None:
    """Cut short, in the other backend, and damaged and repaired: always the same rows."""
    encoder = load("wav2vec2", layers="all", pooling="statistics")
    of = {backend: StoreSettings(dtype="float32", chunk_mb=0.001, backend=backend) for backend in ("zarr", "hdf5")}
    for backend, stated in of.items():
        do_pass(good, encoder, tmp_path / backend, stated)
    stores = {backend: Store(tmp_path / backend) for backend in of}
    assert stores["zarr"].fields == stores["hdf5"].fields
    for clip in good:
        assert stores["zarr"][clip.clip_id].shape == (1, encoder.dim)
        np.testing.assert_array_equal(stores["zarr"][clip.clip_id], stores["hdf5"][clip.clip_id])

    calls: list[int] = []

    def stopping(inputs: Any, lengths: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encoder.hidden(inputs, lengths)

    with pytest.raises(KeyboardInterrupt):
        do_pass(good, replace(encoder, hidden=stopping), tmp_path / "cut", of["zarr"])
    do_pass(good, encoder, tmp_path / "cut", of["zarr"])
    assert all_files(tmp_path / "cut") == all_files(tmp_path / "zarr")

    chunk = sorted(path for path in (tmp_path / "cut" / "values.zarr" / "c").rglob("*") if path.is_file())[0]
    chunk.write_bytes(bytes(chunk.stat().st_size))
    report = inspect(tmp_path / "cut")
    assert 0 < len(report.damaged_clips) < len(good)
    repair(tmp_path / "cut", report)
    do_pass(good, encoder, tmp_path / "cut", of["zarr"])
    assert inspect(tmp_path / "cut").whole
    for clip in good:  # the damaged one is computed beside others than before
        assert relative_error(Store(tmp_path / "cut")[clip.clip_id], stores["zarr"][clip.clip_id]) <= 1e-5


@pytest.fixture
def hurt(good: list[Clip], tmp_path: Path) -> list[Clip]:
    """The good clips, of which the second and the sixth are sounds with a damaged packet."""
    clips = list(good)
    wave = np.random.default_rng(0).normal(scale=0.1, size=(20_000, 1))
    for i in (1, 5):
        path = tmp_path / f"hurt{i}.aac"
        write_audio(path, wave, 16000, "aac")
        content = bytearray(path.read_bytes())
        at = len(content) // 2
        content[at : at + 40] = bytes(byte ^ 0x5A for byte in content[at : at + 40])
        path.write_bytes(content)
        clips[i] = Clip(f"good{i}", path)
    return clips


def test_what_is_damaged_is_taken_and_stays_listed(
    hurt: list[Clip], good: list[Clip], load: Load, tmp_path: Path
) -> None:
    encoder, path = load("wav2vec2", max_damage=0.2), tmp_path / "store"
    _, failures = do_pass(hurt, encoder, path)
    assert failures == []
    assert len(Store(path)) == 8
    listed = read_damaged(path)
    assert sorted(listed) == ["good1", "good5"]
    assert all(0.03 < each.share < 0.1 for each in listed.values())
    assert inspect(path).whole
    do_pass(hurt, encoder, path)  # computes nothing
    assert read_damaged(path) == listed
    do_pass([hurt[0], good[1], *hurt[2:]], encoder, path)  # one was downloaded again
    assert sorted(read_damaged(path)) == ["good5"]
    do_pass(hurt[:5], encoder, path)
    assert sorted(read_damaged(path)) == ["good1"]
    do_pass(good, encoder, path)
    assert read_damaged(path) == {}
    strict = load("wav2vec2", max_damage=0.01)
    _, failures = do_pass(hurt, strict, tmp_path / "strict")
    assert [(failure.clip_id, failure.stage) for failure in failures] == [("good1", "decode"), ("good5", "decode")]
    assert read_damaged(tmp_path / "strict") == {}
    assert not (tmp_path / "strict" / "damaged.parquet").exists()  # nothing to say: the store is as it always was


@pytest.mark.parametrize("calls", [1, 3, 4])
def test_damage_is_known_of_all_that_is_stored_whenever_a_pass_ends(
    hurt: list[Clip], load: Load, tmp_path: Path, calls: int
) -> None:
    encoder = load("wav2vec2", batch_tokens=20, max_damage=0.2)
    n_calls = 0

    def watched(inputs: Any, lengths: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls > calls:
            raise KeyboardInterrupt
        return encoder.hidden(inputs, lengths)

    with pytest.raises(KeyboardInterrupt):
        do_pass(hurt, replace(encoder, hidden=watched), tmp_path / "cut")
    stored = set(Store(tmp_path / "cut").clip_ids)
    assert stored & {"good1", "good5"} <= read_damaged(tmp_path / "cut").keys()
    do_pass(hurt, encoder, tmp_path / "cut")
    do_pass(hurt, encoder, tmp_path / "whole")
    assert all_files(tmp_path / "cut") == all_files(tmp_path / "whole")


def test_the_damage_of_long_clips_is_listed(load: Load, tmp_path: Path) -> None:
    """They are streamed, and what is wrong with them is known at the end."""
    path = tmp_path / "long.aac"
    write_audio(path, np.random.default_rng(0).normal(scale=0.1, size=(100_000, 1)), 16000, "aac")
    content = bytearray(path.read_bytes())
    at = len(content) // 2
    content[at : at + 40] = bytes(byte ^ 0x5A for byte in content[at : at + 40])
    path.write_bytes(content)
    _, failures = do_pass([Clip("long", path)], load("wav2vec2", window_seconds=1), tmp_path / "store")
    assert failures == []
    assert read_damaged(tmp_path / "store")["long"].share == pytest.approx(0.064 / 6.27, rel=0.02)


@pytest.mark.parametrize("how", ["replaced", "rewritten", "and back"])
@pytest.mark.parametrize("seconds", [1, 20])
def test_a_file_that_changes_between_hash_and_features_is_never_stored(
    good: list[Clip], load: Load, tmp_path: Path, how: str, seconds: float
) -> None:
    path = Path(good[2].source)
    other = tmp_path / "other.wav"
    soundfile.write(path, np.random.default_rng(1).normal(scale=0.1, size=8000 * seconds), 16000)
    soundfile.write(other, np.random.default_rng(2).normal(scale=0.1, size=8000 * seconds), 16000)
    encoder = load("wav2vec2", window_seconds=1)
    with open_writer(tmp_path / "store", encoder, SETTINGS) as writer, BlockComputer([encoder], 1) as computer:
        plan = plan_alone(good, writer.content_hashes, 3)
        before = path.read_bytes()
        if how == "replaced":
            other.replace(path)
        elif how == "rewritten":
            path.write_bytes(other.read_bytes())
        else:
            kept = path.rename(tmp_path / "kept.wav")
            other.replace(path)
        failures = run_alone(plan, computer.compute(plan.blocks), writer)
        if how == "and back":
            kept.replace(path)
            assert path.read_bytes() == before
    assert [(each.clip_id, each.stage, each.reason) for each in failures] == [
        ("good2", "read", "changed while it was read")
    ]
    assert len(Store(tmp_path / "store")) == 7
    plan, failures = do_pass(good, encoder, tmp_path / "store")
    assert (to_compute(plan), failures) == (["good2"], [])


def test_the_number_of_workers_changes_nothing(good: list[Clip], load: Load, tmp_path: Path) -> None:
    for workers in (1, 4):
        do_pass(good, load("wav2vec2"), tmp_path / str(workers), workers=workers)
    assert all_files(tmp_path / "1") == all_files(tmp_path / "4")


def test_an_error_that_is_not_the_clips_stops_the_pass(good: list[Clip], load: Load, tmp_path: Path) -> None:
    """A bug must not look like a broken clip."""
    encoder = load("wav2vec2")

    def buggy(clip: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        do_pass(good, replace(encoder, prepare=buggy), tmp_path / "store")


TEXTS = ["i am happy", "you are sad", "so very angry ! !", "not today", "refused"]
STATES = st.lists(st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(TEXTS)), min_size=2, max_size=5)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=STATES, block_clips=st.integers(1, 4), batch_tokens=st.sampled_from([1, 10, 1000]))
def test_after_any_edits_the_store_holds_what_the_clips_say_now(
    load: Load,
    tmp_path_factory: pytest.TempPathFactory,
    states: list[dict[str, str]],
    block_clips: int,
    batch_tokens: int,
) -> None:
    whole = load("bert", batch_tokens=batch_tokens)

    def prepare(text: str) -> Prepared:
        if text == TEXTS[-1]:
            raise ClipError(text)
        return whole.prepare(text)

    encoder = replace(whole, prepare=prepare)
    expected = {text: encoder.alone(text) for text in TEXTS[:-1]}
    path, stored = tmp_path_factory.mktemp("pass") / "text", {}
    for state in states:
        clips = [Clip(*item) for item in sorted(state.items())]
        plan, failures = do_pass(clips, encoder, path, SETTINGS, block_clips, workers=1)
        assert to_compute(plan) == [key for key, text in sorted(state.items()) if stored.get(key) != text]
        assert {failure.clip_id for failure in failures} == {key for key, text in state.items() if text == TEXTS[-1]}
        stored = {key: text for key, text in state.items() if text != TEXTS[-1]}
        store = Store(path)
        assert sorted(store.clip_ids) == sorted(stored)
        for key, text in stored.items():
            assert relative_error(store[key], expected[text]) <= 1e-5
