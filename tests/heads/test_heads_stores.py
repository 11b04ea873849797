"""A head's stores come from where the profile says: here, or once from object storage."""

import shutil
from pathlib import Path

import pytest

from cache import StoreError
from cache.remote import push
from configs import Profile, load
from heads.cross_validation import open_stores


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
