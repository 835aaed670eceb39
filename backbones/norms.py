"""Normalisation layers by name: functions from a number of channels to a module."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from .errors import InputError, unknown

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

    def forward(self, x: Tensor) -> Tensor:
        if not self.loaded:
            raise InputError(
                "norm='frozen_batch' was never given statistics: load weights first, or train from scratch with "
                "norm='batch' or norm='group'"
            )
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        # One pass over x, where a product and a sum would take two; and in its dtype, which autocast may have chosen.
        return torch.addcmul(shift[:, None, None].to(x.dtype), x, scale[:, None, None].to(x.dtype))


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
