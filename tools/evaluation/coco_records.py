"""Ground truth and detections as COCOeval takes them: records of its own, with what files of other tools may lack."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...backbones import InputError
from ..data.masks import Rle, are_sound, read_segmentation, rle_of

log = logging.getLogger("vertebra")

Record = dict[str, Any]

# So many masks are checked at a time.
PART = 1000

# Records of their own, because COCOeval writes into them, and with ids from 1 on, because it takes an object with the
# id 0 for none, and of two with the same id one. They hold what it reads and no more: there may be a million.


def truth_boxes(document: Mapping[str, Any]) -> list[Record]:
    """Return the objects of a document's images, with boxes; one that has none has its mask's."""
    sizes = _sizes(document)
    return [
        _object(id, annotation, box[2] * box[3], bbox=box)
        for id, annotation in enumerate(_of_images(document, sizes), start=1)
        for box in [annotation.get("bbox") or _box_of_mask(annotation, sizes)]
    ]


def truth_masks(document: Mapping[str, Any]) -> list[Record]:
    """Return the objects of a document's images that have a mask, as RLE; the others are counted in a warning."""
    from pycocotools import mask as coco_mask

    sizes = _sizes(document)
    records: list[Record] = []
    without = []
    for annotation, rle in _with_masks(list(_of_images(document, sizes)), sizes):
        if rle is None:
            without.append(annotation.get("id"))
        else:
            records.append(_object(len(records) + 1, annotation, float(coco_mask.area(rle)), segmentation=rle))
    if without:
        log.warning(
            "%d objects without a mask are not counted in the metrics of masks (first: annotation id %s)",
            len(without),
            without[0],
        )
    return records


def found_boxes(results: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Return results with their boxes, in their order."""
    return [_detection(id, r, r["bbox"][2] * r["bbox"][3], bbox=r["bbox"]) for id, r in enumerate(results, start=1)]


def found_masks(results: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Return results with their masks, in their order.

    A mask's own area tells small from large, not its box's, as in COCO's results files of masks without boxes.
    """
    from pycocotools import mask as coco_mask

    # pycocotools 2.0.11 fails on a list of more than 255.
    parts = (results[start : start + 255] for start in range(0, len(results), 255))
    areas = (area for part in parts for area in coco_mask.area([each["segmentation"] for each in part]).tolist())
    return [
        _detection(id, result, float(area), segmentation=result["segmentation"])
        for id, (result, area) in enumerate(zip(results, areas, strict=True), start=1)
    ]


def _object(id: int, annotation: Mapping[str, Any], measured: float, **shape: Any) -> Record:
    """Return a record of ground truth; its area is the file's, which of COCO's boxes is that of their masks."""
    area = annotation.get("area")
    return {
        "id": id,
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "area": measured if area is None else area,
        "iscrowd": int(annotation.get("iscrowd") or 0),
        **shape,
    }


def _detection(id: int, result: Mapping[str, Any], area: float, **shape: Any) -> Record:
    return {
        "id": id,
        "image_id": result["image_id"],
        "category_id": result["category_id"],
        "score": result["score"],
        "area": area,
        "iscrowd": 0,
        **shape,
    }


Sizes = Mapping[Any, tuple[int | None, int | None]]


def _sizes(document: Mapping[str, Any]) -> Sizes:
    return {record["id"]: (record.get("height"), record.get("width")) for record in document["images"]}


def _of_images(document: Mapping[str, Any], sizes: Sizes) -> Iterator[Mapping[str, Any]]:
    """Yield the annotations whose image is in the document; COCOeval does not look at others."""
    return (annotation for annotation in document["annotations"] if annotation["image_id"] in sizes)


def _with_masks(
    annotations: Sequence[Mapping[str, Any]], sizes: Sizes
) -> Iterator[tuple[Mapping[str, Any], Rle | None]]:
    """Yield annotations with their mask, if they have one; RLE are checked many together, which takes less time."""
    for start in range(0, len(annotations), PART):
        part = annotations[start : start + PART]
        compressed = [a for a in part if isinstance(a.get("segmentation"), Mapping)]
        sound = are_sound([a["segmentation"] for a in compressed], [sizes[a["image_id"]] for a in compressed])
        for annotation in part:
            found = annotation.get("segmentation")
            yield annotation, found if sound and isinstance(found, Mapping) else _mask(annotation, sizes)


def _mask(annotation: Mapping[str, Any], sizes: Sizes) -> Rle | None:
    height, width = sizes[annotation["image_id"]]
    if height is None or width is None:
        raise InputError(
            f"image {annotation['image_id']} of the annotations has no height and width, which masks need; add them"
        )
    segmentation = read_segmentation(annotation, height, width)
    return None if segmentation is None else rle_of(segmentation, height, width)


def _box_of_mask(annotation: Mapping[str, Any], sizes: Sizes) -> list[float]:
    from pycocotools import mask as coco_mask

    rle = _mask(annotation, sizes)
    if rle is None:
        raise InputError(f"annotation {annotation.get('id')} has neither a bbox nor a segmentation; it needs one")
    box: list[float] = coco_mask.toBbox(rle).tolist()
    return box
