"""Semantic labels drawn from the objects of a data set in COCO's format."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...backbones import InputError
from ...backbones.errors import unknown
from .coco import CocoSet, Image
from .formats import BACKGROUND, COCO_NAMES
from .masks import Rle, Segmentation, decode, read_segmentation, rle_of
from .sets import IGNORE, Array, Category, ImageSet, pick_targets

log = logging.getLogger("vertebra")

Labels = np.ndarray[Any, np.dtype[np.uint8]]
Drawing = Callable[[Labels, Sequence[tuple[int, Rle]]], None]  # draws objects, class and mask, into labels of zeros


def _smaller_wins(labels: Labels, objects: Sequence[tuple[int, Rle]]) -> None:
    from pycocotools import mask as coco_mask

    # Of objects of one size the later in the file, since sorting keeps their order.
    for index, rle in sorted(objects, key=lambda item: -int(coco_mask.area(item[1]))):
        labels[decode([rle], *labels.shape)[0] > 0] = index


def _overlaps_ignored(labels: Labels, objects: Sequence[tuple[int, Rle]]) -> None:
    for index, rle in objects:
        covered = decode([rle], *labels.shape)[0] > 0
        labels[covered] = np.where(labels[covered] == 0, index, IGNORE)


OVERLAPS: dict[str, Drawing] = {"smaller": _smaller_wins, "ignore": _overlaps_ignored}


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """An image with its objects, class and segmentation, and its crowds; labels are drawn when they are asked for."""

    image: Image
    objects: tuple[tuple[int, Segmentation], ...]
    crowds: tuple[Segmentation, ...]
    draw: Drawing

    @property
    def id(self) -> int:
        return self.image.id

    @property
    def path(self) -> Path:
        return self.image.path

    def read(self) -> Array:
        """Return the pixels, uint8 RGB (height, width, 3)."""
        return self.image.read()

    def targets(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return `semantic` (height, width) uint8, where it is asked for."""
        return pick_targets({"semantic": self._semantic}, keys)

    def _semantic(self) -> Labels:
        size = self.image.height, self.image.width
        labels = np.zeros(size, np.uint8)
        self.draw(labels, [(index, rle_of(segmentation, *size)) for index, segmentation in self.objects])
        for crowd in self.crowds:
            labels[(labels == 0) & (decode([crowd], *size)[0] > 0)] = IGNORE
        return labels


def rasterised(
    data: CocoSet, *, classes: Sequence[str] | None = None, overlaps: str = "smaller", least_area: float = 0
) -> ImageSet:
    """Return the images with labels drawn from their objects: 0 is background, then the categories in order.

    classes: the names of the categories to draw, in order of their class; VOC's names stand for COCO's. Without, all.
    overlaps: where objects overlap, `smaller` gives the class of the smallest by the area of its mask, and `ignore`
    255, whatever their classes (as torchvision's reference training does). Pixels of crowds of these categories that
    no object covers are 255. Images whose drawn objects cover `least_area` pixels or less in sum, by their record, are
    left out; with 0 all stay. The ids of the categories are the classes.
    """
    if overlaps not in OVERLAPS:
        raise unknown("rule for overlaps", overlaps, OVERLAPS)
    chosen = [category.name for category in data.categories] if classes is None else list(classes)
    index_of = _classes(data, chosen)
    found, without = _by_image(data, index_of)
    if without and not any(objects for objects, _, _ in found.values()):
        raise InputError(
            f"{data.source} has no masks to draw: none of the {len(without)} objects of these classes has polygons of "
            f"three points or an RLE as its segmentation (first: annotation id {without[0]})"
        )
    if without:
        log.warning(
            "%s: %d objects without a mask are not drawn (first: annotation id %s)",
            data.source,
            len(without),
            without[0],
        )
    images = tuple(
        DrawnImage(image, tuple(objects), tuple(crowds), OVERLAPS[overlaps])
        for image in data.images
        for objects, crowds, area in (found.get(image.id, ((), (), 0.0)),)
        if area > least_area or not least_area
    )
    if not images:
        raise InputError(
            f"{data.source} has no image whose objects of these classes cover more than {least_area} pixels"
        )
    names = (BACKGROUND, *chosen)
    return ImageSet(data.source, tuple(Category(id, name) for id, name in enumerate(names)), images)


def _classes(data: CocoSet, chosen: Sequence[str]) -> dict[int, int]:
    """Return the class of each category id that is drawn."""
    ids = {category.name: category.id for category in data.categories}
    if len(chosen) >= IGNORE or len(set(chosen)) < len(chosen):
        raise InputError(
            f"{len(chosen)} classes, {len(set(chosen))} of them different; up to {IGNORE - 1} can be drawn, each once"
        )
    index_of = {}
    for index, name in enumerate(chosen, start=1):
        known = name if name in ids else COCO_NAMES.get(name, name)
        if known not in ids:
            raise unknown(f"category of {data.source}", name, ids)
        index_of[ids[known]] = index
    return index_of


Found = tuple[list[tuple[int, Segmentation]], list[Segmentation], float]  # objects, crowds, area of the objects


def _by_image(data: CocoSet, index_of: Mapping[int, int]) -> tuple[dict[int, Found], list[Any]]:
    """Return what is to be drawn by image id, and the ids of the annotations of objects without a mask."""
    sizes = {image.id: (image.height, image.width) for image in data.images}
    objects, crowds = defaultdict(list), defaultdict(list)
    areas: dict[int, float] = defaultdict(float)
    without = []
    for annotation in data.document["annotations"]:
        image, index = annotation["image_id"], index_of.get(annotation["category_id"])
        if index is None:
            continue
        try:
            segmentation = read_segmentation(annotation, *sizes[image])
        except InputError as error:
            raise InputError(f"{data.source}: {error}") from error
        if segmentation is None:
            without.append(annotation.get("id"))
        elif annotation.get("iscrowd", 0):
            crowds[image].append(segmentation)
        else:
            objects[image].append((index, segmentation))
            areas[image] += _area(annotation, segmentation, sizes[image])
    return {image: (objects[image], crowds[image], areas[image]) for image in objects.keys() | crowds.keys()}, without


def _area(annotation: Mapping[str, Any], segmentation: Segmentation, size: tuple[int, int]) -> float:
    from pycocotools import mask as coco_mask

    recorded = annotation.get("area")
    return float(coco_mask.area(rle_of(segmentation, *size)) if recorded is None else recorded)
