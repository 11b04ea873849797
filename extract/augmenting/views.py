"""One augmented view: what it makes of a clip between its decoding and its encoder.

How a clip is changed is drawn by its content, the view's number and the profile's seed alone: whoever computes it, and
beside what, it is the same.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from configs.schema import View
from extract.augmenting.pictures import changed_pictures, draw_look
from extract.augmenting.sounds import changed_sound
from extract.augmenting.words import without_some_words
from extract.media.damage import ClipError
from extract.media.reading import SAMPLE_RATE
from extract.media.tasks import Decoded, Streamed

VERSION = 1  # raise it with any change after which a view is another
LONGEST_SECONDS = 600  # of a sound, all of which is held while it is changed


class Augmenter:
    """What the encoder of one view reads in the place of a clip. Clips in one piece, and texts, by calling it."""

    def __init__(self, view: View) -> None:
        assert view.augment is not None
        self._view, self._augment = view, view.augment

    @property
    def fields(self) -> dict[str, Any]:
        """What enters the fingerprint beside what is of view 0."""
        said = {"version": VERSION, "number": self._view.number, "seed": self._view.seed}
        return {"view": said | {"augment": self._augment.stated}}

    def __call__(self, given: Any, content_hash: str) -> Any:
        """
        Args:
            given: ``Decoded``, of one piece, or a text.
        Raises:
            ClipError: nothing is left of it.
        """
        draws = self._draws(content_hash)
        if isinstance(given, str):
            return without_some_words(given, self._augment, draws)
        assert isinstance(given, Decoded)
        assert given.data is not None
        if self._view.modality == "audio":
            samples = changed_sound(given.data, self._augment, draws)
            return Decoded(len(samples) / SAMPLE_RATE, len(samples), samples, given.damage)
        look = draw_look(self._augment, draws)
        images = np.stack([changed_pictures(segment, look) for segment in given.data])
        return Decoded(given.seconds, given.n, images, given.damage)

    def stream(self, pieces: Iterator[Any], content_hash: str) -> Iterator[Any]:
        """Of a long clip: ``Streamed``, then arrays, as they come from the decoder.

        Raises:
            ClipError: it is a sound of more than ``LONGEST_SECONDS``.
        """
        draws = self._draws(content_hash)
        about: Streamed = next(pieces)
        if self._view.modality == "video":
            look = draw_look(self._augment, draws)
            yield about
            yield from (changed_pictures(segment, look) for segment in pieces)
            return
        if about.seconds > LONGEST_SECONDS:
            raise ClipError(f"{about.seconds:.0f} s: sounds of more than {LONGEST_SECONDS} s have no augmented views")
        samples = changed_sound(np.concatenate(list(pieces)), self._augment, draws)
        mean, variance = (float(of(samples, dtype=np.float64)) for of in (np.mean, np.var))
        yield Streamed(len(samples) / SAMPLE_RATE, len(samples), mean, variance)
        yield samples

    def _draws(self, content_hash: str) -> np.random.Generator:
        said = f"{self._view.seed}\0{self._view.number}\0{content_hash}"
        digest = hashlib.sha256(said.encode()).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
