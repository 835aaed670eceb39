"""Reading COCO's instance format: what is kept, what is left out, and what is refused."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vertebra
from vertebra.tools.data.coco import first_images, read_coco, require_masks, with_masks
from vertebra.tools.data.sets import Category, check_categories


def read(folder: Path) -> Any:
    return read_coco(folder / "instances.json", folder / "images")


def test_objects_to_learn(coco_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = read(coco_folder)
    assert data.categories == (Category(1, "person"), Category(18, "dog"))
    assert [image.id for image in data.images] == [7, 3, 12]
    first, second, empty = data.images
    assert first.boxes.tolist() == [[10, 20, 40, 35]]  # the crowd is left out
    assert first.labels.tolist() == [2]
    assert second.boxes.tolist() == [[5.5, 5, 25.5, 14]]  # the box without width is dropped
    assert empty.boxes.shape == (0, 4)
    assert empty.boxes.dtype == np.float32
    assert len(caplog.messages) == 1
    assert "dropped 1 boxes without area (first: annotation id 3)" in caplog.messages[0]


def test_real_coco(real_data: Path) -> None:
    """Counted in the file itself: objects that are not crowds, and sparse ids up to 90."""
    root = real_data / "coco_mini"
    path = root / "annotations" / "instances_train2017.json"
    data = read_coco(path, root / "train2017")
    document = json.loads(path.read_text())
    assert sum(len(image.labels) for image in data.images) == sum(not a["iscrowd"] for a in document["annotations"])
    assert len(data.categories) == 80
    assert data.categories[-1] == Category(90, "toothbrush")


def write_segmentations(folder: Path, document: dict[str, Any], segmentations: dict[int, object]) -> None:
    annotations = [
        {**a, "segmentation": segmentations[a["id"]]} if a["id"] in segmentations else a
        for a in document["annotations"]
    ]
    (folder / "instances.json").write_text(json.dumps({**document, "annotations": annotations}))


def test_masks_of_the_objects_to_learn(
    coco_folder: Path, coco_document: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The crowd's mask stays out as its box does; an object without a mask goes, box and label with it."""
    annotations = [*coco_document["annotations"], {**coco_document["annotations"][0], "id": 5, "category_id": 1}]
    square = [[10, 20, 40, 20, 40, 35, 10, 35]]
    crowd = {"size": [60, 80], "counts": [0, 4800]}
    write_segmentations(coco_folder, {**coco_document, "annotations": annotations}, {2: crowd, 4: [], 5: square})
    plain = read(coco_folder)
    assert all(image.segmentations == () for image in plain.images)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        data = require_masks(plain)
    assert len(caplog.messages) == 1
    assert "left out 2 objects without a mask (first: annotation id 1)" in caplog.messages[0]
    first, second, empty = data.images
    assert first.labels.tolist() == [1]
    assert first.boxes.tolist() == [[10, 20, 40, 35]]
    expected = np.zeros((60, 80), np.uint8)
    expected[20:35, 10:40] = 1
    assert np.array_equal(first.masks().dense(), expected[None])
    assert first.masks().dense().dtype == np.uint8
    assert second.masks().dense().shape == empty.masks().dense().shape == (0, 60, 80)
    assert second.boxes.shape == (0, 4)
    assert with_masks(plain)[1] == [1, 4]
    assert data.document == plain.document


def test_a_set_without_masks_is_refused(coco_folder: Path, coco_document: dict[str, Any]) -> None:
    with pytest.raises(vertebra.InputError, match=r"none of its 2 objects has .* \(first: annotation id 1\)"):
        require_masks(read(coco_folder))
    (coco_folder / "instances.json").write_text(json.dumps({**coco_document, "annotations": []}))
    assert len(require_masks(read(coco_folder)).images) == 3  # no objects, so none that lacks a mask
    write_segmentations(coco_folder, coco_document, {1: {"size": [80, 60], "counts": [4800]}})
    with pytest.raises(vertebra.InputError, match=r"instances\.json: the segmentation of annotation 1 is for an image"):
        require_masks(read(coco_folder))


def test_first_images_cuts_the_document_too(coco_folder: Path) -> None:
    cut = first_images(read(coco_folder), 1)
    assert [image.id for image in cut.images] == [7]
    assert [record["id"] for record in cut.document["images"]] == [7]
    assert [record["id"] for record in cut.document["annotations"]] == [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": None}, "not a COCO instances file: it has no list 'annotations'"),
        ({"images": []}, "lists 0 images and 2 categories; both are needed"),
        (
            {"annotations": [{"id": 5, "image_id": 8, "category_id": 1, "bbox": [1, 2, 3, 4]}]},
            r"annotation 5 belongs to image 8, which is not among the images",
        ),
        ({"categories": [{"id": 18, "name": "dog"}]}, "annotation 2 has category 1, which is not among the categories"),
        ({"images": [{"id": 7}]}, "a record lacks 'file_name'"),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3]}]}, "not a COCO instances file"),
        (
            {"annotations": [{"id": 5, "image_id": 7, "category_id": 1, "bbox": [1, 2, float("nan"), 3]}]},
            "annotation 5 has bbox .* four finite numbers",
        ),
        (
            {"images": [{"id": 7, "file_name": "../secret.png", "height": 1, "width": 1}], "annotations": []},
            r"file_name '\.\./secret\.png' points outside",
        ),
        (
            {"images": [{"id": 7, "file_name": "/etc/hosts", "height": 1, "width": 1}], "annotations": []},
            r"file_name '/etc/hosts' points outside",
        ),
        (
            {"images": [{"id": 7, "file_name": "gone.png", "height": 1, "width": 1}], "annotations": []},
            r"1 of 1 images are not in .* \(first: 'gone\.png'\)",
        ),
    ],
)
def test_bad_documents(coco_folder: Path, coco_document: dict[str, Any], change: dict[str, Any], message: str) -> None:
    (coco_folder / "instances.json").write_text(json.dumps({**coco_document, **change}))
    with pytest.raises(vertebra.InputError, match=message):
        read(coco_folder)


def test_bad_files(coco_folder: Path) -> None:
    with pytest.raises(vertebra.InputError, match=r"no annotations at .*absent"):
        read_coco(coco_folder / "absent.json", coco_folder / "images")
    with pytest.raises(vertebra.InputError, match=r"no folder of images at .*absent"):
        read_coco(coco_folder / "instances.json", coco_folder / "absent")
    (coco_folder / "instances.json").write_text("{")
    with pytest.raises(vertebra.InputError, match="is not JSON"):
        read(coco_folder)


def test_an_image_of_another_size_than_its_annotations(coco_folder: Path, coco_document: dict[str, Any]) -> None:
    images = [{**record, "width": 90} for record in coco_document["images"]]
    (coco_folder / "instances.json").write_text(json.dumps({**coco_document, "images": images}))
    with pytest.raises(vertebra.InputError, match="is 80x60, its annotations say 90x60"):
        read(coco_folder).images[0].read()


def test_categories_that_differ_are_named(coco_folder: Path) -> None:
    data = read(coco_folder)
    check_categories(data, data.categories)
    with pytest.raises(vertebra.InputError, match="has 2 categories, the model 2; they differ in cat, dog"):
        check_categories(data, (Category(1, "person"), Category(18, "cat")))
