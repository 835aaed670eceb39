"""Label PNGs to and from the common form of data sets: regions of a class as objects, and objects drawn into labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ....backbones import InputError
from ..formats import BACKGROUND
from ..masks import rle_of
from ..rasterise import OVERLAPS, draw_labels
from ..sets import IGNORE, Array, DataSet
from .common import Collection, Notes, Object, Part, Picture, Place, check_stems, stem, write_text


def read_label_sets(sets: Sequence[tuple[str, Path, DataSet]], notes: Notes) -> Collection:
    """Read sets of label PNGs, each given with the part that it is of and its folder of images.

    Each region of a class, pixels that touch by a side or a corner, is an object with its mask as an RLE and the box
    around it. The class `__background__` has no objects, and is no category.
    """
    classes = tuple(category.name for category in sets[0][2].categories)
    parts = []
    for name, folder, data in sets:
        names = tuple(image.path.relative_to(folder).as_posix() for image in data.images)
        parts.append(Part(name, names, _pictures(data, names, classes, notes)))
    return Collection(sets[0][2].source, tuple(name for name in classes if name != BACKGROUND), tuple(parts))


def _pictures(data: DataSet, names: Sequence[str], classes: Sequence[str], notes: Notes) -> Iterator[Picture]:
    position = dict(zip((i for i, c in enumerate(classes) if c != BACKGROUND), range(len(classes)), strict=False))
    for image, name in zip(data.images, names, strict=True):
        labels = image.targets(("semantic",))["semantic"]
        if (labels == IGNORE).any():
            notes.add("images have pixels to ignore, which are of no object", name)
        objects = [
            found
            for index in np.unique(labels).tolist()
            if index in position
            for found in _regions(labels == index, position[index])
        ]
        height, width = labels.shape
        yield Picture(image.path, name, height, width, tuple(objects))


def _regions(mask: Array, category: int) -> Iterator[Object]:
    import cv2
    from pycocotools import mask as coco_mask

    count, regions, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for region in range(1, count):
        x, y, width, height = boxes[region][:4].tolist()
        around = slice(y, y + height), slice(x, x + width)
        whole = np.zeros(mask.shape, np.uint8, order="F")
        whole[around] = regions[around] == region
        yield Object(category, (x, y, width, height), coco_mask.encode(whole))


def write_label_pngs(collection: Collection, folder: Path, notes: Notes, place: Place) -> None:
    """Write `images/PART/`, index PNGs in `labels/PART/`, `classes.txt`, and `data.yaml` for `--data`.

    The labels are those that a segmenter learns from the objects: 0 is the background, then the categories from 1; of
    objects that overlap the smaller wins; 255, to be ignored, are pixels of crowds that no object covers.
    """
    from PIL import Image

    if len(collection.categories) >= IGNORE:
        raise InputError(f"{len(collection.categories)} categories; label PNGs hold up to {IGNORE - 1}")
    drawn = False
    for part in collection.parts:
        check_stems(part.names, collection.source, ".png")
        for picture in part.pictures:
            place(picture.path, folder / "images" / part.name / picture.name)
            labels = _draw(picture, notes)
            drawn = drawn or bool(labels.any())
            path = folder / "labels" / part.name / f"{stem(picture.name)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(path)
    if not drawn:
        raise InputError(f"{collection.source} has no masks to draw: label PNGs need them, boxes are not enough")
    names = [part.name for part in collection.parts]
    splits = [f"  {name}: {{images: images/{name}, labels: labels/{name}}}\n" for name in names]
    write_text(folder / "data.yaml", "".join(["data:\n  root: .\n", *splits, "  labels: {names_file: classes.txt}\n"]))
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in (BACKGROUND, *collection.categories)))


def _draw(picture: Picture, notes: Notes) -> Array:
    size = picture.height, picture.width
    objects, crowds = [], []
    for found in picture.objects:
        if found.segmentation is None:
            notes.add("objects without a mask are not drawn", picture.name)
        elif found.crowd:
            crowds.append(found.segmentation)
        else:
            objects.append((found.category + 1, rle_of(found.segmentation, *size)))
    return draw_labels(size, objects, crowds, OVERLAPS["smaller"])
