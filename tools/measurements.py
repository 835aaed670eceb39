"""What a measurement has found, by what the model finds: its metrics, its files, and its report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .data.coco import CocoSet
from .data.images import own_names
from .data.sets import DataSet
from .evaluation.bootstrap import PerImage
from .evaluation.classification import ClassificationEvaluator
from .evaluation.classification_images import ClassificationImages
from .evaluation.classification_report import classification_picture, squared, write_classification_evaluation
from .evaluation.coco import CocoEvaluator
from .evaluation.report import DetectionPictures, write_evaluation
from .evaluation.semantic import SemanticEvaluator
from .evaluation.semantic_images import SemanticImages
from .evaluation.semantic_report import semantic_picture, write_semantic_evaluation
from .report.cards import card_picture
from .report.classification import classification_content
from .report.content import Content
from .report.detection import Analysis, analyse, detection_content
from .report.extremes import Extremes
from .report.semantic import semantic_content

# The kinds of detections for which it is known which object each has found.
ANALYSED = ("bbox", "segm")


class Measurement(Protocol):
    """What was measured. `images` is what is known of each image, for intervals and comparisons."""

    @property
    def metrics(self) -> Mapping[str, dict[str, float]]:
        """Values by section and name."""
        ...

    @property
    def summary(self) -> str:
        """The metrics as text for a terminal."""
        ...

    @property
    def images(self) -> PerImage: ...

    def write(self, folder: Path) -> None:
        """Write `metrics.json`, what else there is to say of such models, and pictures."""
        ...

    def content(self, title: str) -> Content:
        """Return what a report shows."""
        ...


class Detected:
    """Boxes, and perhaps masks. data: the images; None where only their annotations are at hand."""

    def __init__(self, evaluator: CocoEvaluator, data: CocoSet | None, pictures: int = 0) -> None:
        self.evaluator = evaluator
        self.data = data
        self.pictures = pictures
        self.metrics, self.summary = evaluator.compute()

    @cached_property
    def analyses(self) -> list[Analysis]:
        """What each detection has found: boxes, and then masks."""
        return [analyse(self.evaluator, kind) for kind in self.evaluator.kinds if kind in ANALYSED]

    @property
    def images(self) -> PerImage:
        return self.analyses[-1].images

    def write(self, folder: Path) -> None:
        # Which detections are drawn takes an analysis, which the pauses of training, without pictures, can do without.
        drawn = self._drawn if self.pictures else None
        write_evaluation(folder, self.evaluator, drawn.first(self.pictures) if drawn else ())

    def content(self, title: str) -> Content:
        return detection_content(self.evaluator, title, self.analyses, self._drawn.of_row if self._drawn else None)

    @cached_property
    def _drawn(self) -> DetectionPictures | None:
        if self.data is None:
            return None
        return DetectionPictures(self.evaluator, self.data, self.analyses[-1].shown.tolist())


class Segmented:
    """Classes of pixels. cards: draws the worst and the best images; pictures: draws the first, with names of files."""

    def __init__(
        self,
        evaluator: SemanticEvaluator,
        cards: Callable[[], Extremes[bytes]],
        pictures: Callable[[], Iterable[tuple[str, Tensor]]] = tuple,
    ) -> None:
        self.evaluator = evaluator
        self.cards = cards
        self.pictures = pictures
        self.metrics, self.summary = evaluator.compute()

    @cached_property
    def images(self) -> PerImage:
        return SemanticImages(self.evaluator)

    def write(self, folder: Path) -> None:
        write_semantic_evaluation(folder, self.evaluator, self.pictures())

    def content(self, title: str) -> Content:
        return semantic_content(self.evaluator, title, self.cards())


class SemanticPictures:
    """Draws images of a data set with their labels and the prediction, from maps (H, W) that were kept by row."""

    def __init__(
        self, data: DataSet, names: Sequence[str], first: Mapping[int, Tensor], extremes: Extremes[Tensor]
    ) -> None:
        self.data = data
        self.names = names
        self.first = first
        self.extremes = extremes

    def cards(self) -> Extremes[bytes]:
        """Draw the worst and the best images."""
        return self.extremes.made(lambda row, found: card_picture(self._picture(row, found)))

    def pictures(self) -> Iterator[tuple[str, Tensor]]:
        """Draw the first images."""
        names = own_names(self.data.images[row].path for row in self.first)
        for name, (row, found) in zip(names, self.first.items(), strict=True):
            yield name, self._picture(row, found)

    def _picture(self, row: int, found: Tensor) -> Tensor:
        image = self.data.images[row]
        truth = torch.from_numpy(image.targets(["semantic"])["semantic"])
        return semantic_picture(torch.from_numpy(image.read()).permute(2, 0, 1), truth, found, self.names)


class Classified:
    """Classes of images. data: the images, of which `pictures` are drawn, from all over the set."""

    def __init__(self, evaluator: ClassificationEvaluator, data: DataSet, pictures: int) -> None:
        self.evaluator = evaluator
        self.data = data
        self.pictures = pictures
        self.metrics, self.summary = evaluator.compute()

    @cached_property
    def images(self) -> ClassificationImages:
        return ClassificationImages(self.evaluator)

    def write(self, folder: Path) -> None:
        count = len(self.evaluator.guesses)
        # From all of the set, as folders of classes begin with one class.
        rows = sorted({i * count // max(1, self.pictures) for i in range(min(self.pictures, count))})
        write_classification_evaluation(folder, self.evaluator, self._picture(rows) if rows else None)

    def content(self, title: str) -> Content:
        kept: Extremes[bytes] = Extremes()
        for row, quality in enumerate(self.images.quality.tolist()):
            kept.add(quality, row, partial(self._card, row))
        return classification_content(self.evaluator, title, kept)

    def _card(self, row: int) -> bytes:
        return card_picture(squared(self._pixels(row)))

    def _picture(self, rows: Sequence[int]) -> Tensor:
        """Return the pictures of these images in a grid."""
        guesses = [self.evaluator.guesses[row] for row in rows]
        return classification_picture(
            [self._pixels(row) for row in rows],
            [guess.label for guess in guesses],
            [guess.found for guess in guesses],
            [guess.score for guess in guesses],
            self.evaluator.names,
        )

    def _pixels(self, row: int) -> Tensor:
        return torch.from_numpy(self.data.images[row].read()).permute(2, 0, 1)
