"""Whether a media file ends where its container says that it does.

A file that lost its end in a download or a crash often decodes without complaint up to where it was cut. What is read
here is the container's outermost structure: a few bytes, whatever the file's size. Containers that state no length
(MP3 without a Xing header, ADTS, MPEG-TS, what was streamed) cannot be judged.
"""

import os
from collections.abc import Callable

_UNKNOWN_TO_RIFF = (
    range(1),
    range(0x7FFFF000, 0x80000001),
    range(0xFFFFF000, 0x100000000),
)  # written by streaming tools
_LONGEST_OGG_PAGE = 27 + 255 + 255 * 255
_MAX_BOXES = 1_000_000


def missing_end(descriptor: int, format_name: str) -> str | None:
    """What is missing, in words; None where nothing is or where that cannot be known.

    Args:
        descriptor: of the open file; its position is left alone.
        format_name: FFmpeg's name of the container.
    """
    judge = _JUDGES.get(format_name)
    return judge(descriptor, os.fstat(descriptor).st_size) if judge else None


def _ends_after(size: int, end: int) -> str | None:
    return f"{size} of at least {end} bytes" if end > size else None


def _riff(descriptor: int, size: int) -> str | None:
    """RIFF (WAV, AVI), RF64 and AIFF: chunks of a name, a size of 4 bytes and content, padded to even lengths."""
    order = "big" if os.pread(descriptor, 4, 0) == b"FORM" else "little"
    at, long_size = 12, 0
    for _ in range(_MAX_BOXES):
        header = os.pread(descriptor, 28, at)
        if len(header) < 8:
            return None
        name, length = header[:4], int.from_bytes(header[4:8], order)  # type: ignore[arg-type]
        if name == b"ds64":
            long_size = int.from_bytes(header[16:24], "little")
        if name in (b"data", b"SSND") or (name == b"LIST" and header[8:12] == b"movi"):
            if long_size and length == 0xFFFFFFFF:
                length = long_size
            elif any(length in sizes for sizes in _UNKNOWN_TO_RIFF):
                return None
            return _ends_after(size, at + 8 + length)
        at += 8 + length + length % 2
    return None


def _mp4(descriptor: int, size: int) -> str | None:
    """ISO 14496-12: boxes of a size (0: to the file's end, 1: 8 more bytes hold it) and a name."""
    at = 0
    for _ in range(_MAX_BOXES):
        header = os.pread(descriptor, 16, at)
        if len(header) < 8:
            return None
        length, name = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:], "big")
        if name in (b"mdat", b"moof", b"moov") and at + length > size:
            return _ends_after(size, at + length)
        if length < 8:
            return None
        at += length
    return None


def _matroska(descriptor: int, size: int) -> str | None:
    """RFC 8794: an EBML header, then one segment; sizes have as many bytes as their first byte's leading zeros say."""
    at = 0
    for name in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
        header = os.pread(descriptor, 12, at)
        if len(header) < 12 or header[:4] != name or header[4] == 0:
            return None
        n_bytes = 9 - header[4].bit_length()
        known = (1 << 7 * n_bytes) - 1  # all bits set: the size is not known
        length = int.from_bytes(header[4 : 4 + n_bytes], "big") & known
        if length == known:
            return None
        at += 4 + n_bytes + length
    return _ends_after(size, at)


def _ogg(descriptor: int, size: int) -> str | None:
    """RFC 3533: the last page must be whole and carry the flag that ends its stream."""
    start = max(0, size - 2 * _LONGEST_OGG_PAGE)
    tail = os.pread(descriptor, size - start, start)
    at = tail.rfind(b"OggS")
    page = tail[at:]
    if at < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return "its last page is not whole"
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    if len(page) < length:
        return "its last page is not whole"
    return None if page[5] & 4 else "its last page does not end the stream"


def _mp3(descriptor: int, size: int) -> str | None:
    """The byte count in the Xing or Info header that encoders put into the first frame, behind an ID3v2 tag."""
    at = 0
    tag = os.pread(descriptor, 10, 0)
    if len(tag) == 10 and tag[:3] == b"ID3":
        at = 10 + (tag[6] << 21) + (tag[7] << 14) + (tag[8] << 7) + tag[9]
    frame = os.pread(descriptor, 200, at)
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return None
    is_mpeg1, is_mono = frame[1] & 0x18 == 0x18, frame[3] >> 6 == 3
    header = frame[4 + {(True, False): 32, (False, True): 9}.get((is_mpeg1, is_mono), 17) :]
    if header[:4] not in (b"Xing", b"Info") or not header[7] & 2:
        return None
    start = 12 if header[7] & 1 else 8
    return _ends_after(size, at + int.from_bytes(header[start : start + 4], "big"))


_JUDGES: dict[str, Callable[[int, int], str | None]] = {
    "wav": _riff,
    "avi": _riff,
    "aiff": _riff,
    "mov,mp4,m4a,3gp,3g2,mj2": _mp4,
    "matroska,webm": _matroska,
    "ogg": _ogg,
    "mp3": _mp3,
}
