"""Training transforms: sizes, and boxes that follow the pixels."""

import numpy as np
import pytest

import vertebra
from vertebra.tools.data.transforms import Transform, Transforms, resize


def image_with_box() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A black image with a white rectangle, and the rectangle's box."""
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[10:30, 20:50] = 255
    return pixels, np.array([[20, 10, 50, 30]], np.float32), np.array([4])


@pytest.mark.parametrize(
    ("short", "longest", "size"),
    [(30, 1000, (30, 50)), (120, 150, (90, 150)), (60, 100, (60, 100)), (33, 1000, (33, 55))],
)
def test_resize_bounds_the_short_and_the_long_side(short: int, longest: int, size: tuple[int, int]) -> None:
    pixels, boxes, _ = image_with_box()
    resized, scaled = resize(pixels, boxes, short, longest)
    assert resized.shape[:2] == size
    np.testing.assert_allclose(scaled, boxes * (size[0] / 60), rtol=1e-5)


@pytest.mark.parametrize("preset", ["default", "flips", "none"])
def test_boxes_follow_the_pixels(preset: str) -> None:
    transform = Transform(Transforms(preset, short=120, longest=400))
    corners = set()
    for seed in range(40):
        pixels, boxes, labels = transform(*image_with_box(), seed)
        ys, xs = np.nonzero(pixels[..., 0] > 127)
        np.testing.assert_allclose(boxes, [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], atol=1)
        assert labels.tolist() == [4]
        corners.add(tuple(boxes[0].tolist()))
    assert len(corners) == {"default": 2, "flips": 4, "none": 1}[preset]


def test_the_seed_decides() -> None:
    transform = Transform(Transforms("flips", short=60, longest=100))
    one = [transform(*image_with_box(), seed)[1].tolist() for seed in range(20)]
    other = [transform(*image_with_box(), seed)[1].tolist() for seed in reversed(range(20))]
    assert one == other[::-1]


def test_no_objects() -> None:
    pixels, _, _ = image_with_box()
    transform = Transform(Transforms("default", short=60, longest=100))
    _, boxes, labels = transform(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 0)
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)
    assert (boxes.dtype, labels.dtype) == (np.float32, np.int64)


def test_unknown_preset() -> None:
    with pytest.raises(vertebra.InputError, match=r"unknown transforms\.preset 'flip'\. Did you mean 'flips'"):
        Transform(Transforms("flip"))
