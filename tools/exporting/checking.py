"""Whether an exported file finds what its model finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from ...backbones import InputError
from ..settings import Data
from ..sources import SPLITS, open_split

Found = Mapping[str, Any]

# Two detections of one class are the same if they overlap by more than this, and their scores differ by less than that.
SAME, NEAR = 0.9, 0.01


def example_image(data: Data, keys: Sequence[str], channels: int) -> tuple[Tensor, str]:
    """Return an image (C, H, W) to check with, and what it is: the first of the data set, else one made at random."""
    for split in (SPLITS[1], SPLITS[0]):
        try:
            images = open_split(data, split, keys).images
            return torch.from_numpy(images[0].read()).permute(2, 0, 1), images[0].path.name
        except (InputError, OSError, IndexError):  # data is not needed to export
            continue
    coarse = torch.rand(1, channels, 12, 16, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(480, 640), mode="bicubic")[0].clamp(0, 1), "an image made at random"


def difference(expected: Sequence[Found], found: Sequence[Found]) -> tuple[bool, str]:
    """Compare what a model and its file found in the same images: whether it is the same, and how far apart it is."""
    key = next(key for key in DIFFERENCES if key in expected[0])
    return DIFFERENCES[key](list(zip(expected, found, strict=True)))


def _of_detections(pairs: Sequence[tuple[Found, Found]]) -> tuple[bool, str]:
    """Match each detection of the model with the nearest of the file; few may differ where scores are all but equal."""
    total = sum(len(pair[0]["labels"]) for pair in pairs)
    counts = sum(len(pair[1]["labels"]) for pair in pairs)
    matched, boxes, scores, masks = 0, 0.0, 0.0, 1.0
    for expected, found in pairs:
        if not len(expected["labels"]) or not len(found["labels"]):
            continue
        alike = (expected["labels"][:, None] == found["labels"]) & (
            (expected["scores"][:, None] - found["scores"]).abs() < NEAR
        )
        overlap, which = torch.where(alike, box_iou(expected["boxes"], found["boxes"]), 0.0).max(dim=1)
        same = overlap > SAME
        matched += int(same.sum())
        if not bool(same.any()):
            continue
        boxes = max(boxes, float((expected["boxes"] - found["boxes"][which])[same].abs().max()))
        scores = max(scores, float((expected["scores"] - found["scores"][which])[same].abs().max()))
        if "masks" in expected:
            masks = min(masks, *(_mask_iou(expected["masks"][i], found["masks"][int(which[i])])
                                 for i in same.nonzero().flatten().tolist()))  # fmt: skip
    text = (
        f"{matched} of {total} detections ({counts} in the file), boxes within {boxes:.1e} pixels, scores {scores:.1e}"
    )
    if pairs and "masks" in pairs[0][0]:
        text += f", IoU of masks at least {masks:.4f}"
    return matched >= 0.95 * total and abs(counts - total) <= 0.05 * total, text


def _mask_iou(first: Any, second: Any) -> float:
    from pycocotools import mask as coco_mask

    union = float(coco_mask.area(coco_mask.merge([first, second])))
    return float(coco_mask.area(coco_mask.merge([first, second], intersect=True))) / union if union else 1.0


def _of_pixels(pairs: Sequence[tuple[Found, Found]]) -> tuple[bool, str]:
    wrong = sum(int((expected["semantic"] != found["semantic"]).sum()) for expected, found in pairs)
    pixels = sum(expected["semantic"].numel() for expected, _ in pairs)
    return wrong <= 0.01 * pixels, f"{wrong} of {pixels} pixels of another class"


def _of_scores(pairs: Sequence[tuple[Found, Found]]) -> tuple[bool, str]:
    largest = max(float((expected["scores"] - found["scores"]).abs().max()) for expected, found in pairs)
    return largest < NEAR, f"scores within {largest:.1e}"


# By a key that only results of that kind have.
DIFFERENCES: Mapping[str, Callable[[Sequence[tuple[Found, Found]]], tuple[bool, str]]] = {
    "boxes": _of_detections,
    "semantic": _of_pixels,
    "label": _of_scores,
}
