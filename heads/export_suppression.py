"""Non-maximum suppression of many groups at once, in the two forms that exported models have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import nms

# From boxes (G, P, 4), scores (G, P) and a threshold to which of them survive in their group, (G, P) bool. Boxes whose
# score is -inf are not there. Coordinates are from 0 to LARGEST.
Suppression = Callable[[Tensor, Tensor, float], Tensor]

# Groups lie so far apart, in pixels, that their boxes cannot overlap: more than the side of any image.
LARGEST = 2.0**20


def by_torchvision(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Suppress within each group, with no other operator than torchvision's `nms`."""
    group, place = (scores > -torch.inf).nonzero(as_tuple=True)
    # In float64 the distance between groups costs no digit.
    apart = boxes[group, place].double() + (group * LARGEST)[:, None]
    kept = nms(apart, scores[group, place].double(), threshold)
    survived = torch.zeros_like(scores, dtype=torch.bool).flatten()
    return survived.index_fill(0, (group * scores.shape[1] + place)[kept], True).view(scores.shape)


@torch.library.custom_op("vertebra::suppress_groups", mutates_args=())
def as_one_operator(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Do the same in one operator, which an exporter replaces: ONNX's own takes groups as they are."""
    return by_torchvision(boxes, scores, threshold)


@as_one_operator.register_fake
def _(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)
