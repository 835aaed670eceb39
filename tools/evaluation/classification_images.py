"""Classification image by image: how sure of the truth it was, and the metrics of any selection of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .classification import ClassificationEvaluator
from .confusion import numbered
from .semantic import mean, share

Array = np.ndarray[Any, np.dtype[Any]]


class ClassificationImages:
    """What an evaluation knows of its images: quality is the probability of the label.

    metric: top1, top5 or mean_accuracy, as in compute().
    """

    def __init__(self, evaluator: ClassificationEvaluator, metric: str = "top1") -> None:
        self.metric = f"classification/{metric}"
        guesses = evaluator.guesses
        self.names: Sequence[str] = numbered([guess.name for guess in guesses])
        self.quality = np.array([guess.probability for guess in guesses])
        self.labels = np.array([guess.label for guess in guesses])
        self.hits = np.array([guess.found == guess.label for guess in guesses])
        self.in_five = np.array([guess.in_five for guess in guesses])
        self._value = VALUES[metric]

    def value(self, counts: Array) -> float:
        """Return the metric of a set in which image i is there counts[i] times; NaN where there is no image."""
        return self._value(self, counts)


def _top1(images: ClassificationImages, counts: Array) -> float:
    return float(share((counts * images.hits).sum(), counts.sum()))


def _top5(images: ClassificationImages, counts: Array) -> float:
    return float(share((counts * images.in_five).sum(), counts.sum()))


def _mean_accuracy(images: ClassificationImages, counts: Array) -> float:
    hits = np.bincount(images.labels, counts * images.hits)
    return mean(share(hits, np.bincount(images.labels, counts)))


VALUES: dict[str, Callable[[ClassificationImages, Array], float]] = {
    "top1": _top1,
    "top5": _top5,
    "mean_accuracy": _mean_accuracy,
}
