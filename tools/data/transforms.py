"""What happens to a training sample before the model: resizing, cropping and augmentation, by preset."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backbones import InputError
from ...backbones.errors import unknown
from .geometry import WHOLE, Objects, Pixels, Size, bounded, draw_window, resize, show
from .sets import Array


@dataclass(frozen=True)
class Transforms:
    """Settings of the training transforms: a preset, and the sizes in pixels that images are brought to.

    With `default`, `flips`, `none` and `seg` the short side becomes `short`, unless the long one would pass `longest`;
    `seg` draws a factor to that from `scale`. `seg`, `imagenet` and `cifar` give samples of (height, width) `crop`.
    """

    preset: str = "default"
    short: int = 800
    longest: int = 1333
    crop: Size | None = None
    scale: tuple[float, float] = (0.5, 2.0)


# What brings an image to its sample's size, by draws from the sample's generator.
Place = Callable[[Pixels, Objects, Transforms, np.random.Generator], tuple[Pixels, Objects]]


@dataclass(frozen=True)
class Preset:
    """How images are placed in their samples, and what albumentations does then; `crops`: it needs `crop`."""

    place: Place
    augment: Callable[[], list[Any]]
    crops: bool = False


def _bounded(
    pixels: Pixels, objects: Objects, settings: Transforms, rng: np.random.Generator
) -> tuple[Pixels, Objects]:
    return resize(pixels, objects, settings.short, settings.longest)


def _cropped(scaled: Callable[[Size, Size, Transforms, np.random.Generator], Size], margin: int = 0) -> Place:
    """Return what takes a random window of an image brought to the size that `scaled` draws for it."""

    def place(
        pixels: Pixels, objects: Objects, settings: Transforms, rng: np.random.Generator
    ) -> tuple[Pixels, Objects]:
        assert settings.crop is not None
        crop = (settings.crop[0], settings.crop[1])
        whole = scaled((pixels.shape[0], pixels.shape[1]), crop, settings, rng)
        return show(pixels, objects, draw_window(whole, crop, margin, rng))

    return place


def _rescaled(given: Size, crop: Size, settings: Transforms, rng: np.random.Generator) -> Size:
    factor = bounded(given, settings.short, settings.longest) * rng.uniform(*settings.scale)
    return max(1, round(given[0] * factor)), max(1, round(given[1] * factor))


def _as_given(given: Size, crop: Size, settings: Transforms, rng: np.random.Generator) -> Size:
    return given


def _inception(given: Size, crop: Size, settings: Transforms, rng: np.random.Generator) -> Size:
    """Draw the part that fills the crop: 0.08 to 1 of the area, 3:4 to 4:3 in shape, or what the image has of that."""
    area = given[0] * given[1] * rng.uniform(0.08, 1)
    shape = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))  # width to height
    part = min(given[0], math.sqrt(area / shape)), min(given[1], math.sqrt(area * shape))
    return max(crop[0], round(given[0] * crop[0] / part[0])), max(crop[1], round(given[1] * crop[1] / part[1]))


def _flip() -> list[Any]:
    import albumentations as A

    return [A.HorizontalFlip(p=0.5)]


def _flips() -> list[Any]:
    import albumentations as A

    return [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]


def _nothing() -> list[Any]:
    import albumentations as A

    return [A.NoOp()]  # an empty list warns that nothing will process the boxes


def _flip_and_jitter() -> list[Any]:
    import albumentations as A

    factors = (0.75, 1.25)
    return [A.HorizontalFlip(p=0.5), A.ColorJitter(factors, factors, factors, hue=(-0.03, 0.03), p=0.8)]


PRESETS = {
    "default": Preset(_bounded, _flip),
    "flips": Preset(_bounded, _flips),
    "none": Preset(_bounded, _nothing),
    "seg": Preset(_cropped(_rescaled), _flip_and_jitter, crops=True),
    "imagenet": Preset(_cropped(_inception), _flip, crops=True),
    # He et al., section 4.2: four pixels on each side, of what is 0 once the mean is taken off.
    "cifar": Preset(_cropped(_as_given, margin=4), _flip, crops=True),
}


class Transform:
    """A preset made ready: call it with pixels (H, W, 3), what is known of the image, and the sample's seed.

    Objects whose box the preset leaves less than a pixel are gone from all of it.
    """

    def __init__(self, settings: Transforms) -> None:
        if settings.preset not in PRESETS:
            raise unknown("transforms.preset", settings.preset, PRESETS)
        self.preset = PRESETS[settings.preset]
        _check(settings, self.preset)
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for newer versions
        import albumentations as A

        self.settings = settings
        self.augment = A.Compose(
            self.preset.augment(),
            bbox_params=A.BboxParams("pascal_voc", label_fields=["row"], clip=True, min_width=1, min_height=1),
        )

    def __call__(self, pixels: Pixels, objects: Objects, seed: int) -> tuple[Pixels, dict[str, Array]]:
        pixels, objects = self.preset.place(pixels, objects, self.settings, np.random.default_rng([seed, 1]))
        # One generator for all: set_random_seed would give each transform the same draws, and every flip be both.
        self.augment.set_random_state(np.random.default_rng(seed), random.Random(seed))
        given = {"masks": objects["masks"]} if len(objects.get("masks", ())) else {}
        if "semantic" in objects:
            given["mask"] = objects["semantic"]
        boxes = objects.get("boxes", np.zeros((0, 4), np.float32))
        done = self.augment(image=pixels, bboxes=boxes, row=np.arange(len(boxes)), **given)
        pixels = done["image"]
        found = dict(objects)
        if "semantic" in objects:
            found["semantic"] = done["mask"]
        if "masks" in objects:
            found["masks"] = done.get("masks", np.zeros((0, *pixels.shape[:2]), np.uint8))
        if "boxes" in objects:
            kept = np.asarray(done["row"], np.int64).reshape(-1)
            found = {key: value if key in WHOLE else value[kept] for key, value in found.items() if key != "boxes"}
            found = {"boxes": np.asarray(done["bboxes"], np.float32).reshape(-1, 4), **found}
        return pixels, found


def _check(settings: Transforms, preset: Preset) -> None:
    if preset.crops and settings.crop is None:
        raise InputError(
            f"transforms.preset={settings.preset} gives samples of one size; set transforms.crop to [height, width]"
        )
    if settings.crop is not None and min(settings.crop) < 1:
        raise InputError(f"transforms.crop={list(settings.crop)}; height and width must be at least 1")
    low, high = settings.scale
    if not 0 < low <= high < math.inf:
        raise InputError(f"transforms.scale={list(settings.scale)}; write [lowest, highest], both above 0")
