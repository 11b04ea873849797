"""Media inside of records: written out once, each named by its content, so that they are files like any others."""

import hashlib
from pathlib import Path

from cache import writable, write_atomically
from extract.corpora.media_paths import AUDIO, VIDEO

# How files of a kind begin, where their name does not say it.
SIGNATURES = (
    (b"RIFF", 8, b"WAVE", ".wav"),
    (b"RIFF", 8, b"AVI ", ".avi"),
    (b"fLaC", 0, b"", ".flac"),
    (b"OggS", 0, b"", ".ogg"),
    (b"ID3", 0, b"", ".mp3"),
    (b"\xff\xfb", 0, b"", ".mp3"),
    (b"\x1aE\xdf\xa3", 0, b"", ".mkv"),
    (b"", 4, b"ftyp", ".mp4"),
)


def suffix_of(content: bytes, name: str | None) -> str | None:
    """A suffix of media by a name or else by how the content begins; None where it is neither."""
    suffix = Path(name).suffix.lower() if name else ""
    if suffix in (*AUDIO, *VIDEO):
        return suffix
    for start, at, sign, found in SIGNATURES:
        if content.startswith(start) and content[at : at + len(sign)] == sign:
            return found
    return None


def unpack(content: bytes, suffix: str, folder: Path) -> str:
    """Write media below ``folder``, unless they are there; returns their path below it.

    Raises:
        StoreError: the system refuses.
    """
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    path = f"{digest[:2]}/{digest}{suffix}"
    file = folder / path
    with writable(file):
        if not file.is_file() or file.stat().st_size != len(content):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, content, durable=False)
    return path
