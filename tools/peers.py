"""What torchvision has beside our heads, as rows: its model and ours alike, and what both are given and asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import detection, get_model, resnet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.segmentation import DeepLabV3
from torchvision.ops import FrozenBatchNorm2d, box_iou
from torchvision.transforms.functional import normalize

from ..backbones.contract import IMAGENET_MEAN, IMAGENET_STD
from ..backbones.errors import unknown
from ..heads import create_model, head_row
from ..heads.semantic_losses import IGNORE

Size = tuple[int, int]
Target = dict[str, Tensor]
Found = list[dict[str, Any]]

# Objects that a training image has: COCO's have 7.3 on average.
OBJECTS = 8
# What `trainable_backbone_layers` of torchvision's builders frees last comes first.
FREEZING_ORDER = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
# Boxes of one label that overlap by more are one object, found by two contestants.
SAME = 0.9
# Side in pixels of the squares of one class that an image to segment has.
SQUARE = 32


@dataclass(frozen=True)
class Peer:
    """A head that torchvision has too, with `classes` classes and `norm` in its backbone.

    reference: torchvision's model on one of `backbones`, from (backbone, classes, size, objects). It is called as ours
    are, leaves images at size (H, W) and finds at most so many objects.
    settings: what makes our row do the same, from (size, objects).
    trunk: the modules of torchvision's model that are compiled; class_scores: the one whose output the classes are of.
    targets: those of an image, from (size, classes, random).
    steps: those that it has. least_batch: images that a training step needs.
    measures: what the figures say of what was found, from what another contestant found and its own.
    """

    reference: Callable[[str, int, Size, int], nn.Module]
    settings: Callable[[Size, int], dict[str, Any]]
    norm: str
    classes: int
    backbones: tuple[str, ...]
    trunk: tuple[str, ...]
    class_scores: str
    targets: Callable[[Size, int, torch.Generator], Target]
    measures: Mapping[str, Callable[[Found, Found], float]]
    steps: tuple[str, ...] = ("inference", "train")
    least_batch: int = 1


def peer_of(head: str) -> Peer:
    """Return the peer of a head of ours."""
    if head not in PEERS:
        raise unknown("head with a peer in torchvision", head, PEERS)
    return PEERS[head]


def our_model(
    head: str, backbone: str, size: Size, objects: int, *, frozen_stages: int = 0, checkpointing: bool = False
) -> nn.Module:
    """Return our model, as its peer is."""
    peer = peer_of(head)
    row = replace(head_row(head), **peer.settings(size, objects))
    return create_model(
        row,
        backbone=backbone,
        num_classes=peer.classes,
        norm=peer.norm,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
    )


def freeze_(detector: nn.Module, stages: int) -> None:
    """Freeze the first stages of a torchvision detector's ResNet, the stem first, as its own builders do."""
    for i in range(stages):
        for name in FREEZING_ORDER[i]:
            detector.get_submodule(f"backbone.body.{name}").requires_grad_(False)


# --- detectors -------------------------------------------------------------------------------------------------------


def _detector(kind: Callable[..., nn.Module], backbone: str, classes: int, size: Size, objects: int) -> nn.Module:
    """Return a detector as torchvision's are with pretrained weights: its batch norms frozen."""
    body = resnet_fpn_backbone(backbone_name=backbone, weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=5)
    return kind(body, classes, min_size=min(size), max_size=max(size), box_detections_per_img=objects)


def _v2(kind: str, backbone: str, classes: int, size: Size, objects: int) -> nn.Module:
    model: nn.Module = get_model(
        f"{kind}_{backbone}_fpn_v2", weights=None, weights_backbone=None, num_classes=classes,
        min_size=min(size), max_size=max(size), box_detections_per_img=objects,
    )  # fmt: skip
    return model


def _detector_settings(size: Size, objects: int) -> dict[str, Any]:
    sides = min(size), max(size)
    return {"train_size": sides, "test_size": sides, "box_detections_per_img": objects}


def _objects(size: Size, classes: int, random: torch.Generator) -> Target:
    """Return random boxes of a tenth of the image's sides and more, with labels and elliptic masks."""
    whole = torch.tensor(size).flip(0)
    sides = whole * (0.1 + 0.6 * torch.rand(OBJECTS, 2, generator=random))
    corner = (whole - sides) * torch.rand(OBJECTS, 2, generator=random)
    x, y = (
        (torch.arange(size[1 - i]) + 0.5 - corner[:, i, None]) / sides[:, i, None] * 2 - 1 for i in (0, 1)
    )  # (OBJECTS, W) and (OBJECTS, H), -1 to 1 in the box
    return {
        "boxes": torch.cat((corner, corner + sides), dim=1),
        "labels": torch.randint(1, classes, (OBJECTS,), generator=random),
        "masks": (x[:, None, :] ** 2 + y[:, :, None] ** 2 < 1).to(torch.uint8),
    }


def _detections(reference: Found, found: Found) -> float:
    """Return how many objects an image has."""
    return sum(len(one["boxes"]) for one in found) / len(found)


def _same_objects(reference: Found, found: Found) -> float:
    """Return the share of objects in `reference` that were found too: the same label, and nearly the same box."""
    hits = total = 0
    for wanted, one in zip(reference, found, strict=True):
        total += len(wanted["boxes"])
        if len(wanted["boxes"]) and len(one["boxes"]):
            near = box_iou(wanted["boxes"].float(), one["boxes"].float()) > SAME
            hits += int((near & (wanted["labels"][:, None] == one["labels"])).any(dim=1).sum())
    return hits / total if total else 1.0


# --- segmenters ------------------------------------------------------------------------------------------------------


class ReferenceDeepLabV3(DeepLabV3):  # type: ignore[misc]  # torchvision has no types
    """Torchvision's DeepLab v3 with what its scripts do around it: images in, losses or a class for each pixel out."""

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Take images (3, H, W), all of one size, and do as `heads.segmenter.Segmenter` does."""
        maps = super().forward(normalize(torch.stack(list(images)), IMAGENET_MEAN, IMAGENET_STD))  # (N, K, H, W) each
        if targets is None:
            return [{"semantic": classes} for classes in maps["out"].argmax(dim=1).to(torch.uint8)]
        labels = torch.stack([target["semantic"] for target in targets]).long()
        out, aux = (cross_entropy(maps[name], labels, ignore_index=IGNORE) for name in ("out", "aux"))
        return {"out": out, "aux": 0.5 * aux}


def _deeplabv3(backbone: str, classes: int, size: Size, objects: int) -> nn.Module:
    model: Any = get_model(
        f"deeplabv3_{backbone}", weights=None, weights_backbone=None, num_classes=classes, aux_loss=True
    )
    return ReferenceDeepLabV3(model.backbone, model.classifier, model.aux_classifier)


def _segmenter_settings(size: Size, objects: int) -> dict[str, Any]:
    # Ours would pad to a multiple of 32, which torchvision's does not.
    return {"train_size": None, "test_size": None, "pad_to": (size,)}


def _squares(size: Size, classes: int, random: torch.Generator) -> Target:
    """Return a class for each pixel, in squares; as many squares as a class has are to be ignored."""
    rows, columns = (-(-side // SQUARE) for side in size)
    drawn = torch.randint(classes + 1, (rows, columns), generator=random)
    labels = torch.where(drawn == classes, IGNORE, drawn).to(torch.uint8)
    pixels = labels.repeat_interleave(SQUARE, dim=0).repeat_interleave(SQUARE, dim=1)
    return {"semantic": pixels[: size[0], : size[1]]}


def _same_pixels(reference: Found, found: Found) -> float:
    """Return the share of pixels that have the class that they have in `reference`."""
    same = [(a["semantic"] == b["semantic"]).float().mean() for a, b in zip(reference, found, strict=True)]
    return float(torch.stack(same).mean())


# --- the rows --------------------------------------------------------------------------------------------------------

_FASTER_RCNN = Peer(
    reference=partial(_detector, detection.FasterRCNN),
    settings=_detector_settings,
    norm="frozen_batch",
    classes=91,
    backbones=tuple(name for name in resnet.__all__ if name.islower()),
    trunk=("backbone", "rpn.head"),
    class_scores="roi_heads.box_predictor.cls_score",
    targets=_objects,
    measures={"objects": _detections, "agree": _same_objects},
)
_WITH_MASKS = ("inference", "rle", "train")

# By the names of our heads. What torchvision has as a function alone stands on the backbones of its functions.
PEERS: Mapping[str, Peer] = {
    "faster_rcnn": _FASTER_RCNN,
    "faster_rcnn_v2": replace(
        _FASTER_RCNN, reference=partial(_v2, "fasterrcnn"), norm="batch", backbones=("resnet50",)
    ),
    "mask_rcnn": replace(_FASTER_RCNN, reference=partial(_detector, detection.MaskRCNN), steps=_WITH_MASKS),
    "mask_rcnn_v2": replace(
        _FASTER_RCNN, reference=partial(_v2, "maskrcnn"), norm="batch", backbones=("resnet50",), steps=_WITH_MASKS
    ),
    "deeplabv3": Peer(
        reference=_deeplabv3,
        settings=_segmenter_settings,
        norm="batch",
        classes=21,
        backbones=("resnet50", "resnet101"),
        trunk=("backbone", "classifier", "aux_classifier"),
        class_scores="classifier.4",
        targets=_squares,
        measures={"agree": _same_pixels},
        least_batch=2,  # its pooled branch has one value of a channel in an image, which a batch norm cannot train on
    ),
}
