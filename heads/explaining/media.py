"""A unit's media as they are shown: a waveform's outline, thumbnails of the frames that the encoder saw."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from configs import UserError, one_line
from configs.schema import FaceCrop
from extract.media.decoding import Decoders
from extract.media.framing import framing_of
from extract.media.reading import ClipError, MediaError
from extract.media.sources import RemoteFile, local_copy
from extract.media.tasks import AudioTask, Task, VideoTask

OUTLINE = 320  # points of a waveform
THUMBNAIL = 112  # pixels square
MOST_THUMBNAILS = 32  # of a clip
DEFAULT_FRAMES = 8  # a segment, where the store does not say how many the encoder saw
JPEG_QUALITY = 80
T = TypeVar("T")


@dataclass(frozen=True)
class Heard:
    """``outline``: (points,) the largest amplitude in each of so many equal parts of the clip, the loudest is 1."""

    seconds: float
    outline: np.ndarray


@dataclass(frozen=True)
class Seen:
    """``frames``: (frames, size, size, 3) uint8, evenly spaced: frame k of n from the middle of the k-th n-th."""

    seconds: float
    segments: int
    frames: np.ndarray

    def jpeg(self, share: float) -> bytes:
        """The frame at a share of the clip's length."""
        frame = self.frames[min(len(self.frames) - 1, int(share * len(self.frames)))]
        _, encoded = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return encoded.tobytes()


@dataclass(frozen=True)
class Media:
    """What could be decoded of a unit's clips, by clip id, and why the others could not."""

    heard: dict[str, Heard] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    problems: dict[tuple[str, str], str] = field(default_factory=dict)  # modality, clip id: reason


def look(
    audio: Mapping[str, Path | RemoteFile],
    video: Mapping[str, Path | RemoteFile],
    fields: Mapping[str, Any],
    timeout: float,
) -> Media:
    """Decode the media of some clips, in children that a damaged file may take down.

    Args:
        fields: what the video store was computed from: frames are cut as its encoder saw them.
        timeout: seconds without a sign of life after which a decoder is given up.
    """
    found = Media()
    crop = FaceCrop(**fields["face_crop"]) if fields.get("face_crop") else None
    n_frames, seconds = fields.get("n_frames") or DEFAULT_FRAMES, fields.get("window_seconds") or 30.0
    framing = framing_of(fields.get("processor") or {}, THUMBNAIL)
    frames = VideoTask(n_frames, THUMBNAIL, seconds, 0, crop, framing=framing)

    def decode(task: Task, what: str, files: Mapping[str, Path | RemoteFile], into: dict[str, T], make: Any) -> None:
        with closing(Decoders(task, 1, timeout)) as decoders:
            for clip, file in files.items():
                try:
                    with local_copy(file) as path:
                        into[clip] = make(decoders.stream, path)
                except (MediaError, ClipError, OSError, UserError) as error:
                    found.problems[what, clip] = one_line(error)
                progress.update()

    clips = len(audio) + len(video)
    with ThreadPoolExecutor(2) as pool, tqdm(total=clips, desc="decoding", disable=None, delay=2) as progress:
        tasks = [
            pool.submit(decode, AudioTask(0), "audio", audio, found.heard, _hear),
            pool.submit(decode, frames, "video", video, found.seen, _see),
        ]
        for task in tasks:
            task.result()
    return found


def _hear(stream: Callable[[Path], Any], path: Path) -> Heard:
    about, *blocks = stream(path)
    amplitudes = np.abs(np.concatenate(blocks))
    edges = np.linspace(0, len(amplitudes), min(OUTLINE, len(amplitudes)) + 1).astype(int)
    outline = np.maximum.reduceat(amplitudes, edges[:-1])
    return Heard(about.seconds, outline / max(float(outline.max()), 1e-9))


def _see(stream: Callable[[Path], Any], path: Path) -> Seen:
    about, *segments = stream(path)
    return Seen(about.seconds, about.n, np.concatenate(segments))
