"""Class folders, and objects cut out of their images."""

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import vertebra
from vertebra.tools.data.classes import object_crops, read_class_folders
from vertebra.tools.data.coco import read_coco
from vertebra.tools.data.sets import Category
from vertebra.tools.data.stream import TrainingStream, training_batches
from vertebra.tools.data.transforms import Transform, Transforms


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Dogs and cats, one of them in a folder below, with files that are no images."""
    for i, name in enumerate(("dog/2.jpg", "dog/1.JPG", "cat/b.png", "cat/young/a.png", "cat/c.png")):
        path = tmp_path / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((8 + i, 10, 3), 40 * i, np.uint8))
    for name in ("dog/notes.txt", "README.md", "cat/.DS_Store"):
        (tmp_path / "pets" / name).touch()
    (tmp_path / "pets" / ".cache").mkdir()
    return tmp_path / "pets"


def test_a_folder_for_each_class(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = read_class_folders(pets)
    assert data.categories == (Category(0, "cat"), Category(1, "dog"))
    found = {image.path.relative_to(pets).as_posix(): int(image.targets(("label",))["label"]) for image in data.images}
    assert found == {"cat/b.png": 0, "cat/c.png": 0, "cat/young/a.png": 0, "dog/1.JPG": 1, "dog/2.jpg": 1}
    assert [image.id for image in data.images] == [1, 2, 3, 4, 5]
    assert data.images[0].read().shape == (10, 10, 3)
    assert len(caplog.messages) == 1
    assert "left out 2 files that are no images of a class (first:" in caplog.messages[0]


def test_the_label_is_a_number(pets: Path) -> None:
    label = read_class_folders(pets).images[-1].targets(("label",))["label"]
    assert label.shape == ()
    assert label.dtype == np.int64


def test_folders_that_hold_nothing_of_use(pets: Path) -> None:
    (pets / "bird").mkdir()
    (pets / "bird" / "song.mp3").touch()
    with pytest.raises(vertebra.InputError, match=r"class folder .*bird has no images; files ending in \.jpg"):
        read_class_folders(pets)
    with pytest.raises(vertebra.InputError, match="dog has no class folders; put the images of each class into a"):
        read_class_folders(pets / "dog")
    with pytest.raises(vertebra.InputError, match=r"no folder of classes at .*absent"):
        read_class_folders(pets / "absent")


@pytest.mark.parametrize("preset", ["imagenet", "cifar"])
def test_samples_do_not_depend_on_the_workers(pets: Path, preset: str) -> None:
    transform = Transform(Transforms(preset, crop=(8, 8)))
    stream = TrainingStream(read_class_folders(pets).images, transform, seed=1, target_keys=("label",))
    one, two = (list(training_batches(stream, 3, 1, 5, workers)) for workers in (0, 2))
    for left, right in zip(one, two, strict=True):
        for (pixels, target), (others, other) in zip(left, right, strict=True):
            assert pixels.equal(others)
            assert pixels.shape == (3, 8, 8)
            assert target["label"].equal(other["label"])
            assert target["label"].shape == ()


@pytest.fixture
def gradient(coco_folder: Path, coco_document: dict[str, Any]) -> Path:
    """Images whose red says the column and whose green the row, with objects at their edges too."""
    rows, columns = np.mgrid[:60, :80].astype(np.uint8)
    for record in coco_document["images"]:
        bgr = np.stack([np.full_like(rows, record["id"]), rows, columns], axis=-1)
        cv2.imwrite(str(coco_folder / "images" / record["file_name"]), bgr)
    boxes = {7: [[10, 20, 30, 10], [60, 0, 20, 60]], 12: [[0.5, 3.5, 0.2, 0.2], [90, 70, 5, 5]]}
    annotations = [
        {"id": len(boxes) * image + i, "image_id": image, "category_id": 18 if i else 1, "bbox": box}
        for image, rows_of in boxes.items()
        for i, box in enumerate(rows_of)
    ]
    (coco_folder / "instances.json").write_text(json.dumps({**coco_document, "annotations": annotations}))
    return coco_folder


def test_objects_cut_out(gradient: Path) -> None:
    """First and last column and row of each crop, by hand: boxes enlarged by a tenth of their sides, in the image."""
    data = read_coco(gradient / "instances.json", gradient / "images")
    crops = object_crops(data)
    assert crops.categories == data.categories
    found = []
    for crop in crops.images:
        pixels = crop.read()
        assert crop.path.name == f"{pixels[0, 0, 2]}.png"
        corners = pixels[[0, -1], [0, -1], :2].tolist()
        assert pixels.shape == (corners[1][1] - corners[0][1] + 1, corners[1][0] - corners[0][0] + 1, 3)
        found.append((int(crop.targets(("label",))["label"]), corners))
    assert found == [
        (0, [[7, 19], [42, 30]]),
        (1, [[58, 0], [79, 59]]),
        (0, [[0, 3], [0, 3]]),
        (1, [[79, 59], [79, 59]]),  # beyond the image: the pixel nearest to it
    ]
    assert [crop.id for crop in crops.images] == [1, 2, 3, 4]
    assert object_crops(data, margin=0).images[0].read().shape == (10, 30, 3)


def test_nothing_to_cut_out(gradient: Path, coco_document: dict[str, Any]) -> None:
    data = read_coco(gradient / "instances.json", gradient / "images")
    with pytest.raises(vertebra.InputError, match="margin=-1; crops are enlarged"):
        object_crops(data, margin=-1)
    (gradient / "instances.json").write_text(json.dumps({**coco_document, "annotations": []}))
    with pytest.raises(vertebra.InputError, match="has no objects to cut out"):
        object_crops(read_coco(gradient / "instances.json", gradient / "images"))
