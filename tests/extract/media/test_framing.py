"""What of a frame is left when it is a square."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.media.framing import MIDDLE_SQUARE, Framing, framing_of, resize_and_crop


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 64),
    grey=st.integers(0, 255),
    squeeze=st.booleans(),
    more=st.integers(0, 20),
)
def test_the_crop_is_square_and_a_constant_stays(
    height: int, width: int, size: int, grey: int, squeeze: bool, more: int
) -> None:
    framing = Framing(squeeze, size + more)
    cropped = resize_and_crop(np.full((2, height, width, 3), grey, dtype=np.uint8), size, framing)
    assert cropped.shape == (2, size, size, 3)
    assert cropped.dtype == np.uint8
    assert (cropped == grey).all()


def test_the_crop_is_the_middle_of_the_picture_undistorted() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (2, 40, 100, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_and_crop(picture, 40), picture[:, :, 30:70])
    tall = picture.transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(resize_and_crop(tall, 40), tall[:, 30:70])
    blocks = picture[:, :20, :50].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(resize_and_crop(blocks, 20), picture[:, :20, 15:35])


def ramps(height: int, width: int) -> np.ndarray:
    """A frame whose pixels say where they were: from left to right in red, from top to bottom in green, 0 to 1 each."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    frame[..., 0] = np.linspace(0, 255, width)[None]
    frame[..., 1] = np.linspace(0, 255, height)[:, None]
    return frame


@pytest.mark.parametrize(
    ("framing", "across", "down"),
    [
        (MIDDLE_SQUARE, (7 / 32, 25 / 32), (0, 1)),  # of 16:9, 9 of 16 are left
        (Framing(squeeze=True), (0, 1), (0, 1)),
        (Framing(scaled=256), (0.5 - 7 / 16 * 9 / 16, 0.5 + 7 / 16 * 9 / 16), (1 / 16, 15 / 16)),
        (Framing(squeeze=True, scaled=256), (1 / 16, 15 / 16), (1 / 16, 15 / 16)),
    ],
)
@pytest.mark.parametrize("height", [90, 180, 720])  # smaller, smaller on one side, larger than the square
def test_what_of_a_wide_frame_is_seen(
    framing: Framing, across: tuple[float, float], down: tuple[float, float], height: int
) -> None:
    (square,) = resize_and_crop([ramps(height, height * 16 // 9)], 224, framing)
    red, green = square[112, :, 0] / 255, square[:, 112, 1] / 255
    np.testing.assert_allclose((red[0], red[-1]), across, atol=0.01)
    np.testing.assert_allclose((green[0], green[-1]), down, atol=0.01)
    assert (np.diff(red) >= 0).all()
    assert (np.diff(green) >= 0).all()
    (tall,) = resize_and_crop([ramps(height, height * 16 // 9).transpose(1, 0, 2)], 224, framing)
    assert np.abs(tall.astype(int) - square.transpose(1, 0, 2)).max() <= 1


def test_squeezing_averages_what_shrinks() -> None:
    stripes = np.zeros((1, 20, 400, 3), dtype=np.uint8)
    stripes[:, :, ::2] = 200
    squeezed = resize_and_crop(stripes, 40, Framing(squeeze=True))
    assert np.abs(squeezed.astype(int) - 100).max() <= 1  # picking pixels would give 0 or 200


@pytest.mark.parametrize(
    ("frame", "framing"),
    [
        ({}, MIDDLE_SQUARE),
        ({"frame": {"squeeze": True, "scaled": None}}, Framing(squeeze=True)),
        ({"frame": {"squeeze": False, "scaled": 256}}, Framing(scaled=128)),
    ],
)
def test_thumbnails_show_what_the_network_saw(frame: dict[str, Any], framing: Framing) -> None:
    assert framing_of({"size": 224, "mean": [0], **frame}, 112) == framing
    assert framing_of({}, 112) == MIDDLE_SQUARE  # of a store that was not made here
