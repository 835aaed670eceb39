"""Training transforms: sizes, and boxes and masks that follow the pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vertebra
from vertebra.tools.data.cutouts import Cutouts
from vertebra.tools.data.geometry import FILL, Objects, Window
from vertebra.tools.data.images import Pixels, read_reduced
from vertebra.tools.data.transforms import PRESETS, Transform, Transforms


@dataclass(frozen=True)
class Given:
    """An image of a data set, with all that is known of it."""

    pixels: np.ndarray
    objects: Objects
    id: int = 1
    path: Path = Path("given.png")

    def read(self) -> np.ndarray:
        return self.pixels

    def targets(self, keys: Sequence[str]) -> dict[str, Any]:
        return {key: self.objects[key] for key in keys}


def apply(transform: Transform, image: tuple[np.ndarray, Objects], seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    given = Given(*image)
    return transform(given, list(given.objects), seed, [given])


def cut_out(masks: np.ndarray) -> Cutouts:
    """Masks in windows as large as the image."""
    return Cutouts(masks.shape[1:], ((0, 0),) * len(masks), tuple(masks))


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
    return pixels, {"boxes": boxes, "labels": np.arange(1, 7), "masks": cut_out(masks)}


@pytest.mark.parametrize("preset", ["default", "flips", "none"])
def test_boxes_follow_the_pixels(preset: str) -> None:
    transform = Transform(Transforms(preset, short=120, longest=400))
    corners = set()
    for seed in range(40):
        pixels, objects = apply(transform, image_with_box(), seed)
        boxes = objects["boxes"]
        ys, xs = np.nonzero(pixels[..., 0] > 127)
        np.testing.assert_allclose(boxes, [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], atol=1)
        assert objects["labels"].tolist() == [4]
        corners.add(tuple(boxes[0].tolist()))
    assert len(corners) == {"default": 2, "flips": 4, "none": 1}[preset]


def test_the_seed_decides() -> None:
    transform = Transform(Transforms("flips", short=60, longest=100))
    one = [apply(transform, image_with_box(), seed)[1]["boxes"].tolist() for seed in range(20)]
    other = [apply(transform, image_with_box(), seed)[1]["boxes"].tolist() for seed in reversed(range(20))]
    assert one == other[::-1]


def test_no_objects() -> None:
    pixels, _ = image_with_box()
    transform = Transform(Transforms("default", short=30, longest=100))
    none = {
        "boxes": np.zeros((0, 4), np.float32),
        "labels": np.zeros(0, np.int64),
        "masks": Cutouts((60, 100), (), ()),
    }
    _, objects = apply(transform, (pixels, none), 0)
    masks = objects.pop("masks")
    assert masks.dense().shape == (0, 30, 50)
    assert {key: value.shape for key, value in objects.items()} == {"boxes": (0, 4), "labels": (0,), "dropped": ()}
    assert [value.dtype for value in objects.values()] == [np.float32, np.int64, np.int64]


def test_masks_are_flipped_as_the_pixels() -> None:
    """Against numpy's flips of the dense masks; the picture tells which flip was drawn."""
    transform = Transform(Transforms("flips", short=60, longest=100))
    flips = set()
    for seed in range(20):
        pixels, objects = image_with_masks(0)
        turned, found = apply(transform, (pixels, objects), seed)
        (axes,) = [axes for axes in ((), (0,), (1,), (0, 1)) if np.array_equal(turned, np.flip(pixels, axes))]
        expected = np.flip(objects["masks"].dense(), [axis + 1 for axis in axes])
        assert np.array_equal(found["masks"].dense(), expected)
        assert found["labels"].tolist() == [1, 2, 3, 4, 5, 6]
        flips.add(axes)
    assert len(flips) == 4


def test_masks_are_resized_with_the_pixels() -> None:
    pixels, objects = image_with_masks(1)
    _, found = apply(Transform(Transforms("none", short=45, longest=1000)), (pixels, objects), 0)
    expected = F.interpolate(torch.from_numpy(objects["masks"].dense())[:, None], size=(45, 75), mode="nearest-exact")
    assert np.array_equal(found["masks"].dense(), expected[:, 0].numpy())


CORNER = Window((slice(0, 40), slice(0, 50)), (slice(0, 40), slice(0, 50)), (40, 50))


def test_masks_stay_with_their_boxes_where_a_crop_drops_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corner crop shows that rows are not mixed up, and that what goes is counted."""
    corner = replace(PRESETS["none"], place=lambda given, settings, rng: CORNER)
    monkeypatch.setitem(PRESETS, "corner", corner)
    transform = Transform(Transforms("corner"))
    kept = set()
    for seed in range(10):
        pixels, objects = image_with_masks(seed)
        _, found = apply(transform, (pixels, objects), seed)
        rows = found["labels"] - 1
        assert np.array_equal(found["masks"].dense(), objects["masks"].dense()[rows, :40, :50])
        np.testing.assert_allclose(found["boxes"], np.minimum(objects["boxes"][rows], [50, 40, 50, 40]), atol=1e-4)
        assert found["dropped"] == 6 - len(rows)
        kept.add(len(rows))
    assert len(kept) > 1
    assert min(kept) < 6


def test_multiscale_draws_one_of_its_sizes() -> None:
    transform = Transform(Transforms("multiscale", shorts=(32, 48, 90), longest=110))
    sizes = [apply(transform, image_with_box(), seed)[0].shape[:2] for seed in range(60)]
    assert set(sizes) == {(32, 53), (48, 80), (66, 110)}
    assert min(map(sizes.count, set(sizes))) > 8


def test_lsj_draws_scale_and_place() -> None:
    """The whole picture is white, so that its part of the sample shows; 80x96 fits a picture of 60x100 at 0.96."""
    transform = Transform(Transforms("lsj", crop=(80, 96)))
    white = np.full((60, 100, 3), 255, np.uint8), {"boxes": np.array([[0, 0, 100, 60]], np.float32)}
    heights, places, full = [], set(), 0
    for seed in range(200):
        pixels, found = apply(transform, white, seed)
        assert pixels.shape == (80, 96, 3)
        rows, columns = np.nonzero((pixels == 255).all(axis=2))
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found["boxes"], [box], atol=1)
        heights.append(box[3] - box[1])
        places.add((box[0], box[1]))
        full += heights[-1] == 80
    assert 5 <= min(heights) <= 10  # a tenth of 57.6 is 6
    assert 0.25 < full / 200 < 0.4  # factors above 1.39 of 0.1 to 2
    assert len(places) > 80


class Stored(Given):
    """An image whose size is known, and of which pieces can be read."""

    def size(self) -> tuple[int, int]:
        return 600, 800

    def read_reduced(self, factor: int) -> tuple[Pixels, int]:
        return read_reduced(self.path, factor)


@pytest.mark.parametrize("preset", ["default", "lsj", "seg"])
def test_a_reduced_image_gives_the_same_sample_but_for_detail(preset: str, tmp_path: Path) -> None:
    rows, columns = np.mgrid[:600, :800]
    smooth = np.stack([columns * 255 / 800, rows * 255 / 600, 127 + 60 * np.sin(columns / 60)], axis=-1)
    cv2.imwrite(str(tmp_path / "a.png"), smooth.astype(np.uint8)[..., ::-1])
    cv2.imwrite(str(tmp_path / "a.jpg"), smooth.astype(np.uint8)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    pixels = cv2.cvtColor(cv2.imread(str(tmp_path / "a.jpg")), cv2.COLOR_BGR2RGB)
    masks = np.zeros((2, 600, 800), np.uint8)
    masks[0, 100:450, 37:401] = masks[1, 31:33, 500:700] = 1
    boxes = np.array([[37.3, 100.1, 401.2, 449], [500, 31, 700, 33]], np.float32)
    objects = {"boxes": boxes, "labels": np.array([3, 4]), "masks": cut_out(masks)}
    whole, stored = Given(pixels, objects), Stored(pixels, objects, path=tmp_path / "a.jpg")
    transform = Transform(Transforms(preset, 120, 200, crop=(150, 150), scale=(0.5, 1.1)))
    transform.colours = PRESETS["none"].colours()
    for seed in range(12):
        (one, known), (other, found) = (transform(image, list(objects), seed, []) for image in (whole, stored))
        assert np.abs(one.astype(int) - other).max() <= 4
        assert known["boxes"].tolist() == found["boxes"].tolist()
        assert np.array_equal(known["masks"].dense(), found["masks"].dense())
        assert known["dropped"] == found["dropped"]


def painted(seed: int, size: tuple[int, int] = (90, 120)) -> tuple[np.ndarray, Objects]:
    """Blocks of classes 0..5, and an image that has 40 times the class in red, and no blue."""
    rng = np.random.default_rng(seed)
    semantic = rng.integers(0, 6, (size[0] // 15, size[1] // 15)).astype(np.uint8).repeat(15, axis=0).repeat(15, axis=1)
    pixels = np.stack([semantic * np.uint8(40), np.full_like(semantic, 200), np.zeros_like(semantic)], axis=-1)
    return pixels, {"semantic": semantic}


@pytest.mark.parametrize("preset", ["default", "flips", "seg"])
def test_labels_follow_the_pixels(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "seg", replace(PRESETS["seg"], colours=PRESETS["default"].colours))  # no jitter
    transform = Transform(Transforms(preset, 120, 500, crop=(100, 140), scale=(0.4, 1.5)))
    for seed in range(30):
        pixels, found = apply(transform, painted(seed), seed)
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
        _, found = apply(transform, painted(0), seed)
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
    monkeypatch.setitem(PRESETS, "seg", replace(PRESETS["seg"], colours=PRESETS["default"].colours))
    plain = Transform(settings)
    changed = 0
    for seed in range(30):
        one, other = apply(jittered, painted(seed), seed), apply(plain, painted(seed), seed)
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
        for mask, (x1, y1, x2, y2) in zip(objects["masks"].parts, objects["boxes"].astype(int), strict=True):
            mask[y1:y2, x1:x2] = 1
        shape, found = apply(transform, (pixels, objects), seed)
        masks = found["masks"].dense()
        assert masks.shape == (len(found["labels"]), *shape.shape[:2])
        for mask, box in zip(masks, found["boxes"], strict=True):
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
        pixels, found = apply(transform, (coordinates(200, 250), {"label": np.array(3)}), seed)
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
    seen = {known[apply(transform, (pixels, {"label": np.array(0)}), seed)[0].tobytes()] for seed in range(1500)}
    assert len(seen) == 2 * 81


@pytest.mark.parametrize("preset", ["seg", "imagenet", "cifar"])
def test_the_seed_decides_on_crops(preset: str) -> None:
    transform = Transform(Transforms(preset, crop=(24, 24)))
    image, objects = painted(0)
    one = [apply(transform, (image, objects), seed)[0].tobytes() for seed in range(10)]
    other = [apply(transform, (image, objects), seed)[0].tobytes() for seed in reversed(range(10))]
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
        (Transforms("multiscale", shorts=()), r"transforms\.shorts=\[\]; write one size or more, each at least 32"),
        (Transforms("multiscale", shorts=(640, 10)), r"transforms\.shorts=\[640, 10\]"),
        (Transforms("lsj", crop=(512,)), r"transforms\.crop=\[512\]; write two numbers"),
        (Transforms("lsj", scale=(0.1, 1, 2)), r"transforms\.scale=\[0\.1, 1, 2\]; write two numbers"),
        (Transforms("strong", paste=1.5), r"transforms\.paste=1\.5; it is a share, from 0 to 1"),
        (Transforms("strong", least_visible=-1), r"transforms\.least_visible=-1; it is a share"),
    ],
)
def test_bad_settings(settings: Transforms, message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        Transform(settings)


def test_strong_pastes_and_counts() -> None:
    """Two samples of which each is one colour, so that pixels tell whose object they show."""
    transform = Transform(Transforms("strong", crop=(120, 120), scale=(0.8, 1.5), paste=1.0, least_visible=0.3))
    transform.colours = PRESETS["none"].colours()
    images = []
    for value in (50, 200):
        _, objects = image_with_masks(value)
        for mask, (x1, y1, x2, y2) in zip(objects["masks"].parts, objects["boxes"].astype(int), strict=True):
            mask[y1:y2, x1:x2] = 1
        images.append(Given(np.full((60, 100, 3), value, np.uint8), {**objects, "labels": objects["labels"] + value}))
    dropped = 0
    for seed in range(30):
        pixels, found = transform(images[0], ("boxes", "labels"), seed, [images[1]])
        assert pixels.shape == (120, 120, 3)
        assert set(found) == {"boxes", "labels", "dropped"}
        own = found["labels"] < 200
        assert (~own).any()
        assert found["dropped"] == 6 - own.sum()
        dropped += found["dropped"]
        for x1, y1, x2, y2 in found["boxes"][~own].round().astype(int):
            assert (pixels[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] == 200).all()
    assert dropped > 10


def test_strong_needs_masks() -> None:
    transform = Transform(Transforms("strong"))
    pixels, objects = image_with_masks(0)
    given = Given(pixels, {**objects, "masks": Cutouts((60, 100), (), ())})
    with pytest.raises(
        vertebra.InputError, match=r"given\.png has 6 boxes but 0 masks; choose a preset that works with"
    ):
        transform(given, ("boxes", "labels"), 0, [given])
    assert transform.needed(("boxes", "labels")) == ("boxes", "labels", "masks")
    with pytest.raises(vertebra.InputError, match=r"pastes objects, and the model learns semantic; choose a preset"):
        transform.needed(("semantic",))
