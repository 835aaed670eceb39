"""What an evaluation leaves in its folder: metrics, COCO results, and pictures."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.coco import CocoSet, Image, first_images, with_masks
from ..data.masks import rle_of
from ..draw import draw_boxes, draw_masks, enlarge, write_picture
from .coco import CocoEvaluator

# Detections below this score are in the results but not in the pictures.
PICTURE_SCORE = 0.5


def write_evaluation(
    folder: Path, evaluator: CocoEvaluator, data: CocoSet, pictures: int
) -> tuple[dict[str, dict[str, float]], str]:
    """Write `metrics.json`, `predictions.json` (COCO results) and `pictures/`; return metrics and COCO's summary.

    Metrics are by `bbox`, and `segm` where there are masks.
    """
    metrics, summary = evaluator.compute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.json").write_text(json.dumps(evaluator.results))
    (folder / "metrics.json").write_text(json.dumps({**metrics, "summary": summary}, indent=2) + "\n")
    found = defaultdict(list)
    for result in evaluator.results:
        found[result["image_id"]].append(result)
    if pictures:
        (folder / "pictures").mkdir(exist_ok=True)
    shown = first_images(data, pictures)
    masked = with_masks(shown)[0].images if evaluator.has_masks else shown.images
    for image, with_mask in zip(shown.images, masked, strict=True):
        picture = truth_and_detections(image, with_mask, found[image.id], evaluator)
        write_picture(folder / "pictures" / f"{Path(image.path.name).stem}.jpg", picture)
    return metrics, summary


def truth_and_detections(
    image: Image, masked: Image, results: list[dict[str, Any]], evaluator: CocoEvaluator
) -> Tensor:
    """Return a picture (3, H, W) of an image twice: with its objects on the left, with its detections on the right.

    masked: the image with those of its objects that have a mask, where masks are drawn.
    """
    pixels = torch.from_numpy(image.read()).permute(2, 0, 1)
    names = [category.name for category in evaluator.categories]
    label_of = {category.id: label for label, category in enumerate(evaluator.categories, start=1)}
    shown = [result for result in results if result["score"] >= PICTURE_SCORE]
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (r["bbox"] for r in shown)]).reshape(-1, 4)
    labels = [label_of[result["category_id"]] for result in shown]
    texts = [f"{names[label - 1]} {result['score']:.2f}" for label, result in zip(labels, shown, strict=True)]
    truth_labels = image.labels.tolist()
    large, scale = enlarge(pixels)
    left = draw_masks(
        large, [rle_of(s, image.height, image.width) for s in masked.segmentations], masked.labels.tolist()
    )
    left = draw_boxes(
        left, torch.from_numpy(image.boxes) * scale, truth_labels, [names[label - 1] for label in truth_labels]
    )
    right = draw_masks(large, [result["segmentation"] for result in shown if "segmentation" in result], labels)
    right = draw_boxes(right, boxes * scale, labels, texts)
    gap = torch.full((3, large.shape[1], 8), 255, dtype=torch.uint8)
    return torch.cat([left, gap, right], dim=2)
