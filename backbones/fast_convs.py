"""Convolutions as matrix products, which CPUs are best at: Winograd's for 3x3, tap by tap for others.

The modules are convolutions with the keys, values and gradients of `nn.Conv2d`, on any device; on a CPU, in float32 and
float64, they compute otherwise, channels innermost. Elsewhere, and under autocast, they are what they were.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import winograd

# Below these channels the passes over memory take longer than the products that they save; of the value alone, without
# gradients, below twice as many.
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


def goes_by_products(x: Tensor) -> bool:
    """Say whether a map goes through a fast convolution as matrix products: on a CPU, not short, not compiled."""
    exact = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)
    return exact and x.device.type == "cpu" and not torch.compiler.is_compiling()


class FastConv2d(nn.Conv2d, ABC):
    """A convolution that computes otherwise where that is faster; how, its classes say, on maps (N, H, W, C)."""

    @property
    @abstractmethod
    def value_is_faster(self) -> bool:
        """Whether there is something to gain without gradients, which gain more."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, K, H', W')."""
        faster = goes_by_products(x) and (torch.is_grad_enabled() or self.value_is_faster)
        return self.by_products(x, None, self.bias) if faster else super().forward(x)

    def by_products(self, x: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        """Do as `forward` by matrix products, with another bias, and the weight times `scale` (K,)."""
        pixels: Tensor = _Products.apply(x.permute(0, 2, 3, 1), self.weight, scale, bias, self)
        return pixels.permute(0, 3, 1, 2)

    @abstractmethod
    def value(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution (N, H', W', K) of x (N, H, W, C)."""

    @abstractmethod
    def gradient_of_input(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """Return the gradient of x, of that shape, from that of the value."""

    @abstractmethod
    def gradient_of_weight(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient (K, C, kernel, kernel) of the weight from that of the value."""


class _Products(torch.autograd.Function):
    """A fast convolution with its gradients. It keeps no scaled weight, which would be a copy of the network's."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None, conv: FastConv2d
    ) -> Tensor:
        ctx.save_for_backward(x, weight, scale)
        ctx.conv = conv
        return conv.value(x, _scaled(weight, scale), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = ctx.conv.gradient_of_input(gradient, _scaled(weight, scale), x.shape)
        if ctx.needs_input_grad[1]:
            of_weight = _scaled(ctx.conv.gradient_of_weight(x, gradient), scale)
        if ctx.needs_input_grad[3]:
            of_bias = gradient.sum(dim=(0, 1, 2))
        return of_x, of_weight, None, of_bias, None


def _scaled(weight: Tensor, scale: Tensor | None) -> Tensor:
    return weight if scale is None else weight * scale[:, None, None, None]


# --- 1x1 -------------------------------------------------------------------------------------------------------------


class PointwiseConv2d(FastConv2d):
    """A 1x1 convolution as a linear layer of each place."""

    value_is_faster = True

    def value(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(self._read(x), weight.flatten(1), bias)

    def gradient_of_input(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        found = gradient @ weight.flatten(1)
        if self.stride == (1, 1):
            return found
        whole = gradient.new_zeros(shape)
        self._read(whole).copy_(found)
        return whole

    def gradient_of_weight(self, x: Tensor, gradient: Tensor) -> Tensor:
        return (gradient.flatten(0, 2).t() @ self._read(x).flatten(0, 2))[..., None, None]

    def _read(self, x: Tensor) -> Tensor:
        return x[:, :: self.stride[0], :: self.stride[1]]


# --- Winograd --------------------------------------------------------------------------------------------------------


class WinogradConv2d(FastConv2d):
    """A 3x3 convolution of stride 1 by `winograd.convolve`; with a dilation, of each of its phases."""

    def value(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _in_phases(x, winograd.transform(weight), bias, self.dilation[0])

    def gradient_of_input(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return _in_phases(gradient, winograd.transform_of_gradient(weight), None, self.dilation[0])

    def gradient_of_weight(self, x: Tensor, gradient: Tensor) -> Tensor:
        found: Tensor = winograd.weight_gradient(_phases(x, self.dilation[0]), _phases(gradient, self.dilation[0]))
        return found

    @property
    def value_is_faster(self) -> bool:
        return min(self.in_channels, self.out_channels) >= 2 * LEAST_CHANNELS

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
    padded = parts.reshape(images, rows * dilation, columns * dilation, channels)
    return padded if padded.shape[1:3] == (height, width) else padded[:, :height, :width].clone()


# --- tap by tap ------------------------------------------------------------------------------------------------------


class TapsConv2d(FastConv2d):
    """A convolution as one matrix product for each tap of its kernel, over the places where that is not padding.

    For training: oneDNN's result is as fast, its gradients are not. They multiply the padding too, and in channels_last
    take two to ten times longer without AVX-512.
    """

    value_is_faster = False

    def value(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        of_tap = weight.permute(2, 3, 0, 1).contiguous()  # (kernel, kernel, K, C)
        middle = weight.shape[2] // 2, weight.shape[3] // 2
        out = nn.functional.linear(x[:, :: self.stride[0], :: self.stride[1]], of_tap[middle], bias)  # all in the map
        for tap, read, written in self._taps(x.shape):
            if tap != middle:
                out[:, *written] += nn.functional.linear(x[:, *read], of_tap[tap])
        return out

    def gradient_of_input(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        of_tap = weight.permute(2, 3, 0, 1).contiguous()
        found = gradient.new_zeros(shape)
        for tap, read, written in self._taps(shape):
            found[:, *read] += gradient[:, *written] @ of_tap[tap]
        return found

    def gradient_of_weight(self, x: Tensor, gradient: Tensor) -> Tensor:
        of_tap = gradient.new_zeros(*self.kernel_size, gradient.shape[3], x.shape[3])
        for tap, read, written in self._taps(x.shape):
            of_tap[tap] = gradient[:, *written].flatten(0, 2).t() @ x[:, *read].flatten(0, 2)
        return of_tap.permute(2, 3, 0, 1)

    def _taps(self, shape: torch.Size) -> Iterator[tuple[tuple[int, int], Places, Places]]:
        """Yield each tap that meets maps (N, H, W, C) anywhere: its index, and the places that it reads and writes."""
        rows, columns = (
            [_along(tap - kernel // 2, length, stride, dilation) for tap in range(kernel)]
            for kernel, length, stride, dilation in zip(
                self.kernel_size, shape[1:3], self.stride, self.dilation, strict=True
            )
        )
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                if row and column:
                    yield (i, j), (row[0], column[0]), (row[1], column[1])


Places = tuple[slice, slice]


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
