"""Tags among the frames of an MP3: FFmpeg's decoder takes them for sound unless they stand at the file's ends."""

_MOST = 1 << 28  # bytes of a tag; more is damage


class Tags:
    """Takes tags out of packets that follow each other; one may reach over many."""

    def __init__(self) -> None:
        self._rest = 0  # bytes of a tag that are still to come

    def without(self, data: bytes) -> bytes:
        """What of a packet is no tag, nor zeros that fill a file up."""
        while data:
            if self._rest:
                taken = min(self._rest, len(data))
                self._rest -= taken
                data = data[taken:]
            elif not (length := _tag_length(data)):
                break
            else:
                self._rest = length
        return data.lstrip(b"\0") if data[:1] == b"\0" else data


def _tag_length(data: bytes) -> int:
    """Of the tag at the beginning: ID3v2, ID3v1, APEv2 or Lyrics3; 0: there is none."""
    if data[:3] == b"ID3" and len(data) >= 10 and data[3] < 5 and max(data[6:10]) < 128:
        footer = 10 if data[5] & 0x10 else 0
        return 10 + (data[6] << 21) + (data[7] << 14) + (data[8] << 7) + data[9] + footer
    if data[:3] == b"TAG":
        return 227 if data[3:4] == b"+" else 128
    if data[:8] == b"APETAGEX" and len(data) >= 24:
        length = int.from_bytes(data[12:16], "little")  # of items and footer
        return min(length + 32 if data[23] & 0x80 else 32, _MOST)
    if data[:11] == b"LYRICSBEGIN":
        end = max(data.find(b"LYRICS200"), data.find(b"LYRICSEND"))
        return end + 9 if end > 0 else len(data)
    return 0
