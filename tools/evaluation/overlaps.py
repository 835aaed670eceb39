"""Which detections touch which objects of their image, of any class, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .boundary import mask_boundary

Array = np.ndarray[Any, np.dtype[Any]]

# So many pairs of boxes at a time need about 100 MB.
PAIRS = 1_000_000


@dataclass(frozen=True)
class Overlaps:
    """Pairs of a detection and an object whose overlap is not 0, all (P,): their rows, and the IoU.

    Ordered by detection, then object. For an object that is a crowd it is the share of the detection that lies in it,
    as COCO has it.
    """

    found: Array
    truth: Array
    iou: Array

    def take(self, chosen: Array) -> Overlaps:
        """Return some of the pairs, by index or as a mask (P,) of bool."""
        return Overlaps(self.found[chosen], self.truth[chosen], self.iou[chosen])

    def preferred(self, *keys: Array) -> Overlaps:
        """Return the pairs with those of a detection in the order of `keys`, the first key first."""
        return self.take(np.lexsort((*reversed(keys), self.found)))

    def first(self, count: int) -> tuple[Array, Array]:
        """Return of the first pair of each of `count` detections the IoU, 0 without one, and the object, -1 then."""
        iou, truth = np.zeros(count), np.full(count, -1, np.int64)
        rows, at = np.unique(self.found, return_index=True)
        iou[rows], truth[rows] = self.iou[at], self.truth[at]
        return iou, truth


@dataclass(frozen=True)
class Side:
    """One side of the pairs: records as COCO has them, which of them count, (N,) bool, and the row of their image."""

    records: Sequence[dict[str, Any]]
    chosen: Array
    image: Array

    def by_image(self, images: int) -> tuple[Array, Array]:
        """Return the chosen rows by image, and (images + 1,) where each image's begin."""
        rows = np.flatnonzero(self.chosen)
        rows = rows[np.argsort(self.image[rows], kind="stable")]
        return rows, np.searchsorted(self.image[rows], np.arange(images + 1))


def overlaps(found: Side, truth: Side, crowd: Array, images: int, kind: str) -> Overlaps:
    """Return all pairs of the images, by the IoU of their boxes, masks (`segm`), or masks and boundaries (`boundary`).

    crowd: of the objects, bool. Boundary IoU (arXiv:2103.16562) is the lower of the IoU of masks and of boundaries;
    that of a crowd is the masks'.
    """
    if kind == "bbox":
        return _joined(_box_pairs(found, truth, crowd, images))
    pairs = _joined(_mask_pairs(found, truth, crowd, images))
    if kind == "segm":
        return pairs
    edges = _joined(_mask_pairs(_outlined(found), _outlined(truth), crowd, images))
    return _least(pairs, edges, crowd)


def box_array(records: Sequence[dict[str, Any]]) -> Array:
    """Return the boxes, (N, 4) float64: x, y, width, height."""
    return np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)


def _box_pairs(found: Side, truth: Side, crowd: Array, images: int) -> Iterator[Overlaps]:
    boxes, objects = box_array(found.records), box_array(truth.records)
    rows, _ = found.by_image(images)
    others, other_starts = truth.by_image(images)
    per_row = np.diff(other_starts)[found.image[rows]]
    for part in np.split(np.arange(len(rows)), _cuts(per_row)):
        first, second = _ragged(rows[part], per_row[part], others, other_starts[found.image[rows[part]]])
        yield _touching(first, second, _box_iou(boxes[first], objects[second], crowd[second]))


def _cuts(sizes: Array) -> Array:
    """Return where to cut so that each part has about PAIRS pairs."""
    part = np.cumsum(sizes) // PAIRS
    cuts: Array = np.flatnonzero(np.diff(part)) + 1
    return cuts


def _ragged(rows: Array, sizes: Array, others: Array, starts: Array) -> tuple[Array, Array]:
    """Return each row so often as its size says, and beside it as many of the others, from its start on."""
    before = np.cumsum(sizes) - sizes
    within = np.arange(sizes.sum()) - np.repeat(before, sizes)
    return np.repeat(rows, sizes), others[np.repeat(starts, sizes) + within]


def _box_iou(found: Array, truth: Array, crowd: Array) -> Array:
    """Return the IoU of boxes (P, 4) beside each other, in the steps of pycocotools, so that it is equal to the bit."""
    sides = np.minimum(found[:, :2] + found[:, 2:], truth[:, :2] + truth[:, 2:]) - np.maximum(
        found[:, :2], truth[:, :2]
    )
    inside = sides[:, 0] * sides[:, 1]
    area = found[:, 2] * found[:, 3]
    union = np.where(crowd, area, area + truth[:, 2] * truth[:, 3] - inside)
    touching = (sides > 0).all(axis=1)
    iou: Array = np.divide(inside, union, out=np.zeros(len(inside)), where=touching)
    return iou


def _mask_pairs(found: Side, truth: Side, crowd: Array, images: int) -> Iterator[Overlaps]:
    from pycocotools import mask as coco_mask

    rows, starts = found.by_image(images)
    others, other_starts = truth.by_image(images)
    for image in np.flatnonzero((np.diff(starts) > 0) & (np.diff(other_starts) > 0)):
        first = rows[starts[image] : starts[image + 1]]
        second = others[other_starts[image] : other_starts[image + 1]]
        masks, objects = (
            [side.records[row]["segmentation"] for row in some] for side, some in ((found, first), (truth, second))
        )
        iou = coco_mask.iou(masks, objects, crowd[second].tolist())
        yield _touching(np.repeat(first, len(second)), np.tile(second, len(first)), iou.ravel())


def _outlined(side: Side) -> Side:
    records = [
        {"segmentation": mask_boundary(record["segmentation"])} if chosen else record
        for record, chosen in zip(side.records, side.chosen, strict=True)
    ]
    return Side(records, side.chosen, side.image)


def _least(masks: Overlaps, edges: Overlaps, crowd: Array) -> Overlaps:
    """Return the pairs of masks with the lower IoU of both; where edges do not touch it is 0, and the pair goes."""
    width = len(crowd)
    of_masks, of_edges = (pairs.found * width + pairs.truth for pairs in (masks, edges))
    at = np.searchsorted(of_edges, of_masks)
    both = np.isin(of_masks, of_edges)
    iou = np.zeros(len(of_masks))
    iou[both] = np.minimum(masks.iou[both], edges.iou[at[both]])
    iou = np.where(crowd[masks.truth], masks.iou, iou)
    return _touching(masks.found, masks.truth, iou)


def _touching(found: Array, truth: Array, iou: Array) -> Overlaps:
    return Overlaps(found, truth, iou).take(iou > 0)


def _joined(parts: Iterator[Overlaps]) -> Overlaps:
    nothing = Overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    pairs = [nothing, *parts]
    found, truth, iou = (np.concatenate([getattr(p, name) for p in pairs]) for name in ("found", "truth", "iou"))
    joined = Overlaps(found, truth, iou)
    return joined.take(np.lexsort((joined.truth, joined.found)))
