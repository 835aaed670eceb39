"""Ground truth and detections for what is measured of them, as `CocoEvaluator.truth` and `.found` give them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from vertebra.tools.data.sets import Category
from vertebra.tools.evaluation.coco_records import truth_boxes, truth_masks

WIDTH, HEIGHT = 50, 40


class Case(NamedTuple):
    """What `match` takes, in its order, and the document."""

    truth: list[dict[str, Any]]
    found: list[dict[str, Any]]
    categories: tuple[Category, ...]
    image_ids: list[int]
    kind: str
    document: dict[str, Any]


def shape(kind: str, box: list[float], height: int, width: int) -> dict[str, Any]:
    """Return a box as a record has it, or as a mask that fills it."""
    if kind == "bbox":
        return {"bbox": box, "area": box[2] * box[3]}
    x, y, w, h = (round(v) for v in box)
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = 1
    rle = coco_mask.encode(mask)
    return {"segmentation": {**rle, "counts": rle["counts"].decode()}, "area": float(mask.sum())}


def random_case(seed: int, kind: str, images: int = 8, classes: int = 3) -> Case:
    """Small objects, crowds and boxes without area among them, and detections that hit, miss, repeat and confuse them.

    Half of the seeds have many equal scores. The ids of images and categories have gaps, and images no order.
    """
    rng = np.random.default_rng(seed)
    ids = [int(id) for id in rng.permutation(100)[:images]]
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []

    def box() -> list[float]:
        return [*rng.integers(0, 30, 2).astype(float), *(rng.integers(0, 15, 2) + rng.integers(0, 2) / 4)]

    def add(records: list[dict[str, Any]], image: int, category: int, where: list[float], **more: Any) -> None:
        common = {"id": len(records) + 1, "image_id": image, "category_id": category, "iscrowd": 0}
        records.append({**common, **shape(kind, [float(v) for v in where], HEIGHT, WIDTH), **more})

    for image in ids:
        boxes = [box() for _ in range(rng.integers(0, 7))]
        labels = rng.integers(1, classes + 1, len(boxes)) * 7
        for where, label in zip(boxes, labels, strict=True):
            add(truth, image, int(label), where, iscrowd=int(rng.random() < 0.15))
        for _ in range(rng.integers(0, 14)):
            score = float(rng.integers(0, 6) / 5 if seed % 2 else rng.random())
            where, label = box(), int(rng.integers(1, classes + 1)) * 7
            if boxes and rng.random() < 0.75:
                chosen = int(rng.integers(len(boxes)))
                where = [a + b for a, b in zip(boxes[chosen], rng.choice((-2, 0, 0, 1), 4), strict=True)]
                where = [*where[:2], *(max(side, 0) for side in where[2:])]
                label = int(labels[chosen]) if rng.random() < 0.8 else label
            add(found, image, label, where, score=score)
    categories = tuple(Category(7 * k, f"class {k}") for k in range(1, classes + 1))
    document = {
        "images": [{"id": id, "file_name": f"{id}.jpg", "height": HEIGHT, "width": WIDTH} for id in ids],
        "annotations": truth,
        "categories": [{"id": category.id, "name": category.name} for category in categories],
    }
    return Case(truth, found, categories, ids, kind, document)


def perturbed(path: Path, seed: int, kind: str, noise: float = 0.1) -> Case:
    """The objects of a data set, as detections: moved, some twice, left out, of another class or far away."""
    document = json.loads(path.read_text())
    truth = truth_boxes(document) if kind == "bbox" else truth_masks(document)
    rng = np.random.default_rng(seed)
    categories = tuple(sorted((Category(c["id"], c["name"]) for c in document["categories"]), key=lambda c: c.id))
    sizes = {record["id"]: (record["height"], record["width"]) for record in document["images"]}
    found: list[dict[str, Any]] = []
    for record in truth:
        box = record["bbox"] if kind == "bbox" else coco_mask.toBbox(record["segmentation"]).tolist()
        for _ in range(int(rng.choice((0, 1, 1, 1, 2, 3)))):
            far = rng.random() < 0.05
            moved = (np.array(box) + (2 if far else noise) * rng.normal(size=4) * np.array(box[2:] * 2)).tolist()
            moved = [*moved[:2], *(max(side, 0.0) for side in moved[2:])]
            label = categories[int(rng.integers(len(categories)))].id if rng.random() < 0.1 else record["category_id"]
            found.append(
                {
                    "id": len(found) + 1,
                    "image_id": record["image_id"],
                    "category_id": label,
                    "iscrowd": 0,
                    "score": round(rng.random(), 2),
                    **shape(kind, moved, *sizes[record["image_id"]]),
                }
            )
    return Case(truth, found, categories, [record["id"] for record in document["images"]], kind, document)


@pytest.fixture(scope="session")
def detection_case() -> Callable[..., Case]:
    """Make a random case: (seed, kind, images=8, classes=3)."""
    return random_case


@pytest.fixture(scope="session")
def real_case(real_data: Path) -> Callable[..., Case]:
    """Make a case of real objects: (seed, kind, noise=0.1)."""
    path = real_data / "coco_mini" / "annotations" / "instances_val2017.json"
    return lambda *arguments: perturbed(path, *arguments)
