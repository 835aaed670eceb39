"""Small labelled pictures, a classifier on any backbone, a plain training loop, and gradient norms by depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import Backbone, Trunk
from ..backbones.stage import Stage
from .data.cifar import read_cifar
from .data.shapes import SHAPES, Shapes, draw_image

Batch = tuple[Tensor, Tensor]

# --- pictures ------------------------------------------------------------------------------------------------------


def shape_pictures(count: int, seed: int, side: int = 32) -> Batch:
    """Return pictures (count, 3, side, side), float in [0, 1], of one shape each, and its kind in the order of SHAPES.

    A shape is cut out of a larger picture and brought to the same size in all: where size varies as place and colours
    do, even a good network sees nothing to learn from for its first hundreds of steps.
    """
    import cv2

    kinds = [id for id, _ in SHAPES.values()]
    scene = Shapes(size=3 * side, objects=1)
    images = np.empty((count, side, side, 3), np.uint8)
    labels = torch.empty(count, dtype=torch.long)
    for i in range(count):
        pixels, [(kind, mask)] = draw_image(scene, np.random.default_rng([seed, i]))
        inside = np.argwhere(mask)
        (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0) + 1
        border = max(bottom - top, right - left) // 8
        cut = pixels[max(0, top - border) : bottom + border, max(0, left - border) : right + border]
        images[i] = cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)
        labels[i] = kinds.index(kind)
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, labels


def cifar_pictures(folder: Path) -> Batch:
    """Return the training pictures (50000, 3, 32, 32), float in [0, 1], and labels of CIFAR-10's binary version."""
    found = read_cifar(folder, "train", kind="cifar10", held_out=0).images
    pixels = torch.from_numpy(np.stack([image.read() for image in found]))
    labels = torch.tensor([int(image.targets(("label",))["label"]) for image in found])
    return pixels.permute(0, 3, 1, 2).float().div_(255), labels


def shuffled(images: Tensor, labels: Tensor, *, steps: int, size: int, seed: int) -> Iterator[Batch]:
    """Yield `steps` batches, in an order that depends on the seed alone; every picture comes once in each epoch."""
    generator = torch.Generator().manual_seed(seed)
    epochs = -(-steps * size // len(images))
    order = torch.cat([torch.randperm(len(images), generator=generator) for _ in range(epochs)])
    for chosen in order[: steps * size].reshape(steps, size):
        yield images[chosen], labels[chosen]


# --- the network ---------------------------------------------------------------------------------------------------


class PooledClassifier(nn.Module):
    """A backbone, the average of its deepest feature over all places, and one linear layer."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.linear = nn.Linear(backbone.feature_info[-1].channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W), float in [0, 1] and not normalised, to logits (N, classes)."""
        features = self.backbone(self.backbone.preprocessing.normalise(images))
        deepest: Tensor = features[self.backbone.feature_info[-1].name]
        logits: Tensor = self.linear(deepest.mean(dim=(2, 3)))
        return logits


def block_weights(backbone: Backbone) -> dict[str, list[nn.Parameter]]:
    """Return the trainable parameters by block, from the input to the output.

    Blocks are named `stem`, `layer1.0`, `layer1.1`, …; what is neither in the stem nor in a stage of blocks is a
    block by itself, under its own name.
    """
    stem = backbone.stages()[0] if isinstance(backbone, Trunk) else ()
    found: dict[str, list[nn.Parameter]] = {}
    for name, child in backbone.named_children():
        blocks = list(child.named_children()) if isinstance(child, Stage) else []
        parts = [(f"{name}.{i}", block) for i, block in blocks] or [("stem" if child in stem else name, child)]
        for label, part in parts:
            found.setdefault(label, []).extend(p for p in part.parameters() if p.requires_grad)
    return {name: weights for name, weights in found.items() if weights}


def gradient_norms(model: PooledClassifier, images: Tensor, labels: Tensor) -> list[tuple[str, float]]:
    """Return the norm of the cross-entropy's gradient with respect to each block, from the input to the output.

    In training mode, on a copy: the model's running statistics, gradients and mode stay as they are.
    """
    copied = deepcopy(model).train()
    blocks = block_weights(copied.backbone)
    copied.zero_grad()
    F.cross_entropy(copied(images), labels).backward()  # type: ignore[no-untyped-call]
    norms = {}
    for name, weights in blocks.items():
        gradients = [weight.grad.flatten() for weight in weights if weight.grad is not None]
        norms[name] = float(torch.cat(gradients).norm()) if gradients else 0.0
    return list(norms.items())


# --- training ------------------------------------------------------------------------------------------------------


def warm_up(lr: float, steps: int) -> Callable[[int], float]:
    """Return the learning rate as a function of the step, from 0: linear up to `lr` at step `steps`, then constant."""
    return lambda step: lr * min(1.0, (step + 1) / (steps + 1))


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    rate: Callable[[int], float],
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
) -> Iterator[float]:
    """Train by plain SGD and yield the cross-entropy of each step; momentum and decay are arXiv:1512.03385's."""
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), rate(0), momentum=momentum, weight_decay=weight_decay)
    for step, (images, labels) in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = rate(step)
        loss = F.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield loss.item()
