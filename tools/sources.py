"""From the settings of a data set to its images, with what a kind of model learns from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..backbones import InputError
from ..backbones.errors import unknown
from .config import Data, Split
from .data.cifar import read_cifar
from .data.classes import object_crops, read_class_folders
from .data.coco import CocoSet, first_images, read_coco, require_masks
from .data.formats import FORMATS, LabelFormat, category_names, read_names
from .data.rasterise import rasterised
from .data.semantic import read_label_folders
from .data.sets import DataSet, ImageSet
from .data.shapes import cached_shapes

SPLITS = ("train", "val", "test")

# What models learn from, by the first of their target keys, for messages.
LEARNT = {"boxes": "boxes", "semantic": "labels of pixels", "label": "labels of images"}


def open_split(data: Data, name: str, keys: Sequence[str]) -> DataSet:
    """Open a split of a data set for a model whose targets have these keys; a generated set is generated first."""
    if name not in SPLITS:
        raise unknown("split", name, SPLITS)
    kind, readers = _readers(data, name, keys)
    if keys[0] not in readers:
        raise InputError(
            f"the head learns from {LEARNT[keys[0]]}, but the data set is of {kind}, which give "
            f"{', '.join(LEARNT[key] for key in readers)}: choose another head, or other data"
        )
    return readers[keys[0]]()


Readers = Mapping[str, Callable[[], DataSet]]  # by the first of a model's target keys


def _readers(data: Data, name: str, keys: Sequence[str]) -> tuple[str, Readers]:
    """Return what kind of data set this is, and what opens its split for each kind of model that it suits."""
    split: Split = getattr(data, name)
    if data.shapes is not None:
        root = cached_shapes(data.shapes)
        return "generated shapes", _of_objects(data, split, keys, root / "annotations" / f"{name}.json", root / name)
    if data.cifar is not None:
        return "CIFAR's images", {"label": partial(_cifar, data, data.cifar, name)}
    if not split.images:
        raise InputError(f"the data set has no split {name!r}: it names no data.{name}.images")
    root = Path(data.root or ".")
    if not root.is_dir():
        raise InputError(f"no data set at {root}; say where it is with --data-root")
    if split.annotations:
        return "COCO's annotations", _of_objects(data, split, keys, root / split.annotations, root / split.images)
    if split.labels:
        return "label PNGs", {"semantic": partial(_label_folders, data, split, root)}
    return "folders of classes", {"label": lambda: _some(read_class_folders(root / split.images), data.limit)}


def _of_objects(data: Data, split: Split, keys: Sequence[str], annotations: Path, images: Path) -> Readers:
    def read() -> CocoSet:
        found = read_coco(annotations, images)
        return found if data.limit is None else first_images(found, data.limit)

    def for_pixels() -> DataSet:
        names, overlaps = data.labels.names or None, data.labels.overlaps
        return rasterised(read(), classes=names, overlaps=overlaps, least_area=split.least_area)

    return {
        "boxes": lambda: require_masks(read()) if "masks" in keys else read(),
        "semantic": for_pixels,
        "label": lambda: object_crops(read(), data.margin),
    }


def _label_folders(data: Data, split: Split, root: Path) -> DataSet:
    labels = data.labels
    if labels.format and labels.format not in FORMATS:
        raise unknown("data.labels.format", labels.format, FORMATS)
    known = FORMATS.get(labels.format, LabelFormat(labels.values, labels.ignore))
    names = known.names or labels.names
    if known.ids:
        names = category_names([root / name for name in labels.names_from], known.ids)
    elif labels.names_file:
        names = read_names(root / labels.names_file)
    found = read_label_folders(
        root / split.images,
        root / split.labels,
        names=names,
        values=known.values or None,
        palette=labels.palette or None,
        ignore=known.ignore,
        ignore_colours=labels.ignore_colours,
        image_suffix=labels.image_suffix,
        label_suffix=labels.label_suffix,
        listed=root / split.listed if split.listed else None,
    )
    return _some(found, data.limit)


def _cifar(data: Data, kind: str, name: str) -> DataSet:
    return _some(read_cifar(Path(data.root or "."), name, kind=kind, held_out=data.held_out), data.limit)


def _some(found: ImageSet, limit: int | None) -> ImageSet:
    """Return the set with so many of its images, from all of it: folders of classes begin with one class."""
    count = len(found.images)
    if limit is None or limit >= count:
        return found
    return replace(found, images=tuple(found.images[i * count // limit] for i in range(limit)))
