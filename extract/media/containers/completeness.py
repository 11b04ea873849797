"""Whether a media file ends where its container says that it does.

A file that lost its end in a download or a crash often decodes without complaint up to where it was cut. What is read
here is the container's outermost structure: a few bytes, whatever the file's size. Containers that state no length
(MP3 without a Xing header, ADTS, MPEG-TS, what was streamed) cannot be judged. Writers that count a few bytes too many
(the header's, a padding byte) are believed: ``SLACK``.
"""

import os
from collections.abc import Callable

from configs.outside import read_at
from extract.media.containers.ogg import last_page_problem

_UNKNOWN_TO_RIFF = (
    range(1),
    range(0x7FFFF000, 0x80000001),
    range(0xFFFFF000, 0x100000000),
)  # written by streaming tools
_MAX_BOXES = 1_000_000
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
SLACK = 64  # bytes by which writers miscount


def missing_end(descriptor: int, format_name: str) -> str | None:
    """What is missing, in words; None where nothing is or where that cannot be known.

    Args:
        descriptor: of the open file; its position is left alone.
        format_name: FFmpeg's name of the container.
    """
    judge = _JUDGES.get(format_name)
    return judge(descriptor, os.fstat(descriptor).st_size) if judge else None


def _ends_after(size: int, end: int, slack: int = SLACK) -> str | None:
    return f"{size} of at least {end} bytes" if end > size + slack else None


def _riff(descriptor: int, size: int) -> str | None:
    """RIFF (WAV, AVI), RF64 and AIFF: chunks of a name, a size of 4 bytes and content, padded to even lengths."""
    order = "big" if read_at(descriptor, 4, 0) == b"FORM" else "little"
    at, long_size = 12, 0
    for _ in range(_MAX_BOXES):
        header = read_at(descriptor, 28, at)
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
            # Some count what stands before the samples as well, or all of the file.
            slack = SLACK if name == b"LIST" else min(max(SLACK, at + 8), 4096)
            return _ends_after(size, at + 8 + length, slack)
        at += 8 + length + length % 2
    return None


def _w64(descriptor: int, size: int) -> str | None:
    """Sony Wave64: a GUID and the size of the whole, in 8 bytes; unknown is all bits set."""
    stated = int.from_bytes(read_at(descriptor, 8, 16), "little")
    return None if stated >= 1 << 62 else _ends_after(size, stated)


def _caf(descriptor: int, size: int) -> str | None:
    """Apple's Core Audio Format: chunks of a name, a size of 8 bytes (-1: to the file's end) and content."""
    at = 8
    for _ in range(_MAX_BOXES):
        header = read_at(descriptor, 12, at)
        if len(header) < 12:
            return None
        length = int.from_bytes(header[4:], "big", signed=True)
        if header[:4] == b"data" or length < 0:
            return None if length < 0 else _ends_after(size, at + 12 + length)
        at += 12 + length
    return None


def _voc(descriptor: int, size: int) -> str | None:
    """Creative Voice: blocks of a type, a size of 3 bytes and content; type 0 ends the file."""
    at = int.from_bytes(read_at(descriptor, 2, 20), "little")
    for _ in range(_MAX_BOXES):
        header = read_at(descriptor, 4, at)
        if len(header) < 4 or header[0] == 0:
            return None
        at += 4 + int.from_bytes(header[1:], "little")
        if missing := _ends_after(size, at):
            return missing
    return None


def _rm(descriptor: int, size: int) -> str | None:
    """RealMedia: chunks of a name, a size of 4 bytes that counts all of the chunk, and content."""
    at = 0
    for _ in range(_MAX_BOXES):
        header = read_at(descriptor, 8, at)
        length = int.from_bytes(header[4:], "big")
        if len(header) < 8 or length < 8:
            return None
        if header[:4] == b"DATA":
            return _ends_after(size, at + length)
        at += length
    return None


def _asf(descriptor: int, size: int) -> str | None:
    """ASF (WMA, WMV): the File Properties object in the header states the file's size, unless it was streamed."""
    head = read_at(descriptor, 1 << 16, 0)
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 92 or head[at + 88] & 1:
        return None
    return _ends_after(size, int.from_bytes(head[at + 40 : at + 48], "little"))


def _mp4(descriptor: int, size: int) -> str | None:
    """ISO 14496-12: boxes of a size (0: to the file's end, 1: 8 more bytes hold it) and a name."""
    at = 0
    for _ in range(_MAX_BOXES):
        header = read_at(descriptor, 16, at)
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
        header = read_at(descriptor, 12, at)
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
    """RFC 3533: the last page must be whole. The flag that ends its stream is forgotten by some writers."""
    return last_page_problem(descriptor, size)


def _mp3(descriptor: int, size: int) -> str | None:
    """The byte count in the Xing or Info header that encoders put into the first frame, behind an ID3v2 tag."""
    at = 0
    tag = read_at(descriptor, 10, 0)
    if len(tag) == 10 and tag[:3] == b"ID3":
        at = 10 + (tag[6] << 21) + (tag[7] << 14) + (tag[8] << 7) + tag[9]
    frame = read_at(descriptor, 200, at)
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return None
    is_mpeg1, is_mono = frame[1] & 0x18 == 0x18, frame[3] >> 6 == 3
    header = frame[4 + {(True, False): 32, (False, True): 9}.get((is_mpeg1, is_mono), 17) :]
    if header[:4] not in (b"Xing", b"Info") or not header[7] & 2:
        return None
    start = 12 if header[7] & 1 else 8
    # Some count a tag at the end that was taken away later.
    return _ends_after(size, at + int.from_bytes(header[start : start + 4], "big"), 256)


_JUDGES: dict[str, Callable[[int, int], str | None]] = {
    "wav": _riff,
    "avi": _riff,
    "aiff": _riff,
    "w64": _w64,
    "caf": _caf,
    "voc": _voc,
    "rm": _rm,
    "asf": _asf,
    "mov,mp4,m4a,3gp,3g2,mj2": _mp4,
    "matroska,webm": _matroska,
    "ogg": _ogg,
    "mp3": _mp3,
}
