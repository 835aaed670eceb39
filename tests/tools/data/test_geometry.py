"""Windows of resized images, against resizing the whole and cutting it."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vertebra.tools.data.geometry import FILL, Window, draw_window, resize, show

RNG = np.random.default_rng(0)
PIXELS = cv2.GaussianBlur(RNG.integers(0, 256, (60, 100, 3), dtype=np.uint8), (0, 0), 2)
SEMANTIC = RNG.integers(0, 7, (60, 100), dtype=np.uint8)
MASKS = RNG.integers(0, 2, (3, 60, 100), dtype=np.uint8)


def padded(image: np.ndarray, window: Window, fill: int) -> np.ndarray:
    """Cut the window out of an image (H, W) that is first padded far enough on all sides."""
    far = np.pad(image, 300, constant_values=fill)
    return far[300 + window.top :, 300 + window.left :][: window.size[0], : window.size[1]]


WINDOWS = {
    "inside": Window((60, 100), 7, 11, (20, 30)),
    "enlarged": Window((112, 186), 40, 60, (64, 64)),
    "reduced": Window((41, 68), 3, 5, (32, 48)),
    "stretched": Window((90, 70), 30, 0, (60, 70)),
    "padded all around": Window((30, 50), -10, -7, (64, 64)),
    "over a corner": Window((120, 200), 90, -20, (64, 64)),
}


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_equals_resizing_the_whole(window: Window) -> None:
    """Labels as torch's `nearest-exact` has them; pixels as OpenCV's resizing, to two grey values."""
    shown, found = show(PIXELS, {"semantic": SEMANTIC, "masks": MASKS}, window)
    whole = cv2.resize(PIXELS, window.whole[::-1], interpolation=cv2.INTER_LINEAR)
    for channel, fill in enumerate(FILL):
        difference = shown[..., channel].astype(int) - padded(whole[..., channel], window, fill)
        assert np.abs(difference).max() <= 2
    for key, labels, fill in (("semantic", SEMANTIC[None], 255), ("masks", MASKS, 0)):
        planes = torch.from_numpy(labels)[:, None]
        resized = F.interpolate(planes, size=window.whole, mode="nearest-exact")[:, 0].numpy()
        expected = np.stack([padded(plane, window, fill) for plane in resized])
        assert np.array_equal(found[key].reshape(expected.shape), expected)
        assert found[key].dtype == np.uint8


def test_pixels_that_are_not_resized_stay_as_they_are() -> None:
    shown, _ = show(PIXELS, {}, WINDOWS["inside"])
    assert np.array_equal(shown, PIXELS[7:27, 11:41])


def test_boxes_are_cut_at_the_window_and_at_the_image() -> None:
    """By hand, in an image that is doubled and moved: the window has rows 90..154 and columns -20..44 of 120x200."""
    boxes = np.array([[0, 45, 10, 50], [15, 50, 50, 70], [30, 50, 40, 60], [21.8, 50, 40, 60]], np.float32)
    objects = {"boxes": boxes, "labels": np.array([1, 2, 3, 4]), "label": np.array(9)}
    _, found = show(PIXELS, objects, WINDOWS["over a corner"])
    assert found["boxes"].tolist() == [[20, 0, 40, 10], [50, 10, 64, 30]]
    assert found["boxes"].dtype == np.float32
    assert found["labels"].tolist() == [1, 2]
    assert found["label"] == 9


@pytest.mark.parametrize(
    ("length", "size", "margin", "places"),
    [(10, 4, 0, range(7)), (32, 32, 4, range(-4, 5)), (3, 5, 0, range(-2, 1)), (5, 5, 0, range(1))],
)
def test_every_place_is_drawn(length: int, size: int, margin: int, places: range) -> None:
    drawn = [draw_window((length, 8), (size, 8), margin, np.random.default_rng(seed)).top for seed in range(300)]
    assert set(drawn) == set(places)
    assert max(map(drawn.count, places)) < 3 * 300 / len(places)


@pytest.mark.parametrize(
    ("short", "longest", "size"),
    [(30, 1000, (30, 50)), (120, 150, (90, 150)), (60, 100, (60, 100)), (33, 1000, (33, 55))],
)
def test_resize_bounds_the_short_and_the_long_side(short: int, longest: int, size: tuple[int, int]) -> None:
    boxes = np.array([[20, 10, 50, 30]], np.float32)
    resized, scaled = resize(PIXELS, {"boxes": boxes, "labels": np.array([4])}, short, longest)
    assert resized.shape[:2] == size
    np.testing.assert_allclose(scaled["boxes"], boxes * (size[0] / 60), rtol=1e-5)


def test_masks_and_labels_are_resized_with_the_pixels() -> None:
    _, found = resize(PIXELS, {"masks": MASKS, "semantic": SEMANTIC, "label": np.array(1)}, 120, 1000)
    assert np.array_equal(found["masks"], MASKS.repeat(2, axis=1).repeat(2, axis=2))
    assert np.array_equal(found["semantic"], SEMANTIC.repeat(2, axis=0).repeat(2, axis=1))
    assert found["label"] == 1
