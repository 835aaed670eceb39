"""COCO's metrics of one class, and the score above which its detections are best kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .outcomes import Outcomes

Array = np.ndarray[Any, np.dtype[Any]]

# Where these thresholds of IoU are among COCO's ten.
IOU_50, IOU_75 = 0, 5


@dataclass(frozen=True)
class ClassScores:
    """Metrics of a class, 0 to 1. `objects` are those that are no crowds; without any, the metrics are None.

    Precision, recall and F1 are those of the detections of this score (`threshold`) or higher, at an IoU of 0.5, where
    F1 is highest. Where nothing right was found, F1 and recall are 0, and precision and threshold None.
    """

    name: str
    objects: int
    detections: int
    AP: float | None = None
    AP50: float | None = None
    AP75: float | None = None
    AR: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    threshold: float | None = None


def class_scores(name: str, precision: Array, recall: Array, outcomes: Outcomes) -> ClassScores:
    """Return the metrics of one class.

    precision (T, R), recall (T,): as COCOeval has them, over COCO's thresholds of IoU.
    """
    if not outcomes.objects:
        return ClassScores(name, 0, outcomes.detections)
    average = precision.mean(axis=1)
    return ClassScores(
        name,
        outcomes.objects,
        outcomes.detections,
        float(average.mean()),
        float(average[IOU_50]),
        float(average[IOU_75]),
        float(recall.mean()),
        *best_f1(outcomes),
    )


def best_f1(outcomes: Outcomes) -> tuple[float | None, float, float, float | None]:
    """Return precision, recall, F1 and the threshold of scores where F1 is highest; the highest of such thresholds."""
    if not outcomes.right.any():
        return None, 0.0, 0.0, None
    order = np.argsort(-outcomes.scores, kind="stable")
    scores, right = outcomes.scores[order], np.cumsum(outcomes.right[order])
    # A threshold cannot part detections of equal scores.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    f1 = 2 * right[last] / (last + 1 + outcomes.objects)
    best = int(f1.argmax())
    kept = int(last[best]) + 1
    hits = int(right[last[best]])
    return hits / kept, hits / outcomes.objects, float(f1[best]), float(scores[last[best]])


def named(classes: Sequence[ClassScores]) -> dict[str, float]:
    """Return the AP of each class that has objects, by name."""
    return {each.name: each.AP for each in classes if each.AP is not None}
