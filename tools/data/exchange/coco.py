"""COCO's instance format to and from the common form of data sets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....backbones import InputError
from ..coco import CocoSet
from ..coco import Part as File
from ..masks import Segmentation, rle_of
from ..store import Stored
from .common import Collection, Notes, Object, Part, Picture, Place, check_names, write_text


def read_coco_sets(sets: Sequence[tuple[str, CocoSet]], notes: Notes) -> Collection:
    """Read data sets in COCO's format, each given with the part that it is.

    Categories come in order of their ids, which are not kept. Boxes without area are left out, as `read_coco` warns
    when it opens the set; crowds are kept.
    """
    (_, first), *others = sets
    for name, data in others:
        if data.categories != first.categories:
            raise InputError(f"{name}, {data.source}, has other categories than {first.source}; convert one at a time")
    ids = [category.id for category in first.categories]
    if ids != list(range(1, len(ids) + 1)):
        notes.add("file has category ids other than 1, 2, 3, …, which are not kept", str(first.source))
    parts = []
    for name, data in sets:
        names = tuple(_names(data))
        parts.append(Part(name, names, _pictures(data, names)))
    return Collection(first.source, tuple(category.name for category in first.categories), tuple(parts))


def _names(data: CocoSet) -> Iterator[str]:
    for part in data.parts:
        names = list(part.store.names())
        for row in part.rows:
            yield _inside(names[row], part.store.source)


def _inside(name: str, source: Path) -> str:
    """Return the name without detours such as `a/../b`; one that leads out of its folder is refused."""
    plain = os.path.normpath(name)
    if plain.startswith("..") or os.path.isabs(plain):
        raise InputError(f"{source}: file_name {name!r} leads out of its folder of images; write it from that folder")
    return Path(plain).as_posix()


def _pictures(data: CocoSet, names: Sequence[str]) -> Iterator[Picture]:
    for (file, stored), name in zip(data.images.stored_all(), names, strict=True):
        try:
            objects = tuple(_objects(file, stored))
        except InputError as error:
            raise InputError(f"{file.store.source}: {error}") from error
        yield Picture(file.folder / stored.name, name, stored.height, stored.width, objects)


def _objects(file: File, stored: Stored) -> Iterator[Object]:
    for row, found in enumerate(stored.annotations):
        label, crowd = int(file.labels[found["category"]]), bool(found["crowd"])
        if not label or (found["empty"] and not crowd):
            continue
        x, y, width, height = found["bbox"].tolist()
        yield Object(label - 1, (x, y, width, height), stored.segmentation(row), crowd=crowd)


def write_coco(collection: Collection, folder: Path, notes: Notes, place: Place) -> None:
    """Write `annotations/PART.json`, images in `PART/`, and `data.yaml` for `--data`; ids count from 1.

    An object's area is that of its mask in pixels, or of its box where it has none. Difficult ones keep their
    mark, which COCO does not know.
    """
    categories = [{"id": id, "name": name} for id, name in enumerate(collection.categories, start=1)]
    for part in collection.parts:
        check_names(part.names, collection.source)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for id, picture in enumerate(part.pictures, start=1):
            place(picture.path, folder / part.name / picture.name)
            images.append({"id": id, "file_name": picture.name, "height": picture.height, "width": picture.width})
            for found in picture.objects:
                if found.difficult:
                    notes.add('objects are marked "difficult": 1, which COCO\'s tools pass over', picture.name)
                annotations.append({"id": len(annotations) + 1, "image_id": id, **_annotation(found, picture)})
        document = {"images": images, "annotations": annotations, "categories": categories}
        write_text(folder / "annotations" / f"{part.name}.json", json.dumps(document, ensure_ascii=False))
    splits = [
        f"  {part.name}: {{images: {part.name}, annotations: annotations/{part.name}.json}}\n"
        for part in collection.parts
    ]
    write_text(folder / "data.yaml", "".join(["data:\n  root: .\n", *splits]))


def _annotation(found: Object, picture: Picture) -> dict[str, Any]:
    segmentation, area = _written(found.segmentation, picture.height, picture.width)
    return {
        "category_id": found.category + 1,
        "bbox": list(found.box),
        "area": found.box[2] * found.box[3] if area is None else area,
        "iscrowd": int(found.crowd),
        "segmentation": segmentation,
        **({"difficult": 1} if found.difficult else {}),
    }


def _written(segmentation: Segmentation | None, height: int, width: int) -> tuple[Any, float | None]:
    """Return a segmentation as JSON has it, and its area in pixels."""
    from pycocotools import mask as coco_mask

    if segmentation is None:
        return [], None
    rle = rle_of(segmentation, height, width)
    area = float(coco_mask.area(rle))
    if not isinstance(segmentation, Mapping):
        return [np.asarray(polygon).tolist() for polygon in segmentation], area
    counts = rle["counts"]
    return {"size": [height, width], "counts": counts if isinstance(counts, str) else counts.decode()}, area
