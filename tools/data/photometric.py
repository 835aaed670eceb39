"""What changes the colours of a sample and nothing else, by albumentations."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...backbones import InputError
from .geometry import Pixels

# Takes pixels (H, W, 3) and the sample's seed.
Colours = Callable[[Pixels, int], Pixels]


class Augmented:
    """A list of albumentations' transforms of pixels, as a function of the seed too."""

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.compose = _import().Compose(transforms)

    def __call__(self, pixels: Pixels, seed: int) -> Pixels:
        if pixels.dtype != np.uint8 or pixels.shape[2] != 3:
            raise InputError(
                f"an image has {pixels.shape[2]} channels of {pixels.dtype}, and changes of colours are for 8-bit RGB; "
                "choose a transforms.preset without, such as default or lsj"
            )
        # One generator for all: set_random_seed would give each transform the same draws.
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return np.asarray(self.compose(image=pixels)["image"], np.uint8)


def unchanged(pixels: Pixels, seed: int) -> Pixels:
    return pixels


def as_they_are() -> Colours:
    """Return what leaves the colours alone."""
    return unchanged


def jitter() -> Colours:
    """Return what changes brightness, contrast and saturation by up to a quarter, and the hue a little, mostly."""
    factors = (0.75, 1.25)
    return Augmented([_import().ColorJitter(factors, factors, factors, hue=(-0.03, 0.03), p=0.8)])


def distort() -> Colours:
    """Return the distortion of SSD (arXiv:1512.02325), by the ranges that torchvision gives it: each half of the time.

    The channels keep their order, which torchvision's may change.
    """
    off = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
    ranges = {"brightness": (0.875, 1.125), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.05, 0.05)}
    return Augmented([_import().ColorJitter(**{**off, key: found}, p=0.5) for key, found in ranges.items()])


def _import() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for newer versions
    import albumentations

    return albumentations
