"""What happens to a training sample before the model, by the presets of transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...backbones import InputError
from ...backbones.errors import unknown
from .copy_paste import Joined
from .geometry import Pixels, Size, Window, flip_objects, reduction, show_objects, show_pixels
from .images import Reducible
from .presets import PRESETS, Transforms, check
from .sets import Sample

__all__ = ["PRESETS", "Transform", "Transforms"]


class Transform:
    """A preset made ready: call it with an image of a data set, the keys of the targets to give, and a seed.

    Objects whose box the preset leaves less than a pixel are gone from all targets. With `boxes` there is one more,
    `dropped` (): how many of the image's objects the sample does not have, for this or another reason.
    """

    def __init__(self, settings: Transforms) -> None:
        if settings.preset not in PRESETS:
            raise unknown("transforms.preset", settings.preset, PRESETS)
        self.preset = PRESETS[settings.preset]
        if settings.crop is None:
            settings = replace(settings, crop=self.preset.crop)
        if settings.scale is None:
            settings = replace(settings, scale=self.preset.scale)
        check(settings, self.preset)
        self.settings = settings
        self.colours = self.preset.colours()

    def needed(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Return the keys of the targets that images must have, to give those of `keys`."""
        if self.preset.join is None:
            return tuple(keys)
        if "boxes" not in keys:
            raise InputError(
                f"transforms.preset={self.settings.preset} pastes objects, and the model learns {', '.join(keys)}; "
                "choose a preset without, such as seg or imagenet"
            )
        return tuple(dict.fromkeys([*keys, "masks"]))

    def __call__(
        self, image: Sample, keys: Sequence[str], seed: int, images: Sequence[Sample]
    ) -> tuple[Pixels, dict[str, Any]]:
        """Return pixels (H, W, 3) and targets; `images` are those of the data set, where a second one is needed."""
        rng = np.random.default_rng([seed, 1])
        pixels, objects, lost = self._shown(image, keys, rng)
        if self.preset.join is not None:
            other, above, _ = self._shown(images[int(rng.integers(len(images)))], keys, rng)
            pixels, objects, covered = self.preset.join((pixels, objects), (other, above), self.settings, rng)
            lost += covered
        targets = {key: objects[key] for key in keys}
        if "boxes" in keys:
            targets["dropped"] = np.array(lost)
        return self.colours(pixels, seed), targets

    def _shown(self, image: Sample, keys: Sequence[str], rng: np.random.Generator) -> Joined:
        """Return what a sample shows of one image, and how many of its objects are not seen there."""
        known = image.targets(self.needed(keys))
        if self.preset.join is not None and len(known["masks"]) != len(known["boxes"]):
            raise InputError(
                f"transforms.preset={self.settings.preset} pastes objects by their masks, and {image.path} has "
                f"{len(known['boxes'])} boxes but {len(known['masks'])} masks; choose a preset that works with boxes "
                "alone, such as lsj"
            )
        flips = [axis for axis in self.preset.flips if rng.random() < 0.5]
        pixels, window = _read(image, lambda given: self.preset.place(given, self.settings, rng), flips)
        objects = show_objects(known, window)
        lost = len(known["boxes"]) - len(objects["boxes"]) if "boxes" in known else 0
        for axis in flips:
            objects = flip_objects(objects, window.size, axis)
        return pixels, objects, lost


def _read(image: Sample, place: Callable[[Size], Window], flips: Sequence[int]) -> tuple[Pixels, Window]:
    """Return what is shown of an image in the window that `place` gives for its size, flipped, and that window."""
    if isinstance(image, Reducible):
        window = place(image.size())
        stored, reduced = image.read_reduced(reduction(window))
    else:
        stored, reduced = image.read(), 1
        window = place((stored.shape[0], stored.shape[1]))
    return show_pixels(stored, reduced, window, flips), window
