"""COCO's metrics: a case by hand, and pycocotools' own way through files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vertebra.tools.data.coco import Category
from vertebra.tools.evaluation.coco import METRICS, CocoEvaluator

CATEGORIES = (Category(1, "person"), Category(18, "dog"))


def output(*found: tuple[list[float], int, float]) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor([box for box, _, _ in found]).reshape(-1, 4),
        "labels": torch.tensor([label for _, label, _ in found], dtype=torch.int64),
        "scores": torch.tensor([score for _, _, score in found]),
    }


def test_perfect_detections(coco_document: dict[str, Any]) -> None:
    evaluator = CocoEvaluator(coco_document, CATEGORIES)
    # The crowd of persons covers image 7: the stray person on it is ignored, not a false alarm.
    evaluator.update(
        [7, 3], [output(([10, 20, 40, 35], 2, 0.9), ([30, 30, 70, 59], 1, 0.95)), output(([5.5, 5, 25.5, 14], 1, 0.8))]
    )
    metrics, summary = evaluator.compute()
    assert evaluator.results[0] == {
        "image_id": 7,
        "category_id": 18,
        "bbox": [10, 20, 30, 15],
        "score": pytest.approx(0.9),
    }
    # The box without area of image 3 stays in the ground truth, as pycocotools has it: half of the persons is found.
    person = 51 / 101  # precision 1 at the recalls 0 to 0.5
    assert metrics["AP"] == pytest.approx((1 + person) / 2)
    assert metrics["APl"] == -1
    assert len(summary.splitlines()) == 12


def test_no_detections(coco_document: dict[str, Any]) -> None:
    metrics, _ = CocoEvaluator(coco_document, CATEGORIES).compute()
    assert metrics["AP"] == metrics["AR100"] == 0


def test_equals_pycocotools_through_files_on_real_data(real_data: Path, tmp_path: Path) -> None:
    """Ground truth shifted and with random scores as detections: sparse ids, crowds, all sizes."""
    path = real_data / "coco_mini" / "annotations" / "instances_val2017.json"
    document = json.loads(path.read_text())
    categories = tuple(Category(c["id"], c["name"]) for c in document["categories"])
    label_of = {category.id: label for label, category in enumerate(categories, start=1)}
    evaluator = CocoEvaluator(document, categories)
    generator = torch.Generator().manual_seed(0)
    for image in document["images"]:
        found = []
        for a in document["annotations"]:
            if a["image_id"] == image["id"]:
                x, y, w, h = a["bbox"]
                dx, dy, score = (float(v) for v in torch.rand(3, generator=generator))
                box = [x + 0.3 * w * (dx - 0.5), y + 0.3 * h * (dy - 0.5), x + w, y + h]
                found.append((box, label_of[a["category_id"]], score))
        evaluator.update([image["id"]], [output(*found)])
    metrics, _ = evaluator.compute()
    (tmp_path / "results.json").write_text(json.dumps(evaluator.results))
    truth = COCO(str(path))
    reference = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    assert metrics == pytest.approx(dict(zip(METRICS, reference.stats, strict=True)), abs=1e-12)
    assert 0.2 < metrics["AP"] < 0.95
