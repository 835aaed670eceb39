"""Masks as COCO's files have them, polygons or run-length codes (RLE), and as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ...backbones import InputError

Array = np.ndarray[Any, np.dtype[Any]]
Rle = Mapping[str, Any]  # `size` [height, width], and `counts`, compressed, as bytes or str
Segmentation = Sequence[Array] | Rle  # polygons as x, y, x, y, …

# A pixel belongs to a mask that is given by probabilities where they are above this, as torchvision and COCO have it.
THRESHOLD = 0.5


def read_segmentation(annotation: Mapping[str, Any], height: int, width: int) -> Segmentation | None:
    """Return an annotation's segmentation in compact form, or None where it has none that gives a mask.

    Polygons of fewer than three points are left out; one that is malformed, or of another image size, is an InputError.
    """
    found = annotation.get("segmentation")
    name = f"the segmentation of annotation {annotation.get('id')}"
    try:
        if isinstance(found, Mapping):
            return _read_rle(found, name, height, width)
        polygons = [np.array(polygon, np.float64) for polygon in found or () if len(polygon) >= 6]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} is neither a list of polygons nor an RLE ({error})") from error
    for polygon in polygons:
        if polygon.ndim != 1 or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise InputError(f"{name} has a polygon that is not a list of finite x, y, x, y, …")
    return polygons or None


def _read_rle(found: Rle, name: str, height: int, width: int) -> Rle:
    from pycocotools import mask as coco_mask

    counts, size = found["counts"], list(found["size"])
    if size != [height, width]:
        raise InputError(f"{name} is for an image of (height, width) {size}, its image has {[height, width]}")
    runs = np.array(counts, np.int64) if isinstance(counts, list) else _runs(counts)
    # pycocotools does not look, and would write past the end of its array.
    if (runs < 0).any() or runs.sum() != height * width:
        raise InputError(f"{name} is damaged: its runs do not add up to the {height * width} pixels of the image")
    if isinstance(counts, list):
        compressed: Rle = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)
        return compressed
    return {"size": size, "counts": counts}


def _runs(counts: str | bytes) -> Array:
    """Return the lengths of the runs in a compressed RLE.

    Each number has five bits a character, lowest first, with bit 5 where more follow; from the fourth number on it is
    the difference to the last but one.
    """
    codes = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    last = (codes & 32) == 0
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not last[-1]:
        raise ValueError("its counts are no compressed RLE")
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    place = np.arange(len(codes)) - np.repeat(starts, np.diff([*starts, len(codes)]))
    if place.max() > 8:  # a run of more than 2^40 pixels
        raise ValueError("its counts are no compressed RLE")
    runs = np.add.reduceat((codes & 31) << 5 * place, starts)
    runs -= np.where(codes[last] & 16, 1 << 5 * (place[last] + 1), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return np.asarray(runs)


def rle_of(segmentation: Segmentation, height: int, width: int) -> Rle:
    """Return a segmentation as one compressed RLE, as pycocotools makes it of polygons."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, Mapping):
        return segmentation
    merged: Rle = coco_mask.merge(coco_mask.frPyObjects(list(segmentation), height, width))
    return merged


def decode(segmentations: Sequence[Segmentation], height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return masks (N, height, width) of 0 and 1."""
    from pycocotools import mask as coco_mask

    masks = np.empty((len(segmentations), height, width), np.uint8)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        mask[:] = coco_mask.decode(rle_of(segmentation, height, width))
    return masks


def encode(masks: Tensor | Sequence[Rle]) -> list[dict[str, Any]]:
    """Return a model's masks, dense probabilities (D, 1, H, W) or RLE, as JSON has them: `counts` as str."""
    from pycocotools import mask as coco_mask

    if isinstance(masks, Tensor):
        solid = (masks[:, 0] > THRESHOLD).cpu().numpy().astype(np.uint8)
        masks = [coco_mask.encode(np.asfortranarray(mask)) for mask in solid]
    return [{"size": [int(side) for side in rle["size"]], "counts": _text(rle["counts"])} for rle in masks]


def _text(counts: str | bytes) -> str:
    return counts if isinstance(counts, str) else counts.decode()


def resize_masks(masks: Array, height: int, width: int) -> Array:
    """Return masks (N, h, w) at another size: each pixel is that of the nearest one, by the centres of pixels.

    OpenCV's nearest takes corners, which would shift masks against pixels that are resized bilinearly.
    """
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip((height, width), masks.shape[-2:], strict=True)
    )
    resized: Array = masks.take(rows, axis=-2).take(columns, axis=-1)
    return resized
