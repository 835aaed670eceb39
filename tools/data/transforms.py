"""What happens to a training sample before the model: resizing and augmentation, by preset."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backbones.errors import unknown
from .masks import resize_masks

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
# What is known of an image's objects, by the models' names: `boxes` (N, 4) float32 xyxy, and others of N rows, such as
# `labels` (N,) and `masks` (N, H, W).
Objects = Mapping[str, np.ndarray[Any, np.dtype[Any]]]


@dataclass(frozen=True)
class Transforms:
    """Settings of the training transforms: a preset, and the sizes in pixels that images are brought to.

    The short side becomes `short`, unless the long one would pass `longest`.
    """

    preset: str = "default"
    short: int = 800
    longest: int = 1333


def _default() -> list[Any]:
    import albumentations as A

    return [A.HorizontalFlip(p=0.5)]


def _flips() -> list[Any]:
    import albumentations as A

    return [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]


def _none() -> list[Any]:
    import albumentations as A

    return [A.NoOp()]  # an empty list warns that nothing will process the boxes


PRESETS: dict[str, Callable[[], list[Any]]] = {"default": _default, "flips": _flips, "none": _none}


class Transform:
    """A preset made ready: call it with pixels (H, W, 3), what is known of the objects, and the sample's seed.

    Objects whose box the preset leaves less than a pixel are gone from all of it.
    """

    def __init__(self, settings: Transforms) -> None:
        if settings.preset not in PRESETS:
            raise unknown("transforms.preset", settings.preset, PRESETS)
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for newer versions
        import albumentations as A

        self.settings = settings
        self.augment = A.Compose(
            PRESETS[settings.preset](),
            bbox_params=A.BboxParams("pascal_voc", label_fields=["row"], clip=True, min_width=1, min_height=1),
        )

    def __call__(
        self, pixels: Pixels, objects: Objects, seed: int
    ) -> tuple[Pixels, dict[str, np.ndarray[Any, np.dtype[Any]]]]:
        pixels, objects = resize(pixels, objects, self.settings.short, self.settings.longest)
        # One generator for all: set_random_seed would give each transform the same draws, and every flip be both.
        self.augment.set_random_state(np.random.default_rng(seed), random.Random(seed))
        rows = np.arange(len(objects["boxes"]))
        images = {"masks": objects["masks"]} if len(objects.get("masks", ())) else {}
        done = self.augment(image=pixels, bboxes=objects["boxes"], row=rows, **images)
        pixels, boxes = done["image"], np.asarray(done["bboxes"], np.float32).reshape(-1, 4)
        if "masks" in objects:
            objects = {**objects, "masks": done.get("masks", np.zeros((0, *pixels.shape[:2]), np.uint8))}
        kept = np.asarray(done["row"], np.int64).reshape(-1)
        return pixels, {key: boxes if key == "boxes" else value[kept] for key, value in objects.items()}


def resize(pixels: Pixels, objects: Objects, short: int, longest: int) -> tuple[Pixels, Objects]:
    """Bring the short side to `short`, or the long one to `longest` where that is less; boxes and masks with it."""
    import cv2

    height, width = pixels.shape[:2]
    scale = min(short / min(height, width), longest / max(height, width))
    # Floor and plain bilinear, as the model itself resizes at evaluation (heads/images.py).
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    if size == (width, height):
        return pixels, objects
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    factor = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    scaled = {**objects, "boxes": objects["boxes"] * factor}
    if "masks" in objects:
        scaled["masks"] = resize_masks(objects["masks"], size[1], size[0])
    return np.asarray(resized, np.uint8), scaled
