"""Stores on one shelf: found by what they are, shared, never set aside by others, taken over from their old places."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from store_tools import FIELDS, all_files

import cache.info
from cache import Store, StoreError, StoreWriter, settings_header
from cache.disk.locks import take_lock
from cache.shelf import Found, content_hashes, find, settle, stores_of
from configs import UserError

OTHER = {**FIELDS, "layer": 4}
WANTED = settings_header(FIELDS, 0, "float16", "zarr", 0)
CLIPS = {f"clip{i}": f"content {i}" for i in range(6)}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def link(profile: str, name: str = "audio") -> Path:
    return Path("runs") / profile / "stores" / name


def fill(path: Path, contents: dict[str, str], fields: dict[str, object] = FIELDS, backend: str = "zarr") -> None:
    with StoreWriter(path, fields, 4, backend=backend) as writer:
        for clip_id, content in contents.items():
            if writer.content_hashes.get(clip_id) != content:
                writer.append(clip_id, np.full((2, 4), float(len(content)), np.float32), content)


def run(profile: str, contents: dict[str, str], fields: dict[str, object] = FIELDS, name: str = "audio") -> Found:
    """As a pass does it: find the store, fill it."""
    found = settle(link(profile, name), "whisper", settings_header(fields, 0, "float16", "zarr", 0), contents)
    fill(found.path, contents, fields)
    return found


def test_two_profiles_with_the_same_clips_and_encoder_share_a_store() -> None:
    first = run("a", CLIPS)
    assert first.path.parent == Path("runs/stores").absolute()
    assert first.path.name.startswith("whisper-")
    assert (first.stored, first.others) == ({}, [])
    second = run("b", CLIPS, name="voice")
    assert (second.path, second.stored, second.others) == (first.path, CLIPS, [link("a")])
    assert link("b", "voice").resolve() == first.path
    assert Store(link("b", "voice")).clip_ids == list(CLIPS)
    assert not link("b", "voice").readlink().is_absolute()  # runs/ can be moved


def test_profiles_that_differ_leave_each_other_alone() -> None:
    first = run("a", CLIPS)
    before = all_files(first.path)
    other = run("b", CLIPS, OTHER)
    assert other.path != first.path
    assert run("a", CLIPS).path == first.path
    assert all_files(first.path) == before


def test_settings_that_return_find_their_store_again() -> None:
    first = run("a", CLIPS)
    second = run("a", CLIPS, OTHER)
    assert link("a").resolve() == second.path
    assert run("a", CLIPS).stored == CLIPS
    assert link("a").resolve() == first.path


def test_clips_of_another_corpus_under_the_same_ids_get_a_store_of_their_own() -> None:
    first = run("a", CLIPS)
    second = run("b", {clip_id: f"other {content}" for clip_id, content in CLIPS.items()})
    assert second.path.name == f"{first.path.name}-2"
    assert content_hashes(first.path) == CLIPS


def test_a_corpus_that_has_grown_or_changed_a_little_keeps_its_store() -> None:
    first = run("a", CLIPS)
    run("b", CLIPS)
    changed = {**CLIPS, "clip0": "re-recorded", "more": "content"}
    assert run("b", changed).path == first.path
    assert run("a", dict(list(CLIPS.items())[2:])).path == first.path


def test_what_changed_altogether_stays_where_it_was_unless_others_use_it() -> None:
    changed = {clip_id: f"other {content}" for clip_id, content in CLIPS.items()}
    first = run("a", CLIPS)
    assert run("a", changed).path == first.path
    run("b", changed)
    assert run("a", CLIPS).path != first.path
    assert content_hashes(first.path) == changed


def test_the_store_that_agrees_most_is_taken() -> None:
    few, many = dict(list(CLIPS.items())[:2]), CLIPS
    run("a", {"elsewhere": "x", **few})
    fuller = settle(link("b"), "whisper", WANTED, {"nothing": "of these"})
    fill(fuller.path, many)
    assert run("c", many).path == fuller.path


@pytest.mark.parametrize("name", ["audio", "audio.0123456789abcdef.zarr", "renamed"])
def test_a_store_from_before_the_shelf_is_taken_over(name: str) -> None:
    old = link("a", name)
    fill(old, CLIPS)
    before = all_files(old)
    seen = find(link("a"), "whisper", WANTED, CLIPS)
    assert (seen.path, seen.stored) == (old.absolute(), CLIPS)
    assert not link("a").is_symlink()  # looking changes nothing
    found = settle(link("a"), "whisper", WANTED, CLIPS)
    assert (found.path.parent, found.stored) == (Path("runs/stores").absolute(), CLIPS)
    assert link("a").resolve() == found.path
    assert all_files(found.path) == before
    assert not (old.exists() and "." in name)
    with StoreWriter(found.path, FIELDS, 4) as writer:  # with a lock of its own
        assert writer.content_hashes == CLIPS


def test_a_store_on_another_disk_is_copied_to_the_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    fill(link("a"), CLIPS)
    before = all_files(link("a"))
    rename = Path.rename

    def across(self: Path, target: Path) -> Path:
        if self == link("a"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", across)
    found = settle(link("a"), "whisper", WANTED, CLIPS)
    assert link("a").is_symlink()
    assert all_files(found.path) == before
    assert [path.name for path in Path("runs/stores").iterdir()] == [found.path.name]


def test_a_link_to_a_store_that_was_deleted_is_led_elsewhere() -> None:
    first = run("a", CLIPS)
    shutil.rmtree(first.path)
    assert find(link("a"), "whisper", WANTED, CLIPS).stored == {}
    assert run("a", CLIPS).path == first.path
    assert Store(link("a")).clip_ids == list(CLIPS)


def test_a_former_store_of_other_settings_is_kept_too() -> None:
    fill(link("a"), CLIPS, OTHER)
    fresh = run("a", CLIPS)
    assert fresh.stored == {}
    kept = [path for path in stores_of(Path("runs")) if path.resolve() != fresh.path]
    assert [content_hashes(path) for path in kept] == [CLIPS]
    assert run("a", CLIPS, OTHER).stored == CLIPS


def test_a_store_that_a_user_linked_is_used_where_it_is() -> None:
    fill(Path("elsewhere/big"), CLIPS)
    link("a").parent.mkdir(parents=True)
    link("a").symlink_to(Path("elsewhere/big").absolute())
    assert run("a", CLIPS).path == Path("elsewhere/big").absolute()


def test_one_writer_whoever_comes_by_which_link() -> None:
    found = run("a", CLIPS)
    run("b", CLIPS)
    lock = take_lock(link("a"))
    with pytest.raises(StoreError, match="another extraction is writing this store"):
        StoreWriter(found.path, FIELDS, 4)
    with pytest.raises(StoreError, match="another extraction is writing this store"):
        StoreWriter(link("b"), FIELDS, 4)
    os.close(lock)


def test_a_store_that_is_being_written_is_not_moved() -> None:
    fill(link("a"), CLIPS)
    lock = take_lock(link("a"))
    with pytest.raises(StoreError, match="is writing this store"):
        settle(link("a"), "whisper", WANTED, CLIPS)
    os.close(lock)
    assert content_hashes(link("a")) == CLIPS


def listed(capsys: pytest.CaptureFixture[str], unused: bool = False) -> list[str]:
    cache.info.main(unused=unused)
    return capsys.readouterr().out.splitlines()


def test_info_lists_the_stores_their_users_and_those_without(capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys) == ["runs/stores: no store yet"]
    shared, own = run("a", CLIPS), run("b", CLIPS, OTHER, "voice")
    run("b", CLIPS)
    fill(link("old"), CLIPS)
    rows = {line.split()[0]: line for line in listed(capsys)[1:]}
    assert rows[f"runs/stores/{shared.path.name}"].endswith("a (audio), b (audio)")
    assert rows[f"runs/stores/{own.path.name}"].endswith("b (voice)")
    assert rows["runs/old/stores/audio"].endswith("old (audio)")
    assert listed(capsys, unused=True) == ["runs/stores: every store is used by a profile"]
    link("b", "voice").unlink()
    header, line, advice = listed(capsys, unused=True)
    assert header.split()[:2] == ["store", "clips"]
    assert line.split()[:2] == [f"runs/stores/{own.path.name}", "6"]
    assert "rm -r" in advice
    with pytest.raises(UserError, match="--unused: lists stores"):
        cache.info.main(own.path, unused=True)


def test_an_encoder_that_the_profile_no_longer_has_uses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run("a", CLIPS)
    assert len(listed(capsys, unused=True)) == 1  # no configs/a.yaml: it keeps what it has
    profile = {
        "name": "a",
        "dataset": {"adapter": "avamerg", "root": "."},
        "encoders": {"audio": {"family": "wav2vec2", "model": "./none"}},
        "heads": {"h": {"inputs": ["audio"]}},
    }
    Path("configs").mkdir()
    for name, n_unused in (("audio", 0), ("speech", 1)):
        profile["encoders"] = {name: {"family": "wav2vec2", "model": "./none"}}
        profile["heads"] = {"h": {"inputs": [name]}}
        Path("configs/a.yaml").write_text(yaml.safe_dump(profile))
        assert len(listed(capsys, unused=True)) == (3 if n_unused else 1)
