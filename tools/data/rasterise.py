"""Semantic labels drawn from the objects of a data set in COCO's format."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...backbones import InputError
from ...backbones.errors import unknown
from .coco import CocoSet, Image, Part
from .formats import BACKGROUND, COCO_NAMES
from .masks import Rle, Segmentation, decode, rle_of
from .segments import NONE
from .sets import IGNORE, Array, Category, ImageSet, MadeWhenAsked, pick_targets
from .store import Stored

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
        """Return the pixels, as those of its image."""
        return self.image.read()

    def size(self) -> tuple[int, int]:
        return self.image.size()

    def read_reduced(self, factor: int) -> tuple[Array, int]:
        return self.image.read_reduced(factor)

    def targets(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return `semantic` (height, width) uint8, where it is asked for."""
        return pick_targets({"semantic": self._semantic}, keys)

    def _semantic(self) -> Labels:
        return draw_labels((self.image.height, self.image.width), self.objects, self.crowds, self.draw)


def draw_labels(
    size: tuple[int, int],
    objects: Sequence[tuple[int, Segmentation]],
    crowds: Sequence[Segmentation],
    draw: Drawing,
) -> Labels:
    """Return the labels of an image of that (height, width): of objects their class, of crowds on what is left 255."""
    labels = np.zeros(size, np.uint8)
    draw(labels, [(index, rle_of(segmentation, *size)) for index, segmentation in objects])
    for crowd in crowds:
        labels[(labels == 0) & (decode([crowd], *size)[0] > 0)] = IGNORE
    return labels


@dataclass(frozen=True, eq=False)
class _Drawn(MadeWhenAsked[DrawnImage]):
    """The images of a data set, at these places of it, with the class of each of its labels (from 1; 0: not drawn)."""

    data: CocoSet
    places: Array
    classes: Array
    draw: Drawing

    def __len__(self) -> int:
        return len(self.places)

    def make(self, index: int) -> DrawnImage:
        place = int(self.places[index])
        part, stored = self.data.images.stored(place)
        classes = self.classes[part.labels[stored.annotations["category"]]]
        found = [
            (int(classes[row]), bool(stored.annotations["crowd"][row]), segmentation)
            for row in np.flatnonzero(classes).tolist()
            if (segmentation := stored.segmentation(row)) is not None
        ]
        objects = tuple((index, segmentation) for index, crowd, segmentation in found if not crowd)
        crowds = tuple(segmentation for _, crowd, segmentation in found if crowd)
        return DrawnImage(self.data.images[place], objects, crowds, self.draw)


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
    class_of = _classes(data, chosen)
    _require_masks(data, class_of)
    places = np.arange(len(data.images))
    if least_area:
        places = places[np.concatenate([_areas(part, class_of) for part in data.parts]) > least_area]
    if not len(places):
        raise InputError(
            f"{data.source} has no image whose objects of these classes cover more than {least_area} pixels"
        )
    names = (BACKGROUND, *chosen)
    categories = tuple(Category(id, name) for id, name in enumerate(names))
    return ImageSet(data.source, categories, _Drawn(data, places, class_of, OVERLAPS[overlaps]))


def _classes(data: CocoSet, chosen: Sequence[str]) -> Array:
    """Return the class of each label, 0 for those that are not drawn."""
    labels = {category.name: label for label, category in enumerate(data.categories, start=1)}
    if len(chosen) >= IGNORE or len(set(chosen)) < len(chosen):
        raise InputError(
            f"{len(chosen)} classes, {len(set(chosen))} of them different; up to {IGNORE - 1} can be drawn, each once"
        )
    class_of = np.zeros(len(labels) + 1, np.int64)
    for index, name in enumerate(chosen, start=1):
        known = name if name in labels else COCO_NAMES.get(name, name)
        if known not in labels:
            raise unknown(f"category of {data.source}", name, labels)
        class_of[labels[known]] = index
    return class_of


def _require_masks(data: CocoSet, class_of: Array) -> None:
    """Say once which objects have no mask to draw; where none has one, that is an InputError."""
    without: list[int] = []
    drawn = 0
    for part in data.parts:
        wanted = class_of[part.labelled] > 0
        try:
            masked = part.store.masked(wanted)
        except InputError as error:
            raise InputError(f"{part.store.source}: {error}") from error
        without += part.store.table["id"][wanted & ~masked].tolist()
        drawn += int((wanted & masked & ~part.store.table["crowd"]).sum())
    if without and not drawn:
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


def _areas(part: Part, class_of: Array) -> Array:
    """Return for each of the part's images the area of its drawn objects: as recorded, else of the mask."""
    store = part.store
    drawn = (class_of[part.labelled] > 0) & ~store.table["crowd"] & (store.table["form"] != NONE)
    areas = np.where(drawn, store.table["area"], 0)
    unknown_areas = np.flatnonzero(np.isnan(areas))
    of_row = part.of_row
    starts = np.cumsum(store.counts) - store.counts
    for row in unknown_areas:
        image = int(of_row[row])
        areas[row] = _mask_area(store.image(image), int(row - starts[image]))
    return np.asarray(np.bincount(of_row, areas, minlength=len(store))[part.rows])


def _mask_area(stored: Stored, row: int) -> float:
    from pycocotools import mask as coco_mask

    segmentation = stored.segmentation(row)
    assert segmentation is not None
    return float(coco_mask.area(rle_of(segmentation, stored.height, stored.width)))
