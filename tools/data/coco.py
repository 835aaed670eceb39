"""Data sets in COCO's instance format, of which nothing is in memory but what is asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...backbones import InputError
from .cutouts import Cutouts
from .images import RGB, Files
from .indexing import open_annotations
from .masks import Segmentation, compact
from .segments import NONE, as_json
from .sets import Array, Category, MadeWhenAsked, pick_targets
from .store import Store, Stored

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
    files: Files = RGB

    def read(self) -> Array:
        """Return the pixels (height, width, channels), uint8 RGB unless the data set says otherwise."""
        return self._checked(self.files.read(self.path), 1)

    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def read_reduced(self, factor: int) -> tuple[Array, int]:
        pixels, reduced = self.files.read_reduced(self.path, factor)
        return self._checked(pixels, reduced), reduced

    def _checked(self, pixels: Array, reduced: int) -> Array:
        if pixels.shape[:2] != (-(-self.height // reduced), -(-self.width // reduced)):
            height, width = self.files.size(self.path)
            raise InputError(
                f"image {self.path} is {width}x{height}, its annotations say {self.width}x{self.height}; were the "
                "images resized after they were labelled?"
            )
        return pixels

    def targets(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return `boxes`, `labels` and `masks`, those that are asked for."""
        return pick_targets({"boxes": self.boxes.copy, "labels": self.labels.copy, "masks": self.masks}, keys)

    def masks(self) -> Cutouts:
        """Return the masks, one for each box, as pycocotools' `annToMask` has them."""
        return compact(self.segmentations, self.height, self.width)


@dataclass(frozen=True, eq=False)
class Part:
    """What a data set has of one file: some of its images, and labels for some of its categories.

    rows: the images (N,), by their place in the file. labels: for each category of the file by id its label, 0 where it
    is left out. shift: what is added to the ids of images, so that those of several files do not clash.
    """

    store: Store
    folder: Path
    rows: np.ndarray[Any, np.dtype[np.int32]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    shift: int = 0
    files: Files = RGB

    @property
    def of_row(self) -> Array:
        """The row of its image, for each annotation of the file."""
        return np.repeat(np.arange(len(self.store)), self.store.counts)

    @property
    def labelled(self) -> Array:
        """For each annotation of the file its label, 0 where its image or its category is left out."""
        if not len(self.store.table):
            return np.zeros(0, np.int64)
        there = np.zeros(len(self.store), bool)
        there[self.rows] = True
        return np.where(there[self.of_row], self.labels[self.store.table["category"]], 0)

    @property
    def learnt(self) -> Array:
        """Which annotations of the file are objects to learn."""
        table = self.store.table
        return np.asarray((self.labelled > 0) & ~table["crowd"] & ~table["empty"])


@dataclass(frozen=True, eq=False)
class CocoSet:
    """Images with their objects, of one file or several. masked: objects without a mask are left out."""

    categories: tuple[Category, ...]
    parts: tuple[Part, ...]
    masked: bool = False

    @property
    def source(self) -> Path:
        return self.parts[0].store.source

    @property
    def images(self) -> CocoImages:
        return CocoImages(self.parts, self.masked)

    @cached_property
    def document(self) -> dict[str, Any]:
        """All of it, crowds too, as COCO's own evaluation takes it."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for part, stored in self.images.stored_all():
            id = stored.id + part.shift
            images.append({"id": id, "file_name": stored.name, "height": stored.height, "width": stored.width})
            labels = part.labels[stored.annotations["category"]].tolist()
            annotations += [
                {**record, "image_id": id, "category_id": self.categories[label - 1].id}
                for label, record in zip(labels, _as_json(stored), strict=True)
                if label
            ]
        if len(self.parts) > 1:  # ids of several files may clash
            annotations = [{**record, "id": id} for id, record in enumerate(annotations, start=1)]
        categories = [{"id": category.id, "name": category.name} for category in self.categories]
        return {"images": images, "annotations": annotations, "categories": categories}


class CocoImages(MadeWhenAsked[Image]):
    """The images of a data set; each is read from its store when it is asked for."""

    def __init__(self, parts: Sequence[Part], masked: bool) -> None:
        self.parts = tuple(parts)
        self.masked = masked
        self.ends = np.cumsum([len(part.rows) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def make(self, index: int) -> Image:
        return _image(*self.stored(index), self.masked)

    def stored(self, index: int) -> tuple[Part, Stored]:
        """Return an image as it is stored, and the part that it is of."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        part = self.parts[number]
        return part, part.store.image(int(part.rows[index - (self.ends[number - 1] if number else 0)]))

    def stored_all(self) -> Iterator[tuple[Part, Stored]]:
        return (self.stored(index) for index in range(len(self)))


def _image(part: Part, stored: Stored, masked: bool) -> Image:
    found = stored.annotations
    labels = part.labels[found["category"]]
    kept = (labels > 0) & ~found["crowd"] & ~found["empty"]
    if masked:
        kept &= found["form"] != NONE
    segmentations = (stored.segmentation(row) for row in np.flatnonzero(kept).tolist()) if masked else ()
    return Image(
        stored.id + part.shift,
        part.folder / stored.name,
        stored.height,
        stored.width,
        _corners(found["bbox"][kept]),
        labels[kept],
        tuple(each for each in segmentations if each is not None),
        part.files,
    )


def _corners(boxes: Array) -> np.ndarray[Any, np.dtype[np.float32]]:
    """x, y, width, height (N, 4) -> xyxy float32."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)


def _as_json(stored: Stored) -> Iterator[dict[str, Any]]:
    """Yield the annotations of an image as COCO's files have them, but for what they belong to."""
    for row, segment in zip(stored.annotations, stored.segments, strict=True):
        record = {"id": int(row["id"]), "bbox": row["bbox"].tolist(), "iscrowd": int(row["crowd"])}
        if not np.isnan(row["area"]):
            record["area"] = float(row["area"])
        segmentation = as_json(int(row["form"]), segment, stored.height, stored.width)
        yield record if segmentation is None else {**record, "segmentation": segmentation}


def read_coco(annotations: Path, images: Path, files: Files = RGB) -> CocoSet:
    """Open an instances file and check it against the folder of images; the first time it is indexed into the cache.

    Crowds are left out of the objects to learn, boxes without area too (with one counted warning); images without
    objects stay. Order: categories by id, images as in the file.
    """
    store = open_annotations(annotations)
    if not images.is_dir():
        raise InputError(f"no folder of images at {images}; check --data-root and the data set's `images`")
    check_files(images, store.names())
    labels = np.arange(1, len(store.categories) + 1)
    part = Part(store, images, np.arange(len(store), dtype=np.int32), labels, files=files)
    count, first = store.empty
    if count:
        log.warning("%s: dropped %d boxes without area (first: annotation id %s)", annotations, count, first)
    return CocoSet(store.categories, (part,))


def first_images(data: CocoSet, count: int) -> CocoSet:
    """Return the set cut to its first images."""
    starts = np.cumsum([0, *(len(part.rows) for part in data.parts)])
    cut = [
        replace(part, rows=part.rows[: max(0, count - start)]) for part, start in zip(data.parts, starts, strict=False)
    ]
    return replace(data, parts=tuple(cut))


def with_masks(data: CocoSet) -> tuple[CocoSet, list[int]]:
    """Return the set with its objects' segmentations, and the ids of the annotations left out for want of one."""
    _, without = _masks(data)
    return replace(data, masked=True), without


def require_masks(data: CocoSet) -> CocoSet:
    """Return the set with its objects' segmentations.

    Objects without one are left out, with one counted warning; a set of which no object has one is an InputError.
    """
    there, without = _masks(data)
    if without and not there:
        raise InputError(
            f"{data.source} has no masks: none of its {len(without)} objects has polygons of three points or an "
            f"RLE as its segmentation (first: annotation id {without[0]}); train a head that needs boxes alone"
        )
    if without:
        log.warning(
            "%s: left out %d objects without a mask (first: annotation id %s)", data.source, len(without), without[0]
        )
    return replace(data, masked=True)


def _masks(data: CocoSet) -> tuple[int, list[int]]:
    """Of files where objects lack masks, return how many have one, and the annotation ids of those without."""
    there, without = 0, []
    for part in data.parts:
        if not part.store.unmasked:
            continue
        learnt = part.learnt
        try:
            masked = part.store.masked(learnt)
        except InputError as error:
            raise InputError(f"{part.store.source}: {error}") from error
        there += int((learnt & masked).sum())
        without += part.store.table["id"][learnt & ~masked].tolist()
    return there, without


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Say now which files are missing, from one listing of each folder, rather than hours later."""
    listings: dict[str, set[str]] = {}
    missing, count = [], 0
    for name in names:
        count += 1
        parent, _, file = name.rpartition("/")
        if parent not in listings:
            listings[parent] = _listing(folder, name)
        if file not in listings[parent]:
            missing.append(name)
    if missing:
        raise InputError(f"{len(missing)} of {count} images are not in {folder} (first: {missing[0]!r})")


def _listing(folder: Path, name: str) -> set[str]:
    # By the name alone: links that somebody made within the folder are meant.
    place = os.path.abspath(os.path.dirname(os.path.join(folder, name)))
    if not Path(place).is_relative_to(os.path.abspath(folder)):
        raise InputError(f"file_name {name!r} points outside {folder}; names are taken from that folder")
    try:
        return set(os.listdir(place))
    except (OSError, ValueError):
        return set()
