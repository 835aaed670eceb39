"""An image classifier on any backbone: the model that pretrains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import Backbone, InputError
from .images import make_batch
from .normalisers import shared

Target = Mapping[str, Tensor]
Size = tuple[int, int]


class ImageClassifier(nn.Module):
    """Global average pooling of a backbone's deepest feature, and a linear layer.

    Images are a list of (C, H, W), float in [0, 1] or uint8. Targets are a dict for each image with `label`, int64 in
    0..num_classes-1, without dimensions. Padding would count in the average, so the images of a batch must have one
    size once they are resized.
    """

    target_keys: tuple[str, ...] = ("label",)
    first_label = 0
    class_layers: tuple[str, ...] = ("head.",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        train_size: Size | None,
        test_size: Size | None,
        label_smoothing: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.feature_info[-1].channels, num_classes)
        self.train_size = train_size
        self.test_size = test_size
        self.label_smoothing = label_smoothing

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Return losses when training, by name; else for each image its `label` () and the `scores` (K,) of all."""
        if not self.training:
            return self.classify(images)
        if targets is None:
            raise InputError("a model in training mode needs targets; call model.eval() first to predict")
        return self.losses(images, targets)

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the losses by name, as scalars, in training or in eval mode (for the loss on held-out images)."""
        labels = self._labels(images, targets)
        logits = self.logits(images).float()
        count = torch.full((), len(labels), dtype=logits.dtype).to(logits.device, non_blocking=True)
        mean = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return {"cross_entropy": mean * (count / shared(count))}

    def classify(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return the likeliest `label` () of each image, and the probabilities of all classes, `scores` (K,)."""
        scores = self.logits(images).float().softmax(dim=1)
        return [{"label": label, "scores": row} for label, row in zip(scores.argmax(dim=1), scores, strict=True)]

    def logits(self, images: Sequence[Tensor]) -> Tensor:
        """Return the logits (N, K)."""
        size = self.train_size if self.training else self.test_size
        batch = make_batch(images, self.backbone.preprocessing, size)
        if len(set(batch.sizes)) > 1:
            raise InputError(
                f"the images of a batch are of sizes {', '.join(f'{h}x{w}' for h, w in sorted(set(batch.sizes)))} "
                "(height x width); a classifier needs one size: crop them, or give one at a time"
            )
        height, width = batch.sizes[0]
        # Without the padding to the stride: a mean over it would be of less than the image.
        x = list(self.backbone(batch.images[..., :height, :width]).values())[-1]  # (N, C, h, w)
        return self.head(self.dropout(x.mean(dim=(2, 3))))  # type: ignore[no-any-return]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the backbone, in place and with torch.compile's options."""
        self.backbone.compile(*args, **kwargs)

    def _labels(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        if len(images) != len(targets):
            raise InputError(f"{len(images)} images came with {len(targets)} targets")
        for i, target in enumerate(targets):
            label = target.get("label")
            if label is None or label.ndim or label.dtype != torch.int64:
                came = "nothing" if label is None else f"{label.dtype} of shape {tuple(label.shape)}"
                raise InputError(f"targets[{i}]['label'] is {came}; an int64 without dimensions is expected")
            if label.device.type == "cpu" and not 0 <= int(label) < self.num_classes:
                raise InputError(f"targets[{i}]['label'] is {int(label)}; 0 to {self.num_classes - 1} are allowed")
        return torch.stack([target["label"] for target in targets])


@dataclass(frozen=True)
class Classifier:
    """The row of a classifier: call it with a backbone to build the model.

    Sizes are (short side, longest side) in pixels; None leaves images as they are.
    """

    model: ClassVar[type[nn.Module]] = ImageClassifier

    train_size: Size | None = None
    test_size: Size | None = None
    label_smoothing: float = 0.0
    dropout: float = 0.0

    def __call__(self, backbone: Backbone, num_classes: int) -> ImageClassifier:
        """Build the model for that many classes."""
        if num_classes < 2:
            raise InputError(f"num_classes={num_classes}; there is nothing to tell apart with fewer than 2")
        backbone.select_((backbone.feature_info[-1].name,))
        return ImageClassifier(
            backbone,
            num_classes,
            train_size=self.train_size,
            test_size=self.test_size,
            label_smoothing=self.label_smoothing,
            dropout=self.dropout,
        )


CLASSIFIER: Mapping[str, Classifier] = {"classifier": Classifier()}
