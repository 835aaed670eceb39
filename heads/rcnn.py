"""Faster R-CNN (arXiv:1506.01497) and Mask R-CNN (arXiv:1703.06870) as rows, on any backbone.

Keys and conventions are torchvision's, so that its checkpoints load and its training scripts run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import nn

from ..backbones import FPN, Backbone, InputError, Pyramid
from ..backbones.errors import unknown
from ..backbones.norms import Norm, norm_layer
from .anchors import Anchors
from .detector import MASK_FORMATS, Detector, MaskDetector
from .pooling import RoIAlign
from .roi_heads import BoxPredictor, BoxSettings, MaskRoIHeads, RoIHeads, conv_block, convs_fc, mask_predictor, two_fc
from .rpn import RegionProposalNetwork, RPNHead, Selection


@dataclass(frozen=True)
class FasterRCNN:
    """The row of a Faster R-CNN: call it with a backbone to build the detector.

    Names and defaults are torchvision's, where it has them. Sizes are (short side, longest side) in pixels; None leaves
    images as they are. `pad_to` lists the shapes (H, W) that batches are padded to, for a compiled trunk.

    With `fpn_channels` there is a pyramid on the backbone; None takes its deepest feature alone (DC5, with
    output_stride=16). Each level's anchors are `anchor_scales` times its stride (8 gives the usual 32 to 512), in each
    of the `aspect_ratios` (height / width). The box head is two linear layers, or `box_convs` convolutions and one.
    `roi_canonical_size` is the box side that is pooled from stride 16 (arXiv:1612.03144, equation 1).
    """

    model: ClassVar[type[nn.Module]] = Detector

    train_size: tuple[int, int] | None = (800, 1333)
    test_size: tuple[int, int] | None = (800, 1333)
    pad_to: tuple[tuple[int, int], ...] = ()
    fpn_channels: int | None = 256
    fpn_norm: str | None = None
    anchor_scales: tuple[float, ...] = (8.0,)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_convs: int = 1
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
    box_convs: int = 0
    box_head_channels: int = 1024
    head_norm: str | None = None
    box_fg_iou_thresh: float = 0.5
    box_bg_iou_thresh: float = 0.5
    box_batch_size_per_image: int = 512
    box_positive_fraction: float = 0.25
    box_score_thresh: float = 0.05
    box_nms_thresh: float = 0.5
    box_detections_per_img: int = 100

    def __call__(self, backbone: Backbone, num_classes: int) -> Detector:
        """Build the detector; `num_classes` counts the background."""
        body, pooled = self._body(backbone)
        parts = self._box_parts(body, pooled, num_classes)
        return Detector(
            body,
            self._rpn(body),
            RoIHeads(*parts, self._box_settings()),
            num_classes=num_classes,
            train_size=self.train_size,
            test_size=self.test_size,
            pad_to=self.pad_to,
        )

    def _body(self, backbone: Backbone) -> tuple[Backbone, tuple[int, ...]]:
        """Return what the head stands on, and the strides of its levels that boxes are pooled from."""
        if self.fpn_channels is None:
            backbone.select_((backbone.feature_info[-1].name,))
            return backbone, (backbone.feature_info[-1].stride,)
        strides = [info.stride for info in backbone.feature_info]
        if len(set(strides)) < len(strides):
            raise InputError(
                f"R-CNN with a feature pyramid needs levels of distinct strides, but the backbone has {strides}: use "
                "output_stride=32, or the single-level head of a dilated backbone (faster_rcnn_dc5, mask_rcnn_dc5)"
            )
        if not isinstance(backbone, Pyramid):
            fpn = FPN(backbone.feature_info, self.fpn_channels, norm=_norm(self.fpn_norm))
            backbone = Pyramid(backbone, fpn, self.fpn_channels)
        return backbone, tuple(info.stride for info in backbone.feature_info[: len(backbone.body.feature_info)])

    def _rpn(self, body: Backbone) -> RegionProposalNetwork:
        anchors = Anchors([info.stride for info in body.feature_info], self.anchor_scales, self.aspect_ratios)
        return RegionProposalNetwork(
            RPNHead(body.feature_info[-1].channels, anchors.per_cell, self.rpn_convs),
            anchors,
            thresholds=(self.rpn_bg_iou_thresh, self.rpn_fg_iou_thresh),
            samples=self.rpn_batch_size_per_image,
            positive_fraction=self.rpn_positive_fraction,
            selection_in_training=Selection(self.rpn_pre_nms_top_n_train, self.rpn_post_nms_top_n_train),
            selection_in_detection=Selection(self.rpn_pre_nms_top_n_test, self.rpn_post_nms_top_n_test),
            nms_threshold=self.rpn_nms_thresh,
        )

    def _box_parts(
        self, body: Backbone, pooled: tuple[int, ...], num_classes: int
    ) -> tuple[RoIAlign, nn.Module, BoxPredictor]:
        channels, size = body.feature_info[-1].channels, 7
        head = (
            convs_fc(channels, size, self.box_head_channels, convs=self.box_convs, norm=_norm(self.head_norm))
            if self.box_convs
            else two_fc(channels, size, self.box_head_channels)
        )
        pool = RoIAlign(pooled, size, self.roi_canonical_size)
        return pool, head, BoxPredictor(self.box_head_channels, num_classes)

    def _box_settings(self) -> BoxSettings:
        return BoxSettings(
            thresholds=(self.box_bg_iou_thresh, self.box_fg_iou_thresh),
            samples=self.box_batch_size_per_image,
            positive_fraction=self.box_positive_fraction,
            score_threshold=self.box_score_thresh,
            nms_threshold=self.box_nms_thresh,
            detections=self.box_detections_per_img,
        )


@dataclass(frozen=True)
class MaskRCNN(FasterRCNN):
    """The row of a Mask R-CNN: a Faster R-CNN with `mask_convs` convolutions and a mask for each class.

    mask_format: `dense` (probabilities at the image's size, as torchvision's) or `rle` (COCO's run lengths).
    """

    model: ClassVar[type[nn.Module]] = MaskDetector

    mask_convs: int = 4
    mask_channels: int = 256
    mask_format: str = "dense"

    def __call__(self, backbone: Backbone, num_classes: int) -> MaskDetector:
        """Build the detector; `num_classes` counts the background."""
        if self.mask_format not in MASK_FORMATS:
            raise unknown("mask_format", self.mask_format, MASK_FORMATS)
        body, pooled = self._body(backbone)
        widths = [body.feature_info[-1].channels, *[self.mask_channels] * self.mask_convs]
        norm = _norm(self.head_norm)
        heads = MaskRoIHeads(
            *self._box_parts(body, pooled, num_classes),
            self._box_settings(),
            mask_pool=RoIAlign(pooled, 14, self.roi_canonical_size),
            mask_head=nn.Sequential(*(conv_block(a, b, norm) for a, b in pairwise(widths))),
            mask_predictor=mask_predictor(widths[-1], self.mask_channels, num_classes),
        )
        return MaskDetector(
            body,
            self._rpn(body),
            heads,
            num_classes=num_classes,
            train_size=self.train_size,
            test_size=self.test_size,
            pad_to=self.pad_to,
            mask_format=self.mask_format,
        )


def _norm(name: str | None) -> Norm | None:
    return None if name is None else norm_layer(name)


# One level at stride 16 with the anchors that the levels of a pyramid have between them: 32 to 512 pixels.
_DC5_SCALES = (2.0, 4.0, 8.0, 16.0, 32.0)

RCNN: Mapping[str, FasterRCNN] = {
    "faster_rcnn": FasterRCNN(),
    "faster_rcnn_v2": FasterRCNN(fpn_norm="batch", rpn_convs=2, box_convs=4, head_norm="batch"),
    "faster_rcnn_dc5": FasterRCNN(fpn_channels=None, anchor_scales=_DC5_SCALES),
    "mask_rcnn": MaskRCNN(),
    "mask_rcnn_v2": MaskRCNN(fpn_norm="batch", rpn_convs=2, box_convs=4, head_norm="batch"),
    "mask_rcnn_dc5": MaskRCNN(fpn_channels=None, anchor_scales=_DC5_SCALES),
}
