"""How long a media file says it is, read from its header without FFmpeg, which guesses where nothing is stated."""

import struct
from collections.abc import Callable, Iterator

from configs.outside import read_at

_HEAD = 1 << 16  # bytes in which headers stand
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_SEGMENT, _INFO, _SCALE, _DURATION = 0x18538067, 0x1549A966, 0x2AD7B1, 0x4489  # RFC 9559


def stated_seconds(descriptor: int, format_name: str) -> float | None:
    """Of the file as a whole, None where it is not stated.

    Args:
        descriptor: of the open file; its position is left alone.
        format_name: FFmpeg's name of the container.
    """
    reader = _READERS.get(format_name)
    seconds = reader(read_at(descriptor, _HEAD, 0), descriptor) if reader else None
    return seconds if seconds and 0 < seconds < 1e6 else None


def _flv(head: bytes, _: int) -> float | None:
    """The number behind ``duration`` among the metadata; 0 while it is not known."""
    at = head.find(b"duration\0")
    return struct.unpack(">d", head[at + 9 : at + 17])[0] if 0 <= at <= len(head) - 17 else None


def _asf(head: bytes, _: int) -> float | None:
    """Play duration in units of 100 ns, with the time that a player first fills its buffer, in ms, in it."""
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 92 or head[at + 88] & 1:  # streamed
        return None
    duration, _, preroll = struct.unpack("<QQQ", head[at + 64 : at + 88])
    return duration / 1e7 - preroll / 1e3


def _matroska(head: bytes, _: int) -> float | None:
    """``Duration`` of the segment's ``Info``, in its ``TimestampScale``."""
    for segment, start, stop in _elements(head, 0, len(head)):
        if segment != _SEGMENT:
            continue
        for info, inner, end in _elements(head, start, min(stop, len(head))):
            if info == _INFO:
                found = {name: head[a:b] for name, a, b in _elements(head, inner, min(end, len(head)))}
                scale = int.from_bytes(found.get(_SCALE, b"\x0f\x42\x40"), "big")
                value = found.get(_DURATION, b"")
                if len(value) not in (4, 8):
                    return None
                return float(struct.unpack(">f" if len(value) == 4 else ">d", value)[0]) * scale / 1e9
    return None


def _elements(head: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """RFC 8794: name, start and end of the content of each element of a level; the end may lie behind ``head``."""
    while at < stop:
        n_name = 9 - head[at].bit_length()
        if n_name > 4 or at + n_name >= stop:
            return
        name, at = int.from_bytes(head[at : at + n_name], "big"), at + n_name
        n_size = 9 - head[at].bit_length()
        if n_size > 8 or at + n_size > stop:
            return
        known = (1 << 7 * n_size) - 1
        size, at = int.from_bytes(head[at : at + n_size], "big") & known, at + n_size
        end = stop if size == known else at + size
        yield name, at, end
        at = end


def _mp3(head: bytes, descriptor: int) -> float | None:
    """The number of frames in the Xing or Info header; they hold the encoder's own delay and padding, too."""
    at = 0
    if head[:3] == b"ID3" and len(head) > 10:
        at = 10 + (head[6] << 21) + (head[7] << 14) + (head[8] << 7) + head[9]
        head = read_at(descriptor, 200, at)
    if len(head) < 60 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # layer III
        return None
    version = head[1] >> 3 & 3  # 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    is_mono, rate_at = head[3] >> 6 == 3, head[2] >> 2 & 3
    if version == 1 or rate_at == 3:
        return None
    xing = head[4 + {(True, False): 32, (False, True): 9}.get((version == 3, is_mono), 17) :]
    if xing[:4] not in (b"Xing", b"Info") or not xing[7] & 1:
        return None
    rate = (44100, 48000, 32000)[rate_at] // {3: 1, 2: 2, 0: 4}[version]
    return int.from_bytes(xing[8:12], "big") * (1152 if version == 3 else 576) / rate


_READERS: dict[str, Callable[[bytes, int], float | None]] = {
    "flv": _flv,
    "asf": _asf,
    "matroska,webm": _matroska,
    "mp3": _mp3,
}
