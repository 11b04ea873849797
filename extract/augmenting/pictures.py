"""Pictures, changed: all of a clip in the same way."""

from dataclasses import dataclass

import cv2
import numpy as np

from configs.schema import Augment


@dataclass(frozen=True)
class Look:
    """``seen``: share of the square's side that is cut out, at ``top`` and ``left`` of what is free (0 to 1)."""

    seen: float
    top: float
    left: float
    brightness: float
    mirrored: bool


def draw_look(augment: Augment, draws: np.random.Generator) -> Look:
    """The same for all frames of a clip."""
    seen, top, left = 1.0, 0.0, 0.0
    if augment.crop:
        seen, top, left = draws.uniform(augment.crop[0], augment.crop[1]), draws.random(), draws.random()
    brightness = draws.uniform(augment.brightness[0], augment.brightness[1]) if augment.brightness else 1.0
    return Look(float(seen), top, left, float(brightness), bool(draws.random() < (augment.mirror or 0)))


def changed_pictures(images: np.ndarray, look: Look) -> np.ndarray:
    """Squares as they come from the decoder, (n, size, size, 3) uint8 -> the same shape."""
    size = images.shape[1]
    side = max(1, round(size * look.seen))
    if side < size:
        top, left = (round((size - side) * place) for place in (look.top, look.left))
        parts = images[:, top : top + side, left : left + side]
        images = np.stack([cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR) for part in parts])
    if look.brightness != 1:
        levels = np.clip(np.rint(np.arange(256) * look.brightness), 0, 255).astype(np.uint8)
        images = levels[images]
    return np.ascontiguousarray(images[:, :, ::-1]) if look.mirrored else images
