"""Shortcuts: the branch around a residual block, and what it does where the block changes the shape.

Where dilation takes the stride's place the stride is 1, and the parameters must be the same all the same: so a shortcut
asks for the nominal stride, and applies the real one.
"""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from .norms import Norm, NormedSequence
from .placement import Placement, average_pool


class Shortcut(Protocol):
    """Builds the branch around a block; an `nn.Identity` where it leaves the input as it is."""

    def __call__(self, in_channels: int, out_channels: int, at: Placement, norm: Norm) -> nn.Module: ...


def _reshapes(in_channels: int, out_channels: int, at: Placement) -> bool:
    return in_channels != out_channels or at.nominal > 1


class ZeroPad(nn.Module):
    """Subsamples by `stride` and appends `extra` channels of zeros."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, extra={self.extra}"


def zero_pad(in_channels: int, out_channels: int, at: Placement, norm: Norm) -> nn.Module:
    """Option A of arXiv:1512.03385: identity, with zeros for the new channels; no parameters."""
    if not _reshapes(in_channels, out_channels, at):
        return nn.Identity()
    return ZeroPad(at.stride, out_channels - in_channels)


def project(in_channels: int, out_channels: int, at: Placement, norm: Norm) -> nn.Module:
    """Option B: a 1x1 convolution and a norm where the shape changes, else nothing."""
    if not _reshapes(in_channels, out_channels, at):
        return nn.Identity()
    return project_everywhere(in_channels, out_channels, at, norm)


def project_everywhere(in_channels: int, out_channels: int, at: Placement, norm: Norm) -> nn.Module:
    """Option C: a 1x1 convolution and a norm around every block."""
    return NormedSequence(nn.Conv2d(in_channels, out_channels, 1, at.stride, bias=False), norm(out_channels))


def project_bare(in_channels: int, out_channels: int, at: Placement, norm: Norm) -> nn.Module:
    """A 1x1 convolution without norm where the shape changes: for pre-activation, whose sums are not normalised."""
    if not _reshapes(in_channels, out_channels, at):
        return nn.Identity()
    return nn.Conv2d(in_channels, out_channels, 1, at.stride, bias=False)


def pool_then_project(in_channels: int, out_channels: int, at: Placement, norm: Norm) -> nn.Module:
    """ResNet-D (arXiv:1812.01187, figure 2c): a 2x2 average pool does the subsampling, so that no pixel is ignored."""
    if not _reshapes(in_channels, out_channels, at):
        return nn.Identity()
    pool = average_pool(at) if at.nominal > 1 else nn.Identity()
    return NormedSequence(pool, nn.Conv2d(in_channels, out_channels, 1, bias=False), norm(out_channels))


class Nothing(nn.Module):
    """Adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


def nothing(in_channels: int, out_channels: int, at: Placement, norm: Norm) -> nn.Module:
    """No shortcut at all: a plain network, whose training error grows with depth (arXiv:1512.03385, figure 1)."""
    return Nothing()
