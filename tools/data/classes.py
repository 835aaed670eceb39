"""Classification: class folders, and the objects of a detection data set cut out."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...backbones import InputError
from .coco import CocoSet, Image
from .images import RGB, Files, list_files
from .sets import Array, Category, ImageSet, pick_targets

log = logging.getLogger("vertebra")


@dataclass(frozen=True, slots=True)
class ClassImage:
    """An image of one class, by its index from 0."""

    id: int
    path: Path
    label: int
    files: Files = RGB

    def read(self) -> Array:
        """Return the pixels (height, width, channels), uint8 RGB unless the data set says otherwise."""
        return self.files.read(self.path)

    def size(self) -> tuple[int, int]:
        return self.files.size(self.path)

    def read_reduced(self, factor: int) -> tuple[Array, int]:
        return self.files.read_reduced(self.path, factor)

    def targets(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return `label`, a number without dimensions, where it is asked for."""
        return pick_targets({"label": lambda: np.array(self.label, np.int64)}, keys)


def read_class_folders(folder: Path, files: Files = RGB) -> ImageSet:
    """Read a folder that has a folder of images, at any depth, for each class; order: by name.

    Files that are no images, and those beside the class folders, are left out with one counted warning.
    """
    if not folder.is_dir():
        raise InputError(f"no folder of classes at {folder}; check --data-root and the data set's `images`")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise InputError(f"{folder} has no class folders; put the images of each class into a folder of its name")
    images: list[ClassImage] = []
    others = [folder / path for path in list_files(folder) if len(path.parts) == 1]
    for label, name in enumerate(classes):
        there = [folder / name / path for path in list_files(folder / name)]
        found = [path for path in there if path.suffix.lower() in files.suffixes]
        if not found:
            raise InputError(
                f"class folder {folder / name} has no images; files ending in {', '.join(files.suffixes)} are read"
            )
        others += [path for path in there if path.suffix.lower() not in files.suffixes]
        images += [ClassImage(id, path, label, files) for id, path in enumerate(found, start=len(images) + 1)]
    if others:
        log.warning("%s: left out %d files that are no images of a class (first: %s)", folder, len(others), others[0])
    return ImageSet(folder, tuple(Category(id, name) for id, name in enumerate(classes)), tuple(images))


@dataclass(frozen=True, slots=True)
class ObjectCrop:
    """One object of an image, as an image of its category: its box, enlarged by a share of its sides on each side."""

    id: int
    image: Image
    index: int
    margin: float

    @property
    def path(self) -> Path:
        return self.image.path

    def read(self) -> Array:
        """Return the pixels of the enlarged box that lie in the image, uint8 RGB (height, width, 3)."""
        x1, y1, x2, y2 = map(float, self.image.boxes[self.index])
        wider, higher = self.margin * (x2 - x1), self.margin * (y2 - y1)
        columns = _within(x1 - wider, x2 + wider, self.image.width)
        rows = _within(y1 - higher, y2 + higher, self.image.height)
        return self.image.read()[rows, columns].copy()

    def targets(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return `label`, the position of the category, where it is asked for."""
        return pick_targets({"label": lambda: np.array(self.image.labels[self.index] - 1, np.int64)}, keys)


def _within(low: float, high: float, length: int) -> slice:
    """Return the pixels that an interval touches, at least one of them."""
    start = min(max(0, math.floor(low)), length - 1)
    return slice(start, max(start + 1, min(length, math.ceil(high))))


def object_crops(data: CocoSet, margin: float = 0.1) -> ImageSet:
    """Return each object as an image of its category; crowds and boxes without area are none."""
    if not 0 <= margin < math.inf:
        raise InputError(f"margin={margin}; crops are enlarged by a share of the object's sides, 0 or more")
    places = [(image, index) for image in data.images for index in range(len(image.labels))]
    if not places:
        raise InputError(f"{data.source} has no objects to cut out")
    crops = tuple(ObjectCrop(id, image, index, margin) for id, (image, index) in enumerate(places, start=1))
    return ImageSet(data.source, data.categories, crops)
