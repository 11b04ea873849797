"""A head's stores come from where the profile says: here, or once from object storage. They are read into memory where
they fit, and batch by batch where not, with the same results."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cache import Store, StoreError
from cache.remote.copies import push
from configs.profiles import load
from configs.schema import Profile
from heads.data import features
from heads.data.batches import UnitData
from heads.fitting.cross_validation import open_stores
from heads.fitting.training import fit_fold


@pytest.fixture
def profile(tools, s3, tmp_path, monkeypatch) -> Profile:
    """Two stores that were pushed and are no longer here."""
    monkeypatch.chdir(tmp_path)
    manifest, arrays = tools.dataset(conversations=8)
    heads = {"both": tools.head_settings()}
    tools.write_workspace(tmp_path, manifest, arrays, heads, store={"url": "s3://bucket/tiny/"})
    for name in arrays:
        push(Path("runs/tiny/stores") / name, f"s3://bucket/tiny/{name}")
    shutil.move("runs/tiny/stores", "elsewhere")
    return load("profile.yaml")


def test_stores_that_are_not_here_are_fetched_once(profile, s3):
    stores = open_stores(profile, profile.heads["both"])
    for name, store in stores.items():
        index = Path("elsewhere") / name / "index.parquet"
        assert (profile.store_path(name) / "index.parquet").read_bytes() == index.read_bytes()
        assert store[store.clip_ids[0]].any()
    with s3.requests() as asked:
        open_stores(profile, profile.heads["both"])
    assert not asked


def test_a_damaged_copy_is_no_store(profile, s3):
    key = "tiny/text/values.zarr/c/0/0"
    s3.write(key, s3.read(key)[:-100])
    for _ in range(2):
        with pytest.raises(StoreError, match=r"text/values\.zarr/c/0/0: damaged"):
            open_stores(profile, profile.heads["both"])


def stores_of(tools, folder, arrays):
    for name, values in arrays.items():
        tools.write_store(folder / name, values)
    return {name: Store(folder / name) for name in arrays}


@pytest.mark.parametrize("kind", ["sequence", "cross_modal"])
def test_streamed_equals_resident_to_the_bit(tools, tmp_path, kind):
    manifest, arrays = tools.dataset(40, missing=0.2)
    stores = stores_of(tools, tmp_path, arrays)
    head = tools.small_head(kind=kind, epochs=2, noise=0.1, time_masking=0.3, mixup=0.2)
    answers = []
    for resident_bytes in (10**9, 0):
        data = UnitData(manifest, manifest.units(), stores, resident_bytes=resident_bytes)
        assert data.streams == (resident_bytes == 0)
        model, history = fit_fold(tools.task(data, np.arange(30), np.arange(30, 40), head))
        answers.append((model.log_probabilities(data, np.arange(40)), [record["train_loss"] for record in history]))
    assert np.array_equal(answers[0][0], answers[1][0])
    assert answers[0][1] == answers[1][1]


def test_the_smaller_store_stays_and_the_larger_streams(tools):
    manifest, arrays = tools.dataset(20)
    units = manifest.units()
    whole = UnitData(manifest, units, arrays)
    smaller, larger = sorted(whole.features.values(), key=lambda each: each.n_bytes)
    data = UnitData(manifest, units, arrays, resident_bytes=smaller.n_bytes + 1)
    assert {name: each.resident for name, each in data.features.items()} == {
        name: each is smaller for name, each in whole.features.items()
    }
    assert larger.n_bytes > smaller.n_bytes


class Watched:
    """Live arrays, and which of them were read since the last look."""

    def __init__(self, store):
        self.store, self.read = store, []

    def __contains__(self, clip_id):
        return clip_id in self.store

    def __getitem__(self, clip_id):
        self.read.append(clip_id)
        return self.store[clip_id]


def test_streaming_reads_one_batch_ahead_and_no_more(tools):
    manifest, arrays = tools.dataset(40, most_clips=1)
    watched = Watched(arrays["audio"])
    data = UnitData(manifest, manifest.units(), {"audio": watched}, resident_bytes=0)
    watched.read.clear()
    parts = np.split(np.arange(40), 10)
    stream = data.batches(parts, data.metadata_ids({}))
    for taken, batch in enumerate(stream, start=1):
        assert len(batch.labels) == 4
        assert 4 * taken <= len(watched.read) <= 4 * (taken + 1)
        if taken == 5:
            break
    stream.close()  # the reading thread ends with it
    assert len(watched.read) <= 24


def test_an_error_while_reading_ahead_ends_the_training(tools):
    manifest, arrays = tools.dataset(8, most_clips=1)
    source = dict(arrays["audio"])
    data = UnitData(manifest, manifest.units(), {"audio": source}, resident_bytes=0)
    source.pop(data.units[-1].unit_id)
    with pytest.raises(KeyError, match=data.units[-1].unit_id):
        list(data.batches(np.split(np.arange(8), 4), data.metadata_ids({})))


@pytest.mark.parametrize("settings", [{}, {"statistics": 2}])
def test_clips_that_no_unit_sees_are_never_read(tools, monkeypatch, tmp_path, settings):
    manifest, arrays = tools.dataset(10)
    stores = stores_of(tools, tmp_path, arrays)
    read = []
    original = Store.__getitem__
    monkeypatch.setattr(Store, "__getitem__", lambda store, clip: (read.append(clip), original(store, clip))[1])
    units = manifest.units()[:3]
    data = UnitData(manifest, units, stores, context_clips=1, **settings)
    list(data.batches([np.arange(3)], data.metadata_ids({})))
    seen = {clip for unit in units for clip in unit.clip_ids[-2:]}
    assert sorted(read) == sorted([*seen, *seen])  # each once a store


@pytest.mark.parametrize("block", [1, 30, 10**6])
def test_statistics_are_those_of_each_part(tools, monkeypatch, block):
    monkeypatch.setattr(features, "BLOCK_VALUES", block)
    manifest, arrays = tools.dataset(12, missing=0.2)
    arrays["audio"] = {clip: (values + 1000).astype(np.float32) for clip, values in arrays["audio"].items()}
    data = UnitData(manifest, manifest.units(), arrays, statistics=3)
    for i, unit in enumerate(data.units):
        batch = data.batch(np.array([i]), data.metadata_ids({}))
        for name, frames in batch.frames.items():
            for values, mask, place in zip(frames.values, frames.mask, frames.places, strict=True):
                clip = arrays[name][sorted(unit.clip_ids)[place]].astype(np.float64)
                part_of = np.arange(len(clip)) * min(3, len(clip)) // len(clip)
                parts = [clip[part_of == part] for part in range(min(3, len(clip)))]
                expected = np.stack([np.concatenate([part.mean(0), part.std(0)]) for part in parts])
                np.testing.assert_allclose(values[mask].numpy(), expected.astype(np.float32), rtol=1e-6, atol=1e-9)
    mean, deviation = data.features["audio"].moments(data.clips_of(np.arange(12)))
    assert mean.shape == deviation.shape == (12,)


def test_free_memory_is_known():
    assert 0 < features.free_bytes(torch.device("cpu")) < 2**50


def test_memory_is_that_which_every_group_around_leaves(tmp_path: Path):
    def group(path: str, **files: str | int) -> None:
        (tmp_path / "fs" / path).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (tmp_path / "fs" / path / name.replace("__", ".")).write_text(f"{content}\n")

    group("slurm/job_7/step_0", memory__max="max", memory__current=10, memory__stat="anon 4\nfile 6")
    group("slurm/job_7", memory__max=1000, memory__current=400, memory__stat="anon 300\nfile 100")
    group("slurm", memory__max=5000, memory__current=4900, memory__stat="anon 4800\nfile 100")
    older = {"memory__limit_in_bytes": 100, "memory__usage_in_bytes": 130}
    group("memory/jobs/7", **older, memory__stat="cache 1\ntotal_cache 2")
    own = tmp_path / "own"
    own.write_text("4:cpu,memory:/jobs/7\n3:cpuset:/jobs\n0::/slurm/job_7/step_0\n")
    assert list(features._left_in_groups(own, tmp_path / "fs")) == [0, 700, 200]
    assert list(features._left_in_groups(tmp_path / "none", tmp_path / "fs")) == []
