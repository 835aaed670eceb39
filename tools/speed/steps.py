"""What is timed: training, inference, and inference to masks in run lengths, of a model however it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from ...heads.detector import MaskDetector
from ..engine.optimisation import make_optimiser
from ..memory import keep_freed_memory
from ..peers import Found
from ..settings import Optim

Images = Sequence[Tensor]

# So slow that the weights, and with them the work, stay as they are.
RATE, MOMENTUM, DECAY = 1e-9, 0.9, 1e-4


def our_optimiser(model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD as `vertebra train` has it by default: fused, without decay of norms and biases."""
    return make_optimiser(model, Optim(name="sgd", lr=RATE, momentum=MOMENTUM, weight_decay=DECAY))


def plain_sgd(model: nn.Module, **how: bool) -> torch.optim.Optimizer:
    """Return SGD as torchvision's training script has it; how: which of torch's implementations."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(learning, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, **how)


@dataclass(frozen=True)
class Contestant:
    """A model and how it is run.

    dtype: the name of what it computes in; the weights stay as they are, and autocast converts where `autocast`.
    memory: how the C library treats its large tensors. optimiser: makes that of its training step.
    """

    name: str
    model: nn.Module
    dtype: str = "float32"
    autocast: torch.dtype | None = None
    memory: Callable[[], bool] = keep_freed_memory
    optimiser: Callable[[nn.Module], torch.optim.Optimizer] = our_optimiser


def train(contestant: Contestant, images: Images, targets: Sequence[Mapping[str, Tensor]]) -> Callable[[], None]:
    """Return a training step: losses, gradients of all layers that are not frozen, the optimiser, gradients cleared."""
    model = contestant.model.train()
    optimiser = contestant.optimiser(model)

    def step() -> None:
        with _autocast(contestant, images):
            loss = sum(model(images, targets).values())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def inference(contestant: Contestant, images: Images, mask_format: str = "dense") -> Callable[[], Found]:
    """Return a step of detection, or of segmentation."""
    model = contestant.model.eval()
    if isinstance(model, MaskDetector):
        model.mask_format = mask_format

    def step() -> Found:
        with torch.no_grad(), _autocast(contestant, images):
            found: Found = model(images)
        return found

    return step


def rle(contestant: Contestant, images: Images) -> Callable[[], Found]:
    """Return a step of detection with masks as COCO's run lengths, as its evaluation and its result files want them."""
    detect = inference(contestant, images, "rle")
    if isinstance(contestant.model, MaskDetector):
        return detect

    def step() -> Found:
        return [{**one, "masks": [encode(mask) for mask in one["masks"]]} for one in detect()]

    return step


def encode(mask: Tensor) -> dict[str, Any]:
    """Return a mask (1, H, W), of probabilities or bool, as run lengths, as torchvision's and detectron2's tools do."""
    inside = mask if mask.dtype is torch.bool else mask > 0.5
    encoded: dict[str, Any] = coco_mask.encode(np.asfortranarray(inside[0].cpu().numpy(), dtype=np.uint8))
    return encoded


def _autocast(contestant: Contestant, images: Images) -> Any:
    if contestant.autocast is None:
        return nullcontext()
    return torch.autocast(images[0].device.type, contestant.autocast)


STEPS: dict[str, Callable[..., Callable[[], Any]]] = {"inference": inference, "rle": rle, "train": train}
