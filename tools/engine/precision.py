"""The number formats that a model trains in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ...backbones import InputError
from ...backbones.errors import unknown


class _Scaler(torch.amp.GradScaler):
    """Leaves out steps whose gradients overflow, whatever the optimiser."""

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> float | None:
        # Fused optimisers leave them out themselves, but SGD's keeps a momentum of unset memory of the first such step.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return super().step(optimizer, *args, **kwargs)


@dataclass(frozen=True)
class Precision:
    """Float32 weights, and what is computed in a shorter format.

    dtype: that of convolutions and matrix products, by autocast; None leaves them in float32. scaled: whether the loss
    is scaled, because gradients would fall below the smallest number of `dtype`. tf32: whether GPUs round the factors
    of float32 products to 10 bits of mantissa.
    """

    name: str
    dtype: torch.dtype | None = None
    scaled: bool = False
    tf32: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the context that losses and outputs are computed in; the backward pass is outside of it."""
        return nullcontext() if self.dtype is None else torch.autocast(device.type, self.dtype)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Return what scales the loss and unscales the gradients; where nothing is scaled it hands them through."""
        return _Scaler(device.type, enabled=self.scaled)

    def prepare(self) -> None:
        """Tell torch, for this process, how to multiply in float32; by itself it would take TF32 in convolutions."""
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32


PRECISIONS: Mapping[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision("float32"),
        Precision("tf32", tf32=True),
        Precision("bfloat16", torch.bfloat16),
        Precision("float16", torch.float16, scaled=True),
    )
}


def pick_precision(name: str, device: torch.device) -> Precision:
    """Return the precision of that name; `auto` is bfloat16 or else float16 on a CUDA device, and float32 elsewhere."""
    if name not in (*PRECISIONS, "auto"):
        raise unknown("engine.precision", name, (*PRECISIONS, "auto"))
    has = _precisions_of(device)
    if name == "auto":
        return PRECISIONS[has[0]]
    if name not in has:
        raise InputError(
            f"engine.precision={name!r} is not for {_described(device)}, which has {', '.join(has)}; choose one of "
            f"these, or auto for {has[0]}"
        )
    return PRECISIONS[name]


def _precisions_of(device: torch.device) -> tuple[str, ...]:
    """Return what a device has, the one to prefer first."""
    if device.type == "cpu":
        return "float32", "bfloat16", "float16"
    if device.type != "cuda":
        return ("float32",)
    # Older GPUs take bfloat16 too, emulated and slowly.
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return "bfloat16", "float16", "tf32", "float32"
    return "float16", "float32"


def _described(device: torch.device) -> str:
    if device.type != "cuda":
        return f"the device {device.type}"
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    return f"the GPU {torch.cuda.get_device_name(device)} (compute capability {capability})"
