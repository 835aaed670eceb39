"""A model made fast for inference: norms folded away, weights laid out as the machine computes best with them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from .contract import Backbone
from .errors import InputError, unknown
from .fast_convs import WinogradConv2d, use_fast_convs_
from .folding import NORMS, fold_norms_
from .processor import tell_of_slow_bfloat16

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Layers that have weights, and take their input in the dtype of these.
_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def optimize(
    model: nn.Module, *, dtype: str = "float32", compiled: bool = False, pad_to: Sequence[tuple[int, int]] = ()
) -> nn.Module:
    """Return a copy of a model or backbone that does the same faster, for inference alone.

    Batch norms are folded into the convolutions that they follow, weights lie in channels_last, and on a CPU, in
    float32, convolutions are computed with fewer multiplications (`fast_convs`): results differ in rounding, by about
    1e-5 of the largest value. The copy takes and returns what the model does, and is in eval mode; its keys differ.

    dtype: `bfloat16` keeps weights in that type and computes in it, boxes and scores excepted; on a CPU without
    instructions for it that is slower, and a warning says so. compiled: compile by `model.compile()`, of our models the
    part before boxes; each shape of a batch compiles anew, so give `pad_to`, the few shapes (H, W) to pad batches to.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if pad_to and not hasattr(model, "pad_to"):
        raise InputError(f"pad_to is for models with heads of ours; {type(model).__name__} takes images as they come")
    fast = fold_norms_(deepcopy(model)).requires_grad_(False)
    device = next(fast.parameters()).device
    fast.to(memory_format=torch.channels_last)
    if dtype == "bfloat16":
        tell_of_slow_bfloat16(device)
        _compute_in_(fast, DTYPES[dtype])
    elif device.type == "cpu":
        _transform_(use_fast_convs_(fast))
    if pad_to:
        fast.pad_to = tuple(pad_to)  # type: ignore[assignment]
    if compiled:
        fast.compile()
    return fast


def _transform_(model: nn.Module) -> None:
    """Transform the weights of Winograd's convolutions, which will not change, where that is faster."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, WinogradConv2d) and child.value_is_faster:
                setattr(parent, name, child.transformed())


def _compute_in_(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold weights in a short dtype, and give layers their inputs in it."""
    inside = {module for backbone in model.modules() if isinstance(backbone, Backbone) for module in backbone.modules()}
    for module in model.modules():
        # Statistics of batch norms are float32 whatever comes in; in heads, what has no weights is about boxes.
        if isinstance(module, NORMS) or not (module in inside or isinstance(module, (*_LAYERS, nn.GroupNorm))):
            continue
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None and value.is_floating_point():
                    setattr(module, name, _like(value, dtype))
        if isinstance(module, _LAYERS):
            module.register_forward_pre_hook(_to_weight)


def _like(value: Tensor, dtype: torch.dtype) -> Tensor:
    made = value.detach().to(dtype)
    return nn.Parameter(made, requires_grad=False) if isinstance(value, nn.Parameter) else made


def _to_weight(layer: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].to(layer.weight.dtype),)
