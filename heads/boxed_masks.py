"""The masks that a model learns from: dense, or each held only in a window around its object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import roi_align

from .images import nearest

Size = tuple[int, int]

# The coordinates of a box far enough from any image that nothing is pooled in it: one pixel, as it has no side.
NOWHERE = -9.0


class Masks(Protocol):
    """The masks of the objects of an image, for a head to learn from."""

    def resized(self, size: Size) -> Masks:
        """Return the masks of the image resized to (height, width), by nearest pixels."""
        ...

    def crop(self, boxes: Tensor, objects: Tensor, size: int) -> Tensor:
        """Return the parts (R, size, size) in [0, 1] that lie in boxes (R, 4), each of its object (R,)."""
        ...


def masks_of(given: Tensor | BoxedMasks) -> Masks:
    """Return the masks of a target, which has them dense (N, H, W) or boxed."""
    return DenseMasks(given) if isinstance(given, Tensor) else given


@dataclass(frozen=True)
class DenseMasks:
    """Masks (N, H, W), uint8 or bool."""

    masks: Tensor

    def resized(self, size: Size) -> DenseMasks:
        return DenseMasks(nearest(self.masks, size))

    def crop(self, boxes: Tensor, objects: Tensor, size: int) -> Tensor:
        """All of them are float while this is computed."""
        if not len(self.masks):
            return boxes.new_zeros(len(boxes), size, size)
        return _pool(self.masks.to(boxes.dtype), boxes, objects, size)


@dataclass(frozen=True)
class BoxedMasks:
    """The masks of N objects of an image of `size` (H, W), each in a window of whole pixels; outside of it all is 0.

    windows: (N, 4) int64, always on the host: top, left, height and width. pixels: (the sum of height * width,) uint8
    of 0 and 1, on any device: those of one window after the other, each row by row. It takes the place of a tensor
    (N, H, W) in targets: `shape`, `dtype`, `device`, `to` and `pin_memory` are as a tensor's.
    """

    windows: Tensor
    pixels: Tensor
    size: Size

    @classmethod
    def from_dense(cls, masks: Tensor) -> BoxedMasks:
        """Return masks (N, H, W), of which all but 0 is in, in the smallest windows that hold them."""
        windows, parts = [], []
        for mask in masks != 0:
            rows, columns = mask.any(dim=1).nonzero().flatten().tolist(), mask.any(dim=0).nonzero().flatten().tolist()
            (top, bottom), (left, right) = ((each[0], each[-1] + 1) if each else (0, 0) for each in (rows, columns))
            windows.append((top, left, bottom - top, right - left))
            parts.append(mask[top:bottom, left:right].to(torch.uint8).flatten())
        pixels = torch.cat(parts) if parts else masks.new_zeros(0, dtype=torch.uint8)
        return cls(torch.tensor(windows, dtype=torch.int64).reshape(-1, 4), pixels, (masks.shape[1], masks.shape[2]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Between processes it goes as bytes: to share a tensor's memory takes longer than to copy a small one."""
        return _from_arrays, (self.windows.numpy(), self.pixels.cpu().numpy(), self.size)

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self), *self.size

    @property
    def dtype(self) -> torch.dtype:
        return self.pixels.dtype

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, indices: Tensor | Sequence[int] | slice) -> BoxedMasks:
        """Return the masks of some objects, by their numbers, or by a flag for each."""
        chosen = torch.arange(len(self))[indices]
        parts = self._parts()
        pixels = torch.cat([self.pixels[:0], *(parts[i].flatten() for i in chosen.tolist())])
        return replace(self, windows=self.windows[chosen], pixels=pixels)

    def to(self, *args: Any, **kwargs: Any) -> BoxedMasks:
        """Return the same with its pixels on a device, by the arguments of a tensor's `to`."""
        return replace(self, pixels=self.pixels.to(*args, **kwargs))

    def pin_memory(self) -> BoxedMasks:
        """Return the same with its pixels in pinned memory; a DataLoader calls this."""
        return replace(self, pixels=self.pixels.pin_memory())

    def dense(self) -> Tensor:
        """Return masks (N, H, W), uint8."""
        masks = self.pixels.new_zeros(self.shape)
        for mask, part, (top, left, height, width) in zip(masks, self._parts(), self.windows.tolist(), strict=True):
            mask[top : top + height, left : left + width] = part
        return masks

    def resized(self, size: Size) -> Masks:
        return self if size == self.size else DenseMasks(nearest(self.dense(), size))

    def crop(self, boxes: Tensor, objects: Tensor, size: int) -> Tensor:
        """Equal to that of the dense masks, of which only windows are made, and nothing waits for the device.

        Windows of about one size are pooled together: each is put on a canvas of the next power of two.
        """
        cropped = boxes.new_zeros(len(boxes), size, size)
        for shape, members in self._groups().items():
            corners, canvases = self._canvases(members, shape, boxes.dtype)
            # For each object of the image its place in this group, or -1, and where its canvas begins as x, y, x, y.
            table = torch.full((len(self), 5), -1.0, dtype=boxes.dtype)
            table[members, 0] = torch.arange(len(members), dtype=boxes.dtype)
            table[members, 1:] = torch.tensor(corners, dtype=boxes.dtype)[:, [1, 0, 1, 0]]
            row = table.to(boxes.device, non_blocking=True)[objects]
            inside = row[:, :1] >= 0
            shifted = torch.where(inside, boxes - row[:, 1:], NOWHERE)
            cropped += _pool(canvases, shifted, row[:, 0].clamp(min=0), size)
        return cropped

    def _parts(self) -> list[Tensor]:
        """Return the pixels (height, width) of each window."""
        sides = self.windows[:, 2:].tolist()
        flat = torch.split(self.pixels, [height * width for height, width in sides])
        return [part.view(height, width) for part, (height, width) in zip(flat, sides, strict=True)]

    def _groups(self) -> dict[Size, list[int]]:
        """Return the objects by the shape of their canvas: the window and a pixel around, or the image at most."""
        groups: dict[Size, list[int]] = {}
        for i, (height, width) in enumerate(self.windows[:, 2:].tolist()):
            shape = min(self.size[0], _power_of_two(height + 2)), min(self.size[1], _power_of_two(width + 2))
            groups.setdefault(shape, []).append(i)
        return groups

    def _canvases(self, members: Sequence[int], shape: Size, dtype: torch.dtype) -> tuple[list[Size], Tensor]:
        """Return the top and left of the canvases of some objects, and their masks (G, *shape) as far as these reach.

        A canvas lies in the image, and has a pixel of 0 around the window but where the image ends: then interpolation
        finds at each place what it would find in the whole image.
        """
        corners: list[Size] = []
        canvases = self.pixels.new_zeros(len(members), *shape, dtype=dtype)
        parts = self._parts()
        for canvas, i in zip(canvases, members, strict=True):
            top, left, height, width = self.windows[i].tolist()
            y, x = _within(top, shape[0], self.size[0]), _within(left, shape[1], self.size[1])
            canvas[top - y : top - y + height, left - x : left - x + width] = parts[i]
            corners.append((y, x))
        return corners, canvases


def _from_arrays(windows: npt.NDArray[np.int64], pixels: npt.NDArray[np.uint8], size: Size) -> BoxedMasks:
    return BoxedMasks(torch.from_numpy(windows), torch.from_numpy(pixels), size)


def _power_of_two(length: int) -> int:
    return 1 << (length - 1).bit_length()


def _within(start: int, length: int, whole: int) -> int:
    """Return where a canvas begins, a pixel before its window as far as it lies in the image."""
    return min(max(0, start - 1), whole - length)


def _pool(masks: Tensor, boxes: Tensor, objects: Tensor, size: int) -> Tensor:
    rois = torch.cat([objects[:, None].to(boxes.dtype), boxes], dim=1)
    pooled: Tensor = roi_align(masks[:, None], rois, (size, size))
    return pooled.squeeze(1)
