"""The training transforms by name: how images are placed in their samples, and what else befalls them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...backbones import InputError
from .copy_paste import Joined, paste
from .geometry import Objects, Pixels, Size, Window, bounded, draw_window, fitted
from .photometric import Colours, as_they_are, distort, jitter


@dataclass(frozen=True)
class Transforms:
    """Settings of the training transforms: a preset, and the sizes in pixels that images are brought to.

    With `default`, `flips`, `none` and `seg` the short side becomes `short`, with `multiscale` one of `shorts`, unless
    the long one would pass `longest`. `seg`, `imagenet`, `cifar`, `lsj` and `strong` give samples of (height, width)
    `crop`; `seg` draws a factor to the size above from `scale`, `lsj` and `strong` one to the size that just fits into
    the crop. None is what the preset has: for `lsj` and `strong` 1024x1024 and 0.1 to 2, for `seg` 0.5 to 2. `strong`
    pastes each object of a second image with probability `paste`, and drops objects of which less than the share
    `least_visible` is still to be seen.
    """

    preset: str = "default"
    short: int = 800
    longest: int = 1333
    shorts: tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    crop: Size | None = None
    scale: tuple[float, float] | None = None
    paste: float = 0.5
    least_visible: float = 0.1


# The window of an image of the given size that its sample shows, by draws from the sample's generator.
Place = Callable[[Size, Transforms, np.random.Generator], Window]
# What becomes of two samples, each as pixels and objects.
Join = Callable[[tuple[Pixels, Objects], tuple[Pixels, Objects], Transforms, np.random.Generator], Joined]


@dataclass(frozen=True)
class Preset:
    """What befalls a sample, in this order.

    place: the window that is shown. flips: the axes about which it may be flipped. join: what becomes of it and a
    second sample, by their masks; None where there is no second one. colours: makes what is done to the colours. crops:
    it needs the setting `crop`; crop, scale: what it has where the settings leave them open.
    """

    place: Place
    flips: tuple[int, ...] = (1,)
    join: Join | None = None
    colours: Callable[[], Colours] = as_they_are
    crops: bool = False
    crop: Size | None = None
    scale: tuple[float, float] = (0.5, 2.0)


def _whole(given: Size, settings: Transforms, rng: np.random.Generator) -> Window:
    return fitted(given, settings.short, settings.longest)


def _multiscale(given: Size, settings: Transforms, rng: np.random.Generator) -> Window:
    return fitted(given, settings.shorts[rng.integers(len(settings.shorts))], settings.longest)


def _cropped(scaled: Callable[[Size, Size, Transforms, np.random.Generator], Size], margin: int = 0) -> Place:
    """Return what draws a window of the crop's size of an image brought to the size that `scaled` draws for it."""

    def place(given: Size, settings: Transforms, rng: np.random.Generator) -> Window:
        assert settings.crop is not None
        crop = (settings.crop[0], settings.crop[1])
        return draw_window(given, scaled(given, crop, settings, rng), crop, margin, rng)

    return place


def _by_short_side(given: Size, crop: Size, settings: Transforms, rng: np.random.Generator) -> Size:
    return _times(given, bounded(given, settings.short, settings.longest), settings, rng)


def _by_crop(given: Size, crop: Size, settings: Transforms, rng: np.random.Generator) -> Size:
    return _times(given, min(crop[0] / given[0], crop[1] / given[1]), settings, rng)


def _times(given: Size, scale: float, settings: Transforms, rng: np.random.Generator) -> Size:
    assert settings.scale is not None
    factor = scale * rng.uniform(*settings.scale)
    return max(1, round(given[0] * factor)), max(1, round(given[1] * factor))


def _as_given(given: Size, crop: Size, settings: Transforms, rng: np.random.Generator) -> Size:
    return given


def _inception(given: Size, crop: Size, settings: Transforms, rng: np.random.Generator) -> Size:
    """Draw the part that fills the crop: 0.08 to 1 of the area, 3:4 to 4:3 in shape, or what the image has of that."""
    area = given[0] * given[1] * rng.uniform(0.08, 1)
    shape = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))  # width to height
    part = min(given[0], math.sqrt(area / shape)), min(given[1], math.sqrt(area * shape))
    return max(crop[0], round(given[0] * crop[0] / part[0])), max(crop[1], round(given[1] * crop[1] / part[1]))


def _paste(
    first: tuple[Pixels, Objects], second: tuple[Pixels, Objects], settings: Transforms, rng: np.random.Generator
) -> Joined:
    return paste(first, second, settings.paste, settings.least_visible, rng)


_LARGE_SCALE_JITTER = _cropped(_by_crop)

PRESETS = {
    "default": Preset(_whole),
    "flips": Preset(_whole, flips=(0, 1)),
    "none": Preset(_whole, flips=()),
    # As detectron2 and torchvision train their detectors.
    "multiscale": Preset(_multiscale),
    # Both of Ghiasi et al., arXiv:2012.07177.
    "lsj": Preset(_LARGE_SCALE_JITTER, crops=True, crop=(1024, 1024), scale=(0.1, 2.0)),
    "strong": Preset(
        _LARGE_SCALE_JITTER, join=_paste, colours=distort, crops=True, crop=(1024, 1024), scale=(0.1, 2.0)
    ),
    "seg": Preset(_cropped(_by_short_side), colours=jitter, crops=True),
    "imagenet": Preset(_cropped(_inception), crops=True),
    # He et al., section 4.2: four pixels on each side, of what is 0 once the mean is taken off.
    "cifar": Preset(_cropped(_as_given, margin=4), crops=True),
}


def check(settings: Transforms, preset: Preset) -> None:
    """Refuse settings that the preset cannot work with."""
    for name, pair in (("crop", settings.crop), ("scale", settings.scale)):
        if pair is not None and len(pair) != 2:
            raise InputError(f"transforms.{name}={list(pair)}; write two numbers")
    if preset.crops and settings.crop is None:
        raise InputError(
            f"transforms.preset={settings.preset} gives samples of one size; set transforms.crop to [height, width]"
        )
    if settings.crop is not None and min(settings.crop) < 1:
        raise InputError(f"transforms.crop={list(settings.crop)}; height and width must be at least 1")
    if not settings.shorts or min(settings.shorts) < 32:
        raise InputError(f"transforms.shorts={list(settings.shorts)}; write one size or more, each at least 32")
    low, high = settings.scale or (1.0, 1.0)
    if not 0 < low <= high < math.inf:
        raise InputError(f"transforms.scale={[low, high]}; write [lowest, highest], both above 0")
    for name, share in (("paste", settings.paste), ("least_visible", settings.least_visible)):
        if not 0 <= share <= 1:
            raise InputError(f"transforms.{name}={share}; it is a share, from 0 to 1")
