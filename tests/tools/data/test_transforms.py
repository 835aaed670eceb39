"""Training transforms: sizes, and boxes and masks that follow the pixels."""

from dataclasses import replace

import albumentations as A
import numpy as np
import pytest

import vertebra
from vertebra.tools.data.geometry import FILL, Objects
from vertebra.tools.data.masks import resize_masks
from vertebra.tools.data.transforms import PRESETS, Transform, Transforms


def image_with_box() -> tuple[np.ndarray, Objects]:
    """A black image with a white rectangle, and the rectangle's box and label."""
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[10:30, 20:50] = 255
    return pixels, {"boxes": np.array([[20, 10, 50, 30]], np.float32), "labels": np.array([4])}


def image_with_masks(seed: int, size: tuple[int, int] = (60, 100)) -> tuple[np.ndarray, Objects]:
    """Six blobs of noise, each with its box and with its own label, in an image that shows the last of them."""
    rng = np.random.default_rng(seed)
    height, width = size
    masks, boxes = np.zeros((6, height, width), np.uint8), np.zeros((6, 4), np.float32)
    for mask, box in zip(masks, boxes, strict=True):
        x1, y1 = rng.integers(0, width - 12), rng.integers(0, height - 12)
        x2, y2 = rng.integers(x1 + 6, width), rng.integers(y1 + 6, height)
        mask[y1:y2, x1:x2] = rng.integers(0, 2, (y2 - y1, x2 - x1))
        box[:] = x1, y1, x2, y2
    pixels = np.repeat(masks[-1][..., None] * np.uint8(255), 3, axis=2)
    return pixels, {"boxes": boxes, "labels": np.arange(1, 7), "masks": masks}


@pytest.mark.parametrize("preset", ["default", "flips", "none"])
def test_boxes_follow_the_pixels(preset: str) -> None:
    transform = Transform(Transforms(preset, short=120, longest=400))
    corners = set()
    for seed in range(40):
        pixels, objects = transform(*image_with_box(), seed)
        boxes = objects["boxes"]
        ys, xs = np.nonzero(pixels[..., 0] > 127)
        np.testing.assert_allclose(boxes, [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], atol=1)
        assert objects["labels"].tolist() == [4]
        corners.add(tuple(boxes[0].tolist()))
    assert len(corners) == {"default": 2, "flips": 4, "none": 1}[preset]


def test_the_seed_decides() -> None:
    transform = Transform(Transforms("flips", short=60, longest=100))
    one = [transform(*image_with_box(), seed)[1]["boxes"].tolist() for seed in range(20)]
    other = [transform(*image_with_box(), seed)[1]["boxes"].tolist() for seed in reversed(range(20))]
    assert one == other[::-1]


def test_no_objects() -> None:
    pixels, _ = image_with_box()
    transform = Transform(Transforms("default", short=30, longest=100))
    none = {
        "boxes": np.zeros((0, 4), np.float32),
        "labels": np.zeros(0, np.int64),
        "masks": np.zeros((0, 60, 100), np.uint8),
    }
    _, objects = transform(pixels, none, 0)
    assert {key: value.shape for key, value in objects.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, 30, 50),
    }
    assert [value.dtype for value in objects.values()] == [np.float32, np.int64, np.uint8]


def test_masks_are_flipped_as_the_pixels() -> None:
    """Against numpy's flips of the dense masks; the picture tells which flip was drawn."""
    transform = Transform(Transforms("flips", short=60, longest=100))
    flips = set()
    for seed in range(20):
        pixels, objects = image_with_masks(0)
        turned, found = transform(pixels, objects, seed)
        (axes,) = [axes for axes in ((), (0,), (1,), (0, 1)) if np.array_equal(turned, np.flip(pixels, axes))]
        expected = np.flip(objects["masks"], [axis + 1 for axis in axes])
        assert np.array_equal(found["masks"], expected)
        assert found["labels"].tolist() == [1, 2, 3, 4, 5, 6]
        flips.add(axes)
    assert len(flips) == 4


def test_masks_are_resized_with_the_pixels() -> None:
    pixels, objects = image_with_masks(1)
    _, found = Transform(Transforms("none", short=45, longest=1000))(pixels, objects, 0)
    assert np.array_equal(found["masks"], resize_masks(objects["masks"], 45, 75))


def test_masks_stay_with_their_boxes_where_a_crop_drops_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corner crop shows that rows are not mixed up, whatever a preset drops."""
    monkeypatch.setitem(PRESETS, "corner", replace(PRESETS["none"], augment=lambda: [A.Crop(0, 0, 50, 40)]))
    transform = Transform(Transforms("corner", short=60, longest=100))
    kept = set()
    for seed in range(10):
        pixels, objects = image_with_masks(seed)
        _, found = transform(pixels, objects, seed)
        rows = found["labels"] - 1
        assert np.array_equal(found["masks"], objects["masks"][rows, :40, :50])
        np.testing.assert_allclose(found["boxes"], np.minimum(objects["boxes"][rows], [50, 40, 50, 40]), atol=1e-4)
        kept.add(len(rows))
    assert len(kept) > 1
    assert min(kept) < 6


def painted(seed: int, size: tuple[int, int] = (90, 120)) -> tuple[np.ndarray, Objects]:
    """Blocks of classes 0..5, and an image that has 40 times the class in red, and no blue."""
    rng = np.random.default_rng(seed)
    semantic = rng.integers(0, 6, (size[0] // 15, size[1] // 15)).astype(np.uint8).repeat(15, axis=0).repeat(15, axis=1)
    pixels = np.stack([semantic * np.uint8(40), np.full_like(semantic, 200), np.zeros_like(semantic)], axis=-1)
    return pixels, {"semantic": semantic}


@pytest.mark.parametrize("preset", ["default", "flips", "seg"])
def test_labels_follow_the_pixels(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "seg", replace(PRESETS["seg"], augment=PRESETS["default"].augment))  # no jitter
    transform = Transform(Transforms(preset, 120, 500, crop=(100, 140), scale=(0.4, 1.5)))
    for seed in range(30):
        pixels, found = transform(*painted(seed), seed)
        semantic = found["semantic"]
        assert set(found) == {"semantic"}
        assert semantic.dtype == np.uint8
        assert semantic.shape == pixels.shape[:2] == ((100, 140) if preset == "seg" else (120, 160))
        padding = (pixels == FILL).all(axis=2)
        assert np.array_equal(semantic == 255, padding)
        assert padding.any() <= (preset == "seg")
        read = np.round(pixels[..., 0] / 40)
        assert (read == semantic)[~padding].mean() > 0.9  # but where neighbouring blocks blend


@pytest.mark.parametrize(("short", "scale"), [(90, (0.75, 1.5)), (45, (1.5, 3.0))])
def test_seg_draws_scale_and_place(short: int, scale: tuple[float, float]) -> None:
    """The sizes of 40 images of 90x120 in crops that are larger than they ever become."""
    transform = Transform(Transforms("seg", short, 1000, crop=(200, 300), scale=scale))
    heights, places = [], set()
    for seed in range(40):
        _, found = transform(*painted(0), seed)
        rows, columns = np.nonzero(found["semantic"] != 255)
        height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert abs(height / 90 - width / 120) < 0.02
        heights.append(height)
        places.add((rows.min(), columns.min()))
    assert min(heights) >= 67
    assert max(heights) <= 135
    assert max(heights) - min(heights) > 50
    assert len(places) > 35


def test_jitter_changes_colours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Transforms("seg", 90, 120, crop=(64, 64))
    jittered = Transform(settings)
    monkeypatch.setitem(PRESETS, "seg", replace(PRESETS["seg"], augment=PRESETS["default"].augment))
    plain = Transform(settings)
    changed = 0
    for seed in range(30):
        one, other = jittered(*painted(seed), seed), plain(*painted(seed), seed)
        assert np.array_equal(one[1]["semantic"], other[1]["semantic"])
        difference = np.abs(one[0].astype(int) - other[0])
        changed += bool(difference.any())
        assert difference.max() < 140
    assert 18 <= changed < 30  # of 30 with a probability of 0.8


def test_boxes_and_masks_follow_in_seg() -> None:
    """Masks are those of the boxes, so what is left of them says what is left of each box."""
    transform = Transform(Transforms("seg", 60, 100, crop=(50, 60), scale=(0.8, 1.6)))
    counts = []
    for seed in range(40):
        pixels, objects = image_with_masks(seed)
        for mask, (x1, y1, x2, y2) in zip(objects["masks"], objects["boxes"].astype(int), strict=True):
            mask[y1:y2, x1:x2] = 1
        shape, found = transform(pixels, objects, seed)
        assert found["masks"].shape == (len(found["labels"]), *shape.shape[:2])
        for mask, box in zip(found["masks"], found["boxes"], strict=True):
            ys, xs = np.nonzero(mask)
            np.testing.assert_allclose(box, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1)
        counts.append(len(found["labels"]))
    assert min(counts) < max(counts) == 6


def coordinates(height: int, width: int) -> np.ndarray:
    """An image whose red says the column and whose green the row."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([columns, rows, np.zeros_like(rows)], axis=-1)


def test_imagenet_crops_an_eighth_to_all_of_the_area() -> None:
    """Regions read off the coordinates in the corners; what Inception's crops have in area and shape."""
    transform = Transform(Transforms("imagenet", crop=(32, 32)))
    areas, shapes, flipped = [], [], 0
    for seed in range(400):
        pixels, found = transform(coordinates(200, 250), {"label": np.array(3)}, seed)
        assert found["label"].shape == ()
        assert pixels.shape == (32, 32, 3)
        right, bottom = pixels[-1, -1, :2].astype(float)
        left, top = pixels[0, 0, :2].astype(float)
        width, height = abs(right - left) * 32 / 31, (bottom - top) * 32 / 31
        flipped += right < left
        areas.append(width * height / 50000)
        shapes.append(width / height)
    assert 0.07 < min(areas) < 0.15
    assert 0.85 < max(areas) < 1.01
    assert 0.48 < np.mean(areas) < 0.56  # 0.54, less what the image cuts off
    assert 0.7 < min(shapes) < 0.85
    assert 1.18 < max(shapes) < 1.4
    assert 160 < flipped < 240


def test_cifar_pads_by_four_and_crops() -> None:
    """Against numpy's padding: every sample is one of the 81 places, or its mirror image."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    padded = np.stack([np.pad(pixels[..., i], 4, constant_values=fill) for i, fill in enumerate(FILL)], axis=-1)
    known = {}
    for top in range(9):
        for left in range(9):
            crop = padded[top : top + 32, left : left + 32]
            known |= {crop.tobytes(): (top, left, False), crop[:, ::-1].tobytes(): (top, left, True)}
    transform = Transform(Transforms("cifar", crop=(32, 32)))
    seen = {known[transform(pixels, {"label": np.array(0)}, seed)[0].tobytes()] for seed in range(1500)}
    assert len(seen) == 2 * 81


@pytest.mark.parametrize("preset", ["seg", "imagenet", "cifar"])
def test_the_seed_decides_on_crops(preset: str) -> None:
    transform = Transform(Transforms(preset, crop=(24, 24)))
    image, objects = painted(0)
    one = [transform(image, objects, seed)[0].tobytes() for seed in range(10)]
    other = [transform(image, objects, seed)[0].tobytes() for seed in reversed(range(10))]
    assert one == other[::-1]
    assert len(set(one)) > 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Transforms("flip"), r"unknown transforms\.preset 'flip'\. Did you mean 'flips'"),
        (
            Transforms("seg"),
            r"transforms\.preset=seg gives samples of one size; set transforms\.crop to \[height, width\]",
        ),
        (Transforms("cifar", crop=(32, 0)), r"transforms\.crop=\[32, 0\]; height and width must be at least 1"),
        (Transforms("seg", crop=(8, 8), scale=(2, 1)), r"transforms\.scale=\[2, 1\]; write \[lowest, highest\]"),
        (Transforms("seg", crop=(8, 8), scale=(0, 1)), r"transforms\.scale=\[0, 1\]"),
    ],
)
def test_bad_settings(settings: Transforms, message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        Transform(settings)
