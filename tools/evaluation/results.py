"""Reading files that are evaluated without a model: COCO results of any program, and the annotations they are for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...backbones import InputError
from ..data.document import LISTS, records
from ..data.masks import are_sound, encode, read_segmentation, rle_of
from ..data.sets import Category
from .many_records import many_records

Record = dict[str, Any]

NEEDED = {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}

# No score or coordinate is so large.
LARGEST = 1e30

# So many results are made at a time.
PART = 1000

Size = tuple[Any, Any]  # height, width


@many_records()
def read_instances(path: Path) -> tuple[dict[str, Any], tuple[Category, ...]]:
    """Return a COCO instances file as it is, for a CocoEvaluator, and its categories in the file's order.

    What evaluation cannot do without is checked: an InputError names the record.
    """
    if not path.is_file():
        raise InputError(f"no annotations at {path}; an instances file is expected, that of the results")
    document: dict[str, Any] = {name: [] for name in LISTS}
    for name, record in records(path, LISTS):
        lacking = [key for key in NEEDED[name] if key not in record]
        if lacking:
            raise InputError(f"{path}: {name}[{len(document[name])}] has no {lacking[0]!r}; each needs one")
        document[name].append(record)
    if not document["images"]:
        raise InputError(f"{path} has no images; there is nothing to evaluate on")
    return document, tuple(Category(category["id"], category["name"]) for category in document["categories"])


@many_records()
def read_results(path: Path, document: Mapping[str, Any]) -> list[Record]:
    """Return a file of COCO results for the images of an instances document.

    A bbox that is absent is that of the mask. Masks are RLE, whatever they are in the file. An InputError says which
    result cannot be taken, and why. Results may be of categories that the document does not have, but not all.
    """
    found = _load(path)
    for number, result in enumerate(found):
        _check(result, f"{path}: result {number}")
    _check_ids(found, document, path)
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in document["images"]}
    masked = [bool(result.get("segmentation")) for result in found]
    if any(masked) and not all(masked):
        number = masked.index(False)
        raise InputError(f"{path}: result {number} has no segmentation, others have; either all or none need one")
    # In place, a part at a time, so that they are not in memory twice.
    for start in range(0, len(found), PART):
        part = found[start : start + PART]
        shapes = _with_masks(part, start, sizes, path) if any(masked) else [{"bbox": result["bbox"]} for result in part]
        found[start : start + PART] = map(_result, part, shapes)
    return found


def _load(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"no results at {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, list):
        what = "an instances file" if isinstance(found, dict) and "annotations" in found else type(found).__name__
        raise InputError(f"{path} is no COCO results file: it is {what}, a list of detections is expected")
    if not found:
        raise InputError(f"{path} is empty: it has no detection to evaluate")
    return found


# What a result is, for messages.
EXPECTED = "image_id, category_id, score, and bbox or segmentation are expected"


def _check(result: Any, name: str) -> None:
    """Refuse a result whose ids, score or box are not such."""
    if not isinstance(result, dict):
        raise InputError(f"{name} is {str(result)[:40]!r}; {EXPECTED}")
    for key in ("image_id", "category_id", "score"):
        if key not in result:
            raise InputError(f"{name} has no {key!r}; {EXPECTED}")
        if isinstance(result[key], list | dict | None):
            raise InputError(f"{name} has {str(result[key])[:40]!r} as {key!r}; a number is expected")
    if not _finite(result["score"]):
        raise InputError(f"{name} has the score {result['score']!r}; a finite number is expected")
    box = result.get("bbox")
    if box is None and not result.get("segmentation"):
        raise InputError(f"{name} has neither a bbox nor a segmentation; {EXPECTED}")
    if box is not None:
        if not isinstance(box, list) or len(box) != 4 or not all(map(_finite, box)):
            raise InputError(f"{name} has the bbox {str(box)[:60]}; x, y, width, height are expected, finite numbers")
        if box[2] < 0 or box[3] < 0:
            raise InputError(
                f"{name} has the bbox {box}, with a negative width or height; x, y, width, height are expected"
            )


def _finite(value: Any) -> bool:
    # A bound in place of math.isfinite, which fails for integers of hundreds of digits.
    return isinstance(value, int | float) and -LARGEST < value < LARGEST


def _check_ids(found: Sequence[Record], document: Mapping[str, Any], path: Path) -> None:
    known = {image["id"] for image in document["images"]}
    times = Counter(result["image_id"] for result in found)
    strange = [id for id in times if id not in known]
    if strange:
        count = "none" if len(strange) == len(times) else f"{len(strange)} not"
        raise InputError(
            f"{path}: of the {len(times)} image ids {count} in the annotations ({_few(strange)}; annotations have "
            f"{_few(known)}); give the annotations that these results are for"
        )
    known = {category["id"] for category in document["categories"]}
    categories = {result["category_id"] for result in found}
    if not categories & known:
        raise InputError(
            f"{path}: no category id is in the annotations ({_few(categories)}; annotations have {_few(known)}); "
            "results need the annotations' own ids"
        )


def _few(ids: Any) -> str:
    first = list(ids)[:3]
    return ", ".join(map(repr, first)) + (" …" if len(ids) > len(first) else "")


def _result(result: Record, shape: Record) -> Record:
    return {
        "image_id": result["image_id"],
        "category_id": result["category_id"],
        "score": float(result["score"]),
        **shape,
        "bbox": [float(value) for value in shape["bbox"]],
    }


def _with_masks(part: Sequence[Record], start: int, sizes: Mapping[Any, Size], path: Path) -> list[Record]:
    """Return masks, as RLE, and boxes of some results, of which the first is the file's result `start`."""
    from pycocotools import mask as coco_mask

    masks = [result["segmentation"] for result in part]
    of = [sizes[result["image_id"]] for result in part]
    if not are_sound(masks, of):
        owners = [f"result {number} of {path}" for number in range(start, start + len(part))]
        masks = list(map(_mask, part, of, owners))
    boxes = [result.get("bbox") for result in part]
    if None in boxes:
        of_masks = coco_mask.toBbox(masks).tolist()
        boxes = [box or of_mask for box, of_mask in zip(boxes, of_masks, strict=True)]
    return [{"segmentation": rle, "bbox": box} for rle, box in zip(encode(masks), boxes, strict=True)]


def _mask(result: Record, size: Size, name: str) -> Mapping[str, Any]:
    height, width = size
    if height is None or width is None:
        raise InputError(f"image {result['image_id']} of the annotations has no height and width, which masks need")
    segmentation = read_segmentation(result, height, width, owner=name)
    if segmentation is None:
        raise InputError(f"{name} has no polygon of three points or more; leave out what has no mask")
    return rle_of(segmentation, height, width)
