"""The pages of an Ogg file (RFC 3533), read without FFmpeg, which leaves out damaged ones without a word."""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from configs.outside import read_at

_HEADER = 27  # bytes, and as many more as the page has segments
_LONGEST = _HEADER + 255 + 255 * 255
_NOT_YET = (1 << 64) - 1  # in place of a time: no packet ends on this page
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_RATES = {b"\x01vorbis": 12, b"Speex   ": 36, b"\x7fFLAC": 27}  # what the first page begins with, and where the rate is


@dataclass(frozen=True)
class _Page:
    at: int
    flags: int
    end: int  # when its last packet ends, in samples
    serial: int
    length: int
    is_whole: bool  # its checksum is right
    head: bytes  # of its content


@dataclass(frozen=True)
class Sound:
    """What the pages say of the first sound in the file: when it ends, in seconds, and what is wrong with them.

    ``end`` is None where it cannot be known: a codec that is not known here, or files joined into one.
    """

    end: float | None
    n_damaged: int
    begins_damaged: bool  # the first page with sound is
    is_ended: bool  # the last page carries the flag that ends its stream


def sound(descriptor: int) -> Sound:
    """Reads all of the file."""
    size = os.fstat(descriptor).st_size
    serial, rate, before = None, 0, 0
    end, last, n_damaged, begins_damaged, n_pages = 0, None, 0, False, 0
    for page in _pages(descriptor, size):
        is_next = last is None or page.at == last.at + last.length  # or the name of one before it is damaged
        n_damaged += not (page.is_whole and is_next)
        last = page
        if page.flags & 2 and serial is None and (known := _format(page.head)):
            serial, (rate, before) = page.serial, known
        elif page.serial == serial and page.end not in (0, _NOT_YET):
            begins_damaged |= n_pages == 0 and not (page.is_whole and is_next)
            n_pages, end = n_pages + 1, page.end
    if last is None:
        return Sound(None, 0, False, False)
    is_known = serial is not None and last.serial == serial and rate > 0
    return Sound((end - before) / rate if is_known else None, n_damaged, begins_damaged, bool(last.flags & 4))


def last_page_problem(descriptor: int, size: int) -> str | None:
    """Whether the last page lacks its end, in words."""
    start = max(0, size - 2 * _LONGEST)
    tail = read_at(descriptor, size - start, start)
    at = tail.rfind(b"OggS")
    length = _length(tail[at:]) if at >= 0 else None
    rest = b"O" if length is None or at + length > len(tail) else tail[at + length :]
    # What follows a page that does not end its stream is one whose name is damaged.
    is_page = rest and (b"OggS".startswith(rest[:4]) or (not tail[at + 5] & 4 and rest.strip(b"\0")))
    return "its last page is not whole" if is_page else None


def _pages(descriptor: int, size: int) -> Iterator[_Page]:
    at = 0
    while at < size:
        page = read_at(descriptor, _LONGEST, at)
        start = page.find(b"OggS")
        if start < 0:
            at += max(1, len(page) - 3)
            continue
        if start:
            at += start
            continue
        length = _length(page)
        if length is None or length > len(page):
            at += 4
            continue
        page = page[:length]
        content = _HEADER + page[26]
        end, serial = int.from_bytes(page[6:14], "little"), int.from_bytes(page[14:18], "little")
        yield _Page(at, page[5], end, serial, length, _crc(page) == page[22:26], page[content : content + 64])
        at += length


def _length(page: bytes) -> int | None:
    if len(page) < _HEADER or len(page) < _HEADER + page[26]:
        return None
    return _HEADER + page[26] + sum(page[_HEADER : _HEADER + page[26]])


def _crc(page: bytes) -> bytes:
    """CRC-32 with the polynomial of zlib, but not mirrored and without its inversions; as it stands in the page."""
    blanked = page[:22] + bytes(4) + page[26:]
    mirrored = zlib.crc32(blanked.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return mirrored.to_bytes(4, "little").translate(_MIRRORED)[::-1]


def _format(head: bytes) -> tuple[int, int] | None:
    """Samples a second, and how many at the start are not heard."""
    if head.startswith(b"OpusHead"):
        return 48_000, int.from_bytes(head[10:12], "little")
    for magic, at in _RATES.items():
        if head.startswith(magic):
            if magic == b"\x7fFLAC":
                return int.from_bytes(head[at : at + 3], "big") >> 4, 0
            return int.from_bytes(head[at : at + 4], "little"), 0
    return None
