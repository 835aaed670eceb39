"""detectron2's Faster and Mask R-CNN with torchvision's weights: the same network, by its own configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones import InputError
from ...backbones.contract import IMAGENET_MEAN, IMAGENET_STD
from ...backbones.exchange.spelling import SPELLINGS
from ...backbones.exchange.structure import resnet
from ..peers import Found, Target

# Files of its model zoo; where its defaults differ from torchvision's, `_configured` says so.
CONFIGS = {
    "faster_rcnn": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "mask_rcnn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
}

# torchvision's keys in detectron2's words, all but the backbone's body, which `SPELLINGS` has.
_PAIRS = (
    *((rf"^backbone\.fpn\.inner_blocks\.{i}\.0\.", f"backbone.fpn_lateral{i + 2}.") for i in range(4)),
    *((rf"^backbone\.fpn\.layer_blocks\.{i}\.0\.", f"backbone.fpn_output{i + 2}.") for i in range(4)),
    (r"^rpn\.head\.conv\.0\.0\.", "proposal_generator.rpn_head.conv."),
    (r"^rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"^roi_heads\.box_head\.fc6\.", "roi_heads.box_head.fc1."),
    (r"^roi_heads\.box_head\.fc7\.", "roi_heads.box_head.fc2."),
    *((rf"^roi_heads\.mask_head\.{i}\.0\.", f"roi_heads.mask_head.mask_fcn{i + 1}.") for i in range(4)),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "roi_heads.mask_head.deconv."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi_heads.mask_head.predictor."),
)
_BODY = "backbone.body."


class Detectron2(nn.Module):
    """A detector of detectron2's, called as ours are: images (3, H, W) in [0, 1], targets and detections as there."""

    def __init__(self, network: nn.Module, config: Any) -> None:
        super().__init__()
        self.network = network
        self.config = config

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> dict[str, Tensor] | Found:
        from detectron2.structures import BitMasks, Boxes, Instances
        from detectron2.utils.events import EventStorage

        inputs: list[dict[str, Any]] = [{"image": image} for image in images]
        if not self.training:
            return [_detections(one["instances"]) for one in self.network(inputs)]
        for one, target in zip(inputs, targets or (), strict=True):
            instances = Instances(tuple(one["image"].shape[-2:]))
            instances.gt_boxes = Boxes(target["boxes"])
            instances.gt_classes = target["labels"] - 1
            if self.config.MODEL.MASK_ON:
                instances.gt_masks = BitMasks(target["masks"])
            one["instances"] = instances
        with EventStorage():  # which it writes to in training
            losses: dict[str, Tensor] = self.network(inputs)
        return losses

    def optimiser(self, rate: float) -> torch.optim.Optimizer:
        """Return the optimiser that its own trainer makes, SGD with torch's `foreach`."""
        from detectron2.solver import build_optimizer

        config = self.config.clone()
        config.SOLVER.BASE_LR = rate
        made: torch.optim.Optimizer = build_optimizer(config, self.network)
        return made


def _detections(instances: Any) -> dict[str, Any]:
    found = {
        "boxes": instances.pred_boxes.tensor,
        "labels": instances.pred_classes + 1,
        "scores": instances.scores,
    }
    return found | ({"masks": instances.pred_masks[:, None]} if instances.has("pred_masks") else {})


def detectron2_model(
    head: str, backbone: str, classes: int, objects: int, reference: nn.Module, frozen_stages: int
) -> Detectron2:
    """Return detectron2's model with the weights of torchvision's, on its device; classes count the background.

    It is as its model zoo has it, but for what would make it another network: pixels are RGB in [0, 1], strides are in
    the 3x3, RoIAlign takes two points a side and is not moved by half a pixel, anchors are rounded to whole pixels, and
    all 2000 proposals are trained with. Masks are trained with as bitmaps, which they come as.
    """
    from detectron2.modeling import build_model
    from detectron2.utils.logger import setup_logger

    setup_logger(name="fvcore")  # else its advice on a missing handler goes to the terminal
    device = next(reference.parameters()).device
    config = _configured(head, backbone, classes - 1, objects, frozen_stages)
    config.MODEL.DEVICE = str(device)
    network: Any = build_model(config)
    _adopt_(network, reference, backbone, classes)
    anchors = network.proposal_generator.anchor_generator.cell_anchors
    for mine, theirs in zip(anchors, reference.get_submodule("rpn.anchor_generator").cell_anchors, strict=True):  # type: ignore[arg-type]
        mine.copy_(theirs)
    return Detectron2(network, config)


def _configured(head: str, backbone: str, classes: int, objects: int, frozen_stages: int) -> Any:
    from detectron2 import model_zoo
    from detectron2.config import get_cfg

    described = resnet(backbone)
    if described is None:
        raise InputError(f"detectron2 has no {backbone}; leave it out of the comparison, or take a plain ResNet")
    config = get_cfg()
    config.merge_from_file(model_zoo.get_config_file(CONFIGS[head]))
    config.INPUT.FORMAT = "RGB"
    config.MODEL.PIXEL_MEAN, config.MODEL.PIXEL_STD = list(IMAGENET_MEAN), list(IMAGENET_STD)
    config.MODEL.BACKBONE.FREEZE_AT = frozen_stages
    config.MODEL.RESNETS.DEPTH = described.depth
    config.MODEL.RESNETS.STRIDE_IN_1X1 = described.strides_first
    config.MODEL.RESNETS.NUM_GROUPS = described.groups
    config.MODEL.RESNETS.WIDTH_PER_GROUP = described.group_width
    config.MODEL.RESNETS.RES2_OUT_CHANNELS = described.width * (1 if described.basic else 4)
    config.MODEL.RESNETS.NORM = "FrozenBN"
    config.MODEL.RPN.POST_NMS_TOPK_TRAIN = 2000
    config.MODEL.RPN.SMOOTH_L1_BETA = config.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA = 1 / 9
    config.MODEL.ROI_HEADS.NUM_CLASSES = classes
    for part in (config.MODEL.ROI_BOX_HEAD, config.MODEL.ROI_MASK_HEAD):
        part.POOLER_TYPE, part.POOLER_SAMPLING_RATIO = "ROIAlign", 2
    config.TEST.DETECTIONS_PER_IMAGE = objects
    return config


def _adopt_(network: nn.Module, reference: nn.Module, backbone: str, classes: int) -> None:
    """Load torchvision's weights, strictly."""
    (body,) = SPELLINGS["detectron2"]["plain"](backbone)[:1]
    state: dict[str, Tensor] = {}
    for key, value in reference.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        if key.startswith(_BODY):
            state[f"backbone.bottom_up.{body.spell(key.removeprefix(_BODY))}"] = value
        elif key.startswith("roi_heads.box_predictor.") or ".mask_fcn_logits." in key:
            state |= _of_classes(key, value, classes)
        else:
            state[_spelt(key)] = value
    missing, unexpected = network.load_state_dict(state, strict=False)
    # FrozenBatchNorm2d of either has no counter; its anchors are set apart.
    missing = [key for key in missing if "cell_anchors" not in key and not key.startswith("pixel_")]
    assert not missing, missing
    assert not unexpected, unexpected


def _of_classes(key: str, value: Tensor, classes: int) -> Mapping[str, Tensor]:
    """Return a tensor whose first side is the classes', where the background is first; here it is last, or nowhere."""
    by_class = value.reshape(classes, -1, *value.shape[1:])
    foreground = by_class[1:]
    if ".cls_score." in key:
        return {key: torch.cat([foreground, by_class[:1]]).flatten(0, 1)}
    return {_spelt(key): foreground.flatten(0, 1)}


def _spelt(key: str) -> str:
    for pattern, replacement in _PAIRS:
        key = re.sub(pattern, replacement, key)
    return key
