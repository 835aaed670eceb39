"""Known kinds of label PNGs, and the names of classes, from files or as published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...backbones import InputError

BACKGROUND = "__background__"  # torchvision's name for it

VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

# What COCO calls VOC's classes, where it is not the same.
COCO_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}

CITYSCAPES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

# Of COCO's ids 1..182 those that were given up before anything was labelled.
COCO_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
COCO_IDS = tuple(id for id in range(1, 183) if id not in COCO_UNUSED)


@dataclass(frozen=True)
class LabelFormat:
    """A kind of label PNG: the value of each class in order, values that are no class, and names where they are fixed.

    `ids` are the ids of the classes in COCO's annotation files, for the names of classes that these list.
    """

    values: tuple[int, ...]
    ignore: tuple[int, ...]
    names: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()


FORMATS = {
    "voc": LabelFormat(tuple(range(21)), (255,), names=(BACKGROUND, *VOC)),
    # The classes that its benchmark counts.
    "cityscapes": LabelFormat(
        CITYSCAPES_IDS,
        (*(id for id in range(34) if id not in CITYSCAPES_IDS), 255),
        names=CITYSCAPES,
    ),
    # COCO-Stuff's `stuffthingmaps`: things and stuff, ids less one.
    "coco_stuffthings": LabelFormat(tuple(id - 1 for id in COCO_IDS), (255,), ids=COCO_IDS),
    # COCO's own `stuff_*_pixelmaps`: 183 is all that is no stuff, 0 what was not labelled.
    "coco_stuff": LabelFormat(tuple(range(92, 183)), (0, 183), ids=tuple(range(92, 183))),
}


def read_lines(path: Path, what: str) -> tuple[str, ...]:
    """Return the lines of a text file that are not blank; `what` it is, for the error where there is none."""
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"no {what} at {path} ({error}); a text file with one name in each line is needed") from error


def read_names(path: Path) -> tuple[str, ...]:
    """Return the names of classes from a file with one in each line."""
    names = read_lines(path, "names of classes")
    if not names:
        raise InputError(f"{path} is empty; it should hold the name of a class in each line")
    return names


def category_names(files: Sequence[Path], ids: Sequence[int]) -> tuple[str, ...]:
    """Return the names of these ids from the `categories` of COCO's annotation files (instances, stuff)."""
    names: dict[int, str] = {}
    for path in files:
        try:
            names |= {int(c["id"]): str(c["name"]) for c in json.loads(path.read_bytes())["categories"]}
        except OSError as error:
            raise InputError(f"no annotations at {path} ({error.strerror})") from error
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} has no list `categories` of id and name, as COCO's annotations do") from error
    missing = [id for id in ids if id not in names]
    if missing:
        raise InputError(
            f"{', '.join(map(str, files))} name {len(ids) - len(missing)} of {len(ids)} categories (first without a "
            f"name: id {missing[0]}); name the files of things and of stuff that together have them"
        )
    return tuple(names[id] for id in ids)
