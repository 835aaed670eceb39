"""Measuring a model on held-out images, whatever it learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from .data.sets import Category, MadeWhenAsked, Sample
from .data.stream import evaluation_batches
from .engine.precision import PRECISIONS, Precision
from .engine.processes import ALONE, Processes
from .evaluation.classification import ClassificationEvaluator
from .evaluation.coco import CocoEvaluator
from .evaluation.semantic import SemanticEvaluator
from .evaluation.semantic_images import image_quality
from .measurements import Classified, Detected, Measurement, Segmented, SemanticPictures
from .report.extremes import Extremes

DetectionEvaluator = Callable[[Mapping[str, Any], Sequence[Category]], CocoEvaluator]


class _Part(MadeWhenAsked[Sample]):
    """Some of a data set's images."""

    def __init__(self, images: Sequence[Sample], rows: range) -> None:
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def make(self, index: int) -> Sample:
        return self.images[self.rows[index]]


@dataclass(frozen=True)
class Trial:
    """A model, the held-out images, and how it is run over them; of the first `pictures` there shall be pictures.

    data: a DataSet with the targets that the model learns from. Each of the `processes` has a part of the images.
    detections: makes what scores those of a detector.
    """

    model: Any
    data: Any
    categories: Sequence[Category]
    pictures: int
    device: torch.device
    workers: int
    console: Console
    processes: Processes = ALONE
    precision: Precision = PRECISIONS["float32"]
    detections: DetectionEvaluator = CocoEvaluator

    @property
    def names(self) -> list[str]:
        return [category.name for category in self.categories]

    @torch.inference_mode()
    def outputs(self, *keys: str) -> Iterator[tuple[int, Tensor, dict[str, Tensor], Mapping[str, Any]]]:
        """Yield for each image its number, its pixels (3, H, W), `image_id` and the targets of `keys`, and the output.

        One image at a time: in a batch the padding of one would depend on the others, and its output with it.
        """
        self.model.eval()
        rows = self.processes.part(len(self.data.images))
        batches = evaluation_batches(_Part(self.data.images, rows), 1, self.workers, keys)
        quiet = not (self.processes.main and self.console.is_terminal)
        shown = track(batches, "evaluating", len(rows), console=self.console, disable=quiet)
        for row, batch in zip(rows, shown, strict=True):
            ((pixels, targets),) = batch
            with self.precision.autocast(self.device):
                (output,) = self.model([pixels.to(self.device)])
            yield row, pixels, targets, output


def measure(trial: Trial) -> Measurement | None:
    """Run a trial, and return what it found; in other processes than the main one None."""
    trial.processes.share_buffers(trial.model)
    measurement = MEASURES[trial.model.target_keys[0]](trial)
    return measurement if trial.processes.main else None


def _detections(trial: Trial) -> Measurement:
    evaluator = trial.detections(trial.data.document, trial.categories)
    for _, _, targets, output in trial.outputs():
        evaluator.update([int(targets["image_id"])], [output])
    evaluator.reduce()
    return Detected(evaluator, trial.data, trial.pictures)


def _labels_of_pixels(trial: Trial) -> Measurement:
    evaluator = SemanticEvaluator(trial.names)
    # Maps of classes of the first images, and of those that a report shows, small.
    small = torch.uint8 if len(trial.names) <= 256 else torch.int16
    first: dict[int, Tensor] = {}
    extremes: Extremes[Tensor] = Extremes()
    for row, _, targets, output in trial.outputs("semantic"):
        truth, found = targets["semantic"], output["semantic"]
        evaluator.update([truth], [found], [trial.data.images[row].path.name])
        kept = found.to(small).cpu()
        if row < trial.pictures:
            first[row] = kept
        extremes.add(image_quality(evaluator.image_counts[-1]), row, kept.clone)
    evaluator.reduce()
    extremes.reduce()
    parts = trial.processes.gather(first) or ()
    first = {row: found for part in parts for row, found in part.items()}
    drawn = SemanticPictures(trial.data, trial.names, first, extremes)
    return Segmented(evaluator, drawn.cards, drawn.pictures)


def _labels_of_images(trial: Trial) -> Measurement:
    evaluator = ClassificationEvaluator(trial.names)
    for row, _, targets, output in trial.outputs("label"):
        evaluator.update([targets["label"]], [output["scores"]], [trial.data.images[row].path.name])
    evaluator.reduce()
    return Classified(evaluator, trial.data, trial.pictures)


# By the first of a model's target keys.
MEASURES: dict[str, Callable[[Trial], Measurement]] = {
    "boxes": _detections,
    "semantic": _labels_of_pixels,
    "label": _labels_of_images,
}
