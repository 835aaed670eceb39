"""Data sets in COCO's instance format."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...backbones import InputError
from .images import read_image
from .masks import Segmentation, decode, read_segmentation
from .sets import Array, Category, pick_targets

log = logging.getLogger("vertebra")


@dataclass(frozen=True)
class Image:
    """One image of a data set, with the objects to learn: boxes (N, 4) float32 xyxy in pixels, labels (N,) from 1.

    `segmentations` holds one for each box where masks were asked for (`with_masks`), else nothing.
    """

    id: int
    path: Path
    height: int
    width: int
    boxes: np.ndarray[Any, np.dtype[np.float32]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    segmentations: tuple[Segmentation, ...] = ()

    def read(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the pixels, uint8 RGB (height, width, 3)."""
        pixels = read_image(self.path)
        if pixels.shape[:2] != (self.height, self.width):
            raise InputError(
                f"image {self.path} is {pixels.shape[1]}x{pixels.shape[0]}, its annotations say "
                f"{self.width}x{self.height}; were the images resized after they were labelled?"
            )
        return pixels

    def targets(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return `boxes`, `labels` and `masks` (N, height, width), those that are asked for."""
        return pick_targets({"boxes": self.boxes.copy, "labels": self.labels.copy, "masks": self.masks}, keys)

    def masks(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the masks (N, height, width) of 0 and 1, one for each box, as pycocotools' `annToMask` has them."""
        return decode(self.segmentations, self.height, self.width)


@dataclass(frozen=True)
class CocoSet:
    """Images with their objects. `document` is the file as it was read, for COCO's own evaluation."""

    annotations: Path
    categories: tuple[Category, ...]
    images: tuple[Image, ...]
    document: Mapping[str, Any]

    @property
    def source(self) -> Path:
        return self.annotations


def read_coco(annotations: Path, images: Path) -> CocoSet:
    """Read an instances file and check it against the folder of images.

    Crowds are left out of the objects to learn, boxes without area too (with one counted warning); images without
    objects stay. Order: categories by id, images as in the file.
    """
    document = _read_document(annotations)
    if not images.is_dir():
        raise InputError(f"no folder of images at {images}; check --data-root and the data set's `images`")
    try:
        categories = tuple(sorted((Category(int(c["id"]), str(c["name"])) for c in document["categories"]), key=_by_id))
        sizes = {int(i["id"]): (str(i["file_name"]), int(i["height"]), int(i["width"])) for i in document["images"]}
        objects, degenerate = _objects(document["annotations"], {c.id: n for n, c in enumerate(categories, 1)}, sizes)
    except InputError as error:
        raise InputError(f"{annotations}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        reason = f"a record lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{annotations} is not a COCO instances file: {reason}") from error
    if not sizes or not categories:
        raise InputError(f"{annotations} lists {len(sizes)} images and {len(categories)} categories; both are needed")
    if degenerate:
        log.warning(
            "%s: dropped %d boxes without area (first: annotation id %s)", annotations, len(degenerate), degenerate[0]
        )
    _check_files(images, [name for name, _, _ in sizes.values()])
    records = tuple(_record(id, images / name, h, w, objects.get(id, ())) for id, (name, h, w) in sizes.items())
    return CocoSet(annotations, categories, records, document)


def first_images(data: CocoSet, count: int) -> CocoSet:
    """Return the set cut to its first images, in its document too."""
    images = data.images[:count]
    ids = {image.id for image in images}
    document = {
        **data.document,
        "images": [record for record in data.document["images"] if record["id"] in ids],
        "annotations": [record for record in data.document["annotations"] if record["image_id"] in ids],
    }
    return replace(data, images=images, document=document)


def with_masks(data: CocoSet) -> tuple[CocoSet, list[Any]]:
    """Return the set with its objects' segmentations, and the ids of the annotations left out for want of one."""
    label_of = {category.id: label for label, category in enumerate(data.categories, start=1)}
    objects, _ = _objects(data.document["annotations"], label_of, {image.id for image in data.images})
    images, without = [], []
    for image in data.images:
        found = [(o, read_segmentation(o[2], image.height, image.width)) for o in objects.get(image.id, ())]
        without += [o[2].get("id") for o, segmentation in found if segmentation is None]
        record = _record(image.id, image.path, image.height, image.width, [o for o, s in found if s is not None])
        images.append(replace(record, segmentations=tuple(s for _, s in found if s is not None)))
    return replace(data, images=tuple(images)), without


def require_masks(data: CocoSet) -> CocoSet:
    """Return the set with its objects' segmentations.

    Objects without one are left out, with one counted warning; a set of which no object has one is an InputError.
    """
    try:
        masked, without = with_masks(data)
    except InputError as error:
        raise InputError(f"{data.annotations}: {error}") from error
    if without and not any(image.segmentations for image in masked.images):
        raise InputError(
            f"{data.annotations} has no masks: none of its {len(without)} objects has polygons of three points or an "
            f"RLE as its segmentation (first: annotation id {without[0]}); train a head that needs boxes alone"
        )
    if without:
        log.warning(
            "%s: left out %d objects without a mask (first: annotation id %s)",
            data.annotations,
            len(without),
            without[0],
        )
    return masked


def _by_id(category: Category) -> int:
    return category.id


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"no annotations at {path} ({error.strerror}); check --data-root") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    missing = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(document, dict) or not isinstance(document.get(key), list)
    ]
    if missing:
        raise InputError(f"{path} is not a COCO instances file: it has no list {', '.join(map(repr, missing))}")
    found: dict[str, Any] = document
    return found


Object = tuple[tuple[float, float, float, float], int, Mapping[str, Any]]  # box, label, and the file's record


def _objects(
    annotations: Sequence[Mapping[str, Any]], label_of: Mapping[int, int], images: Container[int]
) -> tuple[dict[int, list[Object]], list[Any]]:
    """Return the objects to learn by image id, and the ids of the annotations that were dropped for want of area."""
    objects = defaultdict(list)
    degenerate = []
    for annotation in annotations:
        name = f"annotation {annotation.get('id')}"
        if annotation["image_id"] not in images:
            raise InputError(f"{name} belongs to image {annotation['image_id']!r}, which is not among the images")
        if annotation["category_id"] not in label_of:
            raise InputError(f"{name} has category {annotation['category_id']!r}, which is not among the categories")
        x, y, width, height = map(float, annotation["bbox"])
        if not all(map(math.isfinite, (x, y, width, height))):
            raise InputError(f"{name} has bbox {annotation['bbox']}; four finite numbers are needed")
        if annotation.get("iscrowd", 0):
            continue
        if width <= 0 or height <= 0:
            degenerate.append(annotation.get("id"))
            continue
        box = (x, y, x + width, y + height)
        objects[annotation["image_id"]].append((box, label_of[annotation["category_id"]], annotation))
    return dict(objects), degenerate


def _record(id: int, path: Path, height: int, width: int, objects: Sequence[Object]) -> Image:
    boxes = np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4)
    labels = np.array([label for _, label, _ in objects], np.int64)
    return Image(id, path, height, width, boxes, labels)


def _check_files(folder: Path, names: Sequence[str]) -> None:
    """Say now which files are missing, from one listing, rather than hours later."""
    root = folder.resolve()
    there = set(os.listdir(folder))
    missing = []
    for name in names:
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            path = (folder / name).resolve()
            if not path.is_relative_to(root):
                raise InputError(f"file_name {name!r} points outside {folder}; names are taken from that folder")
            if path.is_file():
                continue
        elif name in there:
            continue
        missing.append(name)
    if missing:
        raise InputError(f"{len(missing)} of {len(names)} images are not in {folder} (first: {missing[0]!r})")
