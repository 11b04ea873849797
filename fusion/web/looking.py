"""A first look at an upload, in a child process that it may take down: what is no clip never comes to the queue."""

from dataclasses import dataclass
from pathlib import Path

from extract.media.reading import SAMPLE_RATE, Beat, ClipError, MediaError, audio_blocks, time_span
from extract.media.tasks import Decoded


@dataclass(frozen=True)
class LookTask:
    """How long a file is, by what is in it and not by its header; no longer than a bit more than ``most`` seconds."""

    most: float

    def decode(self, path: Path, beat: Beat) -> Decoded:
        lengths, reasons = [], []
        for measure in (self._heard, self._seen):
            try:
                lengths.append(measure(path, beat))
            except (MediaError, ClipError) as error:
                reasons.append(str(error))
        if not lengths:
            raise MediaError(", and ".join(dict.fromkeys(reasons)))
        return Decoded(max(lengths), 0, None)

    def _heard(self, path: Path, beat: Beat) -> float:
        n = 0
        for block in audio_blocks(path, beat):
            n += len(block)
            if n > self.most * SAMPLE_RATE:
                break
        return n / SAMPLE_RATE

    def _seen(self, path: Path, beat: Beat) -> float:
        return time_span(path, beat)[1]
