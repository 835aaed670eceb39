"""Boxes and masks against their image, and against each other. Boxes are x, y, width, height in pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....backbones import InputError
from ..masks import Segmentation, read_segmentation
from ..sets import Array
from .kinds import APART, APART_SHARE, FAR
from .records import Box, is_number

Size = tuple[int, int]  # height, width


def clipped(box: Box, size: Size) -> Box | None:
    """Return the part of a box that lies in an image, or None where that has no area."""
    x, y, width, height = box
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + width, size[1]), min(y + height, size[0])
    # A box inside stays as it is, to the bit.
    inside = box if (x1, y1, x2, y2) == (x, y, x + width, y + height) else (x1, y1, x2 - x1, y2 - y1)
    return inside if width > 0 and height > 0 and inside[2] > 0 and inside[3] > 0 else None


def reach(box: Box, size: Size) -> float:
    """Return how many pixels a box reaches out of an image, 0 where it lies within."""
    x, y, width, height = box
    return max(0.0, -x, -y, x + width - size[1], y + height - size[0])


def agree(box: Box, other: Box) -> bool:
    """Return whether each side of a box lies near that of the other."""
    apart = max(abs(a - b) for a, b in zip(_corners(box), _corners(other), strict=True))
    return apart <= max(APART, APART_SHARE * max(*box[2:], *other[2:]))


def _corners(box: Box) -> Box:
    x, y, width, height = box
    return x, y, x + width, y + height


@dataclass(frozen=True)
class Mask:
    """What an annotation's segmentation gives: the mask and its box, or why it gives none; neither where it has none.

    short: how many of its polygons have fewer than three points.
    """

    segmentation: Segmentation | None = None
    box: Box | None = None
    flaw: str = ""
    short: int = 0

    def area(self) -> float:
        """Return its area in pixels: that of its polygons, or its number of pixels; 0 where there is none."""
        from pycocotools import mask as coco_mask

        if self.segmentation is None:
            return 0.0
        if isinstance(self.segmentation, Mapping):
            return float(coco_mask.area(self.segmentation))
        return sum(_polygon_area(polygon[0::2], polygon[1::2]) for polygon in self.segmentation)


def read_mask(annotation: Mapping[str, Any], size: Size) -> Mask:
    """Return the mask of an annotation of an image, as training would read it."""
    value = annotation.get("segmentation")
    if not value and (value is None or isinstance(value, list)):
        return Mask()
    if not isinstance(value, (list, dict)):
        return Mask(flaw="is neither a list of polygons nor a run-length code")
    few = (
        [polygon for polygon in value if not isinstance(polygon, list) or len(polygon) < 6]
        if isinstance(value, list)
        else []
    )
    if not all(map(is_short, few)):
        return Mask(flaw="is not a list of polygons, each a list of x, y, x, y, …")
    try:
        segmentation = read_segmentation({"id": annotation.get("id"), "segmentation": value}, *size)
        box = None if segmentation is None else _box_of(segmentation, size)
    except InputError as error:
        return Mask(flaw=str(error).partition(f"annotation {annotation.get('id')} ")[2] or str(error), short=len(few))
    except Exception as error:  # what else its C code says of lists that no one thought of
        return Mask(flaw=f"cannot be read ({error})", short=len(few))
    if segmentation is not None and box is None:
        return Mask(flaw="has no pixels in the image, or lies far out of it", short=len(few))
    return Mask(segmentation, box, short=len(few))


def is_short(polygon: Any) -> bool:
    """Return whether this is a polygon of fewer than three points."""
    return isinstance(polygon, list) and len(polygon) < 6 and all(map(is_number, polygon))


def _box_of(segmentation: Segmentation, size: Size) -> Box | None:
    """Return the box of a mask's part in the image: of polygons by their points, of a run-length code by its pixels."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, Mapping):
        x, y, width, height = map(float, coco_mask.toBbox(segmentation))
    else:
        points = np.concatenate(segmentation)
        x, y = float(points[0::2].min()), float(points[1::2].min())
        width, height = float(points[0::2].max()) - x, float(points[1::2].max()) - y
        # pycocotools walks along the outline in steps of a fifth of a pixel, and takes memory for each.
        if reach((x, y, width, height), size) > FAR * max(size):
            return None
    return clipped((x, y, width, height), size)


def _polygon_area(x: Array, y: Array) -> float:
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
