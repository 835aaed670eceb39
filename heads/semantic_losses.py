"""Losses of semantic segmentation as values: each maps the log-probabilities of pixels and their labels to a scalar.

Log-probabilities are (P, K), labels (P,) int64, 0..K-1 or IGNORE. Pixels to ignore have no part in any loss; where all
are, a loss is 0 and so are its gradients. Nothing asks the device for a value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones import InputError
from ..backbones.errors import unknown
from .normalisers import pooled, shared

# The label of pixels that have no class, as in the PNGs of Pascal VOC and Cityscapes.
IGNORE = 255


@dataclass(frozen=True)
class LossSettings:
    """What the losses have to know.

    class_weights: how much a pixel counts, by its class; () for the same. hard_probability, hard_share: a pixel is hard
    where its class has less than this probability, and the hardest share of all pixels is in any case.
    """

    class_weights: tuple[float, ...] = ()
    hard_probability: float = 0.7
    hard_share: float = 1 / 16

    def __post_init__(self) -> None:
        for name in ("hard_probability", "hard_share"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}; it is above 0 and at most 1")
        if any(weight < 0 for weight in self.class_weights):
            raise InputError(f"class_weights={self.class_weights}; none can be negative")


PixelLoss = Callable[[Tensor, Tensor, LossSettings], Tensor]


def cross_entropy(log_probabilities: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
    """Return the mean of -log p, weighted by class."""
    each = _each(log_probabilities, labels)
    return _mean(each, _weights(each, labels, settings))


def ohem(log_probabilities: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
    """Return the cross-entropy of the hard pixels alone: online bootstrapping, arXiv:1604.04339.

    The least number of pixels is a share of the batch rather than a number, so that it follows the size of the crops.
    Of several processes each takes that share of its own pixels: where it decides, other pixels are hard than if one
    process had them all.
    """
    each = _each(log_probabilities, labels)
    ranked = torch.where(labels == IGNORE, -1.0, each.detach())
    last = ranked.topk(ceil(settings.hard_share * len(ranked))).values[-1]
    hard = ranked >= last.clamp(max=-log(settings.hard_probability))
    return _mean(each, _weights(each, labels, settings) * hard)


def dice(log_probabilities: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
    """Return the mean over classes of 1 - 2 sum(p t) / (sum(p) + sum(t)), sums over the pixels of the batch.

    Soft Dice (arXiv:1606.04797, with plain sums below). Classes that no pixel of the batch has do not count: theirs
    would be 1 whatever the model says. Class weights do not act on it, as each class counts the same already.
    """
    valid = (labels != IGNORE).to(log_probabilities.dtype)
    classes = _clamped(log_probabilities, labels)
    probabilities = log_probabilities.exp() * valid[:, None]  # (P, K)
    zeros = probabilities.new_zeros(probabilities.shape[1])
    overlap = zeros.index_add(0, classes, probabilities.gather(1, classes[:, None]).squeeze(1))
    pixels = zeros.index_add(0, classes, valid)
    overlap, mass, pixels = pooled(torch.stack([overlap, probabilities.sum(dim=0), pixels]))
    there = pixels > 0
    lack = 1 - 2 * overlap / torch.where(there, mass + pixels, 1)
    mean: Tensor = torch.where(there, lack, 0).sum() / there.sum().clamp(min=1)
    return mean


LOSSES: Mapping[str, PixelLoss] = {"cross_entropy": cross_entropy, "ohem": ohem, "dice": dice}


def check_losses(names: Sequence[str], settings: LossSettings, num_classes: int) -> None:
    """Refuse unknown names, none at all, and weights that are not one for each class."""
    for name in names:
        if name not in LOSSES:
            raise unknown("loss", name, LOSSES)
    if not names:
        raise InputError(f"losses is empty; choose from {', '.join(LOSSES)}")
    if len(settings.class_weights) not in (0, num_classes):
        raise InputError(
            f"class_weights has {len(settings.class_weights)} values for {num_classes} classes; give one for each"
        )


def semantic_losses(logits: Tensor, labels: Tensor, names: Sequence[str], settings: LossSettings) -> dict[str, Tensor]:
    """Return the losses of logits (N, K, h, w) by name; they are brought to the size of labels (N, H, W), bilinearly.

    In float32 or better, whatever autocast has made of the logits.
    """
    # Classes last, so that those of a pixel lie together: its softmax is over them.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).contiguous(memory_format=torch.channels_last)
    logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    log_probabilities = logits.permute(0, 2, 3, 1).flatten(0, 2).log_softmax(dim=1)
    return {name: LOSSES[name](log_probabilities, labels.flatten(), settings) for name in names}


def _each(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return -log p of each pixel's class (P,), 0 where it has none."""
    return F.nll_loss(log_probabilities, labels, ignore_index=IGNORE, reduction="none")


def _weights(each: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
    """Return how much each pixel counts (P,)."""
    if not settings.class_weights:
        return (labels != IGNORE).to(each.dtype)
    weights = each.new_tensor([*settings.class_weights, 0.0])  # the last is of what has no class
    return weights[torch.where(labels == IGNORE, len(settings.class_weights), labels)]


def _mean(each: Tensor, weights: Tensor) -> Tensor:
    return (each * weights).sum() / shared(weights.sum())


def _clamped(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return labels that index classes also where there is none."""
    return labels.clamp(max=log_probabilities.shape[1] - 1)
