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

from ..data.sets import Category
from ..data.stream import evaluation_batches
from .classification import ClassificationEvaluator
from .classification_report import classification_picture, write_classification_evaluation
from .coco import CocoEvaluator
from .report import write_evaluation
from .semantic import SemanticEvaluator
from .semantic_report import semantic_picture, write_semantic_evaluation

Measured = tuple[dict[str, dict[str, float]], str]  # metrics by section, and a summary as text


@dataclass(frozen=True)
class Trial:
    """A model, the held-out images, and how it is run over them; pictures of the first `pictures` go to `folder`.

    data: a DataSet with the targets that the model learns from.
    """

    model: Any
    data: Any
    categories: Sequence[Category]
    folder: Path
    pictures: int
    device: torch.device
    workers: int
    console: Console

    @property
    def names(self) -> list[str]:
        return [category.name for category in self.categories]

    @torch.inference_mode()
    def outputs(self, *keys: str) -> Iterator[tuple[Tensor, dict[str, Tensor], Mapping[str, Any]]]:
        """Yield for each image its pixels (3, H, W), `image_id` and the targets of `keys`, and the model's output.

        One image at a time: in a batch the padding of one would depend on the others, and its output with it.
        """
        self.model.eval()
        images = self.data.images
        batches = evaluation_batches(images, 1, self.workers, keys)
        quiet = not self.console.is_terminal
        for batch in track(batches, "evaluating", len(images), console=self.console, disable=quiet):
            ((pixels, targets),) = batch
            (output,) = self.model([pixels.to(self.device)])
            yield pixels, targets, output


def measure(trial: Trial) -> Measured:
    """Run a trial; its folder gets `metrics.json`, what else there is to say of such models, and pictures."""
    return MEASURES[trial.model.target_keys[0]](trial)


def _detections(trial: Trial) -> Measured:
    evaluator = CocoEvaluator(trial.data.document, trial.categories)
    for _, targets, output in trial.outputs():
        evaluator.update([int(targets["image_id"])], [output])
    return write_evaluation(trial.folder, evaluator, trial.data, trial.pictures)


def _labels_of_pixels(trial: Trial) -> Measured:
    evaluator = SemanticEvaluator(trial.names)
    pictures: list[tuple[str, Tensor]] = []
    for sample, (pixels, targets, output) in zip(trial.data.images, trial.outputs("semantic"), strict=True):
        truth, found = targets["semantic"], output["semantic"]
        evaluator.update([truth], [found])
        if len(pictures) < trial.pictures:
            pictures.append((sample.path.stem, semantic_picture(pixels, truth, found.cpu(), trial.names)))
    return write_semantic_evaluation(trial.folder, evaluator, pictures)


def _labels_of_images(trial: Trial) -> Measured:
    evaluator = ClassificationEvaluator(trial.names)
    # From all of the set, as folders of classes begin with one class.
    shown = {i * len(trial.data.images) // max(1, trial.pictures) for i in range(trial.pictures)}
    images, labels, guesses, scores = [], [], [], []
    for i, (pixels, targets, output) in enumerate(trial.outputs("label")):
        evaluator.update([targets["label"]], [output["scores"]])
        if i in shown:
            images.append(pixels)
            labels.append(int(targets["label"]))
            guesses.append(int(output["label"]))
            scores.append(float(output["scores"].max()))
    picture = classification_picture(images, labels, guesses, scores, trial.names) if images else None
    return write_classification_evaluation(trial.folder, evaluator, picture)


# By the first of a model's target keys.
MEASURES: dict[str, Callable[[Trial], Measured]] = {
    "boxes": _detections,
    "semantic": _labels_of_pixels,
    "label": _labels_of_images,
}
