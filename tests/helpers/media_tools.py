"""Small helpers that several extraction tests share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from extract.encoders.encoder import LoadedEncoder
from extract.media.reading import SAMPLE_RATE, MediaError, audio_blocks, frames_at, middles, time_span

Load = Callable[..., LoadedEncoder]
Run = Callable[..., tuple[int, str, str]]


def write_video(
    path: Path,
    images: np.ndarray,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    **options: str,
) -> None:
    """Images (n, height, width, 3 or 4) as a video, each from its time on (in seconds; default: 10 a second)."""
    times = [i / 10 for i in range(len(images))] if times is None else times
    keep = {"avoid_negative_ts": "disabled"} if times[0] < 0 else {}
    with av.open(str(path), "w", options=keep) as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24" if image.shape[-1] == 3 else "rgba")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_audio(
    path: Path, samples: np.ndarray, rate: int, codec: str, layout: str = "mono", **container_options: str
) -> None:
    """Samples (n, channels) of -1 to 1 by FFmpeg's encoder of that name; the suffix chooses the container."""
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.T.astype(np.float32, order="C"), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        context = stream.codec_context
        blocks = av.AudioResampler(format=context.format, layout=layout, rate=rate, frame_size=context.frame_size)
        for block in blocks.resample(frame) + blocks.resample(None):
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))


def write_mp4(path: Path, images: np.ndarray | None, samples: np.ndarray | None, **container_options: str) -> None:
    """10 images a second, and (samples, 1) at 16 kHz as AAC."""
    with av.open(str(path), "w", options=container_options) as container:
        if images is not None:
            video = container.add_stream("libx264", rate=10)
            video.height, video.width = images.shape[1:3]
        if samples is not None:
            audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for image in images if images is not None else ():
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        if images is not None:
            container.mux(video.encode(None))
        if samples is not None:
            frame = av.AudioFrame.from_ndarray(samples.T.copy(), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


def greys(levels: Iterable[int], height: int = 32, width: int = 48) -> np.ndarray:
    """(n, height, width, 3): a plain picture for each grey level."""
    return np.stack([np.full((height, width, 3), level, dtype=np.uint8) for level in levels])


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def decode_audio(path: Path) -> np.ndarray:
    """All of a file's audio in one piece: (samples,)."""
    return np.concatenate(list(audio_blocks(path)))


@dataclass(frozen=True)
class Frames:
    images: np.ndarray  # (n_frames, height, width, 3) uint8
    seconds: float


def decode_frames(path: Path, n_frames: int) -> Frames:
    """The frames on screen in the middle of each of ``n_frames`` equal parts of a video."""
    first, seconds = time_span(path)
    images = list(frames_at(path, middles(first, seconds, n_frames)))
    if len({image.shape for image in images}) > 1:
        raise MediaError("its picture changes size")
    return Frames(np.stack(images), seconds)
