"""COCO's metrics of boxes, masks and the boundaries of masks, of detections that are collected in any loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...backbones import InputError
from ..data.masks import encode
from ..data.sets import Category
from .class_scores import class_scores, named
from .coco_records import Record, found_boxes, found_masks, truth_boxes, truth_masks
from .many_records import many_records
from .preflight import suspicions
from .reduction import gathered
from .scoring import KINDS, Scores, faster, metric_names, pycocotools, totals

log = logging.getLogger("vertebra")

# The order of COCOeval.stats.
METRICS = metric_names()

TITLES = dict(zip(KINDS, ("boxes", "masks", "boundaries of masks"), strict=True))


class CocoEvaluator:
    """Collects detections as COCO results and scores them against an instances document.

    In any loop:

        evaluator = CocoEvaluator(document, [Category(1, "person"), Category(18, "dog")])
        for image_ids, images in …:
            evaluator.update(image_ids, model(images))
        evaluator.reduce()                        # where several processes each saw a part
        metrics, text = evaluator.compute()

    `results` can be written as JSON as it is. Category ids and image ids are the document's. Boxes are measured, and
    masks too where the outputs have them; `boundary` adds Boundary IoU (arXiv:2103.16562) of these. The best
    `max_dets` detections of an image and class count: AP is that of the largest number, AR has each. `reference` takes
    pycocotools where otherwise faster-coco-eval gives the same numbers sooner.
    """

    def __init__(
        self,
        document: Mapping[str, Any],
        categories: Sequence[Category],
        *,
        max_dets: Sequence[int] = (1, 10, 100),
        boundary: bool = False,
        reference: bool = False,
    ) -> None:
        self.document = document
        self.categories = tuple(categories)
        self.max_dets = check_max_dets(max_dets)
        self.boundary = boundary
        self.backend = pycocotools if reference else faster
        self.results: list[Record] = []
        self.has_masks = False
        self._scores: dict[str, Scores] = {}
        self._masks: list[Record] | None = None
        self._checked = False

    def update(self, image_ids: Sequence[int], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Add a model's outputs, one for each image: `boxes` (N, 4) xyxy, `labels` (N,) from 1, `scores` (N,).

        With `masks` also: probabilities (N, 1, height, width), or N COCO RLE, in pixels of the image; they are kept as
        RLE.
        """
        for image_id, output in zip(image_ids, outputs, strict=True):
            self.results += coco_results(image_id, output, self.categories)
            self.has_masks = self.has_masks or "masks" in output
        self._changed()

    def add(self, results: Sequence[Record]) -> None:
        """Add COCO results, as read_results returns them."""
        self.results += results
        self.has_masks = self.has_masks or any("segmentation" in result for result in results)
        self._changed()

    def reduce(self) -> None:
        """Bring the results of all processes of torch.distributed into the first, by rank; once, after the last update.

        Only there they are complete. Where each process saw a contiguous part of the images, the order is theirs.
        """
        parts = gathered((self.results, self.has_masks))
        self.results = [result for results, _ in parts for result in results]
        self.has_masks = any(has_masks for _, has_masks in parts)
        self._changed()

    def _changed(self) -> None:
        self._scores.clear()
        self._checked = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is measured."""
        return KINDS[: 1 + self.has_masks * (1 + self.boundary)]

    def truth(self, kind: str) -> list[Record]:
        """Return the objects of the document's images as COCOeval takes them, with ids from 1 on; the caller's own.

        Of masks those that have one, as RLE, with their area in pixels where the file says none.
        """
        if kind == "bbox":
            return truth_boxes(self.document)
        if self._masks is None:
            self._masks = truth_masks(self.document)
        return [dict(record) for record in self._masks]

    def found(self, kind: str) -> list[Record]:
        """Return the results as COCOeval takes them, with ids from 1 on in their order; the caller's own."""
        return found_boxes(self.results) if kind == "bbox" else found_masks(self.results)

    def scores(self, kind: str) -> Scores:
        """Return all that is measured of one of `kinds`; measured once, until there are other results."""
        if kind not in self._scores:
            self._scores[kind] = self._score(kind)
        return self._scores[kind]

    @many_records()
    def _score(self, kind: str) -> Scores:
        measured = self.backend(kind, self.document, self.truth(kind), self.found(kind), self.max_dets)
        values, text = totals(measured, self.max_dets)
        arrays = measured.precision, measured.recall, measured.scores
        names = {category["id"]: category["name"] for category in self.document["categories"]}
        classes = tuple(
            class_scores(names[id], measured.precision[:, :, k, 0, -1], measured.recall[:, k, 0, -1], outcomes)
            for k, (id, outcomes) in enumerate(zip(sorted(names), measured.outcomes, strict=True))
        )
        return Scores(kind, values, *arrays, classes, text)

    def compute(self) -> tuple[dict[str, dict[str, float]], str]:
        """Return COCO's numbers by name, of each of `kinds`, AP by class (`bbox_AP`, …), and the summary as text.

        A number is -1 where there is nothing to measure; classes without objects are left out. What looks like a
        mistake in the results is a warning.
        """
        if not self._checked:
            for line in suspicions(self.document, self.results):
                log.warning("%s", line)
            self._checked = True
        found = [self.scores(kind) for kind in self.kinds]
        metrics = {scores.kind: scores.totals for scores in found}
        metrics |= {f"{scores.kind}_AP": named(scores.classes) for scores in found}
        if len(found) == 1:
            return metrics, found[0].text
        return metrics, "\n".join(f"{TITLES[scores.kind]}:\n{scores.text}" for scores in found)


def check_max_dets(max_dets: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of detections of an image that count; an InputError where they do not ascend."""
    values = tuple(max_dets)
    if (
        not values
        or values[0] < 1
        or any(not isinstance(v, int) for v in values)
        or sorted(set(values)) != list(values)
    ):
        raise InputError(f"max_dets={values}: ascending whole numbers from 1 on are expected, such as 1, 10, 300")
    return values


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
