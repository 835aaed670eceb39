"""Windows of resized images, against resizing the whole and cutting it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools.coco import COCO

from vertebra.tools.data.coco import read_coco, require_masks
from vertebra.tools.data.cutouts import Cutouts
from vertebra.tools.data.geometry import (
    FILL,
    Window,
    draw_window,
    fitted,
    flip_objects,
    reduction,
    show_objects,
    show_pixels,
)

RNG = np.random.default_rng(0)
PIXELS = cv2.GaussianBlur(RNG.integers(0, 256, (60, 100, 3), dtype=np.uint8), (0, 0), 2)
SEMANTIC = RNG.integers(0, 7, (60, 100), dtype=np.uint8)
MASKS = RNG.integers(0, 2, (3, 60, 100), dtype=np.uint8)
CUT = Cutouts((60, 100), ((0, 0),) * 3, tuple(MASKS))


WINDOWS = {
    "inside": Window((slice(7, 27), slice(11, 41)), (slice(0, 20), slice(0, 30)), (20, 30)),
    "enlarged": Window((slice(20, 54), slice(30, 65)), (slice(0, 64), slice(0, 64)), (64, 64)),
    "reduced": Window((slice(4, 50), slice(8, 78)), (slice(0, 32), slice(0, 48)), (32, 48)),
    "stretched": Window((slice(20, 60), slice(0, 100)), (slice(0, 60), slice(0, 70)), (60, 70)),
    "padded all around": Window((slice(0, 60), slice(0, 100)), (slice(10, 40), slice(7, 57)), (64, 64)),
    "over a corner": Window((slice(45, 60), slice(0, 22)), (slice(0, 30), slice(20, 64)), (64, 64)),
}


def padded(inside: np.ndarray, window: Window, fill: int) -> np.ndarray:
    """Put what is shown (h, w) into the sample."""
    (top, left), (bottom, right) = ((side.start for side in window.place), (side.stop for side in window.place))
    around = [(top, window.size[0] - bottom), (left, window.size[1] - right)]
    return np.pad(inside, around, constant_values=fill)


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_equals_cutting_resizing_and_padding(window: Window) -> None:
    """Labels are resized as torch's `nearest-exact` does it, and pixels as its `bilinear`, to a grey value."""
    shown = show_pixels(PIXELS, 1, window)
    found = show_objects({"semantic": SEMANTIC, "masks": CUT}, window)
    found["masks"] = found["masks"].dense()
    resized = (window.place[0].stop - window.place[0].start, window.place[1].stop - window.place[1].start)
    for channel, fill in enumerate(FILL):
        part = torch.from_numpy(PIXELS[(*window.part, channel)])[None, None].float()
        expected = padded(F.interpolate(part, size=resized, mode="bilinear")[0, 0].numpy(), window, fill)
        assert np.abs(shown[..., channel] - expected).max() <= 1
    for key, labels, fill in (("semantic", SEMANTIC[None], 255), ("masks", MASKS, 0)):
        planes = torch.from_numpy(labels[:, *window.part])[:, None]
        nearest = F.interpolate(planes, size=resized, mode="nearest-exact")[:, 0].numpy()
        expected = np.stack([padded(plane, window, fill) for plane in nearest])
        assert np.array_equal(found[key].reshape(expected.shape), expected)
        assert found[key].dtype == np.uint8


def test_pixels_that_are_not_resized_stay_as_they_are() -> None:
    assert np.array_equal(show_pixels(PIXELS, 1, WINDOWS["inside"]), PIXELS[7:27, 11:41])


def test_boxes_are_cut_at_the_window_and_at_the_image() -> None:
    """By hand, in an image that is doubled and moved: rows 90..120 and columns 0..44 of 120x200 are shown."""
    boxes = np.array([[0, 45, 10, 50], [15, 50, 50, 70], [30, 50, 40, 60], [21.8, 50, 40, 60]], np.float32)
    objects = {"boxes": boxes, "labels": np.array([1, 2, 3, 4]), "label": np.array(9)}
    found = show_objects(objects, WINDOWS["over a corner"])
    assert found["boxes"].tolist() == [[20, 0, 40, 10], [50, 10, 64, 30]]
    assert found["boxes"].dtype == np.float32
    assert found["labels"].tolist() == [1, 2]
    assert found["label"] == 9


@pytest.mark.parametrize(
    ("length", "size", "margin", "places"),
    [(10, 4, 0, range(7)), (32, 32, 4, range(-4, 5)), (3, 5, 0, range(-2, 1)), (5, 5, 0, range(1))],
)
def test_every_place_is_drawn(length: int, size: int, margin: int, places: range) -> None:
    windows = [
        draw_window((2 * length, 8), (length, 8), (size, 8), margin, np.random.default_rng(seed)) for seed in range(300)
    ]
    drawn = []
    for window in windows:
        rows, place = window.part[0], window.place[0]
        drawn.append(rows.start // 2 - place.start)
        assert (rows.start, rows.stop) == (max(0, 2 * drawn[-1]), min(2 * length, 2 * (drawn[-1] + size)))
        assert place.stop - place.start == (rows.stop - rows.start) // 2
        assert window.size == (size, 8)
    assert set(drawn) == set(places)
    assert max(map(drawn.count, places)) < 3 * 300 / len(places)


@pytest.mark.parametrize(
    ("short", "longest", "size"),
    [(30, 1000, (30, 50)), (120, 150, (90, 150)), (60, 100, (60, 100)), (33, 1000, (33, 55))],
)
def test_resize_bounds_the_short_and_the_long_side(short: int, longest: int, size: tuple[int, int]) -> None:
    window = fitted((60, 100), short, longest)
    assert window.size == size
    assert np.array_equal(
        show_pixels(PIXELS, 1, window), cv2.resize(PIXELS, size[::-1], interpolation=cv2.INTER_LINEAR)
    )
    boxes = np.array([[20, 10, 50, 30]], np.float32)
    found = show_objects({"boxes": boxes, "labels": np.array([4])}, window)
    np.testing.assert_allclose(found["boxes"], boxes * (size[0] / 60), rtol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_drawn_is_in_the_image_and_in_the_sample(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given, whole, size = ((int(a), int(b)) for a, b in rng.integers(1, 60, (3, 2)))
    window = draw_window(given, whole, size, int(rng.integers(0, 5)), rng)
    for part, place, old, length in zip(window.part, window.place, given, size, strict=True):
        assert 0 <= part.start < part.stop <= old
        assert 0 <= place.start < place.stop <= length
    assert show_pixels(np.zeros((*given, 3), np.uint8), 1, window).shape == (*size, 3)


def test_masks_and_labels_are_resized_with_the_pixels() -> None:
    objects = {"masks": CUT, "semantic": SEMANTIC, "label": np.array(1)}
    found = show_objects(objects, fitted((60, 100), 120, 1000))
    assert np.array_equal(found["masks"].dense(), MASKS.repeat(2, axis=1).repeat(2, axis=2))
    assert np.array_equal(found["semantic"], SEMANTIC.repeat(2, axis=0).repeat(2, axis=1))
    assert found["label"] == 1


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 1), (np.uint16, 257), (np.float32, 1 / 255)])
@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_any_channels(channels: int, dtype: type, scale: float, window: Window) -> None:
    """Those that are red, green and blue are as in a picture, and so is the padding."""
    image = np.resize(PIXELS.transpose(2, 0, 1), (channels, 60, 100)).transpose(1, 2, 0) * float(scale)
    shown = show_pixels(np.ascontiguousarray(image, dtype), 1, window, (1,))
    assert shown.shape == (*window.size, channels)
    assert shown.dtype == dtype
    expected = np.resize(show_pixels(PIXELS, 1, window, (1,)).transpose(2, 0, 1), (channels, *window.size))
    difference = np.abs(shown.transpose(2, 0, 1) / scale - expected)
    if channels == 1:  # padded with the mean colour
        difference = difference[:, (expected != FILL[0]).all(axis=0)]
    assert difference.max() <= 1


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("flips", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("reduced", [1, 2])
def test_pixels_are_flipped(window: Window, flips: tuple[int, ...], reduced: int) -> None:
    image = PIXELS if reduced == 1 else cv2.resize(PIXELS, (50, 30), interpolation=cv2.INTER_AREA)
    turned, straight = show_pixels(image, reduced, window, flips), show_pixels(image, reduced, window)
    assert np.abs(turned.astype(int) - np.flip(straight, flips)).max() <= 1


@pytest.mark.parametrize("axis", [0, 1])
def test_flips(axis: int) -> None:
    """Boxes by hand, the rest by numpy."""
    objects = {"boxes": np.array([[20, 10, 50, 33.5]], np.float32), "labels": np.array([4]), "semantic": SEMANTIC}
    found = flip_objects({**objects, "masks": CUT}, (60, 100), axis)
    assert found["boxes"].tolist() == [[[20, 26.5, 50, 50]], [[50, 10, 80, 33.5]]][axis]
    assert found["labels"].tolist() == [4]
    assert np.array_equal(found["semantic"], np.flip(SEMANTIC, axis))
    assert np.array_equal(found["masks"].dense(), np.flip(MASKS, axis + 1))
    assert objects["boxes"].tolist() == [[20, 10, 50, 33.5]]


def test_real_masks_equal_the_dense_ones_transformed(real_data: Path) -> None:
    """By pycocotools, of whose masks the resized image takes the nearest pixels, padded, cut and flipped."""
    path = real_data / "coco_mini" / "annotations" / "instances_val2017.json"
    coco = COCO(str(path))
    rng = np.random.default_rng(0)
    count = 0
    for image in require_masks(read_coco(path, real_data / "coco_mini" / "val2017")).images[:50]:
        given = image.height, image.width
        factor = rng.uniform(0.3, 2.5)
        whole = (round(given[0] * factor), round(given[1] * factor))
        window = draw_window(given, whole, (int(rng.integers(200, 900)), 640), 0, rng)
        found = show_objects(image.targets(("masks",)), window)
        found = flip_objects(flip_objects(found, window.size, 0), window.size, 1)
        annotations = [a for a in coco.imgToAnns[image.id] if not a["iscrowd"]]
        assert len(found["masks"]) == len(annotations)
        for annotation, mask in zip(annotations, found["masks"].dense(), strict=True):
            dense = coco.annToMask(annotation)[window.part]
            centres = [
                np.round((np.arange(place.stop - place.start) + 0.5) * old / (place.stop - place.start), 9)
                for old, place in zip(dense.shape, window.place, strict=True)
            ]
            resized = dense[np.ix_(*(np.floor(each).astype(int) for each in centres))]
            expected = padded(resized, window, 0)
            assert np.array_equal(mask, expected[::-1, ::-1])
            count += bool(mask.any())
    assert count > 100


def whole_window(given: tuple[int, int], size: tuple[int, int]) -> Window:
    return Window((slice(0, given[0]), slice(0, given[1])), (slice(0, size[0]), slice(0, size[1])), size)


@pytest.mark.parametrize(
    ("given", "size", "factor"),
    [
        ((480, 640), (800, 1066), 1),
        ((480, 640), (240, 320), 2),
        ((481, 640), (241, 320), 1),
        ((481, 640), (240, 320), 2),
        ((3000, 4000), (800, 1066), 2),
        ((3000, 4000), (750, 1000), 4),
        ((3000, 4000), (300, 400), 8),
        ((1, 1), (1, 1), 1),
    ],
)
def test_the_most_that_leaves_the_pixels_that_are_shown(
    given: tuple[int, int], size: tuple[int, int], factor: int
) -> None:
    assert reduction(whole_window(given, size)) == factor


@pytest.mark.parametrize("reduced", [2, 4, 8])
@pytest.mark.parametrize("given", [(240, 320), (243, 325), (247, 327)])
@pytest.mark.parametrize("part", [None, (slice(16, 200), slice(24, 280)), (slice(19, 201), slice(5, 283))])
def test_reduced_pixels_lie_where_the_whole_ones_do(
    given: tuple[int, int], reduced: int, part: tuple[slice, slice] | None
) -> None:
    """A slope is what it was once neighbours are averaged; at a border averages take the image's last pixels again."""
    rows, columns = np.mgrid[: given[0], : given[1]]
    slopes = np.stack([rows * 250 / given[0], columns * 250 / given[1], (rows + columns) / 3], axis=-1)
    padded_slopes = np.pad(slopes, [(0, -given[0] % reduced), (0, -given[1] % reduced), (0, 0)], mode="edge")
    blocks = len(padded_slopes) // reduced, reduced, padded_slopes.shape[1] // reduced, reduced, 3
    small = np.round(padded_slopes.reshape(blocks).mean(axis=(1, 3))).astype(np.uint8)
    window = whole_window(given, (given[0] // reduced - 2, given[1] // reduced - 1))
    if part is not None:
        window = Window(part, (slice(3, 20), slice(0, 30)), (25, 30))
    found = show_pixels(small, reduced, window).astype(int)
    expected = show_pixels(np.round(slopes).astype(np.uint8), 1, window)
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    inner = tuple(slice(side.start + 1, side.stop - 1) for side in window.place)
    assert difference[inner].max() <= 2
    assert difference.max() <= 250 * reduced / given[0]
