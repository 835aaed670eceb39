"""What happens to a training sample before the model: resizing and augmentation, by preset."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backbones.errors import unknown

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Boxes = np.ndarray[Any, np.dtype[np.float32]]


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
    """A preset made ready: call it with pixels (H, W, 3), boxes (N, 4) xyxy, labels (N,) and the sample's seed."""

    def __init__(self, settings: Transforms) -> None:
        if settings.preset not in PRESETS:
            raise unknown("transforms.preset", settings.preset, PRESETS)
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for newer versions
        import albumentations as A

        self.settings = settings
        self.augment = A.Compose(
            PRESETS[settings.preset](),
            bbox_params=A.BboxParams("pascal_voc", label_fields=["labels"], clip=True, min_width=1, min_height=1),
        )

    def __call__(
        self, pixels: Pixels, boxes: Boxes, labels: np.ndarray[Any, np.dtype[np.int64]], seed: int
    ) -> tuple[Pixels, Boxes, np.ndarray[Any, np.dtype[np.int64]]]:
        pixels, boxes = resize(pixels, boxes, self.settings.short, self.settings.longest)
        # One generator for all: set_random_seed would give each transform the same draws, and every flip be both.
        self.augment.set_random_state(np.random.default_rng(seed), random.Random(seed))
        done = self.augment(image=pixels, bboxes=boxes, labels=labels)
        boxes = np.asarray(done["bboxes"], np.float32).reshape(-1, 4)
        return done["image"], boxes, np.asarray(done["labels"], np.int64).reshape(-1)


def resize(pixels: Pixels, boxes: Boxes, short: int, longest: int) -> tuple[Pixels, Boxes]:
    """Bring the short side to `short`, or the long one to `longest` where that is less; boxes with it."""
    import cv2

    height, width = pixels.shape[:2]
    scale = min(short / min(height, width), longest / max(height, width))
    # Floor and plain bilinear, as the model itself resizes at evaluation (heads/images.py).
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    if size == (width, height):
        return pixels, boxes
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    factor = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    return np.asarray(resized, np.uint8), boxes * factor
