"""Metrics of semantic segmentation from a confusion matrix of a whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...backbones import InputError
from .boundary import boundary_counts
from .confusion import check_image_names, check_names, confusion
from .reduction import gathered, summed
from .table import note, table

Array = np.ndarray[Any, np.dtype[Any]]
Map = Tensor | Array


class SemanticEvaluator:
    """Scores maps of classes against labels, at the resolution of the labels.

    In any loop:

        evaluator = SemanticEvaluator(["road", "car"])
        for labels, predictions in …:
            evaluator.update(labels, predictions)
        evaluator.reduce()                        # where several processes each saw a part
        metrics, text = evaluator.compute()

    What was counted in each image is kept too (`image_counts`), for intervals and for the worst and best of them.

    All is counted over the data set, not averaged over images:

    - Pixels whose label is `ignore` are not counted at all, whatever was predicted there.
    - IoU of a class: pixels where it is both label and prediction, of those where it is either; mIoU is the mean.
    - Accuracy of a class: the share of its pixels that have it as prediction; mean accuracy is the mean.
    - A class that was predicted but is in no label has IoU 0, which counts in mIoU, and no accuracy.
    - A class in neither is absent: it is in no mean and not among the metrics; the text names it.
    - Frequency-weighted IoU (fwIoU): the mean of IoU weighted by the share of pixels with that label.
    - Boundary IoU: the IoU of the boundaries of a class, which are its pixels within `boundary` x the diagonal of the
      image of another class or of the image's edge; the mean over classes. Ignored pixels belong to no boundary
      and make none. None leaves it out; for an image of 480x360 it takes about 5 ms.
    """

    def __init__(self, names: Sequence[str], *, ignore: int = 255, boundary: float | None = 0.02) -> None:
        if boundary is not None and not 0 < boundary < 1:
            raise InputError(f"boundary={boundary}: between 0 and 1 is expected, a share of the diagonal, or None")
        self.names = check_names(names)
        self.ignore = ignore
        self.boundary = boundary
        # Rows: labels; columns: predictions.
        self.confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
        # Intersection and union.
        self.boundaries = torch.zeros(2, len(names), dtype=torch.int64)
        # Of each image (3, K), or (5, K) with boundaries, int32: pixels that are hits, labels, predictions; boundaries.
        self.image_counts: list[Array] = []
        self.image_names: list[str | None] = []

    def update(
        self,
        labels: Sequence[Map] | Map,
        predictions: Sequence[Map] | Map,
        names: Sequence[str] | None = None,
    ) -> None:
        """Add images: labels and predictions (H, W) each, integers 0..K-1, tensors or arrays, or batches (N, H, W).

        names: of the images, as reports call them; without them they have numbers. Counted on the predictions' device;
        boundaries on the CPU. An InputError says which map has a wrong shape, type or value.
        """
        if len(labels) != len(predictions):
            raise InputError(
                f"{len(labels)} labels and {len(predictions)} predictions came; each image has one of both"
            )
        called = check_image_names(names, len(labels))
        for position, pair in enumerate(zip(labels, predictions, strict=True)):
            truth, found = map(_integers, pair)
            if truth.ndim != 2 or truth.shape != found.shape:
                raise InputError(
                    f"image {position} of the batch: labels {tuple(truth.shape)}, prediction {tuple(found.shape)}; "
                    "two maps (height, width) of the same size are expected"
                )
            truth = truth.to(found.device)
            counted = truth != self.ignore
            for what, values in (("labels", truth), ("prediction", found)):
                odd = counted & ((values < 0) | (values >= len(self.names)))
                if odd.any():
                    raise InputError(
                        f"image {position} of the batch: the value {values[odd][0].item()} in its {what}; classes are "
                        f"0..{len(self.names) - 1}, and labels of {self.ignore} are ignored"
                    )
            pixels = confusion(truth, found, len(self.names), counted)
            self.confusion = self.confusion.to(found.device) + pixels
            counts = [torch.stack([pixels.diagonal(), pixels.sum(dim=1), pixels.sum(dim=0)]).cpu().numpy()]
            if self.boundary is not None:
                on_cpu = [values.cpu().numpy() for values in (truth, found, counted)]
                counts.append(boundary_counts(*on_cpu, classes=len(self.names), ratio=self.boundary))
                self.boundaries += torch.from_numpy(counts[1])
            self.image_counts.append(np.concatenate(counts).astype(np.int32))
            self.image_names.append(called[position])

    def reduce(self) -> None:
        """Add up the counts of all processes of torch.distributed, in each of them; once, after the last update.

        What is kept of each image comes into the first of them, by rank.
        """
        self.confusion = summed(self.confusion)
        self.boundaries = summed(self.boundaries)
        parts = gathered((self.image_names, self.image_counts))
        self.image_names = [name for names, _ in parts for name in names]
        self.image_counts = [counts for _, part in parts for counts in part]

    def compute(self) -> tuple[dict[str, dict[str, float]], str]:
        """Return metrics and a table of them as text; what cannot be measured is left out, and named in the text.

        Metrics, 0 to 1: `semantic` has mIoU, pixel_accuracy, mean_accuracy, fwIoU and boundary_IoU; `IoU` and
        `accuracy` have the classes by name.
        """
        counts = self.confusion.cpu().double().numpy()
        hits, true, found = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        iou, accuracy = share(hits, true + found - hits), share(hits, true)
        frequency = share(true, true.sum())
        boundaries = None if self.boundary is None else self.boundaries.double().numpy()
        totals = totals_of(np.stack([hits, true, found]), boundaries)
        metrics = {
            "semantic": _measured(totals),
            "IoU": _measured(dict(zip(self.names, iou.tolist(), strict=True))),
            "accuracy": _measured(dict(zip(self.names, accuracy.tolist(), strict=True))),
        }
        rows = [
            (name, metrics["IoU"][name], metrics["accuracy"].get(name), share)
            for name, share in zip(self.names, frequency.tolist(), strict=True)
            if name in metrics["IoU"]
        ]
        notes = [
            note("not measured, nothing was counted", (name for name in totals if name not in metrics["semantic"])),
            note("in no label but predicted, IoU 0", (name for name, _, known, _ in rows if known is None)),
            note("in neither labels nor predictions, left out", (n for n in self.names if n not in metrics["IoU"])),
        ]
        lines = table(("class", "IoU", "accuracy", "of all pixels"), rows)
        lines += ["", *table(("", "all"), metrics["semantic"].items())[1:]]
        return metrics, "\n".join([*lines, *filter(None, notes)])


def _integers(values: Map) -> Tensor:
    """Return a map as a tensor of int32 or int64, in which every `ignore` can be told from every class."""
    if isinstance(values, np.ndarray):
        values = torch.from_numpy(np.array(values))  # a copy, for arrays that are read-only
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"a map of {values.dtype} came; labels and predictions are integers, the index of a class")
    return values.int() if values.element_size() < 4 else values.long()


def totals_of(pixels: Array, boundaries: Array | None) -> dict[str, float]:
    """Return the metrics over all classes, NaN where there is nothing to measure.

    pixels: (3, K), float: those that are hits, labels, predictions; boundaries: (2, K), intersection and union.
    """
    hits, true, found = pixels
    iou = share(hits, true + found - hits)
    totals = {
        "mIoU": mean(iou),
        "pixel_accuracy": float(share(hits.sum(), true.sum())),
        "mean_accuracy": mean(share(hits, true)),
        "fwIoU": float(np.nansum(share(true, true.sum()) * iou)) if true.any() else np.nan,
    }
    return totals if boundaries is None else {**totals, "boundary_IoU": mean(share(*boundaries))}


def share(part: Any, whole: Any) -> Any:
    """Return part / whole, NaN where the whole is nothing."""
    with np.errstate(invalid="ignore"):
        return np.divide(part, whole)


def mean(values: Array) -> float:
    """Return the mean of what is not NaN."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def _measured(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not np.isnan(value)}
