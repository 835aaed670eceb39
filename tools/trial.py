"""Measuring a model on held-out images, whatever it learns from, and writing down what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..data.sets import Category, MadeWhenAsked, Sample
from ..data.stream import evaluation_batches
from ..engine.precision import PRECISIONS, Precision
from ..engine.processes import ALONE, Processes
from .classification import ClassificationEvaluator
from .classification_report import classification_picture, write_classification_evaluation
from .coco import CocoEvaluator
from .report import write_evaluation
from .semantic import SemanticEvaluator
from .semantic_report import semantic_picture, write_semantic_evaluation

Measured = tuple[dict[str, dict[str, float]], str]  # metrics by section, and a summary as text


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
    """A model, the held-out images, and how it is run over them; pictures of the first `pictures` go to `folder`.

    data: a DataSet with the targets that the model learns from. Each of the `processes` has a part of the images.
    """

    model: Any
    data: Any
    categories: Sequence[Category]
    folder: Path
    pictures: int
    device: torch.device
    workers: int
    console: Console
    processes: Processes = ALONE
    precision: Precision = PRECISIONS["float32"]

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

    def everything(self, found: list[Any]) -> list[Any]:
        """Return what all processes have found, in the images' order; in the others than the main one nothing."""
        return [one for part in self.processes.gather(found) or () for one in part]


def measure(trial: Trial) -> Measured | None:
    """Run a trial; its folder gets `metrics.json`, what else there is to say of such models, and pictures.

    Only the main process writes, and returns what was measured; the others return None.
    """
    trial.processes.share_buffers(trial.model)
    return MEASURES[trial.model.target_keys[0]](trial)


def _detections(trial: Trial) -> Measured | None:
    evaluator = CocoEvaluator(trial.data.document, trial.categories)
    for _, _, targets, output in trial.outputs():
        evaluator.update([int(targets["image_id"])], [output])
    evaluator.reduce()
    if not trial.processes.main:
        return None
    return write_evaluation(trial.folder, evaluator, trial.data, trial.pictures)


def _labels_of_pixels(trial: Trial) -> Measured | None:
    evaluator = SemanticEvaluator(trial.names)
    pictures: list[tuple[str, Tensor]] = []
    for row, pixels, targets, output in trial.outputs("semantic"):
        truth, found = targets["semantic"], output["semantic"]
        evaluator.update([truth], [found])
        if row < trial.pictures:
            name = trial.data.images[row].path.stem
            pictures.append((name, semantic_picture(pixels, truth, found.cpu(), trial.names)))
    evaluator.reduce()
    pictures = trial.everything(pictures)
    return write_semantic_evaluation(trial.folder, evaluator, pictures) if trial.processes.main else None


def _labels_of_images(trial: Trial) -> Measured | None:
    evaluator = ClassificationEvaluator(trial.names)
    # From all of the set, as folders of classes begin with one class.
    chosen = {i * len(trial.data.images) // max(1, trial.pictures) for i in range(trial.pictures)}
    shown: list[tuple[Tensor, int, int, float]] = []
    for row, pixels, targets, output in trial.outputs("label"):
        evaluator.update([targets["label"]], [output["scores"]])
        if row in chosen:
            shown.append((pixels, int(targets["label"]), int(output["label"]), float(output["scores"].max())))
    evaluator.reduce()
    shown = trial.everything(shown)
    if not trial.processes.main:
        return None
    picture = None
    if shown:
        images, labels, guesses, scores = zip(*shown, strict=True)
        picture = classification_picture(images, labels, guesses, scores, trial.names)
    return write_classification_evaluation(trial.folder, evaluator, picture)


# By the first of a model's target keys.
MEASURES: dict[str, Callable[[Trial], Measured | None]] = {
    "boxes": _detections,
    "semantic": _labels_of_pixels,
    "label": _labels_of_images,
}
