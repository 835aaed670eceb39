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

from ..heads.detector import MaskDetector
from .memory import keep_freed_memory
from .peers import Found

Images = Sequence[Tensor]


@dataclass(frozen=True)
class Contestant:
    """A model, the dtype that it is run in by autocast, if any, and how the C library treats its large tensors."""

    name: str
    model: nn.Module
    autocast: torch.dtype | None = None
    memory: Callable[[], bool] = keep_freed_memory


def train(contestant: Contestant, images: Images, targets: Sequence[Mapping[str, Tensor]]) -> Callable[[], None]:
    """Return a training step: losses, gradients of all layers, SGD."""
    model = contestant.model.train()
    # So slow that the weights, and with them the work, stay as they are.
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)

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
        return [{**one, "masks": [_encode(mask) for mask in one["masks"]]} for one in detect()]

    return step


def _encode(mask: Tensor) -> dict[str, Any]:
    encoded: dict[str, Any] = coco_mask.encode(np.asfortranarray((mask[0] > 0.5).cpu().numpy(), dtype=np.uint8))
    return encoded


def _autocast(contestant: Contestant, images: Images) -> Any:
    if contestant.autocast is None:
        return nullcontext()
    return torch.autocast(images[0].device.type, contestant.autocast)


# Training comes last: it changes the weights.
STEPS: dict[str, Callable[..., Callable[[], Any]]] = {"inference": inference, "rle": rle, "train": train}
