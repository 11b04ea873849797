"""Opening a media file, and whether all of it is there."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import av
from av.stream import Disposition

from configs.outside import open_to_read
from extract.media.containers.completeness import missing_end
from extract.media.containers.foreign import what_else
from extract.media.containers.lengths import stated_seconds
from extract.media.damage import MediaError, cut_short, said

# Containers of sound and moving pictures. What is not here is refused, above all what makes FFmpeg open other files or
# the network (playlists, scripts, DASH, SDP, image sequences). Together with the protocol "fd" nothing but the one
# file that is already open can be read.
FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dv,eac3,flac,flv,gif,ivf,matroska,mov,mp3,mpeg,mpegts,mxf,"
    "nistsphere,nut,ogg,rm,tta,voc,w64,wav,wv"
)


# Containers that state a stream's length: by how much it may fall short, in seconds and as a share of it. An MP4's
# times include what edit lists and codecs' delays take away.
TOLERANCE = {
    "mov,mp4,m4a,3gp,3g2,mj2": (0.5, 0.05),
    "avi": (0.5, 0.05),
    "mxf": (0.5, 0.05),
    "ivf": (0.5, 0.05),
    "flac": (0.01, 0),
    "ogg": (0.05, 0),
    "au": (0.05, 0.005),
    "wv": (0.05, 0.005),
    "tta": (0.05, 0.005),
    "ape": (0.05, 0.005),
    "nistsphere": (0.05, 0.005),
}
OF_THE_FILE = (0.5, 0.05)  # of lengths that stand in the header, for all streams together
OF_SOUND = (0.15, 0.05)  # where sound is all there is: its packets know how long they are
EXACT = ("flac", "ogg", "mp3")  # the stated length is that of the samples themselves
MOST_RETRIES = 1000
Beat = Callable[[], None]  # called with every packet: decoding is getting on

Stream = TypeVar("Stream", av.AudioStream, av.VideoStream)


@contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, int]]:
    """The container of a file and its descriptor, with everything that goes wrong in it as MediaError.

    The file is opened here and handed to FFmpeg as a descriptor: FFmpeg never sees a name, which it might take for a
    URL, a pattern or an option.
    """
    try:
        descriptor = open_to_read(path)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise MediaError("not a regular file")
            if found.st_size == 0:
                raise MediaError("the file is empty")
            if what := what_else(descriptor):
                raise MediaError(f"not media but {what}")
            options = {"fd": str(descriptor), "protocol_whitelist": "fd", "format_whitelist": FORMATS}
            try:
                container = av.open("fd:", options=options, metadata_errors="replace")
            except av.ArgumentError as error:  # what FFmpeg says of a format that is not in the list
                raise MediaError("not a format of audio or video that is read here") from error
            with container:
                missing = missing_end(descriptor, container.format.name)
                if missing:
                    raise MediaError(f"cut short: {missing}")
                yield container, descriptor
        finally:
            os.close(descriptor)
    except MemoryError as error:
        raise MediaError("decoding it takes more memory than there is") from error
    except (av.FFmpegError, OSError) as error:
        raise MediaError(said(error)) from error


def moving_pictures(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Video streams; the cover picture of a song is none."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def first_decodable(streams: Sequence[Stream], kind: str) -> Stream:
    """Beside a track that every player knows, some devices record one that only their own do."""
    if not streams:
        raise MediaError(f"it has no {kind} stream")
    decodable = next((stream for stream in streams if stream.codec_context is not None), None)
    if decodable is None:
        raise MediaError(f"no decoder for its {kind} stream")
    decodable.codec_context.thread_count = 1  # clips are decoded side by side: threads within one only compete
    return decodable


class Ends:
    """Whether the streams of a file, together, reach the length that its header states; looks at every packet."""

    def __init__(self, container: av.container.InputContainer, descriptor: int) -> None:
        self._format = container.format.name
        stated = None if self._format in EXACT else stated_seconds(descriptor, self._format)
        if self._format == "nut" and container.duration:  # which FFmpeg knows from its index alone
            stated = container.duration / av.time_base
        self.stated = stated or 0.0
        self._tolerance = OF_THE_FILE if container.streams.video else OF_SOUND
        self._first, self._last = float("inf"), float("-inf")
        self.broke = ""  # why nothing could be read from some place on

    def look(self, packet: av.Packet) -> None:
        if packet.pts is not None and packet.time_base is not None:
            start = float(packet.pts * packet.time_base)
            if start > 2 * self.stated:
                return  # a damaged time
            self._first = min(self._first, start)
            self._last = max(self._last, start + float((packet.duration or 0) * packet.time_base))

    def check(self, declared: float, decoded: float = 0) -> None:
        """After the last packet; ``declared``: seconds that the stream itself states, 0: none; ``decoded``: when what
        was decoded of it ends.

        Raises MediaError where much is missing, or nobody knows how much.
        """
        if self.broke and not declared and not self.stated:
            raise MediaError(self.broke)
        if self.stated and self._last > self._first:
            reached = max(self._last, self._last - self._first, decoded)  # times may begin below or above zero
            if reached < self.stated - max(self._tolerance[0], self._tolerance[1] * self.stated):
                raise cut_short(reached, self.stated)


def packets(
    container: av.container.InputContainer,
    stream: Any,
    ends: Ends,
    beat: Beat,
    look: Callable[[Any], None] | None = None,
) -> Iterator[Any]:
    """Those of a stream, the last of them empty: it makes the decoder give what it holds back.

    Args:
        look: is shown the packets of every stream.
    """
    retries = 0
    while True:
        try:
            for packet in container.demux() if ends.stated or look else container.demux(stream):
                beat()
                if ends.stated:
                    ends.look(packet)
                if look:
                    look(packet)
                if packet.stream_index == stream.index:
                    yield packet
            return
        except av.BlockingIOError:  # FFmpeg's way to say that it skipped what it could not read
            retries += 1
            if retries > MOST_RETRIES:
                raise
        except av.FFmpegError as error:  # junk at the end, or all the rest is lost: the length will tell
            if isinstance(error, MemoryError):
                raise
            ends.broke = said(error)
            last = av.Packet()
            last.stream = stream
            yield last
            return


def declared_seconds(container: av.container.InputContainer, stream: av.AudioStream | av.VideoStream) -> float:
    """How long the stream says it is; 0 where that is not stated, or only estimated from the file's size."""
    if (
        container.format.name not in TOLERANCE
        or container.format.name == "ogg"
        or stream.duration is None
        or stream.time_base is None
    ):
        return 0
    return float(stream.duration * stream.time_base)


def refuse_cut(seconds: float, declared: float, format_name: str) -> None:
    """Much less than declared: the end is missing, though what is there decodes without complaint."""
    absolute, share = TOLERANCE.get(format_name, (0, 0))
    if seconds < declared - max(absolute, share * declared):
        raise cut_short(seconds, declared)


def length_in_header(path: Path, kind: str) -> float | None:
    """How long a file says it is, in seconds, or what FFmpeg makes of its size; None where neither tells.

    Nothing is decoded but what FFmpeg looks at to know the streams.

    Args:
        kind: ``audio`` or ``video``, of which the file must have a stream.
    Raises:
        MediaError: it cannot be opened, or has no such stream.
    """
    with opened(path) as (container, descriptor):
        if kind == "audio":
            first_decodable(container.streams.audio, kind)
        else:
            first_decodable(moving_pictures(container), kind)
        seconds = stated_seconds(descriptor, container.format.name)
        if seconds is None and container.duration and container.duration > 0:
            seconds = container.duration / av.time_base
        return seconds
