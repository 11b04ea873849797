"""From a media file to arrays: one decoder (FFmpeg through PyAV), one resampler, one resizer.

What is decided here enters every fingerprint as ``DECODING``; raise its version when a change alters values.
"""

from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import soxr

SAMPLE_RATE = 16_000  # Hz; every supported audio encoder was trained at it
DECODING = {"version": 1, "sample_rate": SAMPLE_RATE, "downmix": "mean", "resampler": "soxr-HQ", "frames": "by-time"}


class MediaError(Exception):
    """A file that cannot be decoded, in one line and in the decoder's own words."""


@dataclass(frozen=True)
class Frames:
    """Frames of a video at evenly spaced times.

    ``images``: (n_frames, height, width, 3) uint8 RGB, upright; ``seconds``: presentation time covered by the clip.
    """

    images: np.ndarray
    seconds: float


def decode_audio(path: Path, max_seconds: float) -> np.ndarray:
    """The first audio stream as (samples,) float32 mono at ``SAMPLE_RATE``; channels are averaged.

    Raises:
        MediaError: no such file, no audio stream, nothing decodable, cut short, or longer than ``max_seconds``.
    """
    resampler: soxr.ResampleStream | None = None
    parts: list[np.ndarray] = []
    n_samples = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise MediaError("it has no audio stream")
            stream = container.streams.audio[0]
            declared = _declared_seconds(container, stream)
            to_float = av.AudioResampler(format="fltp")  # sample format only: soxr changes the rate
            for decoded in container.decode(stream):
                for frame in to_float.resample(decoded):
                    mono = frame.to_ndarray().mean(axis=0, dtype=np.float32)  # (channels, samples) -> (samples,)
                    if resampler is None:
                        resampler = soxr.ResampleStream(frame.sample_rate, SAMPLE_RATE, 1, quality="HQ")
                    parts.append(resampler.resample_chunk(mono))
                    n_samples += len(parts[-1])
                    if n_samples > max_seconds * SAMPLE_RATE:
                        raise MediaError(f"longer than max_seconds = {max_seconds:g}")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(_reason(error)) from error
    if resampler is not None:
        parts.append(resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True))
    audio = np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
    if len(audio) == 0:
        raise MediaError("its audio stream holds no samples")
    _refuse_cut(len(audio) / SAMPLE_RATE, declared)
    return audio


def decode_frames(path: Path, n_frames: int) -> Frames:
    """``n_frames`` frames, each the one on screen in the middle of one of ``n_frames`` equal parts of the clip.

    Frames are chosen by presentation time, so variable frame rates and reordered packets do not matter; a clip with
    fewer frames repeats them. Frames are turned upright by the container's rotation flag.

    Raises:
        MediaError: no such file, no video stream, nothing decodable, or cut short.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise MediaError("it has no video stream")
            stream = container.streams.video[0]
            declared = _declared_seconds(container, stream)
            spans = [
                (float(packet.pts * packet.time_base), float((packet.duration or 0) * packet.time_base))
                for packet in container.demux(stream)
                if packet.pts is not None and packet.time_base is not None
            ]
            if not spans:
                raise MediaError("its video stream holds no frames")
            first = min(start for start, _ in spans)
            last = max(start + duration for start, duration in spans)
        _refuse_cut(last - first, declared)
        step = (last - first) / n_frames
        wanted = [first + (k + 0.5) * step for k in range(n_frames)]
        images = _frames_on_screen(path, wanted)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(_reason(error)) from error
    return Frames(images, seconds=last - first)


def _frames_on_screen(path: Path, times: list[float]) -> np.ndarray:
    """(len(times), height, width, 3); ``times`` ascend. Holds one decoded frame beside the chosen ones."""
    chosen: list[np.ndarray] = []
    on_screen: av.VideoFrame | None = None
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # clips are decoded side by side: threads within one only compete
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            while on_screen is not None and len(chosen) < len(times) and frame.time > times[len(chosen)]:
                chosen.append(_upright_rgb(on_screen))
            on_screen = frame
            if len(chosen) == len(times):
                break
    if on_screen is None:
        raise MediaError("none of its frames can be decoded")
    while len(chosen) < len(times):
        chosen.append(_upright_rgb(on_screen))
    return np.stack(chosen)


def _upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    image = frame.to_ndarray(format="rgb24")  # (height, width, 3)
    return np.rot90(image, k=round(frame.rotation / 90) % 4)


def resize_and_crop(images: np.ndarray, size: int) -> np.ndarray:
    """Scale the shorter side to ``size`` and cut the middle square: (n, h, w, 3) -> (n, size, size, 3) uint8."""
    height, width = images.shape[1:3]
    scale = size / min(height, width)
    new_width, new_height = max(size, round(width * scale)), max(size, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    top, left = (new_height - size) // 2, (new_width - size) // 2
    resized = [cv2.resize(image, (new_width, new_height), interpolation=method) for image in images]
    return np.stack([image[top : top + size, left : left + size] for image in resized])


def _declared_seconds(container: av.container.InputContainer, stream: av.AudioStream | av.VideoStream) -> float:
    """How long the stream says it is; 0 where that is not stated, or only estimated from the file's size."""
    if "mp4" not in container.format.name or stream.duration is None or stream.time_base is None:
        return 0
    return float(stream.duration * stream.time_base)


def _refuse_cut(seconds: float, declared: float) -> None:
    """An MP4 whose end is missing decodes without complaint up to where it was cut."""
    if seconds < declared - max(0.5, 0.05 * declared):
        raise MediaError(f"cut short: {seconds:.2f} s of the {declared:.2f} s that it declares")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)  # FFmpeg's errors have one, too
    return " ".join(text.split()) or type(error).__name__
