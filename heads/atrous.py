"""Convolution with holes whose rate is of the order of the map: most of its taps lie in the padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Window = tuple[slice, slice]


class AtrousConv2d(nn.Conv2d):
    """A 3x3 convolution (N, C, H, W) -> (N, C', H, W), whose taps are `rate` pixels apart.

    On a CPU oneDNN's gradients multiply the padding too, and in torch's default layout so does its result: at rate 36
    on a map of 40x40 five sixths of the work. In training it is computed tap by tap there, where the tap sees the map.
    """

    def __init__(self, in_channels: int, out_channels: int, rate: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=rate, dilation=rate, bias=False)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if by_tap(x):
            return _ByTap.apply(x, self.weight, self.rate)  # type: ignore[no-any-return]
        return super().forward(x)


def by_tap(x: Tensor) -> bool:
    """Say whether an AtrousConv2d takes this map tap by tap; in channels_last it has to copy it no more."""
    exact = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)
    return exact and x.device.type == "cpu" and torch.is_grad_enabled()


class _ByTap(torch.autograd.Function):
    """The convolution as nine products of matrices, each of the part of the map that the tap sees."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rate: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rate = rate
        pixels, taps = _pixels_last(x), weight.permute(2, 3, 1, 0).contiguous()  # (N, H, W, C) and (3, 3, C, C')
        out = pixels @ taps[1, 1]
        for tap, seen, reached in _outer_taps(x.shape[-2], x.shape[-1], rate):
            out[:, *reached] += pixels[:, *seen] @ taps[tap]
        return out.permute(0, 3, 1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        pixels, grads, taps = _pixels_last(x), _pixels_last(grad), weight.permute(2, 3, 0, 1).contiguous()
        of_pixels = grads @ taps[1, 1]  # (N, H, W, C)
        of_taps = torch.zeros_like(taps)  # (3, 3, C', C)
        of_taps[1, 1] = grads.flatten(0, 2).T @ pixels.flatten(0, 2)
        for tap, seen, reached in _outer_taps(x.shape[-2], x.shape[-1], ctx.rate):
            part = grads[:, *reached]
            of_pixels[:, *seen] += part @ taps[tap]
            of_taps[tap] = part.flatten(0, 2).T @ pixels[:, *seen].flatten(0, 2)
        return of_pixels.permute(0, 3, 1, 2), of_taps.permute(2, 3, 0, 1).contiguous(), None


def _pixels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _outer_taps(height: int, width: int, rate: int) -> Iterator[tuple[tuple[int, int], Window, Window]]:
    """Yield the taps but the central one that see any of the map: index, what it sees, and where that goes."""
    for tap in ((i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)):
        shifts = [(index - 1) * rate for index in tap]
        if all(abs(shift) < side for shift, side in zip(shifts, (height, width), strict=True)):
            yield tap, _window(shifts, (height, width)), _window([-shift for shift in shifts], (height, width))


def _window(shifts: list[int], sides: tuple[int, int]) -> Window:
    rows, columns = (slice(max(shift, 0), side + min(shift, 0)) for shift, side in zip(shifts, sides, strict=True))
    return rows, columns
