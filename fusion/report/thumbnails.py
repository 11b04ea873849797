"""Small pictures of clips for the report: frames as JPEG, sound as a row of levels.

Files are decoded as the extraction does it, in child processes with a limit on memory and silence: a file that cannot
be read costs its picture, and the report says why. This is the one place outside ``extract`` and ``heads`` that opens
media, and the only one in ``fusion`` that imports from ``extract``.
"""

from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from extract.corpora.media_paths import misplaced
from extract.media.decoding import Decoders
from extract.media.reading import SAMPLE_RATE, ClipError, MediaError
from extract.media.tasks import AudioTask, VideoTask

FRAMES = 3  # evenly spaced over the clip
SIZE = 112  # pixels, square, around the middle
JPEG_QUALITY = 72
LEVELS = 96  # of the sound's row
LONGEST_SECONDS = 120  # decoding longer clips for a picture of them is not worth the wait
SILENCE_SECONDS = 20  # without a sign of life, after which a decoder is stopped
WORKERS = 2


@dataclass(frozen=True)
class Picture:
    """What can be seen or heard of a clip."""

    frames: list[str] = field(default_factory=list)  # data: URIs
    levels: list[float] = field(default_factory=list)  # (LEVELS,) loudest sample of each part, 1 is the clip's loudest
    seconds: float | None = None
    missing: str = ""  # why there is nothing, in words


def pictures(clips: Sequence[tuple[str | None, str | None]], root: Path | str) -> list[Picture]:
    """Pictures of clips, each (video or None, audio or None) as paths below ``root``; video goes first."""
    if isinstance(root, str):
        return [Picture(missing="the media lie on object storage, and are not fetched for a report") for _ in clips]
    video = VideoTask(FRAMES, SIZE, LONGEST_SECONDS, short_segments=1, face_crop=None)
    audio = AudioTask(LONGEST_SECONDS * SAMPLE_RATE)
    with (
        closing(Decoders(video, WORKERS, SILENCE_SECONDS)) as videos,
        closing(Decoders(audio, WORKERS, SILENCE_SECONDS)) as audios,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        shown = pool.map(lambda clip: _picture(clip[0], clip[1], root, videos, audios), clips)
        return list(tqdm(shown, "thumbnails", total=len(clips), unit="clip", disable=None))


def _picture(video: str | None, audio: str | None, root: Path, videos: Decoders, audios: Decoders) -> Picture:
    reasons = []
    for path, decoders, draw in ((video, videos, _frames), (audio, audios, _levels)):
        if path is None:
            continue
        for _, why in misplaced([path], root):
            reasons.append(why)
            break
        else:
            try:
                decoded = decoders.decode(root / path)
            except (MediaError, ClipError) as error:
                reasons.append(f"{path}: {error}")
                continue
            if decoded.data is not None:
                return draw(decoded.data, decoded.seconds, reasons)
            reasons.append(f"{path}: longer than {LONGEST_SECONDS} s")
    return Picture(missing="; ".join(reasons) or "no audio or video")


def _frames(frames: np.ndarray, seconds: float, reasons: list[str]) -> Picture:
    """Of (segments, FRAMES, SIZE, SIZE, 3) RGB."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    encoded = [cv2.imencode(".jpg", image[..., ::-1], options)[1].tobytes() for image in frames[0]]
    uris = ["data:image/jpeg;base64," + b64encode(image).decode("ascii") for image in encoded]
    return Picture(frames=uris, seconds=seconds, missing="; ".join(reasons))


def _levels(samples: np.ndarray, seconds: float, reasons: list[str]) -> Picture:
    """Of (samples,) float32."""
    parts = np.array_split(np.abs(samples), LEVELS)
    peaks = np.array([part.max() if len(part) else 0.0 for part in parts])
    return Picture(
        levels=(peaks / max(float(peaks.max()), 1e-6)).round(3).tolist(), seconds=seconds, missing="; ".join(reasons)
    )
