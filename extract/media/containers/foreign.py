"""Files that have the name of media and are something else: what a download or a clone leaves in their place."""

import os

from configs.outside import read_at

_MAGIC = {
    b"version https://git-lfs.github.com/spec/": "a Git LFS pointer and not the file itself: run git lfs pull",
    b"/annex/objects/": "a git-annex pointer and not the file itself: run git annex get",
    b"../.git/annex/": "a git-annex pointer and not the file itself: run git annex get",
    b"<!doctype html": "an HTML page, as of a download that was refused or asked to log in: download it again",
    b"<html": "an HTML page, as of a download that was refused or asked to log in: download it again",
    b"<head": "an HTML page, as of a download that was refused or asked to log in: download it again",
    b"<error": "an error message of a server in XML: download it again",
    b"<?xml": "XML, as a server's error message is: download it again",
    b"pk\x03\x04": "a ZIP archive: unpack it",
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"rar!\x1a\x07": "a RAR archive: unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it",
    b"%pdf-": "a PDF document",
    b"\x89png\r\n": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"\0\5\x16\7": "what macOS keeps beside a file (AppleDouble, its name begins with ._), and not the file itself",
    b"\x93numpy": "an array of NumPy",
}
_SAMPLED = 4096  # bytes


def what_else(descriptor: int) -> str | None:
    """What a file is, in words, if it is one of these; its position is left alone."""
    head = read_at(descriptor, _SAMPLED, 0)
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")[:64].lower()
    for magic, what in _MAGIC.items():
        if begin.startswith(magic):
            return what
    if head and not any(head):
        size = os.fstat(descriptor).st_size
        tail = read_at(descriptor, _SAMPLED, max(0, size - _SAMPLED))
        middle = read_at(descriptor, _SAMPLED, size // 2)
        if not any(tail) and not any(middle):
            return "nothing but zeros, as of a download that was never filled: download it again"
    return None
