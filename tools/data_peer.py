"""Torchvision's way from a COCO file to training samples, as its detection references go it, for comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .data.geometry import FILL
from .data.sampling import Order
from .data.transforms import Transforms

Target = dict[str, Any]


def _short_side(settings: Transforms) -> list[Callable[..., Any]]:
    return _shortest([settings.short], settings)


def _short_sides(settings: Transforms) -> list[Callable[..., Any]]:
    return _shortest(settings.shorts, settings)


def _shortest(sizes: Sequence[int], settings: Transforms) -> list[Callable[..., Any]]:
    # The flip first, as there: the smaller image is flipped sooner.
    return [v2.RandomHorizontalFlip(), v2.RandomShortestSize(list(sizes), max_size=settings.longest)]


def _large_scale_jitter(settings: Transforms) -> list[Callable[..., Any]]:
    assert settings.crop is not None
    assert settings.scale is not None
    size = (settings.crop[0], settings.crop[1])
    return [v2.ScaleJitter(size, settings.scale), FixedSizeCrop(size), v2.RandomHorizontalFlip()]


@dataclass(frozen=True)
class FixedSizeCrop:
    """Takes a random part of (height, width) of an image, or pads a smaller one at its right and bottom.

    Of the references' own transforms, for boxes and masks of `torchvision.tv_tensors`; objects of which less than a
    pixel is left are gone before their masks are cropped.
    """

    size: tuple[int, int]

    def __call__(self, image: Any, target: Target) -> tuple[Any, Target]:
        given: list[int] = F.get_size(image)
        part = [min(length, wanted) for length, wanted in zip(given, self.size, strict=True)]
        corner = [int(torch.randint(length - inside + 1, ())) for length, inside in zip(given, part, strict=True)]
        boxes = F.crop(target["boxes"], *corner, *part)
        kept = (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1)
        padding = [0, 0, self.size[1] - part[1], self.size[0] - part[0]]  # left, top, right, bottom
        shown = {**target, "boxes": tv_tensors.wrap(boxes[kept], like=boxes), "labels": target["labels"][kept]}
        if "masks" in target:
            masks = tv_tensors.wrap(target["masks"][kept], like=target["masks"])
            shown["masks"] = F.pad(F.crop(masks, *corner, *part), padding)
        shown["boxes"] = F.pad(shown["boxes"], padding)
        return F.pad(F.crop(image, *corner, *part), padding, fill=list(FILL)), shown


# What torchvision has for our presets, from their settings with none left open.
PEERS: Mapping[str, Callable[[Transforms], list[Callable[..., Any]]]] = {
    "default": _short_side,
    "multiscale": _short_sides,
    "lsj": _large_scale_jitter,
}

# Where images become tensors: Pillow's kernels work on them, or torch's.
BACKENDS: Mapping[str, tuple[Sequence[Callable[..., Any]], Sequence[Callable[..., Any]]]] = {
    "Pillow": ((), (v2.PILToTensor(),)),
    "tensors": ((v2.ToImage(),), ()),
}


class _Objects(CocoDetection):  # type: ignore[misc]  # torchvision has no types
    """Objects without crowds, which its references leave out too."""

    def _load_target(self, id: int) -> list[Any]:
        return [found for found in super()._load_target(id) if not found.get("iscrowd", 0)]


class ReferenceStream(Dataset[tuple[Tensor, Target]]):
    """The samples of torchvision's pipeline, of the image that `order` has at each position.

    ids: those of the images by their number in the order; each must have an object to learn, which the pipeline cannot
    do without.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path,
        *,
        keys: Sequence[str],
        transforms: Sequence[Callable[..., Any]],
        backend: str,
        order: Order,
        ids: Mapping[int, int],
    ) -> None:
        first, last = BACKENDS[backend]
        steps = v2.Compose([*first, *transforms, *last, v2.SanitizeBoundingBoxes(), v2.ToPureTensor()])
        with redirect_stdout(StringIO()):  # pycocotools says what it does
            objects = _Objects(images, annotations, transforms=steps)
        self.samples = wrap_dataset_for_transforms_v2(objects, target_keys=("image_id", *keys))
        place = {id: i for i, id in enumerate(objects.ids)}
        self.places = {number: place[id] for number, id in ids.items()}
        self.order = order

    def __getitem__(self, position: int) -> tuple[Tensor, Target]:
        sample: tuple[Tensor, Target] = self.samples[self.places[self.order[position]]]
        return sample
