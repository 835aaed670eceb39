"""The models as exporters can trace them: a padded batch in, a fixed number of results with a valid mask out.

Where a model takes a list of images and gives as many results as it finds, these take tensors and give tensors whose
shapes follow from those of the input, with the same values. `images` (N, C, H, W) are float in [0, 1], each in the top
left corner; `sizes` (N, 2), int64, say (height, width) of what is image in each; what lies beyond is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import Preprocessing
from . import roi_heads, rpn
from .boxes import are_larger, clip, decode, wide
from .classifier import ImageClassifier
from .detector import Detector, MaskDetector
from .export_pooling import pool_by_level
from .export_suppression import Suppression
from .matching import take
from .segmenter import Segmenter
from .semantic_losses import IGNORE


def exportable(
    model: nn.Module, suppress: Suppression
) -> ExportableDetector | ExportableSegmenter | ExportableClassifier:
    """Return a model in the form that can be traced; it shares the weights. suppress: how detectors suppress."""
    if isinstance(model, MaskDetector):
        return ExportableMaskDetector(model, suppress)
    if isinstance(model, Detector):
        return ExportableDetector(model, suppress)
    if isinstance(model, Segmenter):
        return ExportableSegmenter(model)
    assert isinstance(model, ImageClassifier)
    return ExportableClassifier(model)


class ExportableDetector(nn.Module):
    """Gives `boxes` (N, D, 4) in pixels of the input, `scores`, `labels` and `valid` (N, D), best first.

    D is the row's `box_detections_per_img`. Where `valid` is False everything is 0.
    """

    inputs: ClassVar[tuple[str, ...]] = ("images", "sizes")
    outputs: ClassVar[tuple[str, ...]] = ("boxes", "scores", "labels", "valid")

    def __init__(self, detector: Detector, suppress: Suppression) -> None:
        super().__init__()
        self.detector = detector
        self.suppress = suppress

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        return self._found(images, sizes)[1]

    def _found(self, images: Tensor, sizes: Tensor) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Return the levels, and what is found."""
        x = _prepared(images, _inside(images, sizes), self.detector.backbone.preprocessing)
        levels, objectness, deltas = self.detector.trunk(x)
        boxes, present = self._proposals(objectness, deltas, self.detector.rpn.anchors_of(levels, x), sizes)
        return levels, self._detections(levels, boxes, present, sizes)

    def _proposals(
        self, objectness: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return boxes (N, P, 4) and which of them are there (N, P): `RegionProposalNetwork.propose`."""
        network = self.detector.rpn
        before, after = network.selection_in_detection.before, network.selection_in_detection.after
        of_levels = torch.split(anchors, [x.shape[1] for x in objectness])
        candidates = [_best(*of_level, before) for of_level in zip(objectness, deltas, of_levels, strict=True)]
        scores = torch.cat([best for best, _ in candidates], dim=1)  # (N, L x before)
        boxes = clip(torch.cat([boxes for _, boxes in candidates], dim=1), sizes)
        scores = scores.masked_fill(~are_larger(boxes, rpn.SMALLEST), -torch.inf)
        # A group for each level of each image.
        survived = self.suppress(boxes.reshape(-1, before, 4), scores.reshape(-1, before), network.nms_threshold)
        ranks, index = scores.masked_fill(~survived.reshape(scores.shape), -torch.inf).topk(
            min(after, before * len(candidates))
        )
        return take(boxes, index), ranks > -torch.inf

    def _detections(
        self, levels: Sequence[Tensor], proposals: Tensor, present: Tensor, sizes: Tensor
    ) -> tuple[Tensor, ...]:
        """Return what is in proposals (N, P, 4): `RoIHeads.detect`."""
        heads = self.detector.roi_heads
        images, count = present.shape
        logits, deltas = heads.box_predictor(heads.box_head(pool_by_level(heads.pool, levels, proposals)))
        kinds = logits.shape[1] - 1
        scores = wide(logits).softmax(dim=-1)[:, 1:].reshape(images, count, kinds)  # the background is no detection
        boxes = decode(deltas.reshape(images, count, kinds + 1, 4)[:, :, 1:], proposals[:, :, None], roi_heads.WEIGHTS)
        boxes = clip(boxes, sizes)
        likely = (scores > heads.settings.score_threshold) & present[..., None] & are_larger(boxes, roi_heads.SMALLEST)
        scores = scores.masked_fill(~likely, -torch.inf).transpose(1, 2)  # (N, K, P)
        boxes = boxes.transpose(1, 2)
        # A group for each class of each image.
        survived = self.suppress(
            boxes.reshape(-1, count, 4), scores.reshape(-1, count), heads.settings.nms_threshold
        ).reshape(images, kinds, count)
        ranks, index = _top(scores.masked_fill(~survived, -torch.inf).flatten(1), heads.settings.detections)
        valid = ranks > -torch.inf
        chosen = take(boxes.reshape(images, -1, 4), index) * valid[..., None]
        return chosen, ranks.masked_fill(~valid, 0.0), (index // count + 1) * valid, valid


class ExportableMaskDetector(ExportableDetector):
    """Gives `masks` (N, D, M, M) too: probabilities in the boxes."""

    outputs = (*ExportableDetector.outputs, "masks")

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        levels, (boxes, scores, labels, valid) = self._found(images, sizes)
        heads = self.detector.roi_heads
        assert isinstance(heads, roi_heads.MaskRoIHeads)
        logits = heads.mask_predictor(heads.mask_head(pool_by_level(heads.mask_pool, levels, boxes)))
        side = logits.shape[-1]
        of_label = logits.gather(1, labels.reshape(-1, 1, 1, 1).expand(-1, 1, side, side))
        masks = wide(of_label).reshape(*labels.shape, side, side).sigmoid()
        return boxes, scores, labels, valid, masks * valid[..., None, None]


class ExportableSegmenter(nn.Module):
    """Gives `semantic` (N, H, W), uint8, classes of pixels and 255 beyond the image, and `logits` (N, K, h, w).

    The latter are at the stride of the head; who brings the image back to another size takes the likeliest class there.
    """

    inputs: ClassVar[tuple[str, ...]] = ("images", "sizes")
    outputs: ClassVar[tuple[str, ...]] = ("semantic", "logits")

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        inside = _inside(images, sizes)
        x = _prepared(images, inside, self.segmenter.backbone.preprocessing)
        logits = wide(self.segmenter.classifier(self.segmenter.backbone(x)))
        whole = F.interpolate(logits, size=(images.shape[-2], images.shape[-1]), mode="bilinear", align_corners=False)
        return whole.argmax(dim=1).masked_fill(~inside, IGNORE).to(torch.uint8), logits


class ExportableClassifier(nn.Module):
    """Gives `scores` (N, K), probabilities, of images without padding: it would count in their mean."""

    inputs: ClassVar[tuple[str, ...]] = ("images",)
    outputs: ClassVar[tuple[str, ...]] = ("scores",)

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.classifier.backbone(self.classifier.backbone.preprocessing.normalise(images))
        deepest = list(features.values())[-1]  # (N, C, h, w)
        return (wide(self.classifier.head(deepest.mean(dim=(2, 3)))).softmax(dim=1),)


def _inside(images: Tensor, sizes: Tensor) -> Tensor:
    """Say of each pixel whether it is of the image, (N, H, W)."""
    rows, columns = (
        torch.arange(images.shape[2 + i], device=images.device) < sizes[:, i, None] for i in (0, 1)
    )  # (N, H) and (N, W)
    return rows[:, :, None] & columns[:, None]


def _prepared(images: Tensor, inside: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return images normalised and with zeros beyond them, as `make_batch` pads."""
    return torch.where(inside[:, None], preprocessing.normalise(images), 0.0)


def _best(logits: Tensor, deltas: Tensor, anchors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return logits (N, count) and boxes (N, count, 4) of a level's best anchors; where it has fewer, -inf."""
    best, index = _top(wide(logits), count)
    return best, decode(take(deltas, index), anchors[index], rpn.WEIGHTS)


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` highest of scores (N, K) and where they are; where K is less, -inf, which is at the last."""
    found = F.pad(scores, (0, count), value=-torch.inf).topk(count)
    return found.values, found.indices.clamp(max=scores.shape[1] - 1)
