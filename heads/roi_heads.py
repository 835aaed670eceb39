"""What is in each proposal: class and box (arXiv:1504.08083), and its mask (arXiv:1703.06870)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.norms import Norm
from ..backbones.stage import Recomputing, recompute
from .boxes import are_larger, clip, decode, survivors, wide
from .matching import Truth, match, sample, slots, take
from .normalisers import shared
from .pooling import Cells, RoIAlign
from .random_keys import PLACES, random_keys
from .rpn import Proposals, box_loss

# Units in which boxes are predicted: the spread of real deltas (arXiv:1504.08083's code).
WEIGHTS = (10.0, 10.0, 5.0, 5.0)

# What random keys are for (see rpn.py).
PURPOSE = 2

# Detections with a smaller side than this, in pixels, are dropped.
SMALLEST = 1e-2

# --- networks ------------------------------------------------------------------------------------------------------


def conv_block(in_channels: int, channels: int, norm: Norm | None) -> nn.Sequential:
    """Return a 3x3 convolution, its norm if there is one, and ReLU."""
    conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=norm is None)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, *([norm(channels)] if norm else []), nn.ReLU(True))


def two_fc(in_channels: int, size: int, channels: int) -> nn.Sequential:
    """Return two linear layers on a flattened map, `fc6` and `fc7` as in the authors' code."""
    layers: list[tuple[str, nn.Module]] = [
        ("flatten", nn.Flatten()),
        ("fc6", nn.Linear(in_channels * size**2, channels)),
        ("relu6", nn.ReLU(True)),
        ("fc7", nn.Linear(channels, channels)),
        ("relu7", nn.ReLU(True)),
    ]
    return nn.Sequential(OrderedDict(layers))


def convs_fc(in_channels: int, size: int, channels: int, *, convs: int, norm: Norm | None) -> nn.Sequential:
    """Return convolutions and one linear layer (arXiv:1803.08494, section 5.2, has four). Keys are torchvision's."""
    return nn.Sequential(
        *(conv_block(in_channels, in_channels, norm) for _ in range(convs)),
        nn.Flatten(),
        nn.Linear(in_channels * size**2, channels),
        nn.ReLU(True),
    )


class BoxPredictor(nn.Module):
    """Class scores, and for each class a box. Keys are torchvision's."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, num_classes * 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (R, in_channels) to logits (R, K) and deltas (R, K, 4)."""
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))


def mask_predictor(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    """Return an upsampling by two and one mask for each class. Keys are torchvision's."""
    layers: list[tuple[str, nn.Module]] = [
        ("conv5_mask", nn.ConvTranspose2d(in_channels, channels, 2, 2)),
        ("relu", nn.ReLU(True)),
        ("mask_fcn_logits", nn.Conv2d(channels, num_classes, 1)),
    ]
    predictor = nn.Sequential(OrderedDict(layers))
    for name, weight in predictor.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    return predictor


# --- training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BoxSettings:
    """How proposals are chosen for training, and detections at inference."""

    thresholds: tuple[float, float]
    samples: int
    positive_fraction: float
    score_threshold: float
    nms_threshold: float
    detections: int


@dataclass(frozen=True)
class Learned:
    """The proposals that a step learns from (N, K, 4), positives first.

    labels: (N, K), 0 is the background. objects: (N, K), which object of its image each is to find. filled: (N, K).
    """

    boxes: Tensor
    labels: Tensor
    objects: Tensor
    filled: Tensor


def choose(proposals: Proposals, truth: Truth, settings: BoxSettings) -> Learned:
    """Choose from the proposals and the objects themselves, which are good proposals from the first step on."""
    boxes = torch.cat([proposals.boxes, truth.boxes], dim=1)
    present = torch.cat([proposals.present, truth.present], dim=1)
    matches = match(truth, boxes)
    low, high = settings.thresholds
    positive = present & (matches.overlaps >= high)
    negative = present & (matches.overlaps < low)
    # An object's key does not depend on how many proposals are before it, which is the most that an image has.
    places = torch.arange(boxes.shape[1], device=boxes.device)
    places[proposals.boxes.shape[1] :] += PLACES // 2 - proposals.boxes.shape[1]
    keys = random_keys(truth.seeds, places, PURPOSE)
    chosen = sample(positive, negative, settings.samples, settings.positive_fraction, keys)
    used = slots(chosen.filled)
    index = chosen.index[:, :used]
    objects = take(matches.objects, index)
    labels = torch.where(chosen.positive[:, :used], take(truth.labels, objects), 0)
    return Learned(take(boxes, index), labels, objects, chosen.filled[:, :used])


class RoIHeads(Recomputing):
    """The head that classifies and refines proposals.

    Recomputing keeps nothing of what is pooled, nor of what becomes of it.
    """

    def __init__(self, pool: RoIAlign, box_head: nn.Module, box_predictor: BoxPredictor, settings: BoxSettings) -> None:
        super().__init__()
        self.pool = pool
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.settings = settings

    def _predict(self, cells: Cells, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, P, K) and deltas (N, P, K, 4) of boxes (N, P, 4)."""
        logits, deltas = self.box_predictor(self._pooled(self.pool, self.box_head, cells, boxes))
        shape = boxes.shape[:2]
        return wide(logits).view(*shape, logits.shape[-1]), wide(deltas).view(*shape, *deltas.shape[1:])

    def _pooled(self, pool: RoIAlign, head: nn.Module, cells: Cells, boxes: Tensor) -> Tensor:
        """Return what a head makes of what is pooled from boxes (N, P, 4)."""

        def run(table: Tensor) -> Tensor:
            found: Tensor = head(pool(replace(cells, table=table), boxes))
            return found

        return recompute(run, cells.table, module=head) if self.recomputes else run(cells.table)

    def losses(
        self, cells: Cells, proposals: Proposals, truth: Truth, targets: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """Return `loss_classifier` and `loss_box_reg`. targets: what `truth` does not hold of the objects."""
        return self._box_losses(cells, choose(proposals, truth, self.settings), truth)

    def _box_losses(self, cells: Cells, learned: Learned, truth: Truth) -> dict[str, Tensor]:
        logits, deltas = self._predict(cells, learned.boxes)
        count = shared(learned.filled.sum())
        entropy = F.cross_entropy(logits.flatten(0, 1), learned.labels.flatten(), reduction="none")
        of_label = deltas.gather(2, learned.labels[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        wanted = take(truth.boxes, learned.objects)
        return {
            "loss_classifier": (entropy * learned.filled.flatten()).sum() / count,
            "loss_box_reg": box_loss(of_label, wanted, learned.boxes, learned.labels > 0, WEIGHTS) / count,
        }

    def detect(self, cells: Cells, proposals: Proposals, sizes: Tensor) -> list[dict[str, Tensor]]:
        """Return for each image of `sizes` (N, 2) its `boxes` (D, 4), `labels` and `scores`, best first."""
        logits, deltas = self._predict(cells, proposals.boxes)
        scores = logits.softmax(dim=-1)[..., 1:]  # the background is no detection
        likely = (scores > self.settings.score_threshold) & proposals.present[..., None]
        image, place, kind = likely.nonzero(as_tuple=True)
        boxes = decode(deltas[image, place, kind + 1], proposals.boxes[image, place], WEIGHTS)
        boxes = clip(boxes, sizes[image])
        scores = scores[image, place, kind].masked_fill(~are_larger(boxes, SMALLEST), -torch.inf)
        kept = survivors(boxes, scores, image * logits.shape[-1] + kind, self.settings.nms_threshold)
        kept = kept[scores[kept] > -torch.inf]
        kept = kept[image[kept].argsort(stable=True)]  # by image, best first in each
        counts = image[kept].bincount(minlength=len(sizes)).tolist()
        best = [of_image[: self.settings.detections] for of_image in torch.split(kept, counts)]
        return [{"boxes": boxes[i], "labels": kind[i] + 1, "scores": scores[i]} for i in best]


class MaskRoIHeads(RoIHeads):
    """The head that finds masks as well."""

    def __init__(
        self,
        pool: RoIAlign,
        box_head: nn.Module,
        box_predictor: BoxPredictor,
        settings: BoxSettings,
        mask_pool: RoIAlign,
        mask_head: nn.Module,
        mask_predictor: nn.Module,
    ) -> None:
        super().__init__(pool, box_head, box_predictor, settings)
        self.mask_pool = mask_pool
        self.mask_head = mask_head
        self.mask_predictor = mask_predictor

    def _mask_logits(self, cells: Cells, boxes: Tensor, labels: Tensor) -> Tensor:
        """Return the logits (N, P, M, M) of the masks of boxes (N, P, 4), each for the class in `labels` (N, P)."""
        head = nn.Sequential(self.mask_head, self.mask_predictor)
        logits = self._pooled(self.mask_pool, head, cells, boxes)
        of_label = logits[torch.arange(len(logits), device=logits.device), labels.flatten()]
        return wide(of_label).view(*labels.shape, *logits.shape[-2:])

    def losses(
        self, cells: Cells, proposals: Proposals, truth: Truth, targets: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """Return `loss_classifier`, `loss_box_reg` and `loss_mask`.

        targets: the `masks` of each image, at its size in the batch, as values of `boxed_masks.Masks`.
        """
        learned = choose(proposals, truth, self.settings)
        return {**self._box_losses(cells, learned, truth), "loss_mask": self._mask_loss(cells, learned, targets)}

    def _mask_loss(self, cells: Cells, learned: Learned, targets: Sequence[Mapping[str, Any]]) -> Tensor:
        most = max(1, int(self.settings.samples * self.settings.positive_fraction))
        used = slots(learned.labels[:, :most] > 0)  # positives come first
        boxes, labels, objects = learned.boxes[:, :used], learned.labels[:, :used], learned.objects[:, :used]
        logits = self._mask_logits(cells, boxes, labels)
        # One image at a time, so that no more than its own masks are ever held as float32.
        parts = zip(targets, boxes, objects, strict=True)
        wanted = torch.stack([target["masks"].crop(b, o, logits.shape[-1]) for target, b, o in parts])
        bce = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=(2, 3))
        positive = labels > 0
        return torch.where(positive, bce, 0.0).sum() / shared(positive.sum())

    def detect(self, cells: Cells, proposals: Proposals, sizes: Tensor) -> list[dict[str, Tensor]]:
        """Return `boxes`, `labels` and `scores` of each image, and `masks` (D, M, M) of probabilities in the boxes."""
        found = super().detect(cells, proposals, sizes)
        boxes, labels = (
            nn.utils.rnn.pad_sequence([one[key] for one in found], batch_first=True) for key in ("boxes", "labels")
        )
        masks = self._mask_logits(cells, boxes, labels).sigmoid()
        return [{**one, "masks": of_image[: len(one["labels"])]} for one, of_image in zip(found, masks, strict=True)]
