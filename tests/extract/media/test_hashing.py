"""A file is decoded as the one that was hashed, or not at all."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from extract.media.hashing import ChangedError, held, new_content_hash


def hash_of(content: bytes) -> str:
    digest = new_content_hash()
    digest.update(content)
    return str(digest.hexdigest())


def read_held(path: Path, content_hash: str | None, meanwhile: Callable[[], object]) -> bytes:
    with held(path, content_hash) as file:
        content = file.read_bytes()
        meanwhile()
    return content


@pytest.mark.parametrize("content_hash", [hash_of(b"first"), None])
def test_a_file_that_stays_is_read(tmp_path: Path, content_hash: str | None) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"first")
    assert read_held(path, content_hash, lambda: None) == b"first"


def test_whatever_happens_to_its_name_it_is_the_file_that_is_read(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"first")
    other.write_bytes(b"other")
    with suppress(ChangedError), held(path, hash_of(b"first")) as file:
        other.rename(path)
        assert file.read_bytes() == b"first"  # opened again, and again the same
        assert path.read_bytes() == b"other"
    with pytest.raises(ChangedError):
        read_held(path, hash_of(b"first"), lambda: None)


def test_a_change_and_its_undoing_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"first")
    os.utime(path, ns=(10**18, 10**18))
    times = path.stat()

    def there_and_back() -> None:
        path.write_bytes(b"other")
        path.write_bytes(b"first")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    with pytest.raises(ChangedError, match="changed while it was read"):
        read_held(path, hash_of(b"first"), there_and_back)


def test_what_is_no_file_any_more_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(ChangedError, match="no regular file"):
        read_held(tmp_path / "a", hash_of(b""), lambda: None)
