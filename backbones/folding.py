"""Norms that follow a convolution, folded into it: their statistics no longer move, so both are one linear map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .contract import Backbone
from .fast_convs import PointwiseConv2d, TapsConv2d, WinogradConv2d

M = TypeVar("M", bound=nn.Module)
N = TypeVar("N", bound=nn.Module)

# What is a convolution and nothing else: classes that inherit from these may do more.
CONVS = (nn.Conv2d, PointwiseConv2d, TapsConv2d, WinogradConv2d)

# BatchNorm2d has timm's with an activation under it, and SyncBatchNorm beside it.
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, torchvision.ops.FrozenBatchNorm2d)


def fold_norms_(model: nn.Module) -> nn.Module:
    """Fold each batch norm that directly follows a convolution into it, for inference, and return the model.

    The model is put into eval mode. Which convolution a norm of a backbone follows is seen by running it once; in other
    parts of the model it is the one before it in an `nn.Sequential`. Norms of other kinds, and those that follow
    something else, as in pre-activation networks, stay.
    """
    model.eval()
    seen = [pair for backbone in _outermost(model) for pair in _seen(backbone)]
    for conv, norm in dict.fromkeys([*seen, *_in_rows(model)]):
        _fold(conv, norm)
        _replace(model, norm, _rest(norm))
    return model


def _fold(conv: nn.Conv2d, norm: Any) -> None:
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def _rest(norm: Any) -> nn.Module:
    """Return what a norm of timm's does beside normalising."""
    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)


def _is_constant(norm: nn.Module) -> bool:
    return isinstance(norm, NORMS) and norm.running_mean is not None


def _outermost(model: nn.Module) -> Iterator[Backbone]:
    """Yield the backbones in a model, but not those in others."""
    if isinstance(model, Backbone):
        yield model
        return
    for child in model.children():
        yield from _outermost(child)


def _in_rows(model: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.Module]]:
    for row in model.modules():
        if isinstance(row, nn.Sequential):
            for first, second in pairwise(row):
                if isinstance(first, nn.Conv2d) and type(first) in CONVS and _is_constant(second):
                    yield first, second


# --- seen by running -------------------------------------------------------------------------------------------------


class _Uses(TorchFunctionMode):
    """Counts the functions that each tensor is given to."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[int, int] = {}
        self.kept: list[Tensor] = []  # so that no two tensors ever have the same id

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        # What is no tensor is a question, as for a shape.
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(found)):
            self.see((args, kwargs))
        return found

    def see(self, values: Any) -> None:
        for leaf in tree_leaves(values):
            if isinstance(leaf, Tensor):
                self.kept.append(leaf)
                self.counts[id(leaf)] = self.counts.get(id(leaf), 0) + 1


def _seen(backbone: Backbone) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Return convolutions and norms such that all that the one makes goes to the other, which gets nothing else."""
    if not any(map(_is_constant, backbone.modules())):
        return []
    uses = _Uses()
    made: list[tuple[nn.Conv2d, Tensor]] = []
    read: list[tuple[nn.Module, Tensor]] = []
    convs = [module for module in backbone.modules() if type(module) in CONVS]
    norms = filter(_is_constant, backbone.modules())
    hooks = [conv.register_forward_hook(lambda conv, inputs, output: made.append((conv, output))) for conv in convs]
    hooks += [norm.register_forward_pre_hook(lambda norm, inputs: read.append((norm, inputs[0]))) for norm in norms]
    side = 2 * max(32, *(info.stride for info in backbone.feature_info))
    images = next(backbone.parameters()).new_zeros(1, len(backbone.preprocessing.mean), side, side)
    try:
        with torch.no_grad(), uses:
            uses.see(backbone(images))
    finally:
        for hook in hooks:
            hook.remove()
    goes_to = _partners(made, {id(x): norm for norm, x in read if uses.counts[id(x)] == 1})
    comes_from = _partners(read, {id(x): conv for conv, x in made})
    return [(conv, norm) for conv, norm in goes_to.items() if norm is not None and comes_from[norm] is conv]


def _partners(tensors: Sequence[tuple[M, Tensor]], others: Mapping[int, N]) -> dict[M, N | None]:
    """Return for each module the one at the other end of all its tensors; None where there is not one alone."""
    found: dict[M, set[N | None]] = {}
    for module, x in tensors:
        found.setdefault(module, set()).add(others.get(id(x)))
    return {module: ends.pop() if len(ends) == 1 else None for module, ends in found.items()}
