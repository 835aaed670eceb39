"""Boundary IoU (arXiv:2103.16562): the IoU of what lies near the edges of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def boundary_width(size: tuple[int, ...], ratio: float) -> int:
    """Return how many pixels wide the boundary of a class is in an image: a share of its diagonal, 1 or more."""
    return max(1, round(ratio * math.hypot(*size)))


def boundary_region(labels: Array, counted: Array, width: int) -> Array:
    """Return (H, W), bool: the pixels of each class that erosion by `width` pixels, 3x3 each time, takes from it.

    labels: (H, W), uint8 or uint16. Outside of the image is no class, so that a class has a boundary there too. Pixels
    that are not `counted` (H, W), bool, are in no boundary and make none: a class does not end at them.
    """
    import cv2

    # Erosion of every class at once: a pixel stays if the lowest and the highest class around it are the same.
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    lowest = cv2.erode(np.where(counted, labels, np.iinfo(labels.dtype).max).astype(labels.dtype), window)
    highest = cv2.dilate(np.where(counted, labels, 0).astype(labels.dtype), window)
    region = lowest != highest
    region[:width] = region[-width:] = True
    region[:, :width] = region[:, -width:] = True
    return np.asarray(region & counted)


def boundary_counts(truth: Array, found: Array, counted: Array, *, classes: int, ratio: float) -> Array:
    """Return (2, classes), int64: the intersection and the union of both maps' boundaries, in pixels, by class.

    truth, found: (H, W), integers, in 0..classes-1 where `counted` (H, W), bool, holds.
    """
    small = np.uint8 if classes <= 256 else np.uint16
    truth, found = truth.astype(small), found.astype(small)
    width = boundary_width(truth.shape, ratio)
    of_truth, of_found = boundary_region(truth, counted, width), boundary_region(found, counted, width)
    shared, *alone = (
        np.bincount(labels[region], minlength=classes)
        for labels, region in ((truth, of_truth & of_found & (truth == found)), (truth, of_truth), (found, of_found))
    )
    return np.stack([shared, sum(alone) - shared])


def mask_boundary(rle: Mapping[str, Any], ratio: float = 0.02) -> dict[str, Any]:
    """Return the boundary of a mask, RLE both: its pixels within `ratio` x the diagonal of what is not the mask."""
    from pycocotools import mask as coco_mask

    mask = coco_mask.decode(rle)
    edge = boundary_region(mask, np.ones(mask.shape, bool), boundary_width(mask.shape, ratio)) & (mask > 0)
    found: dict[str, Any] = coco_mask.encode(np.asfortranarray(edge, np.uint8))
    return found
