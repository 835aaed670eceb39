"""Box arithmetic, on tensors of any leading shape (..., 4), xyxy, always in float32 or wider."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

# No box grows more than 62.5 times in one go, so that exp cannot overflow (as all R-CNN code since the authors').
LARGEST_GROWTH = log(1000 / 16)

Weights = tuple[float, float, float, float]


def wide(x: Tensor) -> Tensor:
    """Return at least float32: autocast's short types cannot tell pixels apart beyond 256."""
    return x if x.dtype == torch.float64 else x.float()


def centres_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres (..., 2) and sizes (..., 2), x before y."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sizes, sizes


def encode(truth: Tensor, boxes: Tensor, weights: Weights) -> Tensor:
    """Return what to predict for `boxes` so that they become `truth` (arXiv:1311.2524, appendix C), times weights."""
    centres, sizes = centres_and_sizes(boxes)
    true_centres, true_sizes = centres_and_sizes(truth)
    deltas = torch.cat([(true_centres - centres) / sizes, torch.log(true_sizes / sizes)], dim=-1)
    return deltas * deltas.new_tensor(weights)


def decode(deltas: Tensor, boxes: Tensor, weights: Weights) -> Tensor:
    """Move and resize boxes by predicted deltas: the inverse of `encode`."""
    deltas = wide(deltas)
    deltas = deltas / deltas.new_tensor(weights)
    centres, sizes = centres_and_sizes(boxes.to(deltas.dtype))
    centres = deltas[..., :2] * sizes + centres
    sizes = torch.exp(deltas[..., 2:].clamp(max=LARGEST_GROWTH)) * sizes
    return torch.cat([centres - 0.5 * sizes, centres + 0.5 * sizes], dim=-1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes (N, ..., 4) to images of `sizes` (N, 2), height before width."""
    limits = sizes.flip(-1).repeat(1, 2).to(boxes.dtype)  # (N, 4): width, height, width, height
    limits = limits.reshape(limits.shape[0], *[1] * (boxes.ndim - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limits)


def are_larger(boxes: Tensor, side: float) -> Tensor:
    """Say of each box whether both its sides are at least `side`."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= side).all(dim=-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of (N, A, 4) with (N, B, 4), or (1, B, 4) for all: (N, A, B)."""
    a, b = first[:, :, None].unbind(-1), second[:, None].unbind(-1)
    width = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])).clamp_(min=0)
    height = (torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])).clamp_(min=0)
    overlap = width.mul_(height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = (areas[0] + areas[1]).sub_(overlap)
    return overlap.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def survivors(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Suppress non-maxima within each group and return the indices of the rest, best first.

    boxes: (M, 4). scores, groups: (M,). On a GPU the host waits here, once.
    """
    suppress = batched_nms if boxes.device.type == "cpu" else suppress_at_once
    kept: Tensor = suppress(boxes, scores, groups, threshold)
    return kept


def suppress_at_once(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Do what `batched_nms` does, in one kernel however many boxes and groups there are."""
    # Groups far apart; in float64, so that their distance costs no digit.
    apart = boxes.double()
    apart = apart + (groups * (apart.max() - apart.min() + 1)).unsqueeze(-1)
    kept: Tensor = nms(apart, scores.double(), threshold)
    return kept
