"""Faster R-CNN (arXiv:1506.01497) with a feature pyramid (arXiv:1612.03144), on any backbone.

The parts inside are torchvision's; keys and conventions are those of its `fasterrcnn_resnet50_fpn`, so that its
checkpoints load and its training scripts run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from ..backbones import FPN, Backbone, InputError, Pyramid
from .images import Batch, make_batch

Target = Mapping[str, Tensor]


@dataclass(frozen=True)
class FasterRCNN:
    """The row of a Faster R-CNN: call it with a backbone to build the detector.

    Names and defaults are torchvision's, where it has them. Sizes are (short side, longest side) in pixels; None leaves
    images as they are. Each level's anchors are `anchor_scale` times its stride (8 gives the usual 32 to 512), one for
    each of `aspect_ratios` (height / width). `roi_canonical_size` is the box side that is pooled from stride 16
    (arXiv:1612.03144, equation 1).
    """

    train_size: tuple[int, int] | None = (800, 1333)
    test_size: tuple[int, int] | None = (800, 1333)
    fpn_channels: int = 256
    anchor_scale: float = 8.0
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_pre_nms_top_n_train: int = 2000
    rpn_pre_nms_top_n_test: int = 1000
    rpn_post_nms_top_n_train: int = 2000
    rpn_post_nms_top_n_test: int = 1000
    rpn_nms_thresh: float = 0.7
    rpn_fg_iou_thresh: float = 0.7
    rpn_bg_iou_thresh: float = 0.3
    rpn_batch_size_per_image: int = 256
    rpn_positive_fraction: float = 0.5
    roi_canonical_size: int = 224
    box_head_channels: int = 1024
    box_fg_iou_thresh: float = 0.5
    box_bg_iou_thresh: float = 0.5
    box_batch_size_per_image: int = 512
    box_positive_fraction: float = 0.25
    box_score_thresh: float = 0.05
    box_nms_thresh: float = 0.5
    box_detections_per_img: int = 100

    def __call__(self, backbone: Backbone, num_classes: int) -> Detector:
        """Build the detector; `num_classes` counts the background."""
        pyramid = self._pyramid(backbone)
        pooled = [info.name for info in pyramid.feature_info[: len(pyramid.body.feature_info)]]
        return Detector(
            pyramid,
            self._rpn(pyramid),
            RoIHeads(
                MultiScaleRoIAlign(
                    pooled, output_size=7, sampling_ratio=2, canonical_scale=self.roi_canonical_size, canonical_level=4
                ),
                TwoMLPHead(pyramid.out_channels * 7**2, self.box_head_channels),
                FastRCNNPredictor(self.box_head_channels, num_classes),
                self.box_fg_iou_thresh,
                self.box_bg_iou_thresh,
                self.box_batch_size_per_image,
                self.box_positive_fraction,
                None,  # the box regression's weights: torchvision's default
                self.box_score_thresh,
                self.box_nms_thresh,
                self.box_detections_per_img,
            ),
            num_classes=num_classes,
            train_size=self.train_size,
            test_size=self.test_size,
        )

    def _pyramid(self, backbone: Backbone) -> Pyramid:
        strides = [info.stride for info in backbone.feature_info]
        if len(set(strides)) < len(strides):
            raise InputError(
                f"R-CNN with a feature pyramid needs levels of distinct strides, but the backbone has {strides}: use "
                "output_stride=32 (a dilated backbone wants a single-level, DC5 head)"
            )
        if isinstance(backbone, Pyramid):
            return backbone
        return Pyramid(backbone, FPN(backbone.feature_info, self.fpn_channels), self.fpn_channels)

    def _rpn(self, pyramid: Pyramid) -> RegionProposalNetwork:
        anchors = AnchorGenerator(
            tuple((self.anchor_scale * info.stride,) for info in pyramid.feature_info),
            (self.aspect_ratios,) * len(pyramid.feature_info),
        )
        return RegionProposalNetwork(
            anchors,
            RPNHead(pyramid.out_channels, len(self.aspect_ratios)),
            self.rpn_fg_iou_thresh,
            self.rpn_bg_iou_thresh,
            self.rpn_batch_size_per_image,
            self.rpn_positive_fraction,
            {"training": self.rpn_pre_nms_top_n_train, "testing": self.rpn_pre_nms_top_n_test},
            {"training": self.rpn_post_nms_top_n_train, "testing": self.rpn_post_nms_top_n_test},
            self.rpn_nms_thresh,
        )


FASTER_RCNN = FasterRCNN()


class Detector(nn.Module):
    """A two-stage detector.

    Images are a list of (C, H, W), float in [0, 1] or uint8, of any sizes. Targets are a dict for each image: `boxes`
    (N, 4) float, xyxy in pixels of that image, and `labels` (N,) int64 in 1..num_classes-1.
    """

    def __init__(
        self,
        backbone: Pyramid,
        rpn: RegionProposalNetwork,
        roi_heads: RoIHeads,
        *,
        num_classes: int,
        train_size: tuple[int, int] | None,
        test_size: tuple[int, int] | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.num_classes = num_classes
        self.train_size = train_size
        self.test_size = test_size

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return losses when training, by name; else for each image `boxes` (N, 4), `labels` (N,) and `scores` (N,)."""
        if not self.training:
            return self.detect(images)
        if targets is None:
            raise InputError("a model in training mode needs targets; call model.eval() first to predict")
        return self.losses(images, targets)

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the losses by name, as scalars, in training or in eval mode (for the loss on held-out images)."""
        self._check_targets(images, targets)
        batch = self._batch(images)
        scaled = [{**t, "boxes": batch.to_batch(t["boxes"], i)} for i, t in enumerate(targets)]
        with self._sampling():
            features = self.backbone(batch.images)
            image_list = ImageList(batch.images, list(batch.sizes))
            proposals, rpn_losses = self.rpn(image_list, features, scaled)
            _, box_losses = self.roi_heads(features, proposals, list(batch.sizes), scaled)
        return {**box_losses, **rpn_losses}

    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return `boxes`, `labels` and `scores` for each image, best first, in pixels of that image."""
        batch = self._batch(images)
        features = self.backbone(batch.images)
        proposals, _ = self.rpn(ImageList(batch.images, list(batch.sizes)), features)
        detections, _ = self.roi_heads(features, proposals, list(batch.sizes))
        return [{**found, "boxes": batch.to_given(found["boxes"], i)} for i, found in enumerate(detections)]

    def _batch(self, images: Sequence[Tensor]) -> Batch:
        size = self.train_size if self.training else self.test_size
        return make_batch(images, self.backbone.preprocessing, size)

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        """Let the RPN and the RoI head sample and give losses: torchvision asks their own flag alone."""
        parts = (self.rpn, self.roi_heads)
        before = [part.training for part in parts]
        for part in parts:
            part.training = True
        try:
            yield
        finally:
            for part, flag in zip(parts, before, strict=True):
                part.training = flag

    def _check_targets(self, images: Sequence[Tensor], targets: Sequence[Target]) -> None:
        if len(images) != len(targets):
            raise InputError(f"{len(images)} images came with {len(targets)} targets")
        for i, target in enumerate(targets):
            boxes, labels = target["boxes"], target["labels"]
            if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
                raise InputError(
                    f"targets[{i}]['boxes'] is {boxes.dtype} of shape {tuple(boxes.shape)}; float (N, 4) is expected"
                )
            if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
                raise InputError(
                    f"targets[{i}]['labels'] is {labels.dtype} of shape {tuple(labels.shape)}; "
                    f"int64 ({len(boxes)},) is expected, one for each box"
                )
            if len(boxes) and not bool((boxes[:, 2:] > boxes[:, :2]).all()):
                bad = int((boxes[:, 2:] <= boxes[:, :2]).any(dim=1).nonzero()[0])
                raise InputError(f"targets[{i}]['boxes'][{bad}] = {boxes[bad].tolist()} has no area; drop such boxes")
            if len(labels) and not (int(labels.min()) >= 1 and int(labels.max()) < self.num_classes):
                raise InputError(
                    f"targets[{i}]['labels'] go from {int(labels.min())} to {int(labels.max())}; "
                    f"1 to {self.num_classes - 1} are allowed (0 is the background)"
                )
