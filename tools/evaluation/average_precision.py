"""Average precision of images that each count any number of times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# COCO's recalls, to the bit.
RECALLS = np.linspace(0.0, 1.0, 101)


def average_precision(right: Array, found: Array, ranking: Array, objects: Array, recalls: Array = RECALLS) -> Array:
    """Return of each of R rankings, (R,), the mean of the highest precision at each of `recalls` or beyond it.

    It is 0 where that recall is not reached. right, found: (N,), how many right detections, and how many at all, there
    are in the ranking down to each right one, in the order of scores. What is false in between need not be listed: it
    lowers precision, and the highest one counts. ranking: (N,), ascending. objects: (R,).
    """
    # The spacing is COCOeval's, here for what counts no times.
    precision = right / (found + np.spacing(1))
    starts = np.flatnonzero(np.diff(ranking, prepend=-1))
    for part in np.split(precision, starts[1:]):
        np.maximum.accumulate(part[::-1], out=part[::-1])
    reached = np.searchsorted(recalls, right / np.maximum(objects, 1)[ranking], side="right")
    before = np.append(0, reached[:-1])
    before[starts] = 0
    sums: Array = np.bincount(ranking, precision * (reached - before), len(objects))
    return sums / len(recalls)


class Rankings:
    """AP of K classes, of which it is known what is right at T thresholds of IoU, for any choice of images.

    It is sorted once, so that a choice costs a few sums. right, ignored: (T, N), bool, of the detections in the order
    of their classes, and in each of their scores. category, image: (N,), of each the row of its class and of its image.
    object_category, object_image: (G,), of the objects.
    """

    def __init__(
        self,
        classes: int,
        right: Array,
        ignored: Array,
        category: Array,
        image: Array,
        object_category: Array,
        object_image: Array,
    ) -> None:
        self.classes = classes
        self.image = image
        self.starts = np.searchsorted(category, np.arange(classes))
        self.object_category = object_category
        self.object_image = object_image
        self.right = _Listed.of(right, category, classes)
        self.ignored = _Listed.of(ignored, category, classes)
        # How many of the listed ignored ones come before each right one.
        of_right, of_ignored = (listed.ranking * len(image) + listed.place for listed in (self.right, self.ignored))
        self.passed = np.searchsorted(of_ignored, of_right)

    def value(self, counts: Array) -> float:
        """Return AP, the mean over thresholds and classes, if image i is there counts[i] times (images,).

        A class without objects then is left out; NaN where all of them are.
        """
        objects = np.bincount(self.object_category, counts[self.object_image], self.classes)
        if not objects.any():
            return float("nan")
        weights = counts[self.image]
        found = _summed(weights)
        right, ignored = (_summed(weights[listed.place]) for listed in (self.right, self.ignored))
        ranking, place = self.right.ranking, self.right.place
        values = average_precision(
            right[1:] - right[self.right.starts][ranking],
            found[place + 1]
            - found[self.starts][ranking % self.classes]
            - (ignored[self.passed] - ignored[self.ignored.starts][ranking]),
            ranking,
            np.tile(objects, len(self.right.starts) // self.classes),
        )
        return float(values.reshape(-1, self.classes)[:, objects > 0].mean())


@dataclass(frozen=True)
class _Listed:
    """Some detections of T x K rankings, one after the other: of each its ranking and its place among the N; ascending.

    starts: (T x K,), where each ranking begins in this list.
    """

    ranking: Array
    place: Array
    starts: Array

    @classmethod
    def of(cls, chosen: Array, category: Array, classes: int) -> _Listed:
        threshold, place = np.nonzero(chosen)
        ranking = threshold * classes + category[place]
        return cls(ranking, place, np.searchsorted(ranking, np.arange(len(chosen) * classes)))


def _summed(weights: Array) -> Array:
    """Return (N + 1,): the sum of the weights before each, and of all."""
    return np.append(0.0, np.cumsum(weights, dtype=np.float64))
