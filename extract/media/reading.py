"""From a media file to arrays: one decoder (FFmpeg through PyAV), one resampler, one resizer.

Everything here streams: memory does not grow with a clip's length. What is decided here enters every fingerprint as
``DECODING``; raise its version when a change alters values.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr
from av.video.reformatter import VideoReformatter

from extract.media.containers.lengths import stated_seconds
from extract.media.containers.ogg import sound
from extract.media.containers.tags import Tags
from extract.media.damage import ClipError, Heard, MediaError, Seen, SilentError, is_nothing, said
from extract.media.opening import (
    EXACT,
    OF_THE_FILE,
    TOLERANCE,
    Beat,
    Ends,
    declared_seconds,
    first_decodable,
    moving_pictures,
    opened,
    packets,
    refuse_cut,
)

__all__ = ["ClipError", "MediaError", "SilentError"]

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
# Decoders that look at the checksums of sound only when they are asked to.
CHECKED = ("flac", "wavpack", "tta", "ape", "ac3", "eac3")
BARE = ("mp3", "aac", "ac3", "eac3")  # frame after frame without a container: their times are counted, not read
ONE_BY_ONE = ("matroska,webm", "flv", "nut", "avi")  # packets lie behind each other, with little between them
WITH_DURATIONS = ("mov,mp4,m4a,3gp,3g2,mj2", "gif")  # each frame is there for as long as it says: there are no gaps


def audio_blocks(
    path: Path, beat: Beat = lambda: None, channel: int | None = None, heard: Heard | None = None
) -> Iterator[np.ndarray]:
    """The first audio stream in pieces of any length: (samples,) float32 mono at ``SAMPLE_RATE``.

    Channels are averaged; a low-frequency effects channel is left out where the file names one, as in ITU-R BS.775.
    What an encoder put before and after the sound to fill its blocks is left out as FFmpeg does. Timestamps are not
    looked at: silence that is in the file stays, a gap between packets is closed, and so is one that damage leaves.

    Args:
        channel: take this one alone, counted from 1.
        heard: is told what there is to know of the sound as a whole, once the last piece has come.
    Raises:
        MediaError: no such file, no audio stream, nothing decodable, cut short, or not finite. Cut files are found
            before the first piece where the container tells, or after the last.
        ClipError: there is no such channel.
    """
    heard = heard or Heard()
    n_samples = 0
    with opened(path) as (container, descriptor):
        stream = first_decodable(container.streams.audio, "audio")
        if stream.codec_context.name in CHECKED:
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        ends = Ends(container, descriptor)
        for block in filter(len, finite(resampled(_sounds(container, stream, ends, heard, beat), channel, heard))):
            n_samples += len(block)
            if n_samples > MAX_SECONDS * SAMPLE_RATE:
                raise MediaError(f"longer than {MAX_SECONDS // 3600} hours")
            yield block
        if n_samples == 0:
            raise MediaError(heard.reasons[0] if heard.reasons else "its audio stream holds no samples")
        format_name, pages_damaged = container.format.name, False
        if format_name == "ogg":
            pages = sound(descriptor)
            pages_damaged = pages.n_damaged > 0
            heard.stated = max(0.0, (pages.end or 0) - (0 if pages.begins_damaged else heard.first))
            if pages_damaged:
                heard.note("damaged pages")
            if not pages.is_ended:
                heard.note("its last page does not end the stream: it may be cut short there")
        elif format_name == "mp3":
            heard.stated = stated_seconds(descriptor, format_name) or 0
        else:
            heard.stated = declared_seconds(container, stream)
        ends.check(heard.stated, heard.reached)
        heard.close(TOLERANCE.get(format_name, OF_THE_FILE), format_name in EXACT, pages_damaged)


def time_span(path: Path, beat: Beat = lambda: None, seen: Seen | None = None) -> tuple[float, float]:
    """When the first frame of a video is shown and for how long the clip lasts, in seconds; decodes nothing.

    Args:
        seen: is told what is missing between the frames.
    Raises:
        MediaError: no such file, no video stream, no frames, or cut short.
    """
    first, last = float("inf"), float("-inf")
    n_packets, times, places, covered = 0, array("d"), array("q"), array("q")

    def look(packet: Any) -> None:
        if packet.size and packet.pos is not None:
            covered.extend((packet.pos, packet.size))

    with opened(path) as (container, descriptor):
        stream = first_decodable(moving_pictures(container), "video")
        ends = Ends(container, descriptor)
        for packet in packets(container, stream, ends, beat, look):
            n_packets += packet.size > 0
            # An edit list may keep packets that are decoded only because later ones need them.
            if packet.pts is None or packet.time_base is None or packet.is_discard:
                continue
            start = float(packet.pts * packet.time_base)
            first = min(first, start)
            last = max(last, start + float((packet.duration or 0) * packet.time_base))
            times.append(start)
            is_placed = packet.pos is not None and container.format.name in ONE_BY_ONE
            places.append(packet.pos if is_placed else -1)
        if last < first:
            raise MediaError("its frames carry no times" if n_packets else "its video stream holds no frames")
        if last - first > MAX_SECONDS:
            raise MediaError(f"its timestamps span {last - first:.3g} s, more than {MAX_SECONDS // 3600} hours")
        declared = declared_seconds(container, stream)
        ends.check(declared)
        refuse_cut(last - first, declared, container.format.name)
        if seen and container.format.name not in WITH_DURATIONS:
            seen.look_between(
                np.array(times), np.array(places), np.reshape(covered, (-1, 2)), float(stream.average_rate or 0)
            )
    return first, last - first


def frames_at(
    path: Path, times: Iterable[float], beat: Beat = lambda: None, seen: Seen | None = None
) -> Iterator[np.ndarray]:
    """The frame on screen at each of ``times`` (ascending, in seconds): (height, width, 3) uint8 RGB, upright.

    Frames are chosen by presentation time, so variable frame rates and reordered packets do not matter. One pass from
    the start; one frame is held at a time. Transparency is dropped; rotation is the container's. Damaged frames are
    not shown: the whole one before stays on screen, or, at the start, the first whole one stands in.

    Args:
        seen: is told what was damaged up to the last of ``times``, once the last frame has come.
    Raises:
        MediaError: none of the frames can be decoded.
    """
    seen = seen or Seen()
    with opened(path) as (container, descriptor):
        stream = first_decodable(moving_pictures(container), "video")
        incoming = packets(container, stream, Ends(container, descriptor), beat)

        def frames() -> Iterator[av.VideoFrame]:
            for packet in incoming:
                yield from seen.decoded(packet, stream.codec_context)
            seen.close()

        yield from on_screen(frames(), times, seen.reasons)


def on_screen(
    frames: Iterable[av.VideoFrame], times: Iterable[float], reasons: Sequence[str] = ()
) -> Iterator[np.ndarray]:
    """:func:`frames_at`, of frames that are decoded. ``reasons``: why there may be none.

    A time is asked for when the one before it has been answered. Raises MediaError where there is no frame.
    """
    colours = VideoReformatter()
    wanted = iter(times)
    time = next(wanted, None)
    shown: av.VideoFrame | None = None
    for frame in frames:
        if frame.time is None:
            continue
        if shown is None:
            matrix = _display_matrix(frame)  # of the first alone: looking at it makes a frame outlive its use
        image: np.ndarray | None = None
        while shown is not None and time is not None and frame.time > time:
            image = _upright_rgb(shown, matrix, colours) if image is None else image
            yield image
            time = next(wanted, None)
        shown = frame
        if time is None:
            return
    if shown is None:
        raise MediaError(reasons[0] if reasons else "none of its frames can be decoded")
    image = _upright_rgb(shown, matrix, colours)
    while time is not None:
        yield image
        time = next(wanted, None)


def middles(first: float, seconds: float, parts: int) -> list[float]:
    """The middle of each of so many equal parts of a clip."""
    step = seconds / parts
    return [first + (k + 0.5) * step for k in range(parts)]


def _sounds(
    container: av.container.InputContainer, stream: Any, ends: Ends, heard: Heard, beat: Beat
) -> Iterator[av.AudioFrame]:
    """The frames that can be decoded; ``heard`` is told of the others."""
    tags = Tags() if container.format.name == "mp3" else None
    n_bytes, seconds = 0, 0.0  # decoded so far
    for packet in packets(container, stream, ends, beat):
        length = float((packet.duration or 0) * packet.time_base) if packet.time_base else 0.0
        size = packet.size
        try:
            if tags and size:
                rest = tags.without(bytes(packet))
                if not rest:
                    heard.skip(length)
                    continue
                size = len(rest)
                frames = packet.decode() if size == packet.size else _decode_part(packet, rest, stream)
            else:
                frames = packet.decode()
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            if is_nothing(packet, error):
                continue
            if n_bytes and container.format.name in BARE:  # the demuxer takes all up to the next frame for one
                filled = size * seconds / n_bytes
                length = filled if filled > 2 * length else length
            heard.refuse(length, said(error))
            continue
        if frames:
            n_bytes, seconds = n_bytes + size, seconds + length
        for frame in frames:
            heard.take(frame, length if len(frames) == 1 and container.format.name in WITH_DURATIONS else 0)
            yield frame


def _decode_part(packet: av.Packet, data: bytes, stream: Any) -> list[av.AudioFrame]:
    part = av.Packet(data)
    part.pts, part.dts, part.time_base = packet.pts, packet.dts, packet.time_base
    frames: list[av.AudioFrame] = stream.codec_context.decode(part)
    return frames


def resampled(frames: Iterable[av.AudioFrame], channel: int | None, heard: Heard) -> Iterator[np.ndarray]:
    """Mono at ``SAMPLE_RATE``, in pieces (samples,) float32; rate, layout and sample format may change on the way."""
    form: tuple[str, str, int] | None = None
    resampler: soxr.ResampleStream | None = None
    rate = 0
    for frame in frames:
        if (frame.format.name, frame.layout.name, frame.sample_rate) != form:
            form = (frame.format.name, frame.layout.name, frame.sample_rate)
            to_float = av.AudioResampler(format="fltp")  # sample format only: soxr changes the rate
            names = [channel.name for channel in frame.layout.channels]
            mixed = [i for i, name in enumerate(names) if name not in ("LFE", "LFE2")] or list(range(len(names)))
            if channel is not None:
                if channel > len(names):
                    raise ClipError(f"it has {len(names)} channel{'s' * (len(names) > 1)}, and no channel {channel}")
                mixed = [channel - 1]
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
                mono = channels[mixed].mean(axis=0, dtype=np.float32)
                heard.mix(channels[mixed], mono)
            yield resampler.resample_chunk(mono)
    if resampler is not None:
        yield resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True)


def finite(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Raises MediaError for samples that are no numbers."""
    for block in blocks:
        if not np.isfinite(block).all():
            raise MediaError("its samples are not all finite numbers")
        yield block


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """ISO 14496-12, 6.2.2: (a, b, c, d) shows a point (x, y) at (a x + c y, b x + d y), y pointing down."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # a frame with something that PyAV has no name for, as a camera's EXIF: it then lists nothing
        return {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), -180: (-1, 0, 0, -1), -90: (0, 1, -1, 0)}.get(
            frame.rotation, (1, 0, 0, 1)
        )
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    return a, b, c, d


def _upright_rgb(frame: av.VideoFrame, matrix: tuple[int, int, int, int], colours: VideoReformatter) -> np.ndarray:
    """(height, width, 3), turned by quarters and mirrored."""
    # A frame's own reformatter would start a thread for each core, and for each frame anew.
    image = colours.reformat(frame, format="rgb24", threads=1).to_ndarray()
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
