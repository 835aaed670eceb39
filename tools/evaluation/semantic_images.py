"""Semantic segmentation image by image: what each is worth, and the metrics of any selection of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .confusion import numbered
from .semantic import SemanticEvaluator, mean, share, totals_of

Array = np.ndarray[Any, np.dtype[Any]]


def image_quality(counts: Array) -> float:
    """Return the mean IoU of one image over the classes in its labels or its prediction; NaN where all is ignored.

    counts: one of SemanticEvaluator.image_counts.
    """
    hits, true, found = counts[:3]
    return mean(share(hits, true + found - hits))


class SemanticImages:
    """What an evaluation knows of its images; metric: one of the totals of compute()."""

    def __init__(self, evaluator: SemanticEvaluator, metric: str = "mIoU") -> None:
        self.metric = f"semantic/{metric}"
        self.names: Sequence[str] = numbered(evaluator.image_names)
        self.quality = np.array([image_quality(counts) for counts in evaluator.image_counts])
        self._name = metric
        self._counts = np.stack(evaluator.image_counts).astype(np.float64)  # exact, as integers below 2^53 are

    def value(self, counts: Array) -> float:
        """Return the metric of a set in which image i is there counts[i] times; NaN where nothing can be measured."""
        total = np.tensordot(counts.astype(np.float64), self._counts, axes=1)
        return totals_of(total[:3], total[3:] if len(total) > 3 else None)[self._name]
