"""From the settings of a data set to its images, with what a kind of model learns from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..backbones import InputError
from ..backbones.errors import unknown
from .data.channels import Channels
from .data.choosing import choose_classes, joined, keep_empty, split_off
from .data.cifar import read_cifar
from .data.classes import object_crops, read_class_folders
from .data.coco import CocoSet, first_images, read_coco, require_masks
from .data.formats import FORMATS, LabelFormat, category_names, read_names
from .data.images import RGB, Files
from .data.rasterise import rasterised
from .data.semantic import read_label_folders
from .data.sets import DataSet, ImageSet
from .data.shapes import cached_shapes
from .settings import Data, Split

SPLITS = ("train", "val", "test")

# What models learn from, by the first of their target keys, for messages.
LEARNT = {"boxes": "boxes", "semantic": "labels of pixels", "label": "labels of images"}


def files_of(data: Data) -> Files:
    """Return how the image files of a data set are read."""
    return RGB if data.channels is None else Channels(data.channels)


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
    if data.cifar is not None:
        return "CIFAR's images", {"label": partial(_cifar, data, data.cifar, name)}
    files = [file for file in coco_files(data) if file.split == _home(data, name)]
    if not split.images and not files:
        raise InputError(f"the data set has no split {name!r}: it names no data.{name}.images")
    root = Path(data.root or ".")
    if not root.is_dir():
        raise InputError(f"no data set at {root}; say where it is with --data-root")
    if files:
        kind = "COCO's annotations" if data.shapes is None else "generated shapes"
        return kind, _of_objects(data, name, keys, files)
    if split.labels:
        return "label PNGs", {"semantic": partial(_label_folders, data, split, root)}
    found = partial(read_class_folders, root / split.images, files_of(data))
    return "folders of classes", {"label": lambda: _some(found(), data.limit)}


def _home(data: Data, name: str) -> str:
    """Return the split whose files hold the images of this one."""
    if data.split is None or getattr(data, name).images:
        return name
    return "train"


def _of_objects(data: Data, name: str, keys: Sequence[str], files: Sequence[CocoFile]) -> Readers:
    def read() -> CocoSet:
        sets = [read_coco(file.annotations, file.images, files_of(data)) for file in files]
        found = sets[0] if len(sets) == 1 else joined(sets)
        if data.classes or data.merge:
            found = choose_classes(found, data.classes, {each.name: each.of for each in data.merge})
        if data.split is not None and files[0].split == "train":
            # A split that has files of its own takes none of train's images.
            shares = {
                other: 0.0 if getattr(data, other).images else getattr(data.split, other) for other in ("val", "test")
            }
            found = split_off(found, shares, data.split.seed, name)
        if name == "train" and data.empty_ratio is not None:
            found = keep_empty(found, data.empty_ratio)
        return found if data.limit is None else first_images(found, data.limit)

    def for_pixels() -> DataSet:
        names, overlaps = data.labels.names or None, data.labels.overlaps
        return rasterised(read(), classes=names, overlaps=overlaps, least_area=getattr(data, name).least_area)

    return {
        "boxes": lambda: require_masks(read()) if "masks" in keys else read(),
        "semantic": for_pixels,
        "label": lambda: object_crops(read(), data.margin),
    }


@dataclass(frozen=True)
class CocoFile:
    """A file of annotations in COCO's format, the split that it is of, and the folder of its images."""

    split: str
    annotations: Path
    images: Path


def coco_files(data: Data) -> list[CocoFile]:
    """Return the files of a data set that is in COCO's format, by split; none of one that is not."""
    if data.shapes is not None:
        root = cached_shapes(data.shapes)
        return [CocoFile(name, root / "annotations" / f"{name}.json", root / name) for name in ("train", "val")]
    root = Path(data.root or ".")
    sources = [(name, s) for name in SPLITS for s in (getattr(data, name), *getattr(data, name).joined)]
    return [CocoFile(name, root / s.annotations, root / s.images) for name, s in sources if s.annotations]


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
        files=files_of(data),
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
