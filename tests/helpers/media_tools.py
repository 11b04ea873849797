"""Small helpers that several extraction tests share."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from extract.encoder import LoadedEncoder

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
    """Images (n, height, width, 3) as a video, each from its time on (in seconds; default: 10 a second)."""
    times = [i / 10 for i in range(len(images))] if times is None else times
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
