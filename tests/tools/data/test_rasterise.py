"""Labels drawn from objects, against pycocotools' masks and against torchvision's rule."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

import vertebra
from vertebra.tools.data.coco import CocoSet, read_coco
from vertebra.tools.data.formats import VOC
from vertebra.tools.data.rasterise import rasterised
from vertebra.tools.data.sets import Category
from vertebra.tools.data.stream import evaluation_batches

# The ids that torchvision's reference training takes as VOC's classes, background first.
VOC_IDS = (0, 5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)


@dataclass
class Real:
    """COCO's images with its own reader."""

    data: CocoSet
    coco: COCO

    def objects(self, image: int, ids: tuple[int, ...]) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Return classes and masks of the objects, and the union of crowds, by pycocotools."""
        size = self.coco.imgs[image]["height"], self.coco.imgs[image]["width"]
        records = [a for a in self.coco.imgToAnns[image] if a["category_id"] in ids]
        objects = [a for a in records if not a["iscrowd"]]
        masks = np.array([self.coco.annToMask(a) for a in objects], bool).reshape(-1, *size)
        crowds = np.array([self.coco.annToMask(a) for a in records if a["iscrowd"]], bool).reshape(-1, *size)
        return [ids.index(a["category_id"]) for a in objects], masks, crowds.any(axis=0)


@pytest.fixture(scope="module")
def real(real_data: Path) -> Real:
    root = real_data / "coco_mini"
    path = root / "annotations" / "instances_val2017.json"
    return Real(read_coco(path, root / "val2017"), COCO(str(path)))


def semantic(image: Any) -> np.ndarray:
    return image.targets(("semantic",))["semantic"]


def test_the_smaller_object_wins_on_coco(real: Real) -> None:
    """By the least area at each pixel, of pycocotools' dense masks."""
    drawn = rasterised(real.data)
    ids = (0, *sorted(real.coco.cats))
    assert [category.name for category in drawn.categories[1:]] == [real.coco.cats[id]["name"] for id in ids[1:]]
    assert len(drawn.images) == len(real.data.images)
    overlapping = 0
    for image in drawn.images:
        classes, masks, crowd = real.objects(image.id, ids)
        areas = np.where(masks, masks.sum(axis=(1, 2))[:, None, None], np.inf)
        # Ends with a plane for what no object covers. Of equal areas the last wins.
        planes = np.concatenate([np.full((1, *masks.shape[1:]), np.inf), areas])[::-1]
        winner = len(classes) - planes.argmin(axis=0)
        expected = np.array([0, *classes])[winner]
        nothing = ~masks.any(axis=0)
        expected[nothing] = np.where(crowd[nothing], 255, 0)
        assert np.array_equal(semantic(image), expected)
        overlapping += (masks.sum(axis=0) > 1).any()
    assert overlapping > 10


def test_overlaps_ignored_as_in_torchvisions_reference(real: Real) -> None:
    """Its rule in numpy: the largest class times mask, then 255 where masks add up to more than one."""
    ids = VOC_IDS
    drawn = rasterised(real.data, classes=VOC, overlaps="ignore")
    seen: set[int] = set()
    for image in drawn.images:
        classes, masks, crowd = real.objects(image.id, ids)
        expected = np.zeros(crowd.shape, np.int64)
        if classes:
            expected = (masks * np.array(classes)[:, None, None]).max(axis=0)
            expected[masks.sum(axis=0) > 1] = 255
        expected[crowd & ~masks.any(axis=0)] = 255  # ours: crowds, which it draws as objects
        assert np.array_equal(semantic(image), expected)
        seen |= set(np.unique(expected).tolist())
    assert seen > set(range(16)) | {255}


def test_vocs_classes_are_torchvisions(real: Real) -> None:
    names = DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    categories = rasterised(real.data, classes=VOC).categories
    assert categories == tuple(Category(i, name) for i, name in enumerate(names))


def test_images_with_little_to_learn_are_left_out(real: Real) -> None:
    """As torchvision's reference training: more than 1000 pixels, by the records' areas."""
    areas = {image.id: 0.0 for image in real.data.images}
    for annotation in real.coco.dataset["annotations"]:
        if annotation["category_id"] in VOC_IDS and not annotation["iscrowd"]:
            areas[annotation["image_id"]] += annotation["area"]
    expected = [image.id for image in real.data.images if areas[image.id] > 1000]
    assert [image.id for image in rasterised(real.data, classes=VOC, least_area=1000).images] == expected
    assert 0 < len(expected) < len(real.data.images)
    with pytest.raises(vertebra.InputError, match="no image whose objects of these classes cover more than"):
        rasterised(real.data, classes=VOC, least_area=1e9)


def test_the_images_are_those_of_the_set(real: Real) -> None:
    drawn = rasterised(real.data)
    assert drawn.source == real.data.source
    for image, of_set in list(zip(drawn.images, real.data.images, strict=True))[:5]:
        assert (image.id, image.path) == (of_set.id, of_set.path)
        assert np.array_equal(image.read(), of_set.read())
    with pytest.raises(vertebra.InputError, match="learns from 'boxes'"):
        drawn.images[0].targets(("boxes",))


def test_workers_draw_the_same(real: Real) -> None:
    drawn = rasterised(real.data).images[:12]
    one, two = (list(evaluation_batches(drawn, 4, workers, ("semantic",))) for workers in (0, 2))
    for left, right in zip(one, two, strict=True):
        for (_, a), (_, b) in zip(left, right, strict=True):
            assert a["semantic"].equal(b["semantic"])


def square(x: int, y: int, side: int) -> list[list[int]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


@pytest.fixture
def drawing(coco_folder: Path, coco_document: dict[str, Any]) -> Callable[..., CocoSet]:
    """Write objects (category, segmentation, crowd) of the first image, and read the set."""

    def call(*objects: tuple[int, object, int]) -> CocoSet:
        annotations = [
            {"id": i, "image_id": 7, "category_id": c, "bbox": [0, 0, 9, 9], "iscrowd": crowd, "segmentation": s}
            for i, (c, s, crowd) in enumerate(objects, start=1)
        ]
        document = {**coco_document, "annotations": annotations}
        (coco_folder / "instances.json").write_text(json.dumps(document))
        return read_coco(coco_folder / "instances.json", coco_folder / "images")

    return call


def test_rules_by_hand(drawing: Callable[..., CocoSet]) -> None:
    """A large dog (18, class 2) over a small person (1, class 1), and a crowd of persons over the left half."""
    crowd = {"size": [60, 80], "counts": [0, 60 * 40, 60 * 40]}
    data = drawing((1, square(30, 20, 4), 0), (18, square(28, 18, 20), 0), (1, crowd, 1))
    labels = semantic(rasterised(data).images[0])
    points = {
        "person": (21, 31),
        "dog": (19, 29),
        "dog outside the crowd": (30, 44),
        "crowd": (50, 10),
        "none": (5, 60),
    }
    assert {name: int(labels[point]) for name, point in points.items()} == {
        **{"person": 1, "dog": 2, "dog outside the crowd": 2, "crowd": 255, "none": 0},
    }
    ignoring = semantic(rasterised(data, overlaps="ignore").images[0])
    assert np.array_equal(ignoring != labels, labels == 1)
    assert (ignoring[labels == 1] == 255).all()
    dogs = rasterised(data, classes=["dog"])
    assert dogs.categories == (Category(0, "__background__"), Category(1, "dog"))
    assert np.array_equal(np.unique(semantic(dogs.images[0])), [0, 1])  # crowds of persons are background then
    # Without a record of it, the area is the mask's.
    assert len(rasterised(data, classes=["person"], least_area=15).images) == 1
    with pytest.raises(vertebra.InputError):
        rasterised(data, classes=["person"], least_area=16)


def test_three_objects_in_one_place(drawing: Callable[..., CocoSet]) -> None:
    data = drawing(*[(18, square(10, 10, 5), 0)] * 3)
    labels = semantic(rasterised(data, overlaps="ignore").images[0])
    assert (labels == 255).sum() == 25
    assert (labels == 0).sum() == labels.size - 25


def test_objects_without_a_mask(drawing: Callable[..., CocoSet], caplog: pytest.LogCaptureFixture) -> None:
    rasterised(drawing((18, square(10, 10, 5), 0), (1, [], 0)))
    assert "1 objects without a mask are not drawn (first: annotation id 2)" in caplog.text
    with pytest.raises(vertebra.InputError, match=r"has no masks to draw: none of the 1 objects .* annotation id 1\)"):
        rasterised(drawing((1, [], 0)))
    assert len(rasterised(drawing()).images) == 3


def test_bad_choices(drawing: Callable[..., CocoSet]) -> None:
    data = drawing((18, square(10, 10, 5), 0))
    with pytest.raises(vertebra.InputError, match=r"unknown category of .*instances\.json 'dogs'\. Did you mean 'dog'"):
        rasterised(data, classes=["dogs"])
    with pytest.raises(vertebra.InputError, match=r"unknown category of .* 'aeroplane'"):
        rasterised(data, classes=["aeroplane"])
    with pytest.raises(vertebra.InputError, match="2 classes, 1 of them different"):
        rasterised(data, classes=["dog", "dog"])
    with pytest.raises(vertebra.InputError, match="unknown rule for overlaps 'larger'"):
        rasterised(data, overlaps="larger")
    malformed = drawing((18, {"size": [1, 1], "counts": [1]}, 0))
    with pytest.raises(vertebra.InputError, match=r"instances\.json: the segmentation of annotation 1 is for an image"):
        rasterised(malformed)
