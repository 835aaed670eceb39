"""A map of objects: numbers from the best on, which has the pixels that it shares with others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from vertebra.tools.data.sets import Category
from vertebra.tools.instance_maps import instance_map, write_instances

CATEGORIES = [Category(3, "cat"), Category(9, "dog")]


def rle(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))  # type: ignore[no-any-return]


def found_masks() -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    masks = np.zeros((3, 6, 8), bool)
    masks[0, 1:4, 1:5] = True  # 12 pixels
    masks[1, 2:6, 3:8] = True  # 20, of which 2 rows of 2 are the first's
    masks[2, 1:3, 1:3] = True  # 4, all of them the first's
    return masks, {
        "boxes": torch.tensor([[1.0, 1, 5, 4], [3, 2, 8, 6], [1, 1, 3, 3]]),
        "labels": torch.tensor([2, 1, 2]),
        "scores": torch.tensor([0.75, 0.5, 0.25]),
        "masks": [rle(mask) for mask in masks],
        "names": ["dog", "cat", "dog"],
        "size": (6, 8),
    }


def test_the_better_object_has_the_pixel() -> None:
    masks, found = found_masks()
    expected = np.where(masks[0], 1, np.where(masks[1], 2, np.where(masks[2], 3, 0)))
    numbers = instance_map(found)
    assert numbers.dtype == np.uint16
    assert np.array_equal(numbers, expected)


def test_on_disk(tmp_path: Path) -> None:
    _, found = found_masks()
    write_instances(tmp_path / "masks", "a.b", found, CATEGORIES)
    with Image.open(tmp_path / "masks" / "a.b.png") as stored:
        assert stored.mode == "I;16"
        assert np.array_equal(np.array(stored), instance_map(found))
    objects = json.loads((tmp_path / "masks" / "a.b.json").read_text())
    assert objects == [
        {"number": 1, "name": "dog", "category_id": 9, "score": 0.75, "bbox": [1, 1, 4, 3], "pixels": 12},
        {"number": 2, "name": "cat", "category_id": 3, "score": 0.5, "bbox": [3, 2, 5, 4], "pixels": 16},
        {"number": 3, "name": "dog", "category_id": 9, "score": 0.25, "bbox": [1, 1, 2, 2], "pixels": 0},
    ]


def test_an_image_without_objects(tmp_path: Path) -> None:
    none: dict[str, Any] = {
        "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0), "masks": [],
        "names": [], "size": (5, 4),
    }  # fmt: skip
    write_instances(tmp_path, "a", none, CATEGORIES)
    assert np.array_equal(np.array(Image.open(tmp_path / "a.png")), np.zeros((5, 4)))
    assert json.loads((tmp_path / "a.json").read_text()) == []
