"""What others read while it is published: the former files or the new ones, never none and never some of each."""

import signal
from pathlib import Path

import pytest
from store_tools import python

from cache import (
    StoreError,
    claimed,
    is_published,
    publish_folder,
    read_published,
    read_sealed_json,
    verify_published,
    verify_whole,
)

PUBLISHER = """
import os
folder = Path(folder)
os.fsync = lambda descriptor: None
from cache import claimed, publish_folder, write_sealed_json

def write(fresh):
    (fresh / "predictions.parquet").write_bytes(bytes([n]) * 200_000)
    (fresh / "model").mkdir()
    (fresh / "model" / "head.json").write_text(str(n))

print("go", flush=True)
for n in range(50):
    with claimed(folder):
        publish_folder(folder, write)
    write_sealed_json(folder.with_name("receipt.json"), {"number": n})
"""


def test_a_reader_finds_a_folder_whole_however_often_it_is_published(tmp_path: Path) -> None:
    folder = tmp_path / "head"
    publish_folder(folder, lambda fresh: (fresh / "predictions.parquet").write_bytes(b"first" * 40_000))
    with python(PUBLISHER, folder=str(folder)) as publisher:
        assert publisher.stdout is not None
        publisher.stdout.readline()
        seen = set()
        while publisher.poll() is None:
            content = read_published(folder / "predictions.parquet", "")
            assert len(content) == 200_000
            seen.add(content[:5])
            if folder.with_name("receipt.json").exists():
                assert 0 <= read_sealed_json(folder.with_name("receipt.json"), "")["number"] < 50
    assert publisher.returncode == 0
    assert len(seen) > 1
    verify_whole(folder, "")
    assert {path.name for path in tmp_path.iterdir()} == {"head", "receipt.json"}


KILLED = """
import os, signal
folder = Path(folder)
from cache import claimed, publish_folder

def write(fresh):
    (fresh / "a").write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)

with claimed(folder):
    publish_folder(folder, write)
"""


def test_a_publisher_that_is_killed_leaves_the_former_folder_and_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "head"
    publish_folder(folder, lambda fresh: (fresh / "a").write_text("old"))
    assert python(KILLED, folder=str(folder)).wait() == -signal.SIGKILL
    assert read_published(folder / "a", "") == b"old"
    with claimed(folder), pytest.raises(StoreError, match="another process makes it"), claimed(folder):
        pass
    publish_folder(folder, lambda fresh: (fresh / "a").write_text("new"))
    assert read_published(folder / "a", "") == b"new"
    assert {path.name for path in tmp_path.iterdir()} == {"head"}


def test_sums_of_somebody_else_above_a_folder_do_not_vouch_for_it(tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  other.txt\n")
    (tmp_path / "head" / "model").mkdir(parents=True)
    (tmp_path / "head" / "model" / "head.json").write_text("{}")
    with pytest.raises(StoreError, match=r"model: no SHA256SUMS names its files"):
        verify_published(tmp_path / "head" / "model", "train it again")
    with pytest.raises(StoreError, match=r"head\.json: not what was written"):
        read_published(tmp_path / "head" / "model" / "head.json", "train it again")
    assert not is_published(tmp_path / "head" / "model" / "head.json")
