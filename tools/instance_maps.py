"""The objects that a model found in an image as a map of their numbers, and what each number is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .data.masks import compact
from .data.sets import Array, Category
from .evaluation.coco import coco_results


def instance_map(found: Mapping[str, Any]) -> Array:
    """Return a map (height, width), uint16, of numbers of objects: from 1, best first, and 0 where there is none.

    Where masks overlap, the object of the higher score has the pixel.
    """
    height, width = found["size"]
    numbers = np.zeros((height, width), np.uint16)
    masks = compact(found["masks"], height, width)
    for index in reversed(range(len(masks))):
        (top, left), part = masks.corners[index], masks.parts[index]
        window = numbers[top : top + part.shape[0], left : left + part.shape[1]]
        window[part > 0] = index + 1
    return numbers


def write_instances(folder: Path, name: str, found: Mapping[str, Any], categories: Sequence[Category]) -> None:
    """Write the map of an image's objects as `name.png`, greyscale of 16 bits, and `name.json` with what each is.

    That is a list of `number`, `category_id`, `name`, `score`, `bbox` as x, y, width, height, and `pixels`, how many
    the object has in the map.
    """
    from PIL import Image

    numbers = instance_map(found)
    pixels = np.bincount(numbers.ravel(), minlength=1 + len(found["labels"])).tolist()
    keys = ("category_id", "score", "bbox")
    boxes = {key: value for key, value in found.items() if key != "masks"}
    objects = [
        {"number": number, "name": label, **{key: result[key] for key in keys}, "pixels": pixels[number]}
        for number, (label, result) in enumerate(
            zip(found["names"], coco_results(0, boxes, categories), strict=True), start=1
        )
    ]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers).save(folder / f"{name}.png")
    (folder / f"{name}.json").write_text(json.dumps(objects, indent=1) + "\n")
