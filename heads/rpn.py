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
from .pooling import Cells
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
        deltas = [self.bbox_pred(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for x in hidden]
        return objectness, deltas

    def at(self, cells: Cells, places: Places) -> tuple[Tensor, Tensor]:
        """Return the objectness (M,) and the deltas (M, 4) of some anchors alone, as `forward` has them.

        A loss over a few hundred anchors of a hundred thousand has a gradient in these alone. So what lies around each
        goes through the convolutions by itself, and backward there is nothing to do for all other cells.
        """
        x, inside = self._around(cells, places)  # (M, S, S, C), (M, S, S, 1)
        for conv in self._convolutions():
            windows = x.unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)  # (M, S - 2, S - 2, C * 9)
            inside = inside[:, 1:-1, 1:-1]
            x = F.linear(windows, conv.weight.flatten(1), conv.bias).relu()
            x = x * inside  # padding is zeros for each of the convolutions
        x = x.flatten(1)
        objectness = F.linear(x, self.cls_logits.weight.flatten(1), self.cls_logits.bias)  # (M, A)
        deltas = F.linear(x, self.bbox_pred.weight.flatten(1), self.bbox_pred.bias)  # (M, A * 4)
        own = torch.arange(len(x), device=x.device), places.anchor
        return objectness[own], deltas.view(len(x), -1, 4)[own]

    def apart_is_less(self, levels: Sequence[Tensor], count: int) -> bool:
        """Say whether `at` for `count` anchors is less work than to bring gradients back through all cells.

        In products of channels: an anchor's own cell takes one in the last convolution, 9 in the one before, and so on,
        and as many twice again backward. All cells take two for each convolution, as forward is done in any case.
        """
        convs = len(self._convolutions())
        once = sum((2 * i + 1) ** 2 for i in range(convs))
        return 3 * once * count < 2 * convs * sum(x[:, 0].numel() for x in levels)

    def _convolutions(self) -> list[nn.Conv2d]:
        return [layer for layer in self.conv.modules() if isinstance(layer, nn.Conv2d)]

    def _around(self, cells: Cells, places: Places) -> tuple[Tensor, Tensor]:
        """Return the cells that the convolutions look at, with zeros beyond the border, and which are inside of it."""
        reach = len(self._convolutions())
        offsets = torch.arange(-reach, reach + 1, device=places.level.device)
        height, width = (side[:, None] for side in cells.sides(places.level))
        rows, columns = places.row[:, None] + offsets, places.column[:, None] + offsets  # (M, S)
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
        rows, columns = torch.minimum(rows.clamp(min=0), height - 1), torch.minimum(columns.clamp(min=0), width - 1)
        first = cells.first(places.level, places.image)[:, None, None]
        found = F.embedding(first + (rows * width)[:, :, None] + columns[:, None], cells.table)
        weights = inside[..., None].to(found.dtype)
        return found * weights, weights


@dataclass(frozen=True)
class Places:
    """Where anchors are (M,): of which image and level, in which cell of it, and which of those that the cell has."""

    image: Tensor
    level: Tensor
    row: Tensor
    column: Tensor
    anchor: Tensor

    @classmethod
    def of(cls, index: Tensor, cells: Cells, per_cell: int) -> Places:
        """Return where the anchors are that have these numbers (N, K) among all anchors of each image."""
        counts = torch.tensor([height * width * per_cell for height, width in cells.shapes])
        ends = counts.cumsum(0)
        ends, starts = (x.to(index.device, non_blocking=True) for x in (ends, ends - counts))
        image = torch.arange(len(index), device=index.device)[:, None].expand_as(index).flatten()
        index = index.flatten()
        level = torch.bucketize(index, ends, right=True)
        _, width = cells.sides(level)
        cell, anchor = (index - starts[level]) // per_cell, (index - starts[level]) % per_cell
        return cls(image, level, cell // width, cell % width, anchor)


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

    def predict(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return what the head does, for `propose` and `losses`.

        Without a gradient where `losses` are to compute the few anchors that they are of again.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._apart(levels)):
            predicted: tuple[list[Tensor], list[Tensor]] = self.head(levels)
        return predicted

    def _apart(self, levels: Sequence[Tensor]) -> bool:
        return self.head.apart_is_less(levels, len(levels[0]) * self.samples)

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
        self,
        cells: Cells,
        objectness: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Tensor,
        truth: Truth,
    ) -> dict[str, Tensor]:
        """Return `loss_objectness` and `loss_rpn_box_reg`, over a random sample of the anchors of each image.

        cells: of the levels. objectness and deltas: what `predict` has found for these.
        """
        matches = match(truth, anchors[None])
        low, high = self.thresholds
        positive = (matches.overlaps >= high) | matches.is_best
        keys = random_keys(truth.seeds, torch.arange(len(anchors), device=anchors.device), PURPOSE)
        chosen = sample(positive, ~positive & (matches.overlaps < low), self.samples, self.positive_fraction, keys)
        if torch.is_grad_enabled() and not objectness[0].requires_grad:
            predicted = self.head.at(cells, Places.of(chosen.index, cells, self.anchors.per_cell))
            logits, moves = (wide(x).view(*chosen.index.shape, *x.shape[1:]) for x in predicted)
        else:
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
