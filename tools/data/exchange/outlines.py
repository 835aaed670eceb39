"""Masks as outlines: the polygons around their pixels, and all of them as one, for formats of one polygon an object."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ..masks import Segmentation, decode
from ..sets import Array

Point = tuple[int, int]


def outlines(mask: Array) -> list[Array]:
    """Return the borders of a mask (H, W) as closed polygons of points (N, 2) x, y along the edges of its pixels.

    Holes have polygons of their own; filled by the even-odd rule, all together give the mask.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    corner = np.array((columns[0], rows[0]))  # most objects are small: only what is around them is looked at
    inside = np.pad(np.asarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], bool), 1)
    here = inside[1:-1, 1:-1]
    # Of each pixel of the mask the sides that border on others, walked with the mask on the right.
    sides = (
        (here & ~inside[:-2, 1:-1], (0, 0), (1, 0)),  # above it
        (here & ~inside[1:-1, 2:], (1, 0), (1, 1)),  # to its right
        (here & ~inside[2:, 1:-1], (1, 1), (0, 1)),  # below it
        (here & ~inside[1:-1, :-2], (0, 1), (0, 0)),  # to its left
    )
    leading: dict[Point, list[Point]] = defaultdict(list)
    for border, (x1, y1), (x2, y2) in sides:
        for row, column in np.argwhere(border).tolist():
            leading[column + x1, row + y1].append((column + x2, row + y2))
    found = []
    while leading:
        start = next(iter(leading))
        ring, at = [start], _step(leading, start)
        while at != start:
            ring.append(at)
            at = _step(leading, at)
        found.append(_corners(np.array(ring, np.float64)) + corner)
    return found


def _step(leading: dict[Point, list[Point]], at: Point) -> Point:
    ends = leading[at]
    end = ends.pop()
    if not ends:
        del leading[at]
    return end


def _corners(ring: Array) -> Array:
    """Leave out the points of a ring at which it goes straight on."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns: Array = ring[(before != after).any(axis=1)]
    return turns


def joined(polygons: Sequence[Array]) -> Array:
    """Return one polygon (N, 2) that covers what several do by the even-odd rule.

    Each further one is reached, and left, by one bridge without width between the nearest points.
    """
    whole = polygons[0]
    for polygon in polygons[1:]:
        distances = ((whole[:, None] - polygon[None]) ** 2).sum(axis=-1)
        near, there = np.unravel_index(int(distances.argmin()), distances.shape)
        around = np.concatenate([polygon[there:], polygon[: there + 1]])
        whole = np.concatenate([whole[: near + 1], around, whole[near:]])
    return whole


def one_polygon(segmentation: Segmentation, height: int, width: int) -> Array:
    """Return the outline of an object as one polygon of points (N, 2) x, y; of an empty mask it has no points."""
    if isinstance(segmentation, Mapping):
        polygons = outlines(decode([segmentation], height, width)[0])
    else:
        polygons = [np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in segmentation]
    return joined(polygons) if polygons else np.zeros((0, 2))
