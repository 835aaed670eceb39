"""What a report shows of a detector: its boxes, and masks where it has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np
from torch import Tensor

from ..evaluation.bootstrap import interval
from ..evaluation.coco import CocoEvaluator
from ..evaluation.detection_images import DetectionImages, confident
from ..evaluation.error_shares import MEANINGS as ERRORS
from ..evaluation.error_shares import error_shares
from ..evaluation.matching import Matches, match
from ..evaluation.object_confusion import ObjectConfusion, object_confusion
from ..evaluation.preflight import suspicions
from ..evaluation.scoring import AT_IOU, Scores
from ..evaluation.scoring import SIZES as LETTERS
from .cards import card_picture
from .content import ALL, SIZES, Confusion, Content, Curve, ErrorShares, Headline, ImageCard, Table
from .extremes import Extremes

Array = np.ndarray[Any, np.dtype[Any]]

# Makes the picture of an image, by its row.
Draw = Callable[[int], Tensor]

MEANINGS = {
    "AP": "mean over classes and IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APs": "objects below 32x32 pixels",
    "APm": "objects from 32x32 to 96x96 pixels",
    "APl": "objects above 96x96 pixels",
    "ARs": "recall, objects below 32x32 pixels",
    "ARm": "recall, objects from 32x32 to 96x96 pixels",
    "ARl": "recall, objects above 96x96 pixels",
}

# The metrics that have an interval, with their thresholds of IoU; None for all of them.
IOU_OF = {"AP": None, "AP50": 0.5, "AP75": 0.75}

# Where medium and large objects begin, in square pixels.
MEDIUM, LARGE = 32**2, 96**2

RANKING = (
    "Quality is the IoU of what is right, over the mean number of objects and detections. Of each class the detections "
    "count, and are shown, that have the score with the best F1 or a higher one."
)


NOTE = (
    "Objects and the detections that count, at an IoU of 0.5 or more, whatever their classes. A second detection of an "
    "object is on the background."
)


@dataclass(frozen=True)
class Analysis:
    """Detections of one kind, object by object. thresholds: of scores, from which on those of each class count."""

    evaluator: CocoEvaluator
    kind: str
    matches: Matches
    thresholds: list[float | None]

    @cached_property
    def images(self) -> DetectionImages:
        return self.by_image(None)

    @cached_property
    def shown(self) -> Array:
        """Which detections count beside AP (N,), bool."""
        return confident(self.matches, self.thresholds)

    def by_image(self, iou: float | None) -> DetectionImages:
        """Return what is known of each image, for AP at this IoU, or at all."""
        return DetectionImages(self.evaluator.document, self.kind, self.matches, self.thresholds, iou=iou)


def analyse(evaluator: CocoEvaluator, kind: str) -> Analysis:
    """Return the analysis of boxes or masks, the kinds `bbox` and `segm`."""
    matches = match(
        evaluator.truth(kind),
        evaluator.found(kind),
        sorted(evaluator.categories, key=attrgetter("id")),  # as those of Scores are
        [record["id"] for record in evaluator.document["images"]],
        kind,
        max_dets=evaluator.max_dets[-1],
    )
    return Analysis(evaluator, kind, matches, evaluator.scores(kind).thresholds)


def detection_content(evaluator: CocoEvaluator, title: str, analyses: Sequence[Analysis], draw: Draw | None) -> Content:
    """Return the figures of an evaluation. analyses: of boxes, and of masks where there are; the last is the main one.

    draw: the picture of an image by its row in the document; None leaves pictures out.
    """
    scores = [evaluator.scores(kind) for kind in evaluator.kinds]
    by_kind = {analysis.kind: analysis for analysis in analyses}
    main = analyses[-1]
    extremes = _extremes(main.images)
    document = evaluator.document
    return Content(
        title,
        "instance segmentation" if evaluator.has_masks else "object detection",
        facts=[
            ("images", f"{len(document['images']):,}"),
            ("objects", f"{len(document['annotations']):,}"),
            ("detections", f"{len(evaluator.results):,}"),
        ],
        headlines=[line for each in scores for line in _headlines(each, by_kind.get(each.kind))],
        tables=[table for each in scores for table in _tables(each)],
        curves=[curve for each in scores for curve in _curves(each)],
        errors=[_errors(analysis) for analysis in analyses],
        confusion=_confusion(object_confusion(main.matches, main.thresholds)),
        ranking=RANKING,
        worst=[_card(main, kept.row, draw) for kept in extremes.worst()] if draw else [],
        best=[_card(main, kept.row, draw) for kept in extremes.best()] if draw else [],
        notes=suspicions(document, evaluator.results),
    )


def _extremes(images: DetectionImages) -> Extremes[None]:
    extremes: Extremes[None] = Extremes()
    for row, quality in enumerate(images.quality.tolist()):
        extremes.add(quality, row, lambda: None)
    return extremes


def _headlines(scores: Scores, analysis: Analysis | None) -> list[Headline]:
    lines = []
    for name, value in scores.totals.items():
        low = high = None
        if analysis is not None and name in IOU_OF:
            drawn = interval(analysis.by_image(IOU_OF[name]))
            low, high = drawn.low, drawn.high
        meaning = MEANINGS.get(name, f"recall, at most {name[2:]} of an image and class")
        lines.append(Headline(scores.kind, name, _known(value), low, high, meaning))
    return lines


def _known(value: float) -> float:
    """Return a number of COCO's, NaN where it is -1."""
    return float("nan") if value == -1 else value


def _tables(scores: Scores) -> list[Table]:
    """Return figures by class, of all objects, and of those of each size."""
    bars = ["AP", "AP50", "AP75", "AR"]
    more = ["precision", "recall", "f1", "threshold"]
    rows = [[c.name, c.objects, c.detections, *(getattr(c, name) for name in bars + more)] for c in scores.classes]
    columns = ["class", "objects", "detections", *bars, "precision", "recall", "F1", "at score"]
    tables = [Table(scores.kind, "all", columns, rows, [*bars, "precision", "recall", "F1"])]
    for size in SIZES[1:]:
        a = list(LETTERS).index(size)
        precision, recall = scores.precision[:, :, :, a, -1], scores.recall[:, :, a, -1]
        of_size = [
            [c.name, *(_mean(precision[AT_IOU[iou], :, k]) for iou in AT_IOU), _mean(recall[:, k])]
            for k, c in enumerate(scores.classes)
        ]
        tables.append(Table(scores.kind, size, ["class", *bars], of_size, bars))
    return tables


def _mean(values: Array) -> float | None:
    return None if (values == -1).any() else float(values.mean())


def _curves(scores: Scores) -> list[Curve]:
    """Return precision over recall, of each class with objects and of the mean of these, by size and IoU."""
    recalls = np.linspace(0, 1, scores.precision.shape[1]).tolist()
    curves = []
    for a, size in enumerate(SIZES):
        for iou, rows in AT_IOU.items():
            of_classes = scores.precision[rows, :, :, a, -1].mean(axis=0)  # (R, K)
            there = (of_classes > -1).all(axis=0)
            if not there.any():
                continue
            named = [(ALL, of_classes[:, there].mean(axis=1))]
            named += [(c.name, of_classes[:, k]) for k, c in enumerate(scores.classes) if there[k]]
            curves += [Curve(scores.kind, name, size, iou, recalls, values.tolist()) for name, values in named]
    return curves


def _errors(analysis: Analysis) -> ErrorShares:
    gains = error_shares(analysis.matches).gains
    return ErrorShares(analysis.kind, list(gains), list(gains.values()), [ERRORS[name] for name in gains])


def _confusion(found: ObjectConfusion) -> Confusion:
    names = list(found.names)
    return Confusion(names, names, found.counts.tolist(), NOTE)


def _card(analysis: Analysis, row: int, draw: Draw) -> ImageCard:
    matches, images = analysis.matches, analysis.images
    names = [category.name for category in matches.categories]
    there = (matches.truth_image == row) & (matches.truth_category >= 0) & ~matches.truth_crowd
    found = analysis.shown & (matches.image == row)
    objects = {
        (names[label], _size(area))
        for labels, areas, chosen in (
            (matches.truth_category, matches.truth_area, there),
            (matches.category, matches.area, found),
        )
        for label, area in zip(labels[chosen].tolist(), areas[chosen].tolist(), strict=True)
    }
    picture = card_picture(draw(row))
    return ImageCard(images.names[row], float(images.quality[row]), picture, sorted(objects), images.describe(row))


def _size(area: float) -> str:
    return "small" if area < MEDIUM else "medium" if area < LARGE else "large"
