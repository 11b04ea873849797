"""Small pictures of clips for pages: frames as JPEG, sound as a row of levels, and to be heard.

Files are decoded as the extraction does it, in child processes with a limit on memory and silence: a file that cannot
be read costs its picture, and the page says why. Beside ``heads`` this is the one place outside of the passes that
decodes media.
"""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import av
import cv2
import numpy as np
from tqdm import tqdm

from extract.corpora.media_paths import misplaced
from extract.media.decoding import Decoders
from extract.media.reading import SAMPLE_RATE, ClipError, MediaError
from extract.media.tasks import AudioTask, ExcerptTask, VideoTask

FRAMES = 3  # evenly spaced over the clip
SIZE = 112  # pixels, square, around the middle
JPEG_QUALITY = 72
LEVELS = 96  # of the sound's row
HEARD_SECONDS = 5  # of a sound, from its beginning
BIT_RATE = 24_000  # of what is heard: 15 kB
LONGEST_SECONDS = 120  # decoding longer clips for a picture of them is not worth the wait
SILENCE_SECONDS = 20  # without a sign of life, after which a decoder is stopped
WORKERS = 2  # decoders of each kind at most
CLIPS_OF_WORKER = 16  # fewer are not worth the start of another one
ELSEWHERE = "the media lie on object storage, and are not fetched for a page"


@dataclass(frozen=True)
class Picture:
    """What can be seen or heard of a clip."""

    frames: list[str] = field(default_factory=list)  # data: URIs
    levels: list[float] = field(default_factory=list)  # (LEVELS,) loudest sample of each part, 1 is the clip's loudest
    sound: str = ""  # data: URI of its first seconds
    seconds: float | None = None
    missing: str = ""  # why there is nothing, in words


def pictures(clips: Sequence[tuple[str | None, str | None]], root: Path | str, heard: bool = False) -> list[Picture]:
    """Pictures of clips, each (video or None, audio or None) as paths below ``root``.

    Args:
        heard: the sound of all that have one, to be heard; otherwise its levels where there are no frames.
    """
    if isinstance(root, str):
        return [Picture(missing=ELSEWHERE) for _ in clips]
    video = VideoTask(FRAMES, SIZE, LONGEST_SECONDS, short_segments=1, face_crop=None)
    workers = min(WORKERS, 1 + len(clips) // CLIPS_OF_WORKER)
    audio = ExcerptTask(HEARD_SECONDS) if heard else AudioTask(LONGEST_SECONDS * SAMPLE_RATE)
    with (
        closing(Decoders(video, workers, SILENCE_SECONDS)) as videos,
        closing(Decoders(audio, workers, SILENCE_SECONDS)) as audios,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        shown = pool.map(lambda clip: _picture(clip[0], clip[1], root, videos, audios, heard), clips)
        return list(tqdm(shown, "thumbnails", total=len(clips), unit="clip", disable=None))


def _picture(
    video: str | None, audio: str | None, root: Path, videos: Decoders, audios: Decoders, heard: bool
) -> Picture:
    found, reasons = Picture(), []
    for path, decoders, draw in ((video, videos, _frames), (audio, audios, _heard if heard else _levels)):
        if path is None or (found.frames and not heard):
            continue
        data, seconds, reason = _decoded(path, root, decoders)
        if data is None:
            reasons.append(reason)
        else:
            found = draw(found, data, seconds)
    is_empty = found == Picture()
    return replace(found, missing="; ".join(dict.fromkeys(reasons)) or ("no audio or video" if is_empty else ""))


def _decoded(path: str, root: Path, decoders: Decoders) -> tuple[np.ndarray | None, float, str]:
    """What a file holds and how long it is, or why that is not shown."""
    for _, why in misplaced([path], root):
        return None, 0, why
    try:
        decoded = decoders.decode(root / path)
    except (MediaError, ClipError) as error:
        return None, 0, f"{path}: {error}"
    return decoded.data, decoded.seconds, f"{path}: longer than {LONGEST_SECONDS} s"


def _frames(found: Picture, frames: np.ndarray, seconds: float) -> Picture:
    """Of (segments, FRAMES, SIZE, SIZE, 3) RGB."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    encoded: Iterable[np.ndarray] = (cv2.imencode(".jpg", image[..., ::-1], options)[1] for image in frames[0])
    return replace(found, frames=[_uri("image/jpeg", image.tobytes()) for image in encoded], seconds=seconds)


def _levels(found: Picture, samples: np.ndarray, seconds: float) -> Picture:
    """Of (samples,) float32."""
    parts = np.array_split(np.abs(samples), LEVELS)
    peaks = np.array([part.max() if len(part) else 0.0 for part in parts])
    return replace(found, levels=(peaks / max(float(peaks.max()), 1e-6)).round(3).tolist(), seconds=seconds)


def _heard(found: Picture, samples: np.ndarray, seconds: float) -> Picture:
    """Of (samples,) float32, all of which are heard; MP3 is what every browser plays."""
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = BIT_RATE
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for part in (frame, None):
            container.mux(stream.encode(part))
    levels = _levels(found, samples, seconds)
    return replace(levels, sound=_uri("audio/mpeg", buffer.getvalue()), seconds=found.seconds)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64," + b64encode(content).decode("ascii")
