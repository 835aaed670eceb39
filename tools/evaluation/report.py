"""What an evaluation of detections leaves in its folder: metrics, COCO results, and pictures."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from pathlib import Path

import torch
from torch import Tensor

from ..data.coco import CocoSet, with_masks
from ..data.images import own_names
from ..data.masks import rle_of
from ..draw import draw_boxes, draw_masks, enlarge, write_picture
from .coco import CocoEvaluator


def write_evaluation(folder: Path, evaluator: CocoEvaluator, pictures: Iterable[tuple[str, Tensor]]) -> None:
    """Write `metrics.json`, `predictions.json` (COCO results) and `pictures/`.

    pictures: file names without suffix, and pictures (3, H, W).
    """
    metrics, summary = evaluator.compute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.json").write_text(json.dumps(evaluator.results))
    (folder / "metrics.json").write_text(json.dumps({**metrics, "summary": summary}, indent=2) + "\n")
    for name, picture in pictures:
        (folder / "pictures").mkdir(exist_ok=True)
        write_picture(folder / "pictures" / f"{name}.jpg", picture)


class DetectionPictures:
    """Draws images of a data set twice: with their objects on the left, with what was found on the right.

    shown: which of the evaluator's results are drawn (N,), bool.
    """

    def __init__(self, evaluator: CocoEvaluator, data: CocoSet, shown: Sequence[bool]) -> None:
        self.boxes = data.images
        self.masked = with_masks(data)[0].images if evaluator.has_masks else data.images
        self.label_of = {category.id: label for label, category in enumerate(evaluator.categories, start=1)}
        self.names = [category.name for category in evaluator.categories]
        self.found = defaultdict(list)
        for result in compress(evaluator.results, shown):
            self.found[result["image_id"]].append(result)

    def first(self, count: int) -> Iterator[tuple[str, Tensor]]:
        """Yield names for files, without suffix, and pictures of the first images."""
        rows = range(min(count, len(self.boxes)))
        names = own_names(self.boxes[row].path for row in rows)
        return ((name, self.of_row(row)) for name, row in zip(names, rows, strict=True))

    def of_row(self, row: int) -> Tensor:
        """Return the picture (3, H, W) of the image in this row of the data set."""
        image, masked = self.boxes[row], self.masked[row]
        large, scale = enlarge(torch.from_numpy(image.read()).permute(2, 0, 1))
        labels = image.labels.tolist()
        masks = [rle_of(each, image.height, image.width) for each in masked.segmentations]
        left = draw_masks(large, masks, masked.labels.tolist())
        left = draw_boxes(left, torch.from_numpy(image.boxes) * scale, labels, [self.names[i - 1] for i in labels])

        shown = self.found[image.id]
        corners = [[x, y, x + width, y + height] for x, y, width, height in (result["bbox"] for result in shown)]
        labels = [self.label_of[result["category_id"]] for result in shown]
        texts = [f"{self.names[i - 1]} {result['score']:.2f}" for i, result in zip(labels, shown, strict=True)]
        right = draw_masks(large, [result["segmentation"] for result in shown if "segmentation" in result], labels)
        right = draw_boxes(right, torch.tensor(corners).reshape(-1, 4) * scale, labels, texts)
        gap = torch.full((3, large.shape[1], 8), 255, dtype=torch.uint8)
        return torch.cat([left, gap, right], dim=2)
