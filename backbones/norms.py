"""Normalisation layers by name: functions from a number of channels to a module."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .errors import InputError, unknown
from .fast_convs import FastConv2d, goes_by_products

Norm = Callable[[int], nn.Module]


class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision has no types
    """Batch normalisation whose statistics and affine values are constants (buffers), taken from a checkpoint.

    With the values that it is constructed with it would do nothing at all, silently; so the first forward refuses when
    nothing was loaded.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps)
        self.loaded = False

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.loaded = self.loaded or f"{prefix}running_mean" in state_dict

    def constants(self) -> tuple[Tensor, Tensor]:
        """Return what it multiplies each channel by, and what it then adds."""
        if not self.loaded:
            raise InputError(
                "norm='frozen_batch' was never given statistics: load weights first, or train from scratch with "
                "norm='batch' or norm='group'"
            )
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.constants()
        # One pass over x, where a product and a sum would take two; and in its dtype, which autocast may have chosen.
        return torch.addcmul(shift[:, None, None].to(x.dtype), x, scale[:, None, None].to(x.dtype))


def convolve(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """Return `norm(conv(x))`, by the convolution alone where the norm's values are constants.

    They go into its weight and bias, which are small, so that the maps are passed over once, forward and backward.
    Where somebody watches either module by a hook, both run.
    """
    if type(norm) is FrozenBatchNorm2d and not _are_watched(conv, norm):
        if isinstance(conv, FastConv2d) and goes_by_products(x):
            scale, shift = _constants_of(conv, norm)
            return conv.by_products(x, scale, shift)
        if type(conv) is nn.Conv2d:
            return _convolve_scaled(conv, norm, x)
    found: Tensor = norm(conv(x))
    return found


def _convolve_scaled(conv: nn.Conv2d, norm: FrozenBatchNorm2d, x: Tensor) -> Tensor:
    assert conv.padding_mode == "zeros"
    assert not isinstance(conv.padding, str)
    scale, shift = _constants_of(conv, norm)
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    how = conv.stride, conv.padding, conv.dilation, conv.groups
    if torch.is_grad_enabled():
        found: Tensor = _ScaledConvolution.apply(x, conv.weight, scale, shift, *how)
        return found
    return _scaled_convolution(x, conv.weight, scale, shift, *how)


def _constants_of(conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return what the convolution's weight is multiplied by, and its bias."""
    scale, shift = norm.constants()
    return scale, shift if conv.bias is None else shift + conv.bias * scale


def _scaled(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (weight * scale[:, None, None, None]).to(dtype)


def _scaled_convolution(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, *how: Any) -> Tensor:
    return F.conv2d(x, _scaled(weight, scale, x.dtype), shift.to(x.dtype), *how)


class _ScaledConvolution(torch.autograd.Function):
    """The same with a gradient. It keeps no scaled weight, which would be another copy of the network's weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, *how: Any) -> Tensor:
        ctx.save_for_backward(x, weight, scale)
        ctx.how = how
        return _scaled_convolution(x, weight, scale, shift, *how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, weight, scale = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        of_x, of_weight, _, of_shift, *_ = ctx.needs_input_grad
        sizes = [len(scale)] if of_shift else None
        dx, dweight, dshift = torch.ops.aten.convolution_backward(
            gradient, x, _scaled(weight, scale, x.dtype), sizes, stride, padding, dilation, False, (0, 0), groups,
            (of_x, of_weight, of_shift),
        )  # fmt: skip
        return dx, _scaled(dweight, scale, weight.dtype) if of_weight else None, None, dshift, *[None] * 4


def _are_watched(*modules: nn.Module) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in modules)


class NormedSequence(nn.Sequential):
    """Modules one after the other, of which convolutions with a norm behind them run as `convolve` has it."""

    def forward(self, x: Tensor) -> Tensor:
        waiting: nn.Module | None = None
        for module in self:
            if isinstance(module, nn.Conv2d):
                x = x if waiting is None else waiting(x)
                waiting = module
            elif waiting is not None:
                x = convolve(waiting, module, x)
                waiting = None
            else:
                x = module(x)
        return x if waiting is None else waiting(x)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with 32 groups (arXiv:1803.08494), fewer where 32 does not divide the channels."""
    return nn.GroupNorm(gcd(32, channels), channels)


NORMS: dict[str, Norm] = {
    "batch": nn.BatchNorm2d,
    "frozen_batch": FrozenBatchNorm2d,
    "sync_batch": nn.SyncBatchNorm,
    "group": group_norm,
}


def norm_layer(name: str) -> Norm:
    """Return the norm of that name: `batch`, `frozen_batch`, `sync_batch` or `group`."""
    if name not in NORMS:
        raise unknown("norm", name, NORMS)
    return NORMS[name]


def no_norm(asked: Norm, network: str) -> Norm | None:
    """Return None, for a network without norms; one that was asked for is an error."""
    if asked is not NORMS["batch"]:
        raise InputError(f"a norm was chosen for {network}")
    return None
