"""Cropping the face: dlib's histogram-of-gradients detector (King 2015, arXiv:1502.00046), which needs no weights."""

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from configs import UserError
from configs.schema import FaceCrop
from extract.media.reading import ClipError

_local = threading.local()  # a detector keeps state while it runs: one for each thread


def crop_face(images: Iterable[np.ndarray], settings: FaceCrop) -> np.ndarray:
    """The same square around the largest face in all frames of a clip or segment.

    Args:
        images: (height, width, 3) uint8 each, of one size.

    Returns:
        (n_frames, side, side, 3), the median over frames of the boxes found, widened by ``margin`` and kept
        inside the picture.

    Raises:
        ClipError: no frame shows a face, or the frames differ in size.
    """
    detect = face_detector()
    kept: list[np.ndarray] = []
    boxes = []
    for image in images:
        if kept and image.shape != kept[0].shape:
            raise ClipError("its picture changes size: no face can be followed")
        kept.append(np.ascontiguousarray(image))
        found = detect(kept[-1], settings.upsample)
        if len(found):
            largest = max(found, key=lambda box: box.area())
            boxes.append((largest.left(), largest.top(), largest.right(), largest.bottom()))
    if not boxes:
        raise ClipError(f"no face found in any of {len(kept)} frames")
    left, top, right, bottom = np.median(boxes, axis=0)
    height, width = kept[0].shape[:2]
    side = round(min(max(right - left, bottom - top) * (1 + 2 * settings.margin), height, width))
    x = round(min(max((left + right - side) / 2, 0), width - side))
    y = round(min(max((top + bottom - side) / 2, 0), height - side))
    return np.stack([image[y : y + side, x : x + side] for image in kept])


def face_detector() -> Any:
    """This thread's detector. Raises UserError where dlib is not installed."""
    if not hasattr(_local, "detector"):
        try:
            import dlib
        except ImportError as error:
            raise UserError("face_crop: needs dlib; install it with: pip install -e .[face]") from error
        _local.detector = dlib.get_frontal_face_detector()
    return _local.detector
