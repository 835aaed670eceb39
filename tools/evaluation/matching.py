"""Which object each detection finds, as COCOeval decides it, for all images and classes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.sets import Category
from .overlaps import Overlaps, Side, overlaps

Array = np.ndarray[Any, np.dtype[Any]]
Records = list[dict[str, Any]]

# COCO's thresholds of IoU, to the bit.
THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())

# COCO's range of areas "all", in square pixels: an object beyond it is ignored.
AREAS = (0, 1e5**2)


@dataclass(frozen=True)
class Matches:
    """Detections and objects of an evaluation, and which belong together at each of T thresholds of IoU.

    Of the N detections, in the order of their records: the rows of their image and category (-1: not of this
    evaluation), score, area in square pixels, `rank` among those of their image and category by score, whether they are
    `kept`, that is among the best `max_dets` of these, `matched` (T, N), the row of their object or -1, and `ignored`
    (T, N): neither right nor false, as they lie in a crowd. Of the objects, likewise: image, category, area, whether
    they are a crowd, and whether they are ignored, that is no object to be found. `overlaps`: of the detections that
    are kept.
    """

    categories: tuple[Category, ...]
    image_ids: tuple[Any, ...]
    thresholds: Array
    max_dets: int
    image: Array
    category: Array
    score: Array
    area: Array
    rank: Array
    kept: Array
    matched: Array
    ignored: Array
    truth_image: Array
    truth_category: Array
    truth_area: Array
    truth_crowd: Array
    truth_ignored: Array
    overlaps: Overlaps

    @property
    def objects(self) -> Array:
        """Return (G,), bool: the objects of this evaluation that are there to be found."""
        return (self.truth_image >= 0) & (self.truth_category >= 0) & ~self.truth_ignored

    def by_score(self, chosen: Array) -> Array:
        """Return the chosen detections' rows (a mask (N,), bool), class by class, the highest score first.

        Of equal scores those of the lower image id are first, then those that come first: COCOeval's order.
        """
        rows = np.flatnonzero(chosen)
        place = np.argsort(np.argsort(np.asarray(self.image_ids), kind="stable"))
        ordered: Array = rows[np.lexsort((rows, place[self.image[rows]], -self.score[rows], self.category[rows]))]
        return ordered


def match(
    truth: Records,
    found: Records,
    categories: Sequence[Category],
    image_ids: Sequence[Any],
    kind: str,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    max_dets: int = 100,
) -> Matches:
    """Match detections with objects of any area as COCOeval does, from records as `CocoEvaluator` gives them.

    kind: `bbox`, `segm` or `boundary`. In the order of scores each detection takes the object of its class with the
    highest IoU that no other has taken; if there is none, it may lie in a crowd of its class, which takes any number.
    """
    image, category = _rows(found, categories, image_ids)
    truth_image, truth_category = _rows(truth, categories, image_ids)
    score, area, truth_area = _values(found, "score"), _values(found, "area"), _values(truth, "area")
    crowd = np.array([bool(record["iscrowd"]) for record in truth], bool)
    truth_ignored = crowd | _beyond(truth_area)

    counted = (image >= 0) & (category >= 0)
    rank = ranks(np.where(counted, image * len(categories) + category, -1), score)
    kept = counted & (rank < max_dets)
    pairs = overlaps(
        Side(found, kept, image),
        Side(truth, (truth_image >= 0) & (truth_category >= 0), truth_image),
        crowd,
        len(image_ids),
        kind,
    )
    own = pairs.take(category[pairs.found] == truth_category[pairs.truth])
    # Objects before what is ignored, and of equal IoU the later one.
    own = own.preferred(truth_ignored[own.truth], -own.iou, -own.truth)
    # COCOeval's, so that an IoU of 1 is enough for a threshold of 1.
    limits = np.minimum(np.asarray(thresholds, np.float64), 1 - 1e-10)
    matched = assign(own, rank, limits, crowd)
    ignored = np.where(matched >= 0, _at(truth_ignored, matched), _beyond(area))
    return Matches(
        tuple(categories),
        tuple(image_ids),
        np.asarray(thresholds, np.float64),
        max_dets,
        image,
        category,
        score,
        area,
        rank,
        kept,
        matched,
        ignored & kept,
        truth_image,
        truth_category,
        truth_area,
        crowd,
        truth_ignored,
        pairs,
    )


def ranks(group: Array, score: Array) -> Array:
    """Return each one's place in its group by score, from 0 for the highest; of equal scores the first is before."""
    order = np.lexsort((-score, group))
    _, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
    places = np.empty(len(group), np.int64)
    places[order] = np.arange(len(group)) - np.repeat(starts, sizes)
    return places


def assign(pairs: Overlaps, rank: Array, thresholds: Array, reusable: Array) -> Array:
    """Return (T, N), int32: the object that each of the N detections takes at each threshold of IoU, or -1.

    Detections choose in the order of their rank (N,), each the first of its pairs that overlaps enough and whose
    object is still there; `reusable` objects always are. Those of the same rank must not compete for an object.
    """
    matched = np.full((len(thresholds), len(rank)), -1, np.int32)
    taken = np.zeros((len(thresholds), len(reusable)), bool)
    enough = pairs.take(pairs.iou >= thresholds.min())
    places = rank[enough.found]
    order = np.argsort(places, kind="stable")
    for turn in np.split(order, np.flatnonzero(np.diff(places[order])) + 1):
        # Backwards, because of several values for one place the last one stays.
        found, truth, iou = (values[turn[::-1]] for values in (enough.found, enough.truth, enough.iou))
        at, pair = np.nonzero((iou >= thresholds[:, None]) & (reusable[truth] | ~taken[:, truth]))
        matched[at, found[pair]] = truth[pair]
        taken[at, matched[at, found[pair]]] = True
    return matched


def _rows(records: Records, categories: Sequence[Category], image_ids: Sequence[Any]) -> tuple[Array, Array]:
    images = {id: row for row, id in enumerate(image_ids)}
    labels = {category.id: row for row, category in enumerate(categories)}
    return (
        np.array([images.get(record["image_id"], -1) for record in records], np.int64),
        np.array([labels.get(record["category_id"], -1) for record in records], np.int64),
    )


def _values(records: Records, key: str) -> Array:
    return np.array([record[key] for record in records], np.float64)


def _beyond(area: Array) -> Array:
    return np.asarray((area < AREAS[0]) | (area > AREAS[1]))


def _at(values: Array, rows: Array) -> Array:
    """Return values[rows]; any value, where a row is -1, even of no values."""
    return np.append(values, False)[rows]
