"""COCO's numbers from ground truth and detections, by either of two libraries."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from .boundary import mask_boundary
from .class_scores import ClassScores
from .outcomes import Outcomes, outcomes

Array = np.ndarray[Any, np.dtype[Any]]
Records = list[dict[str, Any]]

KINDS = ("bbox", "segm", "boundary")

# COCO's ranges of areas of objects, in COCOeval's order, and how its metrics are called by them.
SIZES = {"all": "", "small": "s", "medium": "m", "large": "l"}

# COCO's thresholds of IoU are 0.5, 0.55, … 0.95; some of its metrics take one of them.
AT_IOU = {"0.50:0.95": slice(None), "0.50": slice(0, 1), "0.75": slice(5, 6)}


@dataclass(frozen=True)
class Measured:
    """What COCOeval accumulates: precision and scores (T, R, K, A, M), and recall (T, K, A, M), -1 without objects.

    By thresholds of IoU, recalls, categories by id, ranges of area, and numbers of detections of an image. Outcomes are
    by category.
    """

    precision: Array
    recall: Array
    scores: Array
    outcomes: tuple[Outcomes, ...]


@dataclass(frozen=True)
class Scores:
    """An evaluation of one of KINDS: COCO's numbers by name, the arrays behind them as in Measured, and each class.

    The classes are in the order of the arrays. AP is that of the largest number of detections of an image; a total is
    -1 where there is nothing to measure. `text` is COCO's summary.
    """

    kind: str
    totals: dict[str, float]
    precision: Array
    recall: Array
    scores: Array
    classes: tuple[ClassScores, ...]
    text: str

    @property
    def thresholds(self) -> list[float | None]:
        """The score of each class from which on its detections are best kept."""
        return [each.threshold for each in self.classes]


@dataclass(frozen=True)
class _Line:
    """One number of COCO's summary."""

    name: str
    of: str  # precision or recall
    iou: str
    size: str
    max_dets: int


def metric_names(max_dets: Sequence[int] = (1, 10, 100)) -> tuple[str, ...]:
    """Return the names of COCO's numbers, in COCOeval's order; those of recall have the numbers of detections."""
    return tuple(line.name for line in _lines(max_dets))


def _lines(max_dets: Sequence[int]) -> Iterator[_Line]:
    most = max_dets[-1]
    for name, iou in (("AP", "0.50:0.95"), ("AP50", "0.50"), ("AP75", "0.75")):
        yield _Line(name, "precision", iou, "all", most)
    sizes = [(size, letter) for size, letter in SIZES.items() if letter]
    for size, letter in sizes:
        yield _Line(f"AP{letter}", "precision", "0.50:0.95", size, most)
    for count in max_dets:
        yield _Line(f"AR{count}", "recall", "0.50:0.95", "all", count)
    for size, letter in sizes:
        yield _Line(f"AR{letter}", "recall", "0.50:0.95", size, most)


def totals(measured: Measured, max_dets: Sequence[int]) -> tuple[dict[str, float], str]:
    """Return COCO's numbers by name, -1 where there is nothing to measure, and the summary as COCOeval prints it."""
    values, texts = {}, []
    for line in _lines(max_dets):
        of = getattr(measured, line.of)[AT_IOU[line.iou]]
        known = of[..., list(SIZES).index(line.size), list(max_dets).index(line.max_dets)]
        known = known[known > -1]
        value = values[line.name] = float(known.mean()) if len(known) else -1.0
        title = f"Average {line.of.capitalize()}"
        iou = f"IoU={line.iou:<9} | area={line.size:>6s} | maxDets={line.max_dets:>3d}"
        texts.append(f" {title:<18} (A{line.of[0].upper()}) @[ {iou} ] = {value:0.3f}")
    return values, "\n".join(texts)


Backend = Callable[[str, Mapping[str, Any], Records, Records, Sequence[int]], Measured]


def faster(kind: str, document: Mapping[str, Any], truth: Records, found: Records, max_dets: Sequence[int]) -> Measured:
    """Evaluate with faster-coco-eval. It writes into the records."""
    from faster_coco_eval import COCO, COCOeval_faster

    # It holds ids as float64, in which those of 2 ** 53 or more, such as hashes, are not all different.
    places = {
        key: {id: place for place, id in enumerate(sorted({record["id"] for record in document[name]}))}
        for key, name in (("image_id", "images"), ("category_id", "categories"))
    }
    for record in chain(truth, found):
        record.update({key: place.get(record[key], -1) for key, place in places.items()})
    renumbered = {
        "images": [{**image, "id": places["image_id"][image["id"]]} for image in document["images"]],
        "categories": [{"id": place} for place in places["category_id"].values()],
    }
    indices = (_index(COCO(), renumbered, records) for records in (truth, found))
    evaluation = COCOeval_faster(*indices, iouType=kind, print_function=_silent)
    evaluation.params.maxDets = list(max_dets)
    evaluation.evaluate()
    evaluation.accumulate()
    return _measured(evaluation, truth, found)


def pycocotools(
    kind: str, document: Mapping[str, Any], truth: Records, found: Records, max_dets: Sequence[int]
) -> Measured:
    """Evaluate with pycocotools, the reference. It writes into the records."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _pycocotools_evaluation("bbox" if kind == "bbox" else "segm", document, truth, found, max_dets)
        if kind == "boundary":
            evaluation.computeIoU = _least_iou(evaluation, document, truth, found, max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
    return _measured(evaluation, truth, found)


def _pycocotools_evaluation(
    kind: str, document: Mapping[str, Any], truth: Records, found: Records, max_dets: Sequence[int]
) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(_index(COCO(), document, truth), _index(COCO(), document, found), iouType=kind)
    evaluation.params.maxDets = list(max_dets)
    return evaluation


def _least_iou(
    masks: Any, document: Mapping[str, Any], truth: Records, found: Records, max_dets: Sequence[int]
) -> Callable[[Any, Any], Any]:
    """Return a function as COCOeval.computeIoU: the lower of the IoU of masks and that of their boundaries.

    Boundary IoU (arXiv:2103.16562) has it so, as the boundary of a small object is all of it, and that of a large one
    may fit where the object does not. Of crowds it is the masks', as in the authors' program.
    """
    of_truth, of_found = (
        [{**record, "segmentation": mask_boundary(record["segmentation"])} for record in records]
        for records in (truth, found)
    )
    edges = _pycocotools_evaluation("segm", document, of_truth, of_found, max_dets)
    edges._prepare()
    of_masks, of_edges = masks.computeIoU, edges.computeIoU

    def least(image: Any, category: Any) -> Any:
        iou = of_masks(image, category)
        if not len(iou):
            return iou
        crowd = np.array([record["iscrowd"] for record in masks._gts[image, category]], bool)
        return np.where(crowd, iou, np.minimum(iou, of_edges(image, category)))

    return least


def _index(coco: Any, document: Mapping[str, Any], annotations: Records) -> Any:
    coco.dataset = {**document, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _measured(evaluation: Any, truth: Records, found: Records) -> Measured:
    asked = evaluation.params
    right = outcomes(truth, found, asked.imgIds, asked.catIds, evaluation.ious, asked.maxDets[-1])
    precision, recall, scores = (np.asarray(evaluation.eval[name]) for name in ("precision", "recall", "scores"))
    return Measured(precision, recall, scores, right)


def _silent(*_: object) -> None:
    pass
