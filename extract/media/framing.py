"""What of a frame a network sees: how pictures of any shape become squares of one size."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Framing:
    """How a frame is scaled before the middle square is cut out of it. The default cuts away least in its own shape.

    ``squeeze``: both sides are scaled to one length: all of the frame is seen, its shape is lost. Otherwise the shape
    is kept, and of the longer side only the middle is seen. ``scaled``: pixels of the shorter side (squeezed: of both)
    before the cut; default: the square's own size.
    """

    squeeze: bool = False
    scaled: int | None = None


MIDDLE_SQUARE = Framing()


def framing_of(processor: Mapping[str, Any], size: int) -> Framing:
    """What a store's fingerprint says of its frames (``processor``), for squares of another size."""
    stated = processor.get("frame") or {}
    scaled = stated.get("scaled")
    return Framing(stated.get("squeeze", False), scaled and round(scaled / processor["size"] * size))


def resize_and_crop(images: Iterable[np.ndarray], size: int, framing: Framing = MIDDLE_SQUARE) -> np.ndarray:
    """Scale as ``framing`` says and cut the middle square: (h, w, 3) each -> (n, size, size, 3) uint8.

    Takes one image after the other, so a generator's are never held all at once.
    """
    return np.stack([_square(image, size, framing) for image in images])


def _square(image: np.ndarray, size: int, framing: Framing) -> np.ndarray:
    height, width = image.shape[:2]
    scaled = framing.scaled or size
    if framing.squeeze:
        resized = _squeezed(image, scaled)
    else:
        scale = scaled / min(height, width)
        new_size = max(scaled, round(width * scale)), max(scaled, round(height * scale))
        resized = _scaled(image, new_size, shrinks=scale < 1)
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    return resized[top : top + size, left : left + size]


def _squeezed(image: np.ndarray, side: int) -> np.ndarray:
    """Both sides to ``side`` pixels: what shrinks is averaged, what grows is interpolated, one after the other."""
    height, width = image.shape[:2]
    if height > side or width > side:
        image = _scaled(image, (min(side, width), min(side, height)), shrinks=True)
    return _scaled(image, (side, side), shrinks=False)


def _scaled(image: np.ndarray, size: tuple[int, int], shrinks: bool) -> np.ndarray:
    """``size``: width and height in pixels."""
    import cv2  # sound does without, and every decoder starts with this module

    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
