"""DenseNet (arXiv:1608.06993): every layer takes the maps of all layers before it in its block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .blocks import Tap, normalised
from .contract import FeatureInfo, Preprocessing, Step, Trunk
from .initialisation import kaiming_fan_in
from .norms import Norm
from .placement import average_pool, place
from .stage import Recomputing, recompute, statistics_kept

# torchvision's names in ours; its published files still have `norm.1` for `norm1`.
_TORCHVISION = (
    (r"^features\.", ""),
    (r"^(denseblock\d+\.denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),
    (r"^transition(\d)\.conv\.", r"transition\1.0."),
    *((rf"^transition{i}\.norm\.", f"norm{i + 1}.") for i in (1, 2, 3)),
)


def _concatenated(maps: Sequence[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.cat(list(maps), dim=1)


class _NormReluConv(Function):
    """Convolution of the activated norm of the concatenated maps; keeps the maps alone for the backward pass.

    The concatenation, the norm and the activation are most of a DenseNet's memory and little of its time, so they are
    computed again (arXiv:1707.06990, section 3); the convolution is not.
    """

    @staticmethod
    def forward(ctx: Any, norm: nn.Module, conv: nn.Conv2d, count: int, *tensors: Tensor) -> Tensor:
        # tensors: the maps, the convolution's weight, the norm's parameters; each is an input to get its gradient.
        maps = tensors[:count]
        ctx.save_for_backward(*maps)
        ctx.norm, ctx.conv = norm, conv
        out: Tensor = conv(F.relu(norm(_concatenated(maps)), inplace=True))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        maps, norm, conv = ctx.saved_tensors, ctx.norm, ctx.conv
        parameters = [parameter for parameter in norm.parameters() if parameter.requires_grad]
        with torch.enable_grad(), statistics_kept(norm):
            x = _concatenated(maps).detach().requires_grad_()
            active = F.relu(norm(x), inplace=True)
        # Under autocast the convolution ran in the dtype of its gradient.
        grad_active, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad,
            active.detach().to(grad.dtype),
            conv.weight.detach().to(grad.dtype),
            None,
            conv.stride,
            conv.padding,
            conv.dilation,
            False,
            (0, 0),
            conv.groups,
            (True, conv.weight.requires_grad, False),
        )
        grad_x, *grads = torch.autograd.grad(active, [x, *parameters], grad_active.to(active.dtype))
        of_norm = dict(zip(parameters, grads, strict=True))
        if grad_weight is not None:
            grad_weight = grad_weight.to(conv.weight.dtype)
        split = torch.split(grad_x, [m.shape[1] for m in maps], dim=1)
        return (None, None, None, *split, grad_weight, *(of_norm.get(parameter) for parameter in norm.parameters()))


def norm_relu_conv(norm: nn.Module, conv: nn.Conv2d, *maps: Tensor) -> Tensor:
    """Return `conv(relu(norm(cat(maps))))`, (N, sum(C_i), H, W) -> (N, C', H, W), at the memory cost of the maps."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        out: Tensor = _NormReluConv.apply(norm, conv, len(maps), *maps, conv.weight, *norm.parameters())
        return out
    # A compiler decides by itself what to recompute.
    plain: Tensor = conv(F.relu(norm(_concatenated(maps))))
    return plain


class DenseLayer(nn.Module):
    """Norm, ReLU and a 3x3 to `growth` maps; with `bottleneck` > 0 a norm, ReLU and 1x1 to so many maps before it."""

    def __init__(
        self, in_channels: int, growth: int, bottleneck: int, dilation: int, norm: Norm, dropout: float
    ) -> None:
        super().__init__()
        convs = [nn.Conv2d(in_channels, bottleneck, 1, bias=False)] if bottleneck else []
        last = convs[-1].out_channels if convs else in_channels
        convs.append(nn.Conv2d(last, growth, 3, padding=dilation, dilation=dilation, bias=False))
        for i, conv in enumerate(convs, start=1):
            self.add_module(f"norm{i}", norm(conv.in_channels))
            self.add_module(f"conv{i}", conv)
        self.hops = len(convs)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, *maps: Tensor) -> Tensor:
        for i in range(1, self.hops + 1):
            maps = (norm_relu_conv(getattr(self, f"norm{i}"), getattr(self, f"conv{i}"), *maps),)
        new: Tensor = self.dropout(maps[0])
        return new


class DenseBlock(Recomputing):
    """Dense layers; (N, C, H, W) -> (N, C + layers * growth, H, W)."""

    def __init__(
        self,
        layers: int,
        in_channels: int,
        growth: int,
        bottleneck: int,
        dilation: int,
        norm: Norm,
        dropout: float,
    ) -> None:
        super().__init__()
        for i in range(layers):
            layer = DenseLayer(in_channels + i * growth, growth, bottleneck, dilation, norm, dropout)
            self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.children():
            maps.append(recompute(layer, *maps, module=layer) if self.recomputes else layer(*maps))
        return torch.cat(maps, dim=1)


@dataclass(frozen=True)
class DenseNet:
    """A DenseNet as a row: call it to build the network with all its stages.

    `depths` counts the layers of each block, `growth` is what each adds. `bottleneck` is the width of its 1x1 as a
    multiple of the growth (0: none), `compression` the share of maps that a transition keeps. With four blocks the stem
    is ImageNet's, else one 3x3.
    """

    depths: tuple[int, ...]
    growth: int
    stem_width: int
    bottleneck: int = 4
    compression: float = 0.5
    dropout: float = 0.0
    tap: Tap = normalised

    @property
    def default_features(self) -> tuple[str, ...]:
        """All blocks but the stem."""
        return tuple(f"c{block + 1}" for block in range(1, len(self.depths) + 1))

    def _stem(self, in_channels: int, norm: Norm) -> tuple[list[Step], int]:
        """Return the steps of the stem and its stride."""
        if len(self.depths) < 4:
            return [Step("conv0", nn.Conv2d(in_channels, self.stem_width, 3, padding=1, bias=False), 0)], 1
        return [
            Step("conv0", nn.Conv2d(in_channels, self.stem_width, 7, stride=2, padding=3, bias=False), 0),
            Step("norm0", norm(self.stem_width), 0),
            Step("relu0", nn.ReLU(inplace=True), 0, FeatureInfo("c1", self.stem_width, 2)),
            Step("pool0", nn.MaxPool2d(3, stride=2, padding=1), 0),
        ], 4

    def __call__(self, *, in_channels: int, output_stride: int, norm: Norm) -> Trunk:
        steps, reduction = self._stem(in_channels, norm)
        channels = self.stem_width
        strides = [1] + [2] * (len(self.depths) - 1)
        for block, (depth, at) in enumerate(zip(self.depths, place(strides, reduction, output_stride), strict=True), 1):
            if block > 1:
                kept = int(channels * self.compression)
                transition = nn.Sequential(nn.Conv2d(channels, kept, 1, bias=False), average_pool(at))
                steps.append(Step(f"transition{block - 1}", transition, block))
                channels = kept
            width = self.bottleneck * self.growth
            layers = DenseBlock(depth, channels, self.growth, width, at.dilation, norm, self.dropout)
            channels += depth * self.growth
            feature = FeatureInfo(f"c{block + 1}", channels, at.reduction)
            steps += self.tap(Step(f"denseblock{block}", layers, block, feature), norm)
        network = Trunk(
            steps, Preprocessing().for_channels(in_channels), droppable_keys=("classifier.",), renames=_TORCHVISION
        )
        kaiming_fan_in(network)
        return network


def _cifar(depth: int, growth: int) -> DenseNet:
    """Three blocks of (depth - 4) / 3 layers, nothing compressed (arXiv:1608.06993, section 3)."""
    return DenseNet(((depth - 4) // 3,) * 3, growth, 16, bottleneck=0, compression=1.0)


def _cifar_bc(depth: int, growth: int) -> DenseNet:
    """DenseNet-BC: bottlenecks and compression, so half as many layers, and a wider stem."""
    return DenseNet(((depth - 4) // 6,) * 3, growth, 2 * growth)


DENSENET = {
    "densenet121": DenseNet((6, 12, 24, 16), 32, 64),
    "densenet161": DenseNet((6, 12, 36, 24), 48, 96),
    "densenet169": DenseNet((6, 12, 32, 32), 32, 64),
    "densenet201": DenseNet((6, 12, 48, 32), 32, 64),
    "densenet264": DenseNet((6, 12, 64, 48), 32, 64),
    "densenet40_k12": _cifar(40, 12),
    "densenet100_k12": _cifar(100, 12),
    "densenet100_k24": _cifar(100, 24),
    "densenet_bc100_k12": _cifar_bc(100, 12),
    "densenet_bc190_k40": _cifar_bc(190, 40),
    "densenet_bc250_k24": _cifar_bc(250, 24),
}
