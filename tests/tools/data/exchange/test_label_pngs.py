"""Label PNGs: regions as objects, and objects as the labels that a segmenter learns."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import vertebra
from vertebra.tools.data.exchange.common import IMAGES, Collection, Notes, Object
from vertebra.tools.data.exchange.label_pngs import read_label_sets, write_label_pngs
from vertebra.tools.data.semantic import read_label_folders

LABELS = np.array(
    [
        [1, 1, 0, 0, 2, 255],
        [1, 0, 0, 2, 0, 0],
        [0, 0, 0, 2, 0, 1],
        [0, 1, 1, 0, 0, 1],
    ],
    np.uint8,
)


def read(tmp_path: Path, names: tuple[str, ...], notes: Notes) -> Collection:
    for folder, pixels in (("images", np.zeros((4, 6, 3), np.uint8)), ("labels", LABELS)):
        (tmp_path / folder / "deep").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / folder / "deep" / "a.png")
    data = read_label_folders(tmp_path / "images", tmp_path / "labels", names=names)
    return read_label_sets([("train", tmp_path / "images", data)], notes)


def test_regions_by_hand(tmp_path: Path) -> None:
    """Pixels that touch at a corner are of one region: that of class 2."""
    notes = Notes()
    found = read(tmp_path, ("__background__", "cat", "dog"), notes)
    assert (found.categories, found.parts[0].names) == (("cat", "dog"), ("deep/a.png",))
    (picture,) = found.parts[0].pictures
    assert (picture.name, picture.height, picture.width) == ("deep/a.png", 4, 6)
    assert sorted((each.category, each.box) for each in picture.objects) == [
        (0, (0, 0, 2, 2)),
        (0, (1, 3, 2, 1)),
        (0, (5, 2, 1, 2)),
        (1, (3, 0, 2, 3)),
    ]
    for category in (0, 1):
        masks = [coco_mask.decode(each.segmentation) for each in picture.objects if each.category == category]
        np.testing.assert_array_equal(sum(masks), np.equal(LABELS, category + 1))
    assert notes.lines() == ["1 images have pixels to ignore, which are of no object (first: deep/a.png)"]


def test_without_a_background_every_class_has_objects(tmp_path: Path) -> None:
    found = read(tmp_path, ("sky", "cat", "dog"), Notes())
    assert found.categories == ("sky", "cat", "dog")
    (picture,) = found.parts[0].pictures
    masks = [coco_mask.decode(each.segmentation) for each in picture.objects if each.category == 0]
    np.testing.assert_array_equal(sum(masks), LABELS == 0)


def rle(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))


def test_labels_as_they_are_drawn(collect: Callable[..., Collection], tmp_path: Path) -> None:
    """The smaller wins, and crowds are to be ignored where nothing else is."""
    large, small, crowd = (np.zeros((4, 6), np.uint8) for _ in range(3))
    large[:, :4] = 1
    small[1:3, 1:3] = 1
    crowd[:2] = 1
    objects = [
        Object(1, (1, 1, 2, 2), rle(small)),
        Object(0, (0, 0, 4, 4), rle(large)),
        Object(0, (0, 0, 6, 2), rle(crowd), crowd=True),
        Object(0, (0, 0, 2, 2)),
    ]
    notes = Notes()
    write_label_pngs(collect((4, 6), train={"a.jpg": objects, "b.jpg": []}), tmp_path / "out", notes, IMAGES["link"])
    with Image.open(tmp_path / "out/labels/train/a.png") as image:
        assert image.mode == "L"
        found = np.array(image)
    expected = [[1, 1, 1, 1, 255, 255], [1, 2, 2, 1, 255, 255], [1, 2, 2, 1, 0, 0], [1, 1, 1, 1, 0, 0]]
    assert found.tolist() == expected
    assert not np.array(Image.open(tmp_path / "out/labels/train/b.png")).any()
    assert (tmp_path / "out/classes.txt").read_text() == "__background__\ncat\ndog\n"
    assert notes.lines() == ["1 objects without a mask are not drawn (first: a.jpg)"]


def test_boxes_alone_cannot_be_drawn(collect: Callable[..., Collection], tmp_path: Path) -> None:
    given = collect((4, 6), train={"a.jpg": [Object(0, (0, 0, 2, 2))]})
    with pytest.raises(vertebra.InputError, match="given has no masks to draw: label PNGs need them"):
        write_label_pngs(given, tmp_path / "out", Notes(), IMAGES["link"])


def test_more_classes_than_a_byte_holds(collect: Callable[..., Collection], tmp_path: Path) -> None:
    given = collect((4, 6), train={"a.jpg": []})
    many = Collection(given.source, tuple(map(str, range(255))), given.parts)
    with pytest.raises(vertebra.InputError, match="255 categories; label PNGs hold up to 254"):
        write_label_pngs(many, tmp_path / "out", Notes(), IMAGES["link"])
