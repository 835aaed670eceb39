"""Copy-paste (arXiv:2012.07177): objects of one sample put upon another, by their masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from .geometry import Objects, Pixels

Joined = tuple[Pixels, dict[str, Any], int]  # pixels, objects, and how many of the first sample's objects are gone


def paste(
    first: tuple[Pixels, Objects],
    second: tuple[Pixels, Objects],
    probability: float,
    least_visible: float,
    rng: np.random.Generator,
) -> Joined:
    """Put each object of the second sample with that probability upon the first, where it is.

    Both are of one size and have `boxes`, `masks` as Cutouts, and arrays of a row for each object. Objects that are
    covered lose these pixels, and their box becomes the one around what is left; they are gone where less than the
    share `least_visible` of them is, or nothing. Objects of the second sample that show no pixel are not pasted.
    """
    import cv2

    pixels, below = first
    others, above = second
    chosen = (rng.random(len(above["boxes"])) < probability) & (above["masks"].areas() > 0)
    pasted = {key: value[chosen] for key, value in above.items()}
    cover = pasted["masks"].cover()
    joined = cv2.copyTo(others, cover, pixels.copy())

    left = below["masks"].without(cover)
    before, after = below["masks"].areas(), left.areas()
    kept = (after > 0) & (after >= least_visible * before)
    found = {key: value[kept] for key, value in {**below, "masks": left}.items()}
    touched = (after < before)[kept]
    found["boxes"][touched] = found["masks"][touched].boxes()
    both = {
        key: value + pasted[key] if key == "masks" else np.concatenate([value, pasted[key]])
        for key, value in found.items()
    }
    return np.asarray(joined), both, int(len(kept) - kept.sum())
