"""What `vertebra predict` leaves of each image, by what the model finds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..backbones import InputError
from .data.sets import Category
from .draw import draw_boxes, draw_masks, enlarge, write_picture
from .evaluation.coco import coco_results
from .predictions import AREA_COLUMNS, CLASS_COLUMNS, Row, top_classes, write_prediction, write_rows
from .predictor import above


class Findings(Protocol):
    """Takes what is found image by image, and writes it to a folder that is there."""

    def add(self, path: Path, name: str, image: Tensor, found: Mapping[str, Any]) -> None:
        """Add one image (3, H, W), uint8, of a file; `name` is for its own files, without a suffix."""
        ...

    def finish(self) -> str:
        """Write what is for all images together, and say what there is."""
        ...


class Detections:
    """A picture of each image with boxes, names, scores and masks, and all as COCO results, `predictions.json`."""

    def __init__(self, folder: Path, categories: Sequence[Category], score: float | None, top: int | None) -> None:
        _refuse("--top", top, "ranks the classes of an image; of detections take --score")
        self.folder = folder
        self.categories = categories
        self.score = 0.5 if score is None else score
        self.images = 0
        self.results: list[dict[str, Any]] = []

    def add(self, path: Path, name: str, image: Tensor, found: Mapping[str, Any]) -> None:
        self.images += 1
        found = above(found, self.score)
        results = coco_results(self.images, found, self.categories)
        self.results += [{**result, "file_name": str(path)} for result in results]
        labels = found["labels"].tolist()
        texts = [f"{name} {value:.2f}" for name, value in zip(found["names"], found["scores"].tolist(), strict=True)]
        large, scale = enlarge(image)
        picture = draw_masks(large, found.get("masks", []), labels)
        write_picture(self.folder / f"{name}.jpg", draw_boxes(picture, found["boxes"] * scale, labels, texts))

    def finish(self) -> str:
        (self.folder / "predictions.json").write_text(json.dumps(self.results))
        return f"{len(self.results)} objects in {self.images} images; pictures and predictions.json"


class LabelMaps:
    """Of each image a label PNG, with the ids of the training data, and an overlay; `areas.csv` has their classes."""

    def __init__(self, folder: Path, categories: Sequence[Category], score: float | None, top: int | None) -> None:
        _refuse("--score", score, "is for detections; a segmenter gives each pixel its likeliest class")
        _refuse("--top", top, "ranks the classes of an image; a segmenter gives each pixel its likeliest class")
        self.folder = folder
        self.categories = categories
        self.images = 0
        self.rows: list[Row] = []

    def add(self, path: Path, name: str, image: Tensor, found: Mapping[str, Any]) -> None:
        self.images += 1
        self.rows += write_prediction(self.folder, name, image, found["semantic"], self.categories, str(path))

    def finish(self) -> str:
        write_rows(self.folder / "areas.csv", AREA_COLUMNS, self.rows)
        return f"label PNGs and overlays of {self.images} images, and areas.csv"


class Ranks:
    """The likeliest classes of each image, in `classes.csv`."""

    def __init__(self, folder: Path, categories: Sequence[Category], score: float | None, top: int | None) -> None:
        _refuse("--score", score, "is for detections; of the classes of an image take --top")
        self.folder = folder
        self.categories = categories
        self.top = 5 if top is None else top
        self.images = 0
        self.rows: list[Row] = []

    def add(self, path: Path, name: str, image: Tensor, found: Mapping[str, Any]) -> None:
        self.images += 1
        self.rows += top_classes(str(path), found["scores"], self.categories, self.top)

    def finish(self) -> str:
        write_rows(self.folder / "classes.csv", CLASS_COLUMNS, self.rows)
        return f"the classes of {self.images} images in classes.csv"


def _refuse(option: str, value: float | None, reason: str) -> None:
    if value is not None:
        raise InputError(f"{option} {value:g} {reason}")


# By the first of a model's target keys.
FINDINGS = {"boxes": Detections, "semantic": LabelMaps, "label": Ranks}
