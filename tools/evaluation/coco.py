"""COCO's metrics of boxes and masks, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.masks import encode, read_segmentation, rle_of
from ..data.sets import Category
from .reduction import gathered

log = logging.getLogger("vertebra")

# The order of COCOeval.stats.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class CocoEvaluator:
    """Collects detections as COCO results and scores them against an instances document.

    `update` with each batch, `reduce` where several processes each saw a part, then `compute`; `results` can be written
    as JSON as it is. Category ids and image ids are the document's. Boxes are measured, and masks too where the outputs
    have them.
    """

    def __init__(self, document: Mapping[str, Any], categories: Sequence[Category]) -> None:
        self.document = document
        self.categories = tuple(categories)
        self.results: list[dict[str, Any]] = []
        self.has_masks = False

    def update(self, image_ids: Sequence[int], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Add a model's outputs, one for each image: `boxes` (N, 4) xyxy, `labels` (N,) from 1, `scores` (N,).

        With `masks` also: probabilities (N, 1, height, width), or N COCO RLE, in pixels of the image.
        """
        for image_id, output in zip(image_ids, outputs, strict=True):
            self.results += coco_results(image_id, output, self.categories)
            self.has_masks = self.has_masks or "masks" in output

    def reduce(self) -> None:
        """Bring the results of all processes of torch.distributed into the first, by rank; once, after the last update.

        Only there they are complete. Where each process saw a contiguous part of the images, the order is theirs.
        """
        parts = gathered((self.results, self.has_masks))
        self.results = [result for results, _ in parts for result in results]
        self.has_masks = any(has_masks for _, has_masks in parts)

    def compute(self) -> tuple[dict[str, dict[str, float]], str]:
        """Return COCO's twelve numbers by name, for `bbox` and where there are masks `segm`, and the summary as text.

        A number is -1 where there is nothing to measure.
        """
        boxes, text = self._score("bbox", self._boxes(), self._found_boxes())
        if not self.has_masks:
            return {"bbox": boxes}, text
        masks, more = self._score("segm", self._masks(), self._found_masks())
        return {"bbox": boxes, "segm": masks}, f"boxes:\n{text}\nmasks:\n{more}"

    def _score(
        self, kind: str, truth: list[dict[str, Any]], found: list[dict[str, Any]]
    ) -> tuple[dict[str, float], str]:
        from pycocotools.cocoeval import COCOeval

        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            evaluation = COCOeval(self._index(truth), self._index(found), iouType=kind)
            evaluation.evaluate()
            evaluation.accumulate()
            said.truncate(0)
            said.seek(0)
            evaluation.summarize()
        return dict(zip(METRICS, map(float, evaluation.stats), strict=True)), said.getvalue().rstrip()

    def _index(self, annotations: list[dict[str, Any]]) -> Any:
        from pycocotools.coco import COCO

        coco = COCO()
        coco.dataset = {**self.document, "annotations": annotations}
        coco.createIndex()
        return coco

    # Copies of the records, because COCOeval writes into them, with what it reads and files of other tools may lack. It
    # takes an object with the id 0 for none, and of two with the same id one, so that they get ids of their own.

    def _boxes(self) -> list[dict[str, Any]]:
        return [
            {"iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3], **a, "id": i}
            for i, a in enumerate(self.document["annotations"], start=1)
        ]

    def _found_boxes(self) -> list[dict[str, Any]]:
        return [
            {**result, "id": i, "iscrowd": 0, "area": result["bbox"][2] * result["bbox"][3]}
            for i, result in enumerate(self.results, start=1)
        ]

    def _masks(self) -> list[dict[str, Any]]:
        from pycocotools import mask as coco_mask

        sizes = {record["id"]: (record["height"], record["width"]) for record in self.document["images"]}
        records: list[dict[str, Any]] = []
        without = []
        for annotation in self.document["annotations"]:
            height, width = sizes[annotation["image_id"]]
            segmentation = read_segmentation(annotation, height, width)
            if segmentation is None:
                without.append(annotation.get("id"))
                continue
            rle = rle_of(segmentation, height, width)
            area = float(coco_mask.area(rle))
            records.append({"iscrowd": 0, "area": area, **annotation, "segmentation": rle, "id": len(records) + 1})
        if without:
            log.warning(
                "%d objects without a mask are not counted in the metrics of masks (first: annotation id %s)",
                len(without),
                without[0],
            )
        return records

    def _found_masks(self) -> list[dict[str, Any]]:
        from pycocotools import mask as coco_mask

        # A mask's own area tells small from large, not its box's, as in COCO's results files of masks without boxes.
        return [
            {**result, "id": i, "iscrowd": 0, "area": float(coco_mask.area(result["segmentation"]))}
            for i, result in enumerate(self.results, start=1)
        ]


def coco_results(image_id: int, output: Mapping[str, Any], categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Return one image's detections as COCO results.

    The category's own id, `bbox` as x, y, width, height, and where the output has masks a `segmentation` as RLE.
    """
    boxes = output["boxes"].detach().cpu().double().numpy()
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    results = [
        {"image_id": image_id, "category_id": categories[label - 1].id, "bbox": box, "score": score}
        for box, label, score in zip(
            corners.tolist(), output["labels"].tolist(), output["scores"].double().tolist(), strict=True
        )
    ]
    if "masks" not in output:
        return results
    return [{**r, "segmentation": rle} for r, rle in zip(results, encode(output["masks"]), strict=True)]
