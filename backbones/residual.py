"""Residual networks: one trunk made of four values, and the table of its variants.

A residual network answers four questions, and each answer is a value that acts: which convolutions a block applies
(`Convs`), where norm and activation sit and how the branches join (a block class), what the shortcut does where the
shape changes, and which stem comes first. A variant is a row of `RESIDUAL`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torchvision
from torch import Tensor, nn

from .contract import FeatureInfo, Preprocessing, Step, Trunk
from .norms import Norm

# --- where the strides go ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placement:
    """How one stage keeps within an output stride: its stride and dilations, and the stride of its output."""

    stride: int
    first_dilation: int
    dilation: int
    reduction: int


def place(strides: Sequence[int], reduction: int, output_stride: int) -> Iterator[Placement]:
    """Turn the strides that would pass `output_stride` into dilation; `reduction` is the stride of the stem.

    What a dilated stage computes on every second pixel is what the strided stage computes. For that the convolutions
    up to the one that lost its stride keep the previous dilation: their input has not changed. Public dilated weights
    (torchvision, timm) expect the same.
    """
    dilation = 1
    for stride in strides:
        first_dilation = dilation
        if reduction * stride > output_stride:
            dilation *= stride
            stride = 1
        reduction *= stride
        yield Placement(stride, first_dilation, dilation, reduction)


# --- which convolutions --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Convs:
    """The convolutions of a block, one after the other.

    All but the last give `width * inner_ratio` channels, the last `width * expansion`. The one at index `strided`
    carries the block's stride; `groups` applies to those wider than 1x1.
    """

    kernels: tuple[int, ...]
    strided: int = 0
    expansion: int = 1
    inner_ratio: float = 1
    groups: int = 1

    def build(
        self, in_channels: int, width: int, stride: int, first_dilation: int, dilation: int
    ) -> tuple[nn.Conv2d, ...]:
        """Return the convolutions; `first_dilation` holds up to the strided one, `dilation` after it (see `place`)."""
        convs = []
        for i, kernel in enumerate(self.kernels):
            last = i == len(self.kernels) - 1
            out_channels = width * self.expansion if last else round(width * self.inner_ratio)
            spread = first_dilation if i <= self.strided else dilation
            convs.append(
                nn.Conv2d(
                    in_channels,
                    out_channels,
                    kernel,
                    stride=stride if i == self.strided else 1,
                    padding=spread * (kernel // 2),
                    dilation=spread if kernel > 1 else 1,
                    groups=self.groups if kernel > 1 else 1,
                    bias=False,
                )
            )
            in_channels = out_channels
        return tuple(convs)


basic = Convs((3, 3))

# Stride on the 3x3 ("v1.5"): what public weights expect; the paper strides the first 1x1.
bottleneck = Convs((1, 3, 1), strided=1, expansion=4)


# --- how the branches join -----------------------------------------------------------------------------------------


class PostActBlock(nn.Module):
    """A residual block with norm and activation after each convolution, and the last activation after the sum.

    arXiv:1512.03385, figure 2. (N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, convs: Sequence[nn.Conv2d], shortcut: nn.Module, norm: Norm, drop_path: float) -> None:
        super().__init__()
        for i, conv in enumerate(convs, start=1):
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", norm(conv.out_channels))
        self.hops = len(convs)
        self.downsample = shortcut
        self.relu = nn.ReLU(inplace=True)
        self.drop_path = torchvision.ops.StochasticDepth(drop_path, "row") if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i in range(1, self.hops + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            if i < self.hops:
                out = self.relu(out)
        joined: Tensor = self.relu(self.drop_path(out) + self.downsample(x))
        return joined


# --- what the shortcut does ----------------------------------------------------------------------------------------


class Shortcut(Protocol):
    """Builds the branch around a block; `reshapes` says that the undilated block changes the shape.

    Where dilation takes the stride's place the stride is 1, and the parameters must be the same all the same.
    """

    def __call__(
        self, in_channels: int, out_channels: int, stride: int, norm: Norm, *, reshapes: bool
    ) -> nn.Module: ...


def project(in_channels: int, out_channels: int, stride: int, norm: Norm, *, reshapes: bool) -> nn.Module:
    """Option B of the paper: a 1x1 convolution and a norm where the shape changes, else nothing."""
    if not reshapes:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), norm(out_channels))


# --- the stem ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stem:
    """The steps before the first stage, with the channels and stride that they hand to it."""

    steps: tuple[Step, ...]
    channels: int
    stride: int


def imagenet_stem(in_channels: int, norm: Norm) -> Stem:
    """7x7 convolution with stride 2, norm, ReLU (feature `c1`), then a 3x3 max-pool with stride 2."""
    conv = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    # With padding 1, kernel 3 and stride 2 the pool gives ceil(H / 2) rows whatever the parity of H.
    return Stem(
        (
            Step("conv1", conv, 0),
            Step("bn1", norm(64), 0),
            Step("relu", nn.ReLU(inplace=True), 0, FeatureInfo("c1", 64, 2)),
            Step("maxpool", nn.MaxPool2d(3, stride=2, padding=1), 0),
        ),
        channels=64,
        stride=4,
    )


# --- initialisation ------------------------------------------------------------------------------------------------


def kaiming_fan_out(network: nn.Module) -> None:
    """He initialisation by fan-out (torchvision's choice): variance 2 / (kernel area * output channels)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# --- the trunk -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Residual:
    """A residual network as a row: call it to build the network with all its stages.

    `depths` counts the blocks of each stage, `widths` their channels before expansion; every stage but the first
    halves the resolution.
    """

    depths: tuple[int, ...]
    convs: Convs
    block: Callable[[Sequence[nn.Conv2d], nn.Module, Norm, float], nn.Module] = PostActBlock
    shortcut: Shortcut = project
    stem: Callable[[int, Norm], Stem] = imagenet_stem
    widths: tuple[int, ...] = (64, 128, 256, 512)
    init: Callable[[nn.Module], None] = kaiming_fan_out

    @property
    def default_features(self) -> tuple[str, ...]:
        """All stages but the stem."""
        return tuple(f"c{stage + 1}" for stage in range(1, len(self.depths) + 1))

    def __call__(self, *, in_channels: int, output_stride: int, norm: Norm, drop_path: float) -> Trunk:
        stem = self.stem(in_channels, norm)
        steps = list(stem.steps)
        channels = stem.channels
        strides = [1] + [2] * (len(self.depths) - 1)
        # The chance to be dropped grows linearly with depth (arXiv:1603.09382, equation 4).
        drops = iter([drop_path * (i + 1) / sum(self.depths) for i in range(sum(self.depths))])
        stages = zip(self.depths, self.widths, place(strides, stem.stride, output_stride), strict=True)
        for stage, (depth, width, at) in enumerate(stages, start=1):
            blocks = nn.Sequential()
            for i in range(depth):
                stride, first_dilation = (at.stride, at.first_dilation) if i == 0 else (1, at.dilation)
                convs = self.convs.build(channels, width, stride, first_dilation, at.dilation)
                out_channels = convs[-1].out_channels
                reshapes = channels != out_channels or (i == 0 and strides[stage - 1] > 1)
                shortcut = self.shortcut(channels, out_channels, stride, norm, reshapes=reshapes)
                blocks.append(self.block(convs, shortcut, norm, next(drops)))
                channels = out_channels
            steps.append(Step(f"layer{stage}", blocks, stage, FeatureInfo(f"c{stage + 1}", channels, at.reduction)))
        network = Trunk(steps, Preprocessing().for_channels(in_channels), droppable_keys=("fc.",))
        self.init(network)
        return network


RESIDUAL = {
    "resnet18": Residual((2, 2, 2, 2), basic),
    "resnet34": Residual((3, 4, 6, 3), basic),
    "resnet50": Residual((3, 4, 6, 3), bottleneck),
    "resnet101": Residual((3, 4, 23, 3), bottleneck),
    "resnet152": Residual((3, 8, 36, 3), bottleneck),
}
