"""From a media file to arrays: one decoder (FFmpeg through PyAV), one resampler, one resizer.

Everything here streams: memory does not grow with a clip's length. What is decided here enters every fingerprint as
``DECODING``; raise its version when a change alters values.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import soxr
from av.stream import Disposition

from extract.media.completeness import missing_end

SAMPLE_RATE = 16_000  # Hz; every supported audio encoder was trained at it
DECODING = {
    "version": 2,
    "sample_rate": SAMPLE_RATE,
    "downmix": "mean without LFE",
    "resampler": "soxr-HQ",
    "frames": "by-time",
}
MAX_SECONDS = 24 * 3600  # a header or a timestamp that says more is damaged
SAMPLE_RATES = range(1000, 768_001)  # Hz

# Containers of sound and moving pictures. What is not here is refused, above all what makes FFmpeg open other files or
# the network (playlists, scripts, DASH, SDP, image sequences). Together with the protocol "fd" nothing but the one
# file that is already open can be read.
FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dv,eac3,flac,flv,gif,ivf,matroska,mov,mp3,mpeg,mpegts,mxf,"
    "nistsphere,nut,ogg,rm,tta,voc,w64,wav,wv"
)


# Containers that state a stream's length: by how much it may fall short, in seconds and as a share of it. An MP4's
# times include what edit lists and codecs' delays take away.
TOLERANCE = {"mov,mp4,m4a,3gp,3g2,mj2": (0.5, 0.05), "flac": (0.01, 0)}

Stream = TypeVar("Stream", av.AudioStream, av.VideoStream)


class MediaError(Exception):
    """A file that cannot be decoded, in one line and in the decoder's own words."""


class ClipError(Exception):
    """A clip that this encoder cannot take, in one line."""


Beat = Callable[[], None]  # called with every packet: decoding is getting on


def audio_blocks(path: Path, beat: Beat = lambda: None) -> Iterator[np.ndarray]:
    """The first audio stream in pieces of any length: (samples,) float32 mono at ``SAMPLE_RATE``.

    Channels are averaged; a low-frequency effects channel is left out where the file names one, as in ITU-R BS.775.
    What an encoder put before and after the sound to fill its blocks is left out as FFmpeg does. Timestamps are not
    looked at: silence that is in the file stays, a gap between packets is closed.

    Raises:
        MediaError: no such file, no audio stream, nothing decodable, damaged, cut short, or not finite. Cut files are
            found before the first piece where the container tells, or after the last.
    """
    n_samples = 0
    with _opened(path) as container:
        stream = _first_decodable(container.streams.audio, "audio")
        declared = _declared_seconds(container, stream)
        for block in filter(len, _resampled(_decoded(container, stream, beat))):
            if not np.isfinite(block).all():
                raise MediaError("its samples are not all finite numbers")
            n_samples += len(block)
            if n_samples > MAX_SECONDS * SAMPLE_RATE:
                raise MediaError(f"longer than {MAX_SECONDS // 3600} hours")
            yield block
        if n_samples == 0:
            raise MediaError("its audio stream holds no samples")
        _refuse_cut(n_samples / SAMPLE_RATE, declared, container.format.name)


def time_span(path: Path, beat: Beat = lambda: None) -> tuple[float, float]:
    """When the first frame of a video is shown and for how long the clip lasts, in seconds; decodes nothing.

    Raises:
        MediaError: no such file, no video stream, no frames, or cut short.
    """
    first, last = float("inf"), float("-inf")
    n_packets = 0
    with _opened(path) as container:
        stream = _first_decodable(_moving_pictures(container), "video")
        for packet in container.demux(stream):
            beat()
            n_packets += packet.size > 0
            # An edit list may keep packets that are decoded only because later ones need them.
            if packet.pts is None or packet.time_base is None or packet.is_discard:
                continue
            start = float(packet.pts * packet.time_base)
            first = min(first, start)
            last = max(last, start + float((packet.duration or 0) * packet.time_base))
        if last < first:
            raise MediaError("its frames carry no times" if n_packets else "its video stream holds no frames")
        if last - first > MAX_SECONDS:
            raise MediaError(f"its timestamps span {last - first:.3g} s, more than {MAX_SECONDS // 3600} hours")
        _refuse_cut(last - first, _declared_seconds(container, stream), container.format.name)
    return first, last - first


def frames_at(path: Path, times: list[float], beat: Beat = lambda: None) -> Iterator[np.ndarray]:
    """The frame on screen at each of ``times`` (ascending, in seconds): (height, width, 3) uint8 RGB, upright.

    Frames are chosen by presentation time, so variable frame rates and reordered packets do not matter. One pass from
    the start; one frame is held at a time. Transparency is dropped; rotation is the container's.

    Raises:
        MediaError: none of the frames can be decoded, or one is damaged.
    """
    with _opened(path) as container:
        stream = _first_decodable(_moving_pictures(container), "video")
        wanted = iter(times)
        time = next(wanted, None)
        on_screen: av.VideoFrame | None = None
        for frame in _decoded(container, stream, beat):
            if frame.time is None:
                continue
            if on_screen is None:
                matrix = _display_matrix(frame)  # of the first alone: looking at it makes a frame outlive its use
            image: np.ndarray | None = None
            while on_screen is not None and time is not None and frame.time > time:
                image = _upright_rgb(on_screen, matrix) if image is None else image
                yield image
                time = next(wanted, None)
            on_screen = frame
            if time is None:
                return
        if on_screen is None:
            raise MediaError("none of its frames can be decoded")
        image = _upright_rgb(on_screen, matrix)
        while time is not None:
            yield image
            time = next(wanted, None)


def middles(first: float, seconds: float, parts: int) -> list[float]:
    """The middle of each of so many equal parts of a clip."""
    step = seconds / parts
    return [first + (k + 0.5) * step for k in range(parts)]


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """The container of a file, with everything that goes wrong in it as MediaError.

    The file is opened here and handed to FFmpeg as a descriptor: FFmpeg never sees a name, which it might take for a
    URL, a pattern or an option.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO must not be waited for
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise MediaError("not a regular file")
            if found.st_size == 0:
                raise MediaError("the file is empty")
            options = {"fd": str(descriptor), "protocol_whitelist": "fd", "format_whitelist": FORMATS}
            try:
                container = av.open("fd:", options=options, metadata_errors="replace")
            except av.ArgumentError as error:  # what FFmpeg says of a format that is not in the list
                raise MediaError("not a format of audio or video that is read here") from error
            with container:
                missing = missing_end(descriptor, container.format.name)
                if missing:
                    raise MediaError(f"cut short: {missing}")
                yield container
        finally:
            os.close(descriptor)
    except MemoryError as error:
        raise MediaError("decoding it takes more memory than there is") from error
    except (av.FFmpegError, OSError) as error:
        raise MediaError(_reason(error)) from error


def _moving_pictures(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Video streams; the cover picture of a song is none."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def _first_decodable(streams: Sequence[Stream], kind: str) -> Stream:
    if not streams:
        raise MediaError(f"it has no {kind} stream")
    if streams[0].codec_context is None:
        raise MediaError(f"no decoder for its {kind} stream")
    streams[0].codec_context.thread_count = 1  # clips are decoded side by side: threads within one only compete
    return streams[0]


def _decoded(container: av.container.InputContainer, stream: Any, beat: Beat) -> Iterator[Any]:
    for packet in container.demux(stream):
        beat()
        yield from packet.decode()


def _resampled(frames: Iterator[av.AudioFrame]) -> Iterator[np.ndarray]:
    """Mono at ``SAMPLE_RATE``, in pieces (samples,) float32; rate, layout and sample format may change on the way."""
    form: tuple[str, str, int] | None = None
    resampler: soxr.ResampleStream | None = None
    rate = 0
    for frame in frames:
        if (frame.format.name, frame.layout.name, frame.sample_rate) != form:
            form = (frame.format.name, frame.layout.name, frame.sample_rate)
            to_float = av.AudioResampler(format="fltp")  # sample format only: soxr changes the rate
            names = [channel.name for channel in frame.layout.channels]
            heard = [i for i, name in enumerate(names) if name not in ("LFE", "LFE2")] or list(range(len(names)))
        if resampler is None or frame.sample_rate != rate:
            if resampler is not None:
                yield resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True)
            rate = frame.sample_rate
            if rate not in SAMPLE_RATES:
                raise MediaError(f"its sample rate of {rate} Hz is outside {SAMPLE_RATES[0]} to {SAMPLE_RATES[-1]} Hz")
            resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, quality="HQ")
        for piece in to_float.resample(frame):
            channels = piece.to_ndarray()  # (channels, samples)
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused where it arrives
                mono = channels[heard].mean(axis=0, dtype=np.float32)
            yield resampler.resample_chunk(mono)
    if resampler is not None:
        yield resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """ISO 14496-12, 6.2.2: (a, b, c, d) shows a point (x, y) at (a x + c y, b x + d y), y pointing down."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    return a, b, c, d


def _upright_rgb(frame: av.VideoFrame, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """(height, width, 3), turned by quarters and mirrored."""
    image = frame.to_ndarray(format="rgb24")
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _declared_seconds(container: av.container.InputContainer, stream: av.AudioStream | av.VideoStream) -> float:
    """How long the stream says it is; 0 where that is not stated, or only estimated from the file's size."""
    if container.format.name not in TOLERANCE or stream.duration is None or stream.time_base is None:
        return 0
    return float(stream.duration * stream.time_base)


def _refuse_cut(seconds: float, declared: float, format_name: str) -> None:
    """Much less than declared: the end is missing, though what is there decodes without complaint."""
    absolute, share = TOLERANCE.get(format_name, (0, 0))
    if seconds < declared - max(absolute, share * declared):
        raise MediaError(f"cut short: {seconds:.2f} s of the {declared:.2f} s that it declares")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)  # FFmpeg's errors have one, too
    return " ".join(text.split()) or type(error).__name__
