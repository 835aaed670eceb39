"""Masks as COCO's files have them, polygons or run-length codes (RLE), and as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ...backbones import InputError
from .cutouts import Cutouts
from .run_lengths import cut_out, read_runs

Array = np.ndarray[Any, np.dtype[Any]]
Rle = Mapping[str, Any]  # `size` [height, width], and `counts`, compressed, as bytes or str
Segmentation = Sequence[Array] | Rle  # polygons as x, y, x, y, …

# A pixel belongs to a mask that is given by probabilities where they are above this, as torchvision and COCO have it.
THRESHOLD = 0.5


def read_segmentation(
    annotation: Mapping[str, Any], height: int, width: int, owner: str | None = None
) -> Segmentation | None:
    """Return an annotation's segmentation in compact form, or None where it has none that gives a mask.

    Polygons of fewer than three points are left out; one that is malformed, or of another image size, is an InputError,
    which names the `owner`, by default the annotation by its id.
    """
    found = annotation.get("segmentation")
    name = f"the segmentation of {owner or 'annotation {}'.format(annotation.get('id'))}"
    try:
        if isinstance(found, Mapping):
            return _read_rle(found, name, height, width)
        polygons = [np.array(polygon, np.float64) for polygon in found or () if len(polygon) >= 6]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} is neither a list of polygons nor an RLE ({error})") from error
    longest = max(height, width)
    for polygon in polygons:
        if polygon.ndim != 1 or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise InputError(f"{name} has a polygon that is not a list of finite x, y, x, y, …")
        # pycocotools walks along each edge, and does not look how long it is.
        if polygon.min() < -longest or polygon.max() > 2 * longest:
            raise InputError(f"{name} has a point further from its image of {width}x{height} than that is long")
    return polygons or None


def _read_rle(found: Rle, name: str, height: int, width: int) -> Rle:
    from pycocotools import mask as coco_mask

    counts, size = found["counts"], list(found["size"])
    if size != [height, width]:
        raise InputError(f"{name} is for an image of (height, width) {size}, its image has {[height, width]}")
    runs = np.array(counts, np.int64) if isinstance(counts, list) else read_runs([counts])[0]
    # pycocotools does not look, and would write past the end of its array.
    if (runs < 0).any() or runs.sum() != height * width:
        raise InputError(f"{name} is damaged: its runs do not add up to the {height * width} pixels of the image")
    if isinstance(counts, list):
        compressed: Rle = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)
        return compressed
    return {"size": size, "counts": counts}


def are_sound(found: Sequence[Any], sizes: Sequence[tuple[Any, Any]]) -> bool:
    """Return whether all are compressed RLE of images of these (height, width), as read_segmentation takes them.

    Sooner than that, for many; which of them is not, it says.
    """
    if not all(
        isinstance(each, Mapping) and isinstance(each.get("counts"), str | bytes) and each.get("size") == [*size]
        for each, size in zip(found, sizes, strict=True)
    ):
        return False
    try:
        runs, lengths = read_runs([each["counts"] for each in found])
    except ValueError:
        return False
    starts = np.cumsum(lengths) - lengths
    pixels = np.add.reduceat(runs, starts) if len(starts) else starts
    return bool((runs >= 0).all() and (pixels == [height * width for height, width in sizes]).all())


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


def compact(segmentations: Sequence[Segmentation], height: int, width: int) -> Cutouts:
    """Return the same masks as `decode`, each in the window that holds it; the rest of the image is never made."""
    return cut_out(*read_runs([rle_of(each, height, width)["counts"] for each in segmentations]), (height, width))


def encode(masks: Tensor | Sequence[Rle]) -> list[dict[str, Any]]:
    """Return a model's masks, dense probabilities (D, 1, H, W) or RLE, as JSON has them: `counts` as str."""
    from pycocotools import mask as coco_mask

    if isinstance(masks, Tensor):
        solid = (masks[:, 0] > THRESHOLD).cpu().numpy().astype(np.uint8)
        masks = [coco_mask.encode(np.asfortranarray(mask)) for mask in solid]
    return [{"size": [int(side) for side in rle["size"]], "counts": _text(rle["counts"])} for rle in masks]


def _text(counts: str | bytes) -> str:
    return counts if isinstance(counts, str) else counts.decode()
