"""RoIAlign over a pyramid with torchvision's operator, which exporters know."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from .pooling import POINTS, RoIAlign


def pool_by_level(pool: RoIAlign, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Do what `pool(levels, boxes)` does: boxes (N, P, 4) to (N x P, C, size, size).

    Boxes are gathered by the level that suits them, pooled there once, and put back in order.
    """
    images, count = boxes.shape[:2]
    image = torch.arange(images, device=boxes.device, dtype=boxes.dtype).repeat_interleave(count)
    rois = torch.cat([image[:, None], boxes.reshape(-1, 4)], dim=1)  # (N x P, 5)
    level = pool._levels(boxes).reshape(-1)
    places = [(level == i).nonzero().squeeze(1) for i in range(len(pool.strides))]
    pooled = [
        roi_align(x, rois[place], pool.size, 1 / stride, sampling_ratio=POINTS)
        for x, place, stride in zip(levels, places, pool.strides, strict=False)  # p6 is for proposals alone
    ]
    order = torch.cat(places)
    back = torch.zeros_like(level).scatter(0, order, torch.arange(order.shape[0], device=boxes.device))
    return torch.cat(pooled)[back]
