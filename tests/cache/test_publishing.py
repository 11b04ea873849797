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
    write_sealed_json,
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


def publish_fused(folder: Path) -> None:
    """As a fusion does: its own files are known by one of them, what else is in the folder stays."""

    def write(fresh: Path) -> None:
        (fresh / "model").mkdir()
        for name in ("model/fusion.json", "report.html"):
            (fresh / name).write_text("ours")

    publish_folder(folder, write, own="model/fusion.json")


def test_what_is_somebody_elses_stays_whatever_it_is(tmp_path: Path) -> None:
    folder, data = tmp_path / "out", tmp_path / "data"
    data.mkdir()
    (data / "clip").write_text("theirs")
    (folder / "empty").mkdir(parents=True)
    (folder / "notes.txt").write_text("theirs")
    (folder / "linked").symlink_to(data)
    (folder / "broken").symlink_to("nowhere")
    for _ in range(2):
        publish_fused(folder)
        assert (folder / "linked" / "clip").read_text() == (folder / "notes.txt").read_text() == "theirs"
        assert (folder / "linked").is_symlink()
        assert (folder / "broken").is_symlink()
        assert (folder / "empty").is_dir()
    (folder / "SHA256SUMS").unlink()  # as folders of before
    publish_fused(folder)
    verify_published(folder, "")


@pytest.mark.parametrize("name", ["SHA256SUMS", "report.html", "model", "heads/a/SHA256SUMS", "text/checksums.json"])
def test_what_would_be_lost_is_named_and_nothing_is_published(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    (folder / name).parent.mkdir(parents=True)
    (folder / "notes.txt").write_text("theirs")
    (folder / name).write_text("abc  notes.txt\n")
    with pytest.raises(StoreError, match=f"{name}: not of this kind of results"):
        publish_fused(folder)
    assert (folder / name).read_text() == "abc  notes.txt\n"
    assert (folder / "notes.txt").read_text() == "theirs"
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with claimed(tmp_path / "out"):
        publish_fused(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert read_published(tmp_path / "disk" / "report.html", "") == b"ours"
    assert {path.name for path in tmp_path.iterdir()} == {"out", "disk"}


def test_a_link_that_goes_round_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("out")
    with pytest.raises(StoreError, match="is no folder: move it away"), claimed(tmp_path / "out"):
        publish_fused(tmp_path / "out")


@pytest.mark.parametrize("name", [".", "", "..", "/"])
def test_the_folder_that_one_stands_in_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="the folder that this runs in cannot be replaced"):
        publish_fused(Path(name))


def test_a_folder_in_place_of_a_lock_or_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".head.lock").mkdir()
    with (
        pytest.raises(StoreError, match=r"\.head\.lock: a folder, where a lock file is to be"),
        claimed(tmp_path / "head"),
    ):
        pass
    for name in ("receipt.json", ".receipt.json.partial"):
        (tmp_path / name).mkdir()
        with pytest.raises(StoreError, match=f"{name}: a folder, where a file is to be: move it away"):
            write_sealed_json(tmp_path / "receipt.json", {"number": 1})
        (tmp_path / name).rmdir()
