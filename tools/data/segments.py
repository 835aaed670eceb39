"""Segmentations as few bytes, from which they come back exactly."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...backbones import InputError
from .masks import Segmentation, read_segmentation

# How a segmentation is written down; the numbers are in files, so they stay.
NONE, HUNDREDTHS, DOUBLES, RLE, AS_GIVEN = range(5)


def pack(annotation: Mapping[str, Any], height: int, width: int) -> tuple[int, bytes]:
    """Return the form and the bytes of an annotation's segmentation, in an image of that size.

    Polygons with two decimals, as COCO has them, take four bytes a number and the rest eight; run lengths are
    compressed. What is malformed is kept as it was given, for the error when it is asked for.
    """
    quick = _hundredths(annotation.get("segmentation"), max(height, width))
    if quick is not None:
        return quick
    try:
        found = read_segmentation(annotation, height, width)
    except InputError:
        return AS_GIVEN, json.dumps(annotation["segmentation"]).encode()
    if found is None:
        return NONE, b""
    if isinstance(found, Mapping):
        counts = found["counts"]
        return RLE, counts.encode() if isinstance(counts, str) else bytes(counts)
    return _pack_polygons(found)


def _hundredths(polygons: Any, longest: int) -> tuple[int, bytes] | None:
    """Return sound polygons with two decimals packed, or None for anything else that wants a closer look."""
    if not isinstance(polygons, list) or not polygons:
        return None
    numbers = array("i", [len(polygons)])
    try:
        numbers.extend([len(polygon) for polygon in polygons])
        for polygon in polygons:
            if len(polygon) < 6 or len(polygon) % 2 or min(polygon) < -longest or max(polygon) > 2 * longest:
                return None
            hundredths = [round(value * 100) for value in polygon]
            # Dividing gives the double nearest to the decimal number, which is what reading it from JSON gave.
            if [value / 100 for value in hundredths] != polygon:
                return None
            numbers.extend(hundredths)
    except (TypeError, ValueError, OverflowError):
        return None
    return HUNDREDTHS, numbers.tobytes()


def _pack_polygons(polygons: Sequence[np.ndarray[Any, np.dtype[Any]]]) -> tuple[int, bytes]:
    header = np.array([len(polygons), *map(len, polygons)], "<i4").tobytes()
    return DOUBLES, header + np.concatenate(polygons).astype("<f8").tobytes()


def unpack(form: int, content: bytes, height: int, width: int, annotation_id: int) -> Segmentation | None:
    """Return a segmentation again, or None where there is none; a malformed one is an InputError."""
    if form == NONE:
        return None
    if form == RLE:
        return {"size": [height, width], "counts": content}
    if form == AS_GIVEN:
        given = {"id": annotation_id, "segmentation": json.loads(content)}
        return read_segmentation(given, height, width)
    return _unpack_polygons(form, content)


def as_json(form: int, content: bytes, height: int, width: int) -> Any:
    """Return a segmentation as COCO's files have it, a malformed one as it was given; None where there is none."""
    if form == NONE:
        return None
    if form == RLE:
        return {"size": [height, width], "counts": content.decode()}
    if form == AS_GIVEN:
        return json.loads(content)
    return [polygon.tolist() for polygon in _unpack_polygons(form, content)]


def _unpack_polygons(form: int, content: bytes) -> list[np.ndarray[Any, np.dtype[Any]]]:
    count = int(np.frombuffer(content, "<i4", 1)[0])
    lengths = np.frombuffer(content, "<i4", count, offset=4)
    start = 4 + 4 * count
    values = (
        np.frombuffer(content, "<i4", offset=start) / 100
        if form == HUNDREDTHS
        else np.frombuffer(content, "<f8", offset=start)
    )
    return np.split(values, np.cumsum(lengths)[:-1])
