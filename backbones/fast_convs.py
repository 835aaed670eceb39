"""Convolutions as matrix products, which CPUs are best at: Winograd's for 3x3, tap by tap for others.

The modules are convolutions with the keys, values and gradients of `nn.Conv2d`, on any device; on a CPU, in float32 and
float64, they compute otherwise, channels innermost. Elsewhere, and under autocast, they are what they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import winograd

# Below these channels the passes over memory take longer than the products that they save.
LEAST_CHANNELS = 64

# Up to here a dilated convolution is taken apart into ordinary ones, as large as every n-th row and column; beyond it
# most taps of most places are in the padding of usual maps, and are left out instead.
MOST_PHASES = 4


def use_fast_convs_(model: nn.Module) -> nn.Module:
    """Put fast convolutions in the places of a model's, where there is one for it; parameters stay the same objects."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d:
                setattr(parent, name, fast_conv(child))
    return model


def fast_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """Return the fast form of a convolution with its parameters, or the convolution itself where there is none."""
    kind = _kind(conv)
    if kind is None:
        return conv
    fast = kind.__new__(kind)
    fast.__dict__ = conv.__dict__  # parameters, hooks and all
    return fast


def _kind(conv: nn.Conv2d) -> type[nn.Conv2d] | None:
    centred = conv.padding == tuple(d * (k // 2) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    odd = all(kernel % 2 for kernel in conv.kernel_size)
    if conv.groups > 1 or conv.padding_mode != "zeros" or not (centred and odd):
        return None
    if min(conv.in_channels, conv.out_channels) < LEAST_CHANNELS:
        return None
    if conv.kernel_size == (1, 1):
        return PointwiseConv2d
    near = conv.dilation[0] == conv.dilation[1] <= MOST_PHASES
    if conv.kernel_size == (3, 3) and conv.stride == (1, 1) and near:
        return WinogradConv2d
    return TapsConv2d


def by_products(x: Tensor) -> bool:
    """Say whether a map goes through a fast convolution as matrix products: on a CPU, and in no short type."""
    exact = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)
    return exact and x.device.type == "cpu"


class _Fast(nn.Conv2d):
    """A convolution that computes otherwise where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, K, H', W')."""
        return self.compute(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if by_products(x) else super().forward(x)

    def compute(self, x: Tensor) -> Tensor:
        """Map (N, H, W, C) to (N, H', W', K)."""
        raise NotImplementedError


# --- Winograd --------------------------------------------------------------------------------------------------------


class WinogradConv2d(_Fast):
    """A 3x3 convolution of stride 1 by `winograd.convolve`; with a dilation, of each of its phases."""

    def compute(self, x: Tensor) -> Tensor:
        out: Tensor = _Winograd.apply(x, self.weight, self.bias, self.dilation[0])
        return out

    def transformed(self) -> TransformedConv2d:
        """Return the same for inference alone, with the weight transformed once."""
        with torch.no_grad():
            return TransformedConv2d(winograd.transform(self.weight), self.bias, self.dilation[0])


class TransformedConv2d(nn.Module):
    """A 3x3 convolution of stride 1 for inference on a CPU, whose weight (36, K, C) is transformed already."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dilation: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, K, H, W)."""
        return _in_phases(x.permute(0, 2, 3, 1), self.weight, self.bias, self.dilation).permute(0, 3, 1, 2)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _in_phases(x, winograd.transform(weight), bias, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _in_phases(gradient, winograd.transform_of_gradient(weight), None, ctx.dilation)
        if ctx.needs_input_grad[1]:
            of_weight = winograd.weight_gradient(_phases(x, ctx.dilation), _phases(gradient, ctx.dilation))
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(dim=(0, 1, 2))
        return of_x, of_weight, of_bias, None


def _in_phases(x: Tensor, transformed: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    found = winograd.convolve(_phases(x, dilation), transformed, bias)
    return _whole(found, x.shape, dilation)


def _phases(x: Tensor, dilation: int) -> Tensor:
    """Return every dilation-th row and column of maps (N, H, W, C) as maps of their own, zeros where one is short."""
    if dilation == 1:
        return x
    images, height, width, channels = x.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    padded = nn.functional.pad(x, (0, 0, 0, columns * dilation - width, 0, rows * dilation - height))
    parts = padded.view(images, rows, dilation, columns, dilation, channels).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(-1, rows, columns, channels)


def _whole(phases: Tensor, shape: torch.Size, dilation: int) -> Tensor:
    """Undo `_phases` of maps of that shape (N, H, W, ...)."""
    if dilation == 1:
        return phases
    images, height, width, _ = shape
    _, rows, columns, channels = phases.shape
    parts = phases.view(images, dilation, dilation, rows, columns, channels).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(images, rows * dilation, columns * dilation, channels)[:, :height, :width]


# --- tap by tap ------------------------------------------------------------------------------------------------------


class PointwiseConv2d(_Fast):
    """A 1x1 convolution as a linear layer of each place."""

    def compute(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x[:, :: self.stride[0], :: self.stride[1]], self.weight.flatten(1), self.bias)


class TapsConv2d(_Fast):
    """A convolution as one matrix product for each tap of its kernel, over the places where that is not padding."""

    def forward(self, x: Tensor) -> Tensor:
        # oneDNN's result is as fast, its gradients are not: they multiply the padding too, and in channels_last take
        # two to ten times longer without AVX-512.
        return super().forward(x) if torch.is_grad_enabled() else nn.Conv2d.forward(self, x)

    def compute(self, x: Tensor) -> Tensor:
        out: Tensor = _Taps.apply(x, self.weight, self.bias, self.stride, self.dilation)
        return out


class _Taps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, dilation
        of_tap = weight.permute(2, 3, 0, 1).contiguous()  # (kernel, kernel, K, C)
        middle = weight.shape[2] // 2, weight.shape[3] // 2
        out = nn.functional.linear(x[:, :: stride[0], :: stride[1]], of_tap[middle], bias)  # it has no padding
        for tap, read, written in _taps(weight.shape[2:], x.shape[1:3], stride, dilation):
            if tap != middle:
                out[:, *written] += nn.functional.linear(x[:, *read], of_tap[tap])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        of_x = x.new_zeros(x.shape) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for (i, j), read, written in _taps(weight.shape[2:], x.shape[1:3], *ctx.geometry):
            of_out = gradient[:, *written].reshape(-1, len(weight))
            if of_x is not None:
                part = of_x[:, *read]
                part += (of_out @ weight[:, :, i, j]).view_as(part)
            if of_weight is not None:
                of_weight[:, :, i, j] = of_out.t() @ x[:, *read].reshape(-1, x.shape[3])
        of_bias = gradient.sum(dim=(0, 1, 2)) if ctx.needs_input_grad[2] else None
        return of_x, of_weight, of_bias, None, None


Places = tuple[slice, slice]


def _taps(
    kernel: torch.Size, size: torch.Size, stride: tuple[int, int], dilation: tuple[int, int]
) -> Iterator[tuple[tuple[int, int], Places, Places]]:
    """Yield each tap that meets the map anywhere: its place in the kernel, and the places that it reads and writes."""
    rows, columns = (
        [_along(tap - kernel[i] // 2, size[i], stride[i], dilation[i]) for tap in range(kernel[i])] for i in (0, 1)
    )
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if row and column:
                yield (i, j), (row[0], column[0]), (row[1], column[1])


def _along(tap: int, length: int, stride: int, dilation: int) -> tuple[slice, slice] | None:
    """Return which places of an axis a tap reads, and for which outputs; None where all it reads is padding."""
    offset = tap * dilation
    first = max(0, -(offset // stride))  # the first output with o * stride + offset >= 0
    last = (length - 1 - offset) // stride  # the last with o * stride + offset < length
    last = min(last, (length - 1) // stride)
    if last < first:
        return None
    start = first * stride + offset
    return slice(start, last * stride + offset + 1, stride), slice(first, last + 1)
