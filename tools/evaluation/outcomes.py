"""Which detections are right at an IoU of 0.5, from the IoU that COCOeval has computed in any case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .matching import AREAS, assign, ranks
from .overlaps import Overlaps

Array = np.ndarray[Any, np.dtype[Any]]
Records = Sequence[Mapping[str, Any]]

IOU = 0.5


@dataclass(frozen=True)
class Outcomes:
    """A class's detections that count: their scores (N,) and whether they are right (N,), bool; and its objects.

    Those that are among the best of their image and lie in no crowd. `detections` is how many there are in all.
    """

    scores: Array
    right: Array
    objects: int
    detections: int


def outcomes(
    truth: Records,
    found: Records,
    image_ids: Sequence[Any],
    category_ids: Sequence[Any],
    ious: Mapping[tuple[Any, Any], Any],
    max_dets: int,
) -> tuple[Outcomes, ...]:
    """Return the outcomes of each category, with objects of any area.

    ious: COCOeval's, by image and category: the best detections in the order of their scores x the objects in the order
    of their records.
    """
    images, categories = ({id: row for row, id in enumerate(ids)} for ids in (image_ids, category_ids))
    group, of_object = (_groups(records, images, categories) for records in (found, truth))
    score = np.array([record["score"] for record in found], np.float64)
    rank = ranks(group, score)
    kept = (group >= 0) & (rank < max_dets)
    crowd = np.array([bool(record["iscrowd"]) for record in truth], bool)
    ignored = crowd | _beyond(truth)

    def iou_of(number: int) -> Any:
        image, category = divmod(number, len(category_ids))
        return ious[image_ids[image], category_ids[category]]

    sides = _by_group(np.flatnonzero(kept), group, rank), _by_group(np.flatnonzero(of_object >= 0), of_object)
    pairs = Overlaps(*map(np.concatenate, zip(_NOTHING, *_pairs(*sides, iou_of), strict=True)))
    # Objects before what is ignored, and of equal IoU the later one, as COCOeval has it.
    (matched,) = assign(pairs.preferred(ignored[pairs.truth], -pairs.iou, -pairs.truth), rank, np.array([IOU]), crowd)
    counted = kept & ~np.where(matched >= 0, np.append(ignored, False)[matched], _beyond(found))
    category, of_class = (np.where(numbers >= 0, numbers % len(category_ids), -1) for numbers in (group, of_object))
    everything = [np.bincount(rows[rows >= 0], minlength=len(category_ids)) for rows in (of_class[~ignored], category)]
    rows, parts = _by_group(np.flatnonzero(counted), category)
    spans = [parts.get(place, slice(0)) for place in range(len(category_ids))]
    return tuple(
        Outcomes(score[rows[span]], matched[rows[span]] >= 0, *counts)
        for span, *counts in zip(spans, *(each.tolist() for each in everything), strict=True)
    )


Grouped = tuple[Array, dict[int, slice]]  # rows, and where among them each group's are

_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def _groups(records: Records, images: Mapping[Any, int], categories: Mapping[Any, int]) -> Array:
    """Return a number (N,) for each image and category, -1 where one of them is not of the evaluation."""
    image = np.array([images.get(record["image_id"], -1) for record in records], np.int64)
    category = np.array([categories.get(record["category_id"], -1) for record in records], np.int64)
    return np.where((image >= 0) & (category >= 0), image * len(categories) + category, -1)


def _beyond(records: Records) -> Array:
    area = np.array([record["area"] for record in records], np.float64)
    return np.asarray((area < AREAS[0]) | (area > AREAS[1]))


def _by_group(rows: Array, group: Array, *order: Array) -> Grouped:
    """Return rows by their group, then by `order`, then as they come."""
    rows = rows[np.lexsort((*(key[rows] for key in reversed(order)), group[rows]))]
    numbers, starts, counts = np.unique(group[rows], return_index=True, return_counts=True)
    spans = map(slice, starts.tolist(), (starts + counts).tolist())
    return rows, dict(zip(numbers.tolist(), spans, strict=True))


def _pairs(found: Grouped, truth: Grouped, iou_of: Callable[[int], Any]) -> Iterator[tuple[Array, Array, Array]]:
    """Yield of each group the detections and objects, by row, that have an IoU of 0.5 or more, and the IoU."""
    (rows, spans), (others, other_spans) = found, truth
    for number in spans.keys() & other_spans.keys():
        iou = np.asarray(iou_of(number))
        first, second = np.nonzero(iou >= IOU)
        yield rows[spans[number]][first], others[other_spans[number]][second], iou[first, second]
