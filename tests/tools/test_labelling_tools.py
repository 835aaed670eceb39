"""The settings for what labelling tools export, on exports of their layouts."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vertebra.tools.config import read_data
from vertebra.tools.sources import open_split


def export(home: Path, annotations: str, images: str, count: int, prefix: str = "", first_id: int = 1) -> None:
    """Write an export of so many images, each with an object of category 1; categories 0 and 1 are named."""
    document: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 0, "name": "project", "supercategory": "none"}, {"id": 1, "name": "cell"}],
    }
    for i in range(count):
        path = home / images / f"{prefix}{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((60, 80, 3), np.uint8))
        id = i + first_id
        document["images"].append({"id": id, "file_name": f"{prefix}{i}.jpg", "height": 60, "width": 80})
        box = {"bbox": [10, 20, 30, 15], "area": 450, "iscrowd": 0, "segmentation": []}
        document["annotations"].append({"id": id, "image_id": id, "category_id": 1, **box})
    (home / annotations).parent.mkdir(parents=True, exist_ok=True)
    (home / annotations).write_text(json.dumps(document))


def counts(name: str, home: Path, *splits: str) -> list[int]:
    data = read_data(name, str(home))
    return [len(open_split(data, split, ("boxes", "labels")).images) for split in splits]


def test_roboflow(tmp_path: Path) -> None:
    for folder, count in (("train", 3), ("valid", 2), ("test", 1)):
        export(tmp_path, f"{folder}/_annotations.coco.json", folder, count, first_id=0)
    assert counts("roboflow", tmp_path, "train", "val", "test") == [3, 2, 1]
    data = open_split(read_data("roboflow", str(tmp_path)), "train", ("boxes", "labels"))
    assert [category.name for category in data.categories] == ["project", "cell"]
    assert data.images[0].targets(("labels",))["labels"].tolist() == [2]


def test_cvat(tmp_path: Path) -> None:
    export(tmp_path, "annotations/instances_default.json", "images/default", 10)
    assert counts("cvat", tmp_path, "train", "val") == [9, 1]
    with pytest.raises(ValueError, match="no split 'test'"):
        counts("cvat", tmp_path, "test")


def test_label_studio(tmp_path: Path) -> None:
    export(tmp_path, "result.json", ".", 10, prefix="images/0a1b-", first_id=0)
    assert counts("label_studio", tmp_path, "train", "val") == [9, 1]
