"""Where a sample's pixels come from: a window of the resized image, perhaps flipped; what is known goes along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np

from .sets import IGNORE, Array

Pixels = np.ndarray[Any, np.dtype[Any]]  # (H, W, C), uint8 RGB unless the data set has other channels
# What is known of an image, by the models' names: `semantic` (H, W) and `label` () of the whole, else of its objects:
# `boxes` (N, 4) float32 xyxy, `masks` as Cutouts, and arrays of N rows, such as `labels` (N,).
Objects = Mapping[str, Any]
Size = tuple[int, int]  # height, width

WHOLE = ("semantic", "label")

# ImageNet's mean colour: normalised it is about 0, which is what models pad their batches with. Black would be new.
FILL = (124, 116, 104)

# What JPEG files can be decoded at a fraction of: an eighth, a quarter, half of their size.
REDUCTIONS = (8, 4, 2)


@dataclass(frozen=True)
class Window:
    """A part of an image, and where it lies in its sample once it is resized; what is around is padding.

    part: rows and columns of the image. place: the rows and columns that they become, of a sample of `size`.
    """

    part: tuple[slice, slice]
    place: tuple[slice, slice]
    size: Size

    @property
    def given(self) -> Size:
        """Height and width of the part."""
        return _lengths(self.part)

    @property
    def resized(self) -> Size:
        """Height and width that it has in the sample."""
        return _lengths(self.place)

    @property
    def nearest(self) -> tuple[Array, Array]:
        """The rows and columns of the image that are shown: those nearest, by the centres of pixels.

        OpenCV's nearest takes corners, which would shift masks against pixels that are interpolated.
        """
        rows, columns = (
            part.start + (2 * np.arange(new) + 1) * old // (2 * new)
            for part, old, new in zip(self.part, self.given, self.resized, strict=True)
        )
        return rows, columns


def _lengths(part: tuple[slice, slice]) -> Size:
    rows, columns = part
    return rows.stop - rows.start, columns.stop - columns.start


def bounded(size: Size, short: int, longest: int) -> float:
    """Return the scale that brings the short side to `short`, or the long one to `longest` where that is less."""
    return min(short / min(size), longest / max(size))


def fitted(given: Size, short: int, longest: int) -> Window:
    """Return all of the image, at the size that `short` and `longest` bound."""
    scale = bounded(given, short, longest)
    # Floor, as the model itself resizes at evaluation (heads/images.py).
    whole = max(1, int(given[0] * scale)), max(1, int(given[1] * scale))
    return Window((slice(0, given[0]), slice(0, given[1])), (slice(0, whole[0]), slice(0, whole[1])), whole)


def draw_window(given: Size, whole: Size, size: Size, margin: int, rng: np.random.Generator) -> Window:
    """Draw a place for the window in the image, resized to `whole`, with a margin around.

    A smaller image lies within the window. What is shown is rounded to whole pixels of the given image.
    """
    parts, places = zip(*map(partial(_draw_interval, margin=margin, rng=rng), given, whole, size), strict=True)
    return Window(parts, places, size)


def _draw_interval(given: int, whole: int, size: int, *, margin: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Return what is shown of one side of an image, and where."""
    margin = min(margin, size - 1)  # something is shown
    spare = whole + margin - size
    start = int(rng.integers(min(-margin, spare), max(-margin, spare) + 1))
    first, last = max(0, start), min(whole, start + size)
    begin = min(round(first * given / whole), given - 1)
    return slice(begin, max(begin + 1, round(last * given / whole))), slice(first - start, last - start)


def reduction(window: Window) -> int:
    """Return the most by which the stored image can be reduced and still have the pixels that are shown."""
    sides = tuple(zip(window.given, window.resized, strict=True))
    return next((factor for factor in REDUCTIONS if all(new * factor <= old for old, new in sides)), 1)


def show_pixels(pixels: Array, reduced: int, window: Window, flips: Sequence[int] = ()) -> Array:
    """Return what the window shows, bilinear by the centres of pixels, and `FILL` around it; all of it flipped.

    pixels: the image, or a `reduced`th of it (2, 4 or 8), with sides rounded up. flips: 0 is upside down, 1 mirrored.
    """
    import cv2

    inside: Array
    if any(edge % reduced for part in window.part for edge in (part.start, part.stop)):
        inside = _turned(_between_pixels(pixels, reduced, window), flips)
    else:
        rows, columns = (slice(part.start // reduced, part.stop // reduced) for part in window.part)
        inside = _turned(pixels[rows, columns], flips)  # before they are more pixels
        if inside.shape[:2] != window.resized:
            inside = cv2.resize(inside, window.resized[::-1], interpolation=cv2.INTER_LINEAR)
    sides = [[place.start, length - place.stop] for place, length in zip(window.place, window.size, strict=True)]
    for axis in flips:
        sides[axis].reverse()
    (top, bottom), (left, right) = sides
    inside = inside.reshape(*window.resized, -1)  # OpenCV drops the axis of a single channel
    if not any((top, bottom, left, right)):
        return inside
    colour = _fill(inside.dtype, inside.shape[2])
    if len(colour) > 4:  # more than OpenCV's borders have
        around = np.full((*window.size, len(colour)), colour, inside.dtype)
        around[top : window.size[0] - bottom, left : window.size[1] - right] = inside
        return around
    padded = cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_CONSTANT, value=colour)
    return np.reshape(padded, (*window.size, -1))


def _fill(dtype: np.dtype[Any], channels: int) -> list[float]:
    """Return the colour of padding, as `Preprocessing.for_channels` has the mean."""
    scale = {np.dtype(np.uint8): 1.0, np.dtype(np.uint16): 257.0}.get(dtype, 1 / 255)
    colour = islice(cycle(FILL), channels) if channels > 1 else [sum(FILL) / len(FILL)]
    return [value * scale for value in colour]


def _turned(pixels: Array, flips: Sequence[int]) -> Array:
    import cv2

    for axis in flips:
        pixels = cv2.flip(pixels, axis)
    return pixels


def _between_pixels(pixels: Array, reduced: int, window: Window) -> Array:
    """Return a part of a reduced image that begins or ends within one of its pixels, resized.

    That is slower than to resize pixels that are whole.
    """
    import cv2

    (y, dy), (x, dx) = (
        (part.start / reduced, old / new / reduced)
        for part, old, new in zip(window.part, window.given, window.resized, strict=True)
    )
    matrix = np.array([[dx, 0, x + dx / 2 - 0.5], [0, dy, y + dy / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    found = cv2.warpAffine(pixels, matrix, window.resized[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found)


def show_objects(objects: Objects, window: Window) -> dict[str, Any]:
    """Return what is known of what a window shows; objects whose box is less than a pixel wide or high there are gone.

    Boxes are cut at the edges of what is shown; `semantic` is 255 around it.
    """
    shown = dict(objects)
    (top, left), (y, x) = ((side.start for side in sides) for sides in (window.part, window.place))
    if "boxes" in objects:
        scale = np.divide(window.resized, window.given)[[1, 0, 1, 0]].astype(np.float32)
        boxes = (objects["boxes"] - np.array([left, top] * 2, np.float32)) * scale + np.array([x, y] * 2, np.float32)
        bounds = [side.start for side in window.place[::-1]] * 2, [side.stop for side in window.place[::-1]] * 2
        boxes = np.clip(boxes, *bounds).astype(np.float32)
        kept = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
        shown = {key: value if key in WHOLE else value[kept] for key, value in {**shown, "boxes": boxes}.items()}
    rows, columns = window.nearest
    if "masks" in shown:
        shown["masks"] = shown["masks"].sampled(rows, columns, (y, x), window.size)
    if "semantic" in shown:
        labels = np.full(window.size, IGNORE, objects["semantic"].dtype)
        labels[window.place] = objects["semantic"].take(rows, axis=0).take(columns, axis=1)
        shown["semantic"] = labels
    return shown


def flip_objects(objects: Objects, size: Size, axis: int) -> dict[str, Any]:
    """Return what is known of a sample of (height, width) `size` once it is upside down (axis 0) or mirrored (1)."""
    flipped = dict(objects)
    if "boxes" in objects:
        low, high = 1 - axis, 3 - axis  # x or y, of the corners
        boxes = objects["boxes"].copy()
        boxes[:, [low, high]] = size[axis] - boxes[:, [high, low]]
        flipped["boxes"] = boxes
    if "masks" in objects:
        flipped["masks"] = objects["masks"].flipped(axis)
    if "semantic" in objects:
        flipped["semantic"] = np.flip(objects["semantic"], axis)
    return flipped
