"""The masks of the objects of an image as arrays, each no larger than its object, and what transforms do to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ...heads.boxed_masks import BoxedMasks

Array = np.ndarray[Any, np.dtype[Any]]
Size = tuple[int, int]  # height, width


@dataclass(frozen=True, eq=False)
class Cutouts:
    """The masks of N objects of an image of `size`; outside of its window a mask is 0.

    corners: top and left of each window. parts: its pixels (height, width), uint8 of 0 and 1.
    """

    size: Size
    corners: tuple[Size, ...]
    parts: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, indices: Array) -> Cutouts:
        """Return the masks of some objects, by their numbers, or by a flag for each."""
        chosen = np.arange(len(self))[indices]
        return replace(self, corners=tuple(self.corners[i] for i in chosen), parts=tuple(self.parts[i] for i in chosen))

    def __add__(self, other: Cutouts) -> Cutouts:
        """Return the masks of both, which are of one image."""
        return replace(self, corners=self.corners + other.corners, parts=self.parts + other.parts)

    def dense(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return masks (N, height, width) of 0 and 1."""
        masks = np.zeros((len(self), *self.size), np.uint8)
        for mask, place, part in zip(masks, self._places(), self.parts, strict=True):
            mask[place] = part
        return masks

    def tensors(self) -> BoxedMasks:
        """Return the same for a model."""
        windows = [(*corner, *part.shape) for corner, part in zip(self.corners, self.parts, strict=True)]
        pixels = np.concatenate([np.zeros(0, np.uint8), *(part.ravel() for part in self.parts)])
        return BoxedMasks(torch.tensor(windows, dtype=torch.int64).reshape(-1, 4), torch.from_numpy(pixels), self.size)

    def flipped(self, axis: int) -> Cutouts:
        """Return the masks of the image that is upside down (axis 0) or mirrored (1)."""
        ends = [
            (self.size[axis] - corner[axis] - part.shape[axis])
            for corner, part in zip(self.corners, self.parts, strict=True)
        ]
        corners = [
            (end, corner[1]) if axis == 0 else (corner[0], end) for end, corner in zip(ends, self.corners, strict=True)
        ]
        return replace(self, corners=tuple(corners), parts=tuple(np.flip(part, axis) for part in self.parts))

    def sampled(self, rows: Array, columns: Array, corner: Size, size: Size) -> Cutouts:
        """Return the masks of an image of `size` that shows these rows and columns from `corner` on, and 0 around.

        rows, columns: ascending, in pixels of this image; those that come more than once are enlarged.
        """
        tops, lefts = np.array(self.corners, np.int64).reshape(-1, 2).T
        heights, widths = np.array([part.shape for part in self.parts], np.int64).reshape(-1, 2).T
        shown = np.stack(
            [*np.searchsorted(rows, [tops, tops + heights]), *np.searchsorted(columns, [lefts, lefts + widths])], axis=1
        )
        corners, parts = [], []
        for (top, left), part, (first, end, start, stop) in zip(self.corners, self.parts, shown.tolist(), strict=True):
            # Rows last: they are copied whole, and to a larger image there are more of them.
            narrow = part.take(columns[start:stop] - left, axis=1)
            parts.append(narrow.take(rows[first:end] - top, axis=0))
            corners.append((corner[0] + first, corner[1] + start))
        return Cutouts(size, tuple(corners), tuple(parts))

    def areas(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return how many pixels each object has."""
        return np.array([np.count_nonzero(part) for part in self.parts], np.int64)

    def cover(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the pixels (height, width) that any of the objects has, as 1."""
        covered = np.zeros(self.size, np.uint8)
        for place, part in zip(self._places(), self.parts, strict=True):
            covered[place] |= part
        return covered

    def without(self, cover: Array) -> Cutouts:
        """Return what is left of the masks where `cover` (height, width) of 0 and 1 lies upon them."""
        left = (part & ~cover[place] for place, part in zip(self._places(), self.parts, strict=True))
        return replace(self, parts=tuple(left))

    def boxes(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the boxes (N, 4), xyxy, that hold the objects' pixels; all objects must have some."""
        found = np.zeros((len(self), 4), np.float32)
        for box, (top, left), part in zip(found, self.corners, self.parts, strict=True):
            rows, columns = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
            box[:] = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
        return found

    def _places(self) -> list[tuple[slice, slice]]:
        """Return the windows as slices."""
        return [
            (slice(top, top + part.shape[0]), slice(left, left + part.shape[1]))
            for (top, left), part in zip(self.corners, self.parts, strict=True)
        ]
