"""From a mask head's small square of probabilities to a mask of the image: dense, or straight to COCO's run lengths.

Both mean what torchvision's detectors mean. A mask of M x M probabilities gets a ring of zeros, its box grows by the
same share and is cut to whole pixels, and the mask is stretched over it bilinearly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..backbones import InputError

Array = npt.NDArray[Any]

# Objects whose run lengths are found together: few enough that their arrays stay in the processor's cache.
AT_ONCE = 8


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the probabilities of each object in the whole image, (D, 1, H, W) float.

    masks: (D, M, M) probabilities. boxes: (D, 4) xyxy in pixels of the image. size: (H, W). Beside the result it needs
    less than 16 * D * M * (H + W) bytes; all are pasted at once, on any device.
    """
    _check(masks, boxes)
    first, side = _whole_pixels(boxes, masks.shape[-1])
    columns, rows = (_weights(first[:, i], side[:, i], size[1 - i], masks.shape[-1]) for i in (0, 1))
    with torch.autocast(masks.device.type, enabled=False):  # in half precision outlines would shift by pixels
        return (rows @ masks.float() @ columns.mT)[:, None]


def to_rle(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> list[dict[str, Any]]:
    """Return `paste(masks, boxes, size) > threshold` as COCO's compressed run lengths, {"size": [H, W], "counts": …}.

    masks: (D, M, M) probabilities. boxes: (D, 4) xyxy in pixels of the image. size: (H, W). threshold: at least 0.
    Equal to encoding the dense masks, but for pixels whose probability is the threshold up to rounding. The image is
    never made: along a column of it the probability is a straight line from one of the mask's rows to the next, so it
    is known where it crosses the threshold. Works on the CPU, on a few objects at a time.
    """
    from pycocotools import mask as coco_mask  # here, as models without masks do not need it

    _check(masks, boxes)
    if not threshold >= 0:
        raise InputError(
            f"threshold={threshold}; it is at least 0, as everything outside of the boxes has probability 0"
        )
    if not len(masks):
        return []
    first, side = (each.cpu().numpy() for each in _whole_pixels(boxes.detach(), masks.shape[-1]))
    probabilities = masks.detach().cpu().float().numpy()
    if not np.isfinite(probabilities).all():
        raise InputError("masks must be finite; drop those that are not")
    level = np.float32(threshold)  # as torch compares
    runs = []
    for start in range(0, len(masks), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        found = _crossings(probabilities[part], first[part], side[part], size, level)
        runs += [{"size": list(size), "counts": _run_lengths(each, size[0] * size[1])} for each in found]
    compressed: list[dict[str, Any]] = coco_mask.frPyObjects(runs, *size)
    return compressed


def _check(masks: Tensor, boxes: Tensor) -> None:
    if masks.ndim != 3 or masks.shape[1] != masks.shape[2] or boxes.shape != (len(masks), 4):
        raise InputError(
            f"masks have shape {tuple(masks.shape)} and boxes {tuple(boxes.shape)}; (D, M, M) and (D, 4) are expected"
        )
    if not bool((boxes.isfinite().all(dim=1) & (boxes[:, 2:] >= boxes[:, :2]).all(dim=1)).all()):
        raise InputError("boxes must be finite, and xyxy with x1 <= x2 and y1 <= y2; drop those that are not")


def _whole_pixels(boxes: Tensor, mask_side: int) -> tuple[Tensor, Tensor]:
    """Return the grown boxes' first pixels (x, y) and sides (width, height) in pixels, both (D, 2) int64."""
    centre = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * ((mask_side + 2) / mask_side)
    first, last = (centre - half).long(), (centre + half).long()  # cut towards zero, as torchvision does
    return first, last - first + 1


def _weights(first: Tensor, side: Tensor, length: int, mask_side: int) -> Tensor:
    """Return (D, length, mask_side): what each of the mask's rows gives to each of the image's, or columns."""
    scale = (mask_side + 2) / side
    pixels = torch.arange(length, device=first.device)
    at = (pixels - first[:, None] + 0.5) * scale[:, None] - 0.5  # (D, length), where 0 is the ring before the mask
    nodes = torch.arange(1, mask_side + 1, device=first.device)
    return (1 - (at[..., None] - nodes).abs()).clamp(min=0)


def _crossings(masks: Array, first: Array, side: Array, size: tuple[int, int], threshold: np.float32) -> list[Array]:
    """Return for each object where it begins and ends along the image's columns: positions x * H + y, ascending.

    Each column of a mask has an even number of them: it begins and ends with the ring, not above the threshold.
    """
    nodes = masks.shape[-1] + 2
    begin, end = np.maximum(first[:, 0], 0), np.minimum(first[:, 0] + side[:, 0], size[1])
    counts = np.maximum(end - begin, 0)
    # The columns of all boxes in a row, C together.
    of = np.repeat(np.arange(len(masks)), counts)
    x = np.arange(len(of)) + (begin + counts - counts.cumsum()).take(of)
    at = (x - first[:, 0].take(of) + 0.5) * (nodes / side[:, 0]).take(of) - 0.5
    at = at.clip(0, nodes - 1)
    left = at.astype(np.int64).clip(max=nodes - 2)
    columns = np.pad(masks.swapaxes(1, 2), ((0, 0), (1, 1), (1, 1))).reshape(-1, nodes)
    values = columns.take(of * nodes + left, axis=0)
    values += (columns.take(of * nodes + left + 1, axis=0) - values) * (at - left).astype(np.float32)[:, None]

    values = values.reshape(-1)  # (C * nodes,)
    above = values > threshold
    # None of them lies between two columns, as both have the ring there.
    index = np.flatnonzero(above[1:] != above[:-1])
    column, node = np.divmod(index, nodes)
    before, after = values.take(index).astype(np.float64), values.take(index + 1)
    y = node + (threshold - before) / (after - before)
    y = (y + 0.5) * (side[:, 1] / nodes).take(of).take(column) - 0.5
    # The first pixel above the threshold, or the first that no longer is.
    y = np.where(above.take(index), np.ceil(y), np.floor(y) + 1).astype(np.int64)
    y += first[:, 1].take(of).take(column)
    positions = x.take(column) * size[0] + y.clip(0, size[0])
    # Column c's values begin at c * nodes.
    return np.split(positions, np.searchsorted(index, counts.cumsum()[:-1] * nodes))


def _run_lengths(positions: Array, pixels: int) -> Array:
    """Return how many pixels are outside, inside, outside, … between ascending positions."""
    edges = np.concatenate(([-1], positions, [pixels]))
    # Two crossings at one place are a run without pixels, or the next column's that goes on: they cancel.
    new = np.flatnonzero(np.diff(edges))
    odd = np.diff(new) % 2 == 1
    kept = edges[1:][new[:-1]][odd]
    return np.diff(np.concatenate(([0], kept, [pixels])))
