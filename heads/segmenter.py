"""Semantic segmentation as a model: images and targets in, losses or a class for each pixel out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import Backbone, InputError
from .aspp import ImagePooling
from .images import Batch, make_batch
from .semantic_losses import IGNORE, LossSettings, check_losses, semantic_losses

Target = Mapping[str, Tensor]
Size = tuple[int, int]

_LOG = logging.getLogger("vertebra")


class Segmenter(nn.Module):
    """A backbone, a classifier of each place of its maps, and in training perhaps an auxiliary one.

    Images are a list of (C, H, W), float in [0, 1] or uint8, of any sizes. Targets are a dict for each image with
    `semantic` (H, W), uint8 or int64, a class 0..num_classes-1 for each pixel of that image, or 255 where there is
    none. The two heads take all features of the backbone by name, and give logits at a stride of their own.

    class_layers: what the keys of layers whose size follows from the number of classes begin with.
    """

    target_keys: tuple[str, ...] = ("semantic",)
    first_label = 0
    class_layers: tuple[str, ...] = ("classifier.4.", "aux_classifier.4.")

    def __init__(
        self,
        backbone: Backbone,
        classifier: nn.Module,
        aux_classifier: nn.Module | None,
        *,
        num_classes: int,
        losses: Sequence[str],
        loss_settings: LossSettings,
        aux_weight: float,
        train_size: Size | None,
        test_size: Size | None,
        pad_to: Sequence[Size],
        test_scales: Sequence[float],
        test_flip: bool,
    ) -> None:
        super().__init__()
        check_losses(losses, loss_settings, num_classes)
        if not test_scales or min(test_scales) <= 0:
            raise InputError(f"test_scales={tuple(test_scales)}; give one or more above 0, as (0.75, 1.0, 1.25)")
        self.backbone = backbone
        self.classifier = classifier
        self.aux_classifier = aux_classifier
        # Public checkpoints have an auxiliary head, for training alone: a model without one can do without it.
        self.droppable_keys = ("aux_classifier.",) if aux_classifier is None else ()
        self.num_classes = num_classes
        self.loss_names = tuple(losses)
        self.loss_settings = loss_settings
        self.aux_weight = aux_weight
        self.train_size = train_size
        self.test_size = test_size
        self.pad_to = tuple(pad_to)
        self.test_scales = tuple(test_scales)
        self.test_flip = test_flip
        self._told = False

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Return losses when training, by name; else for each image `semantic` (H, W), uint8 classes."""
        if not self.training:
            return self.segment(images)
        if targets is None:
            raise InputError("a model in training mode needs targets; call model.eval() first to predict")
        return self.losses(images, targets)

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the losses by name, as scalars to be summed, in training or in eval mode.

        Those of the auxiliary head are named `aux_…`; its weight is in them.
        """
        self._check_targets(images, targets)
        self._tell_of_one_image(len(images))
        batch = self._batch(images)
        labels = _padded_labels(batch, targets)
        features = self.backbone(batch.images)
        found = semantic_losses(self.classifier(features), labels, self.loss_names, self.loss_settings)
        if self.aux_classifier is None:
            return found
        auxiliary = semantic_losses(self.aux_classifier(features), labels, self.loss_names, self.loss_settings)
        return {**found, **{f"aux_{name}": self.aux_weight * value for name, value in auxiliary.items()}}

    def logits(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Return the logits (K, H, W) of each image, in its pixels; float32, or float64 of a model in that."""
        return list(self._logits(images))

    def segment(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return `semantic` (H, W) for each image, in its pixels: the likeliest class, uint8.

        With test-time augmentation, of the mean probability over `test_scales` and, with `test_flip`, mirrored images.
        """
        scores = map(self._mean_probabilities, images) if self._augmented else self._logits(images)
        return [{"semantic": one.argmax(dim=0).to(torch.uint8)} for one in scores]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the backbone and the heads, in place and with torch.compile's options.

        Give `pad_to`, or each new shape of a batch compiles anew.
        """
        for part in (self.backbone, self.classifier, self.aux_classifier):
            if part is not None:
                part.compile(*args, **kwargs)

    @property
    def _augmented(self) -> bool:
        return self.test_flip or self.test_scales != (1.0,)

    def _batch(self, images: Sequence[Tensor]) -> Batch:
        size = self.train_size if self.training else self.test_size
        return make_batch(images, self.backbone.preprocessing, size, self.pad_to)

    def _logits(self, images: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield logits image by image: at full size those of a batch take more than all else."""
        return self._of_batch(self._batch(images))

    def _of_batch(self, batch: Batch) -> Iterator[Tensor]:
        found = self.classifier(self.backbone(batch.images))
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        for one, size, given in zip(found, batch.sizes, batch.given_sizes, strict=True):
            whole = _resized(one, (batch.images.shape[-2], batch.images.shape[-1]))[:, : size[0], : size[1]]
            yield whole if size == given else _resized(whole, given)

    def _mean_probabilities(self, image: Tensor) -> Tensor:
        """Return the probabilities (K, H, W) of an image, a mean over what becomes of it."""
        if image.ndim != 3:
            raise InputError(f"an image has shape {tuple(image.shape)}; (channels, height, width) is expected")
        short, longest = self.test_size or (min(image.shape[-2:]), max(image.shape[-2:]))
        total: Tensor | float = 0.0
        for scale in self.test_scales:
            size = max(1, round(short * scale)), max(1, round(longest * scale))
            for mirrored in (False, True) if self.test_flip else (False,):
                given = image.flip(-1) if mirrored else image
                (logits,) = self._of_batch(make_batch([given], self.backbone.preprocessing, size, self.pad_to))
                total = total + (logits.flip(-1) if mirrored else logits).softmax(dim=0)
        assert isinstance(total, Tensor)
        return total / (len(self.test_scales) * (1 + self.test_flip))

    def _tell_of_one_image(self, images: int) -> None:
        """Say once that image pooling trains on running statistics."""
        pools = (module for module in self.classifier.modules() if isinstance(module, ImagePooling))
        if not self._told and any(pool.lacks_statistics(images) for pool in pools):
            self._told = True
            _LOG.warning(
                "a batch of one image has one value per channel in ASPP's pooled branch: its batch norm takes the "
                "running statistics for such steps (head_norm='group' has no need of a batch)"
            )

    def _check_targets(self, images: Sequence[Tensor], targets: Sequence[Target]) -> None:
        if len(images) != len(targets):
            raise InputError(f"{len(images)} images came with {len(targets)} targets")
        for i, (image, target) in enumerate(zip(images, targets, strict=True)):
            if "semantic" not in target:
                raise InputError(f"targets[{i}] has no semantic: a class for each pixel is needed")
            labels, size = target["semantic"], tuple(image.shape[-2:])
            if tuple(labels.shape) != size or labels.dtype not in (torch.uint8, torch.int64):
                raise InputError(
                    f"targets[{i}]['semantic'] is {labels.dtype} of shape {tuple(labels.shape)}; "
                    f"uint8 or int64 {size} is expected, as large as the image"
                )
            if labels.device.type == "cpu":  # reading values of a device would make the host wait for it
                self._check_labels(f"targets[{i}]['semantic']", labels)

    def _check_labels(self, name: str, labels: Tensor) -> None:
        odd = (labels >= self.num_classes) & (labels != IGNORE) | (labels < 0)
        if bool(odd.any()):
            raise InputError(
                f"{name} has the label {int(labels[odd][0])}; "
                f"0 to {self.num_classes - 1} are allowed, and {IGNORE} for what is ignored"
            )


def check_classes(num_classes: int) -> None:
    """Refuse a number of classes that uint8 labels cannot tell from what is ignored, and fewer than two."""
    if not 2 <= num_classes <= IGNORE:
        raise InputError(f"num_classes={num_classes}; 2 to {IGNORE} are allowed, as {IGNORE} marks what is ignored")


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring (K, h, w) to (K, H, W)."""
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def _padded_labels(batch: Batch, targets: Sequence[Target]) -> Tensor:
    """Return labels (N, H, W), int64, at the size of the batch; padding is ignored."""
    count, _, height, width = batch.images.shape
    labels = torch.full((count, height, width), IGNORE, dtype=torch.int64, device=batch.images.device)
    for i, (target, size) in enumerate(zip(targets, batch.sizes, strict=True)):
        labels[i, : size[0], : size[1]] = batch.masks_to_batch(target["semantic"][None], i)[0]
    return labels
