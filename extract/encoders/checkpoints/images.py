"""How a checkpoint wants its pictures: their size, their values, and what of a frame they show.

``read_image_format`` reads what the folder states, through transformers' own image processor, and brings it into a
short form. That this form says what the processor does is tried out on a picture: processors with ways of their own
are found, and refused.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError, one_line
from configs.outside import read_json
from configs.schema import Encoder
from extract.encoders.checkpoints.network import FAULTS
from extract.media.framing import MIDDLE_SQUARE, Framing, resize_and_crop

LARGEST = 2048  # pixels of a side; no network of this kind comes near it
CONVNEXT_SQUEEZES = 384  # pixels from which on its processor cuts nothing away
BYTE = 1 / 255


@dataclass(frozen=True)
class ImageFormat:
    """What a network wants an image to be: ``size`` pixels square, per channel ``(x / 255 - mean) / std``, cut out of a
    frame as ``framing`` says."""

    size: int
    mean: list[float]
    std: list[float]
    framing: Framing = MIDDLE_SQUARE

    @property
    def fields(self) -> dict[str, Any]:
        """For fingerprints: the framing only where it is not the middle square, which was the only one once."""
        framing = {} if self.framing == MIDDLE_SQUARE else {"frame": asdict(self.framing)}
        return {"size": self.size, "mean": self.mean, "std": self.std} | framing


def framed(spec: Encoder, size: int, followed: Framing) -> Framing:
    """The framing that a profile asks for: ``followed`` is what its ``frame: processor`` means.

    Around a face there is a square already: all of it is seen.
    """
    if spec.face_crop or spec.frame == "square":
        return MIDDLE_SQUARE
    framing = Framing(squeeze=True) if spec.frame == "whole" else followed
    return Framing(framing.squeeze) if framing.scaled == size else framing


def read_image_format(spec: Encoder, folder: Path, model_type: str) -> ImageFormat:
    """What the folder's image processor does, with the framing that ``spec`` asks for.

    Args:
        model_type: the folder's; where its files name no processor, it decides which one.

    Raises:
        UserError: no such file; it makes no sense; its framing or its values cannot be followed.
    """
    path, stated = _stated(folder)
    follows = spec.frame == "processor" and not spec.face_crop
    processor = _processor(path, stated, model_type)
    if processor is None:
        raise UserError(f"{path}: its image processor, {_name(stated)!r}, is none that transformers has")
    size = _size(path, stated, processor)
    mean, std = _values(path, stated, processor)
    followed = _framing(path, processor, size) if follows else MIDDLE_SQUARE
    given = ImageFormat(size, mean, std, framed(spec, size, followed))
    _try_out(path, processor, given, follows)
    return given


def _stated(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The settings of a folder's image processor, and the file that holds them: transformers has changed the place."""
    places = [
        ("processor_config.json", "image_processor"),
        ("preprocessor_config.json", None),
        ("processor_config.json", "video_processor"),
        ("video_preprocessor_config.json", None),
        ("processor_config.json", "feature_extractor"),
    ]
    for name, key in places:
        path = folder / name
        if not path.is_file():
            continue
        stated = read_json(path)
        if not isinstance(stated, dict):
            raise UserError(f"{path}: must be a JSON object, the settings of an image processor")
        if key is None or key in stated:
            found = stated if key is None else stated[key]
            if not isinstance(found, dict):
                raise UserError(f"{path}: {key} must be an object, the settings of an image processor")
            return path, found
    raise UserError(f"{folder / 'preprocessor_config.json'}: missing; it says how images are scaled and normalised")


def _name(stated: dict[str, Any]) -> str | None:
    keys = ("image_processor_type", "video_processor_type", "feature_extractor_type")
    return next((stated[key] for key in keys if isinstance(stated.get(key), str)), None)


def _processor(path: Path, stated: dict[str, Any], model_type: str) -> Any:
    """transformers' processor with these settings, its own defaults for what they leave out; None: no such class."""
    import transformers  # takes seconds with its processors, and most encoders need none of them
    from transformers.image_processing_backends import PilBackend
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    name = _name(stated)
    if name is None:
        known = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type.removesuffix("_vision_model"))
        if not known:
            raise UserError(f"{path}: names no image_processor_type, and a {model_type} network has none of its own")
        name = str(known.get("pil") or known["torchvision"])
    base = re.sub(r"(ImageProcessor(Fast|Pil)?|VideoProcessor|FeatureExtractor)$", "", name)
    for candidate in (f"{base}ImageProcessorPil", f"{base}ImageProcessor"):
        kind = getattr(transformers, candidate, None)
        if kind is not None and not getattr(kind, "is_dummy", False):
            break
    else:
        if kind is None:
            return None
        # There is one, for torchvision only. Those that are so do what the settings state, and nothing else.
        kind = PilBackend
    try:
        return kind(**{key: value for key, value in stated.items() if not key.endswith("_type")})
    except FAULTS as error:
        raise UserError(f"{path}: makes no image processor: {one_line(error, 300)}") from error


def _size(path: Path, stated: dict[str, Any], processor: Any) -> int:
    """Pixels of a side of what the processor gives. A size that is stated outdoes a default of its kind's to cut."""
    crops = processor.do_center_crop and (stated.get("crop_size") or not stated.get("size"))
    meant = dict((processor.crop_size if crops else processor.size) or {})
    sides = [meant.get("height"), meant.get("width")]
    if sides == [None, None]:
        sides = [meant.get("shortest_edge")] * 2
    if sides[0] != sides[1] or sides[0] is None:
        raise UserError(f"{path}: must give one size for both sides of an image (size, or crop_size)")
    return _pixels(path, sides[0])


def _pixels(path: Path, size: Any) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= LARGEST:
        raise UserError(f"{path}: size: {size!r} is no number of pixels from 1 to {LARGEST}")
    return size


def _values(path: Path, stated: dict[str, Any], processor: Any) -> tuple[list[float], list[float]]:
    """Mean and deviation as they are for ``x / 255``, whatever the processor scales pixels by."""
    mean, std = ([0.0] * 3, [1.0] * 3)
    if processor.do_normalize:
        mean, std = (_per_channel(path, stated, key) for key in ("image_mean", "image_std"))
        if not all(std):
            raise UserError(f"{path}: image_std: must not be 0")
    factor = processor.rescale_factor if processor.do_rescale else 1
    if not _is_number(factor) or factor <= 0:
        raise UserError(f"{path}: rescale_factor: {factor!r} is no number above 0")
    below = getattr(processor, "rescale_offset", None) or getattr(processor, "offset", None)
    if processor.do_rescale and below:  # to -1 to 1: pixels are scaled, and 1 is taken off
        mean = [each + 1 for each in mean]
    if factor != BYTE:
        mean, std = ([each * BYTE / factor for each in values] for values in (mean, std))
    if getattr(processor, "include_top", False):  # of EfficientNet: divided by the deviation once more
        std = [each * again for each, again in zip(std, _per_channel(path, stated, "image_std"), strict=True)]
    return mean, std


def _per_channel(path: Path, stated: dict[str, Any], key: str) -> list[float]:
    values = stated.get(key)
    if values is None:
        raise UserError(f"{path}: must give {key}, or say do_normalize: false")
    values = [values] * 3 if _is_number(values) else values
    is_list = isinstance(values, list) and len(values) == 3
    if not is_list or not all(map(_is_number, values)):
        raise UserError(f"{path}: {key}: must be three numbers, one for each colour")
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and -1e6 < value < 1e6  # false for NaN


def _framing(path: Path, processor: Any, size: int) -> Framing:
    """What the processor shows of a frame, as far as its settings say so; the try-out tells whether that is all."""
    other = "write frame: square (the middle of a frame) or frame: whole (all of it, squeezed)"
    if not processor.do_resize:
        raise UserError(
            f"{path}: do_resize: false leaves frames in their own size, and this network takes one: {other}"
        )
    sides, name = dict(processor.size or {}), type(processor).__name__
    if sides.get("shortest_edge") is None:
        if sides.get("height") is None or sides["height"] != sides.get("width"):
            raise UserError(f"{path}: size: scales frames in a way that is not followed: {other}")
        squeeze, scaled = True, _pixels(path, sides["height"])
    else:
        squeeze, scaled = False, _pixels(path, sides["shortest_edge"])
        if name.startswith("ConvNext"):
            squeeze = scaled >= CONVNEXT_SQUEEZES
            if not _is_number(processor.crop_pct) or processor.crop_pct <= 0:
                raise UserError(f"{path}: crop_pct: {processor.crop_pct!r} is no number above 0")
            scaled = scaled if squeeze else _pixels(path, int(scaled / processor.crop_pct))
        elif not processor.do_center_crop:
            raise UserError(
                f"{path}: keeps a frame's shape and cuts nothing away, and this network takes squares: {other}"
            )
        elif name.startswith("Levit"):
            scaled = int(256 / 224 * scaled)
    if scaled < size:
        raise UserError(f"{path}: crop_size: {size} pixels of {scaled}, the rest black, is not followed: {other}")
    return Framing(squeeze, scaled)


def _try_out(path: Path, processor: Any, given: ImageFormat, follows: bool) -> None:
    """Whether the processor gives the same: the values of a colour, and of a frame that says where each pixel was.

    Resizers differ by a few grey levels; a frame that is cut otherwise, by more.
    """
    name = type(processor).__name__.removesuffix("Pil")
    height, width = 2 * given.size, 3 * given.size
    frame = np.empty((height, width, 3), dtype=np.uint8)
    frame[...] = (40, 120, 200)
    if np.abs(_levels(path, processor, given, frame, shown=False)).max() > 1:
        raise UserError(f"{path}: {name} changes colours in a way of its own, which is not followed")
    if follows:
        frame[..., 0] = np.linspace(0, 255, width)[None]
        frame[..., 1] = np.linspace(0, 255, height)[:, None]
        off = _levels(path, processor, given, frame, shown=True)
        if off is None or np.abs(off).mean() > 2 + 255 / given.size:
            raise UserError(
                f"{path}: {name} cuts frames in a way of its own, which is not followed: write frame: square (the "
                f"middle of a frame) or frame: whole (all of it, squeezed)"
            )


def _levels(path: Path, processor: Any, given: ImageFormat, frame: np.ndarray, shown: bool) -> Any:
    """By how many grey levels the processor's picture differs from ours; ``shown``: every pixel of it, (3, size, size),
    None where it has another size; otherwise its middle."""
    (ours,) = resize_and_crop([frame], given.size, given.framing)
    mean, std = (np.array(values)[:, None, None] for values in (given.mean, given.std))
    try:
        pixels = np.asarray(processor(frame, return_tensors="np")["pixel_values"], dtype=np.float64)
        levels = (pixels.reshape(3, *pixels.shape[-2:]) * std + mean) * 255
        middle = levels[:, levels.shape[1] // 2, levels.shape[2] // 2]
    except FAULTS as error:
        raise UserError(f"{path}: makes no image processor: {one_line(error, 300)}") from error
    if shown:
        return levels - ours.transpose(2, 0, 1) if levels.shape[1:] == ours.shape[:2] else None
    return middle - ours[given.size // 2, given.size // 2]
