"""Region proposals (arXiv:1506.01497, section 3): where objects may be, whatever they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .anchors import Anchors
from .boxes import are_larger, clip, decode, encode, survivors, wide
from .matching import Truth, match, sample, slots, take
from .normalisers import shared
from .random_keys import random_keys

# Boxes are predicted in units of the anchor's own size.
WEIGHTS = (1.0, 1.0, 1.0, 1.0)

# What random keys are for (see roi_heads.py).
PURPOSE = 1

# Smaller proposals than this, in pixels, are dropped.
SMALLEST = 1e-3


class RPNHead(nn.Module):
    """Convolutions shared by all levels, then objectness and box deltas for each anchor. Keys are torchvision's."""

    def __init__(self, in_channels: int, anchors: int, convs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(in_channels, in_channels, 3, padding=1), nn.ReLU(True)) for _ in range(convs))
        )
        self.cls_logits = nn.Conv2d(in_channels, anchors, 1)
        self.bbox_pred = nn.Conv2d(in_channels, anchors * 4, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return for each level (N, C, H, W) the objectness (N, H x W x A) and the deltas (N, H x W x A, 4)."""
        hidden = [self.conv(x) for x in levels]
        objectness = [self.cls_logits(x).permute(0, 2, 3, 1).flatten(1) for x in hidden]
        deltas = [self.bbox_pred(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4) for x in hidden]
        return objectness, deltas


@dataclass(frozen=True)
class Proposals:
    """Boxes (N, P, 4) in pixels of the batch, and which of them are there (N, P): those first, best first."""

    boxes: Tensor
    present: Tensor


@dataclass(frozen=True)
class Selection:
    """How many boxes of each level go into suppression, and how many of each image come out of it."""

    before: int
    after: int


class RegionProposalNetwork(nn.Module):
    """Head, anchors and the settings of training and of proposing; `thresholds` are for background and for objects."""

    def __init__(
        self,
        head: RPNHead,
        anchors: Anchors,
        *,
        thresholds: tuple[float, float],
        samples: int,
        positive_fraction: float,
        selection_in_training: Selection,
        selection_in_detection: Selection,
        nms_threshold: float,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchors = anchors
        self.thresholds = thresholds
        self.samples = samples
        self.positive_fraction = positive_fraction
        self.selection_in_training = selection_in_training
        self.selection_in_detection = selection_in_detection
        self.nms_threshold = nms_threshold

    def anchors_of(self, levels: Sequence[Tensor], images: Tensor) -> Tensor:
        """Return all anchors (A, 4) for the levels of a batch of images (N, C, H, W)."""
        shapes = [(x.shape[-2], x.shape[-1]) for x in levels]
        found: Tensor = self.anchors(shapes, (images.shape[-2], images.shape[-1]))
        return found

    @torch.no_grad()
    def propose(
        self,
        objectness: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Tensor,
        sizes: Tensor,
        selection: Selection,
    ) -> Proposals:
        """Return the best boxes of each image, clipped to `sizes` (N, 2), without near copies on the same level."""
        scores, boxes, level = self._candidates(objectness, deltas, anchors, selection.before)
        boxes = clip(boxes, sizes)
        images, count = scores.shape
        scores = scores.masked_fill(~are_larger(boxes, SMALLEST), -torch.inf)
        groups = torch.arange(images, device=boxes.device)[:, None] * len(objectness) + level
        kept = survivors(boxes.flatten(0, 1), scores.flatten(), groups.flatten(), self.nms_threshold)
        survived = torch.zeros(images * count, dtype=torch.bool, device=boxes.device).index_fill(0, kept, True)
        ranks = scores.masked_fill(~survived.view(images, count), -torch.inf)
        ranks, index = ranks.topk(min(selection.after, count))
        present = ranks > -torch.inf
        used = slots(present)
        return Proposals(take(boxes, index[:, :used]), present[:, :used])

    def _candidates(
        self, objectness: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Tensor, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (N, K) and boxes (N, K, 4) of the best `count` of each level, and their levels (K,)."""
        scores, boxes, level = [], [], []
        of_levels = torch.split(anchors, [x.shape[1] for x in objectness])
        for i, (logits, moves, places) in enumerate(zip(objectness, deltas, of_levels, strict=True)):
            best, index = wide(logits).topk(min(count, logits.shape[1]))
            scores.append(best)
            boxes.append(decode(take(moves, index), places[index], WEIGHTS))
            level.append(torch.full((index.shape[1],), i, device=anchors.device))
        return torch.cat(scores, dim=1), torch.cat(boxes, dim=1), torch.cat(level)

    def losses(
        self, objectness: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Tensor, truth: Truth
    ) -> dict[str, Tensor]:
        """Return `loss_objectness` and `loss_rpn_box_reg`, over a random sample of the anchors of each image."""
        matches = match(truth, anchors[None])
        low, high = self.thresholds
        positive = (matches.overlaps >= high) | matches.is_best
        keys = random_keys(truth.seeds, torch.arange(len(anchors), device=anchors.device), PURPOSE)
        chosen = sample(positive, ~positive & (matches.overlaps < low), self.samples, self.positive_fraction, keys)
        logits = wide(take(torch.cat(list(objectness), dim=1), chosen.index))
        moves = wide(take(torch.cat(list(deltas), dim=1), chosen.index))
        count = shared(chosen.filled.sum())
        labels = chosen.positive.to(logits.dtype)
        bce = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        objects = take(truth.boxes, take(matches.objects, chosen.index))
        return {
            "loss_objectness": (bce * chosen.filled).sum() / count,
            "loss_rpn_box_reg": box_loss(moves, objects, anchors[chosen.index], chosen.positive, WEIGHTS) / count,
        }


def box_loss(
    deltas: Tensor, truth: Tensor, boxes: Tensor, positive: Tensor, weights: tuple[float, float, float, float]
) -> Tensor:
    """Return the sum of smooth L1 (beta 1/9) over positive boxes (N, K, 4); what the others are does not matter."""
    # The others get their own prediction as truth, which costs nothing; encoding them might have divided by nothing.
    wanted = torch.where(positive[..., None], encode(truth, boxes, weights), deltas.detach())
    return F.smooth_l1_loss(deltas, wanted, beta=1 / 9, reduction="sum")
