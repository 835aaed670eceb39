"""Where a sample's pixels come from: the image resized, and a window of it; labels, boxes and masks go along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .masks import resize_masks
from .sets import IGNORE, Array

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
# What is known of an image, by the models' names: `semantic` (H, W) and `label` () of the whole, else of its objects:
# `boxes` (N, 4) float32 xyxy, and others of N rows, such as `labels` (N,) and `masks` (N, H, W).
Objects = Mapping[str, Array]
Size = tuple[int, int]  # height, width

WHOLE = ("semantic", "label")

# ImageNet's mean colour: normalised it is about 0, which is what models pad their batches with. Black would be new.
FILL = (124, 116, 104)


def bounded(size: Size, short: int, longest: int) -> float:
    """Return the scale that brings the short side to `short`, or the long one to `longest` where that is less."""
    return min(short / min(size), longest / max(size))


def resize(pixels: Pixels, objects: Objects, short: int, longest: int) -> tuple[Pixels, Objects]:
    """Bring an image to the size that `short` and `longest` bound; what is known goes along."""
    import cv2

    height, width = pixels.shape[:2]
    scale = bounded((height, width), short, longest)
    # Floor and plain bilinear, as the model itself resizes at evaluation (heads/images.py).
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    if size == (width, height):
        return pixels, objects
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    scaled = dict(objects)
    if "boxes" in objects:
        scaled["boxes"] = objects["boxes"] * np.array([size[0] / width, size[1] / height] * 2, np.float32)
    for key in ("masks", "semantic"):
        if key in objects:
            scaled[key] = resize_masks(objects[key], size[1], size[0])
    return np.asarray(resized, np.uint8), scaled


@dataclass(frozen=True)
class Window:
    """`size` pixels, from (top, left) on, of an image resized to `whole`; it may reach beyond the image."""

    whole: Size
    top: int
    left: int
    size: Size

    @property
    def inside(self) -> tuple[slice, slice]:
        """The rows and columns of the window that lie in the image."""
        rows, columns = (
            slice(max(0, -start), min(size, whole - start))
            for start, size, whole in zip((self.top, self.left), self.size, self.whole, strict=True)
        )
        return rows, columns


def draw_window(whole: Size, size: Size, margin: int, rng: np.random.Generator) -> Window:
    """Draw a place for the window in the image with a margin around; a smaller image lies within the window."""
    spare = [length + margin - part for length, part in zip(whole, size, strict=True)]
    top, left = (int(rng.integers(min(-margin, end), max(-margin, end) + 1)) for end in spare)
    return Window(whole, top, left, size)


def show(pixels: Pixels, objects: Objects, window: Window) -> tuple[Pixels, Objects]:
    """Return what the window shows, interpolated once and only there; objects less than a pixel wide or high are gone.

    Padding is `FILL`, in `semantic` 255.
    """
    given = pixels.shape[:2]
    shown = dict(objects)
    for key, fill in (("semantic", IGNORE), ("masks", 0)):
        if key in objects:
            shown[key] = _nearest(objects[key], window, fill)
    if "boxes" not in objects:
        return _interpolate(pixels, window), shown
    factor = np.array([window.whole[1] / given[1], window.whole[0] / given[0]] * 2, np.float32)
    boxes = objects["boxes"] * factor - np.array([window.left, window.top] * 2, np.float32)
    rows, columns = window.inside
    boxes = np.clip(boxes, [columns.start, rows.start] * 2, [columns.stop, rows.stop] * 2).astype(np.float32)
    kept = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    shown["boxes"] = boxes
    return _interpolate(pixels, window), {key: value if key in WHOLE else value[kept] for key, value in shown.items()}


def _interpolate(pixels: Pixels, window: Window) -> Pixels:
    """Return the window's part of the resized image, bilinear by the centres of pixels, and padding around it."""
    import cv2

    rows, columns = window.inside
    steps = [old / new for old, new in zip(pixels.shape[:2], window.whole, strict=True)]
    starts = [
        (part.start + begin + 0.5) * step - 0.5
        for part, begin, step in zip((rows, columns), (window.top, window.left), steps, strict=True)
    ]
    matrix = np.array([[steps[1], 0, starts[1]], [0, steps[0], starts[0]]])
    size = (columns.stop - columns.start, rows.stop - rows.start)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(pixels, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    after = window.size[0] - rows.stop, window.size[1] - columns.stop
    padded = cv2.copyMakeBorder(inside, rows.start, after[0], columns.start, after[1], cv2.BORDER_CONSTANT, value=FILL)
    return np.asarray(padded, np.uint8)


def _nearest(labels: Array, window: Window, fill: int) -> Array:
    """Return labels (…, h, w) in the window: each pixel is that of the nearest one, as `resize_masks` has it."""
    rows, columns = (
        (2 * np.arange(part.start + begin, part.stop + begin) + 1) * old // (2 * new)
        for part, begin, old, new in zip(
            window.inside, (window.top, window.left), labels.shape[-2:], window.whole, strict=True
        )
    )
    canvas = np.full((*labels.shape[:-2], *window.size), fill, labels.dtype)
    canvas[(..., *window.inside)] = labels.take(rows, axis=-2).take(columns, axis=-1)
    return canvas
