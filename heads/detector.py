"""A two-stage detector as a model: images and targets in, losses or detections out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import Backbone, InputError
from ..backbones.stage import is_recomputing
from .boxed_masks import masks_of
from .images import Batch, make_batch
from .masks import paste, to_rle
from .matching import pad_truth
from .pooling import Cells
from .roi_heads import RoIHeads
from .rpn import RegionProposalNetwork

Target = Mapping[str, Any]  # tensors, and `masks` may be boxed
Size = tuple[int, int]


class Detector(nn.Module):
    """A two-stage detector.

    Images are a list of (C, H, W), float in [0, 1] or uint8, of any sizes. Targets are a dict for each image: `boxes`
    (N, 4) float, xyxy in pixels of that image, `labels` (N,) int64 in 1..num_classes-1, and what else `target_keys`
    names. class_layers: what the keys of layers whose size follows from the number of classes begin with. first_label:
    the label of the first category, after the background.
    """

    target_keys: tuple[str, ...] = ("boxes", "labels")
    first_label = 1
    class_layers: tuple[str, ...] = ("roi_heads.box_predictor.",)

    def __init__(
        self,
        backbone: Backbone,
        rpn: RegionProposalNetwork,
        roi_heads: RoIHeads,
        *,
        num_classes: int,
        train_size: Size | None,
        test_size: Size | None,
        pad_to: Sequence[Size],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.roi_heads.recomputes = is_recomputing(backbone)
        self.num_classes = num_classes
        self.train_size = train_size
        self.test_size = test_size
        self.pad_to = tuple(pad_to)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
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
        scaled = [self._to_batch(target, batch, i) for i, target in enumerate(targets)]
        truth = pad_truth(scaled)
        levels = list(self.backbone(batch.images).values())
        objectness, deltas = self.rpn.predict(levels)
        anchors = self.rpn.anchors_of(levels, batch.images)
        sizes = self._sizes(batch)
        proposals = self.rpn.propose(objectness, deltas, anchors, sizes, self.rpn.selection_in_training)
        cells = Cells.of(levels)
        found = self.roi_heads.losses(cells, proposals, truth, scaled)
        return {**found, **self.rpn.losses(cells, objectness, deltas, anchors, truth)}

    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Return `boxes`, `labels` and `scores` for each image, best first, in pixels of that image."""
        batch = self._batch(images)
        levels, objectness, deltas = self.trunk(batch.images)
        anchors = self.rpn.anchors_of(levels, batch.images)
        sizes = self._sizes(batch)
        proposals = self.rpn.propose(objectness, deltas, anchors, sizes, self.rpn.selection_in_detection)
        found = self.roi_heads.detect(Cells.of(levels), proposals, sizes)
        return [{**one, "boxes": batch.to_given(one["boxes"], i)} for i, one in enumerate(found)]

    def trunk(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return levels, objectness and deltas: all that depends on the shape of the batch (N, C, H, W) alone."""
        levels = list(self.backbone(images).values())
        return levels, *self.rpn.head(levels)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the trunk, in place and with torch.compile's options.

        What follows it has sizes that depend on the images. Give `pad_to`, or each new shape of a batch compiles anew.
        """
        self.backbone.compile(*args, **kwargs)
        self.rpn.head.compile(*args, **kwargs)

    def _batch(self, images: Sequence[Tensor]) -> Batch:
        size = self.train_size if self.training else self.test_size
        return make_batch(images, self.backbone.preprocessing, size, self.pad_to)

    def _sizes(self, batch: Batch) -> Tensor:
        return torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)

    def _to_batch(self, target: Target, batch: Batch, index: int) -> dict[str, Any]:
        """Return a target in pixels of the batch."""
        return {**target, "boxes": batch.to_batch(target["boxes"], index)}

    def _check_targets(self, images: Sequence[Tensor], targets: Sequence[Target]) -> None:
        if len(images) != len(targets):
            raise InputError(f"{len(images)} images came with {len(targets)} targets")
        for i, target in enumerate(targets):
            self._check_target(f"targets[{i}]", images[i], target)

    def _check_target(self, name: str, image: Tensor, target: Target) -> None:
        missing = [key for key in self.target_keys if key not in target]
        if missing:
            raise InputError(f"{name} has no {', '.join(missing)}; {', '.join(self.target_keys)} are needed")
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
            raise InputError(
                f"{name}['boxes'] is {boxes.dtype} of shape {tuple(boxes.shape)}; float (N, 4) is expected"
            )
        if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
            raise InputError(
                f"{name}['labels'] is {labels.dtype} of shape {tuple(labels.shape)}; "
                f"int64 ({len(boxes)},) is expected, one for each box"
            )
        if boxes.device.type != "cpu" or not len(boxes):  # reading values of a device would make the host wait for it
            return
        if not bool((boxes[:, 2:] > boxes[:, :2]).all()) or not bool(boxes.isfinite().all()):
            sound = (boxes[:, 2:] > boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1)
            bad = int((~sound).nonzero()[0])
            raise InputError(f"{name}['boxes'][{bad}] = {boxes[bad].tolist()} has no area; drop such boxes")
        if not (int(labels.min()) >= 1 and int(labels.max()) < self.num_classes):
            raise InputError(
                f"{name}['labels'] go from {int(labels.min())} to {int(labels.max())}; "
                f"1 to {self.num_classes - 1} are allowed (0 is the background)"
            )


# What becomes of masks (D, M, M) in boxes (D, 4) of an image (H, W), by the name of the format.
MASK_FORMATS: dict[str, Callable[[Tensor, Tensor, Size], Any]] = {"dense": paste, "rle": to_rle}


class MaskDetector(Detector):
    """A two-stage detector that finds masks too.

    Targets have `masks` (N, H, W), uint8 or bool, at the size of their image; or the same as `BoxedMasks`, in a tenth
    of the memory. Detections have `masks`: with `dense` (D, 1, H, W), probabilities at the size of the image, as
    torchvision gives them; with `rle` a list of COCO's compressed run lengths, of what is above a half, which takes a
    thousandth of the memory.
    """

    target_keys = ("boxes", "labels", "masks")
    class_layers = (*Detector.class_layers, "roi_heads.mask_predictor.mask_fcn_logits.")

    def __init__(self, *parts: Any, mask_format: str, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self.mask_format = mask_format

    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Return `boxes`, `labels`, `scores` and `masks` for each image, best first, in pixels of that image."""
        to_image = MASK_FORMATS[self.mask_format]
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        return [
            {**one, "masks": to_image(one["masks"], one["boxes"], size)}
            for one, size in zip(super().detect(images), sizes, strict=True)
        ]

    def _to_batch(self, target: Target, batch: Batch, index: int) -> dict[str, Any]:
        found = super()._to_batch(target, batch, index)
        return {**found, "masks": masks_of(target["masks"]).resized(batch.sizes[index])}

    def _check_target(self, name: str, image: Tensor, target: Target) -> None:
        super()._check_target(name, image, target)
        masks = target["masks"]
        expected = (len(target["boxes"]), *image.shape[-2:])
        if tuple(masks.shape) != expected or masks.dtype not in (torch.uint8, torch.bool):
            raise InputError(
                f"{name}['masks'] is {masks.dtype} of shape {tuple(masks.shape)}; uint8 or bool {expected} is "
                "expected: one for each box, as large as the image"
            )
