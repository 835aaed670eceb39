"""Output stride: which strides are kept, and how dilation computes at every place what the others would have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Placement:
    """How one block keeps within an output stride.

    nominal: its stride without the bound. stride: the one that it has. first_dilation: the spacing of its input, for
    what comes up to the strided layer. dilation: the spacing after it. reduction: the stride of its output.
    """

    nominal: int
    stride: int
    first_dilation: int
    dilation: int
    reduction: int

    def after(self) -> Placement:
        """Return the placement of the blocks that follow in the same stage: no stride, the same spacing."""
        return Placement(1, 1, self.dilation, self.dilation, self.reduction)


def place(strides: Sequence[int], reduction: int, output_stride: int) -> Iterator[Placement]:
    """Turn the strides that would pass `output_stride` into dilation; `reduction` is the stride of what came before.

    What a dilated stage computes on every second pixel is what the strided stage computes. For that the layers up to
    the one that lost its stride keep the previous dilation: their input has not changed. Public dilated weights
    (torchvision, timm) expect the same.
    """
    dilation = 1
    for nominal in strides:
        stride, first_dilation = nominal, dilation
        if reduction * nominal > output_stride:
            dilation *= nominal
            stride = 1
        reduction *= stride
        yield Placement(nominal, stride, first_dilation, dilation, reduction)


class SpacedAverage(nn.Module):
    """The mean of a 2x2 window whose pixels lie `spacing` apart, at every place; at the border, of what is inside it.

    At every 2 * spacing-th place it is what a 2x2 average pool with stride 2 gives on every spacing-th pixel.
    """

    def __init__(self, spacing: int) -> None:
        super().__init__()
        self.spacing = spacing

    def forward(self, x: Tensor) -> Tensor:
        for dim in (-2, -1):
            inside = x.shape[dim] - self.spacing
            if inside > 0:
                ahead = x.narrow(dim, self.spacing, inside)
                rest = x.narrow(dim, inside, self.spacing)
                x = torch.cat(((x.narrow(dim, 0, inside) + ahead) / 2, rest), dim)
        return x

    def extra_repr(self) -> str:
        return f"spacing={self.spacing}"


class SpacedMax(nn.Module):
    """The largest of a 2x2 window whose pixels lie `spacing` apart, at every place; see `SpacedAverage`."""

    def __init__(self, spacing: int) -> None:
        super().__init__()
        self.spacing = spacing

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, self.spacing, 0, self.spacing), value=-torch.inf)
        return F.max_pool2d(padded, 2, stride=1, dilation=self.spacing)

    def extra_repr(self) -> str:
        return f"spacing={self.spacing}"


def average_pool(at: Placement) -> nn.Module:
    """Return a 2x2 average pool where the stride is kept, else its spaced form; odd sizes are rounded up."""
    if at.stride == 1:
        return SpacedAverage(at.first_dilation)
    return nn.AvgPool2d(2, at.stride, ceil_mode=True, count_include_pad=False)


def max_pool(at: Placement) -> nn.Module:
    """Return a 2x2 max-pool where the stride is kept, else its spaced form; odd sizes are rounded up."""
    return SpacedMax(at.first_dilation) if at.stride == 1 else nn.MaxPool2d(2, at.stride, ceil_mode=True)
