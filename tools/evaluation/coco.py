"""COCO's box metrics, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from ..data.coco import Category, CocoSet
from ..data.stream import evaluation_batches

# The order of COCOeval.stats.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class CocoEvaluator:
    """Collects detections as COCO results and scores them against an instances document.

    `update` with each batch, then `compute`; `results` can be written as JSON as it is. Category ids and image ids are
    the document's.
    """

    def __init__(self, document: Mapping[str, Any], categories: Sequence[Category]) -> None:
        self.document = document
        self.categories = tuple(categories)
        self.results: list[dict[str, Any]] = []

    def update(self, image_ids: Sequence[int], outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Add a detector's outputs, one for each image: `boxes` (N, 4) xyxy, `labels` (N,) from 1, `scores` (N,)."""
        for image_id, output in zip(image_ids, outputs, strict=True):
            self.results += coco_results(image_id, output, self.categories)

    def compute(self) -> tuple[dict[str, float], str]:
        """Return COCO's twelve numbers by name (-1 where there is nothing to measure), and its summary as text."""
        from pycocotools.cocoeval import COCOeval

        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            evaluation = COCOeval(self._index(self.document), self._detections(), iouType="bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            said.truncate(0)
            said.seek(0)
            evaluation.summarize()
        return dict(zip(METRICS, map(float, evaluation.stats), strict=True)), said.getvalue().rstrip()

    def _index(self, document: Mapping[str, Any]) -> Any:
        from pycocotools.coco import COCO

        # COCOeval writes into the records; and files of other tools may lack what it reads.
        annotations = [{"iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3], **a} for a in document["annotations"]]
        coco = COCO()
        coco.dataset = {**document, "annotations": annotations}
        coco.createIndex()
        return coco

    def _detections(self) -> Any:
        records = [{**result, "id": i} for i, result in enumerate(self.results, start=1)]
        return self._index({**self.document, "annotations": records})


def coco_results(image_id: int, output: Mapping[str, Tensor], categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Return one image's detections as COCO results: the category's own id, and bbox as x, y, width, height."""
    boxes = output["boxes"].detach().cpu().double().numpy()
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return [
        {"image_id": image_id, "category_id": categories[label - 1].id, "bbox": box, "score": score}
        for box, label, score in zip(
            corners.tolist(), output["labels"].tolist(), output["scores"].double().tolist(), strict=True
        )
    ]


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    data: CocoSet,
    categories: Sequence[Category],
    *,
    device: torch.device,
    workers: int,
    console: Console,
) -> CocoEvaluator:
    """Run a detector over a data set, one image at a time, and return the evaluator with its detections.

    In a batch the padding of one image would depend on the others, and its detections with it.
    """
    evaluator = CocoEvaluator(data.document, categories)
    model.eval()
    batches = evaluation_batches(data.images, 1, workers)
    for batch in track(batches, "evaluating", len(data.images), console=console, disable=not console.is_terminal):
        outputs = model([image.to(device) for image, _ in batch])
        evaluator.update([int(target["image_id"]) for _, target in batch], outputs)
    return evaluator
