"""What `vertebra predict` leaves of each image, by what the model finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..backbones import InputError
from .data.image_list import ImageFile
from .data.sets import Category
from .draw import write_picture
from .evaluation.coco import coco_results
from .found_pictures import detections_picture, semantic_picture
from .instance_maps import write_instances
from .predictions import AREA_COLUMNS, CLASS_COLUMNS, class_areas, top_classes, write_label_png
from .predictor import best, refuse
from .whole_files import JsonList, Table

# Detections of a lower score are left out unless another is asked for.
SCORE = 0.5


@dataclass(frozen=True)
class Wanted:
    """What is to be left of each image. masks: maps of objects. listed: the images are of an image list."""

    score: float | None = None
    top: int | None = None
    pictures: bool = True
    masks: bool = False
    listed: bool = False


class Findings(Protocol):
    """Takes what is found image by image, and writes it to a folder."""

    def add(self, file: ImageFile, name: str, image: Tensor, found: Mapping[str, Any]) -> None:
        """Add an image (C, H, W) and what was found in it; `name` is for its own files, without a suffix."""
        ...

    def finish(self) -> str:
        """End the files that are for all images together, and say what there is; at least one image was added."""
        ...

    def close(self) -> None:
        """Leave nothing of files for all images together that are not finished."""
        ...


class Detections:
    """All as COCO results, `predictions.json`; a picture of each image, and maps of its objects in `masks`.

    Of an image list the results have every detection, as a server that scores them wants it; score and top are then for
    pictures and maps alone.
    """

    def __init__(self, folder: Path, categories: Sequence[Category], wanted: Wanted) -> None:
        limits = [f"--{name}" for name in ("score", "top") if getattr(wanted, name) is not None]
        if wanted.listed and limits and not (wanted.pictures or wanted.masks):
            raise InputError(
                f"{', '.join(limits)} with an image list is for its pictures, as its results have every detection; "
                "leave it out, or --no-pictures"
            )
        self.folder = folder
        self.categories = categories
        self.wanted = wanted
        self.images = 0
        self.results = JsonList(folder / "predictions.json")

    def add(self, file: ImageFile, name: str, image: Tensor, found: Mapping[str, Any]) -> None:
        self.images += 1
        shown = best(found, SCORE if self.wanted.score is None else self.wanted.score, self.wanted.top)
        results = coco_results(file.id, found if file.listed else shown, self.categories)
        self.results.extend(results if file.listed else ({**each, "file_name": file.file_name} for each in results))
        if self.wanted.pictures:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_picture(self.folder / f"{name}.jpg", detections_picture(image, shown, self.categories))
        if self.wanted.masks:
            write_instances(self.folder / "masks", name, shown, self.categories)

    def finish(self) -> str:
        self.results.keep()
        pictures = _counted(self.images, "picture") if self.wanted.pictures else ""
        maps = f"{_counted(self.images, 'map')} of objects with lists" if self.wanted.masks else ""
        files = _joined("predictions.json", pictures, maps)
        return f"{_counted(self.results.count, 'detection')} in {_counted(self.images, 'image')}: {files}"

    def close(self) -> None:
        self.results.close()


class LabelMaps:
    """Of each image a label PNG, with the ids of the training data, and an overlay; `areas.csv` has their classes."""

    def __init__(self, folder: Path, categories: Sequence[Category], wanted: Wanted) -> None:
        self.folder = folder
        self.categories = categories
        self.wanted = wanted
        self.images = 0
        self.areas = Table(folder / "areas.csv", AREA_COLUMNS)

    def add(self, file: ImageFile, name: str, image: Tensor, found: Mapping[str, Any]) -> None:
        self.images += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        self.areas.extend(class_areas(file.file_name, found["semantic"], self.categories))
        write_label_png(self.folder / f"{name}.png", found["semantic"], self.categories)
        if self.wanted.pictures:
            write_picture(self.folder / f"{name}.jpg", semantic_picture(image, found, self.categories))

    def finish(self) -> str:
        self.areas.keep()
        overlays = _counted(self.images, "overlay") if self.wanted.pictures else ""
        files = _joined(_counted(self.images, "label PNG"), overlays, "areas.csv")
        return f"the classes of the pixels of {_counted(self.images, 'image')}: {files}"

    def close(self) -> None:
        self.areas.close()


class Ranks:
    """The likeliest classes of each image, in `classes.csv`."""

    def __init__(self, folder: Path, categories: Sequence[Category], wanted: Wanted) -> None:
        if not wanted.pictures:
            raise InputError("--no-pictures is for detectors and segmenters; a classifier leaves classes.csv alone")
        self.categories = categories
        self.top = 5 if wanted.top is None else wanted.top
        self.images = 0
        self.classes = Table(folder / "classes.csv", CLASS_COLUMNS)

    def add(self, file: ImageFile, name: str, image: Tensor, found: Mapping[str, Any]) -> None:
        self.images += 1
        self.classes.extend(top_classes(file.file_name, found["scores"], self.categories, self.top))

    def finish(self) -> str:
        self.classes.keep()
        return f"the likeliest classes of {_counted(self.images, 'image')}: classes.csv"

    def close(self) -> None:
        self.classes.close()


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _joined(*parts: str) -> str:
    *most, last = filter(None, parts)
    return f"{', '.join(most)} and {last}" if most else last


# By the first of a model's target keys.
FINDINGS: dict[str, Callable[[Path, Sequence[Category], Wanted], Findings]] = {
    "boxes": Detections,
    "semantic": LabelMaps,
    "label": Ranks,
}


def new_findings(keys: Sequence[str], folder: Path, categories: Sequence[Category], wanted: Wanted) -> Findings:
    """Return what takes the findings of a model that learns from these keys; what is not for it is an InputError."""
    refuse(keys[0], {"score": wanted.score, "top": wanted.top}, "--{} {:g}")
    if wanted.masks and "masks" not in keys:
        raise InputError("--masks is for models that find masks of objects, as mask_rcnn does; this one does not")
    return FINDINGS[keys[0]](folder, categories, wanted)
