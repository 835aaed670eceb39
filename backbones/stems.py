"""Stems: what comes before the first stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from .contract import FeatureInfo, Step
from .norms import Norm


@dataclass(frozen=True)
class Stem:
    """The steps before the first stage, with the channels and stride that they hand to it.

    activated: whether what they hand over is normalised and activated.
    """

    steps: tuple[Step, ...]
    channels: int
    stride: int
    activated: bool = True


StemBuilder = Callable[[int, Norm], Stem]


def _pool() -> Step:
    # With padding 1, kernel 3 and stride 2 the pool gives ceil(H / 2) rows whatever the parity of H.
    return Step("maxpool", nn.MaxPool2d(3, stride=2, padding=1), 0)


def imagenet_stem(in_channels: int, norm: Norm) -> Stem:
    """7x7 convolution with stride 2, norm, ReLU (feature `c1`), then a 3x3 max-pool with stride 2."""
    steps = (
        Step("conv1", nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False), 0),
        Step("bn1", norm(64), 0),
        Step("relu", nn.ReLU(inplace=True), 0, FeatureInfo("c1", 64, 2)),
        _pool(),
    )
    return Stem(steps, channels=64, stride=4)


def bare_stem(in_channels: int, norm: Norm) -> Stem:
    """The same without norm and activation, for pre-activation networks: their `c1` is raw."""
    conv = Step("conv1", nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False), 0, FeatureInfo("c1", 64, 2))
    return Stem((conv, _pool()), channels=64, stride=4, activated=False)


def _deep_stem(in_channels: int, norm: Norm, *, widths: tuple[int, int, int]) -> Stem:
    first, second, third = widths
    convs = nn.Sequential(
        nn.Conv2d(in_channels, first, 3, stride=2, padding=1, bias=False),
        norm(first),
        nn.ReLU(inplace=True),
        nn.Conv2d(first, second, 3, padding=1, bias=False),
        norm(second),
        nn.ReLU(inplace=True),
        nn.Conv2d(second, third, 3, padding=1, bias=False),
    )
    steps = (
        Step("conv1", convs, 0),
        Step("bn1", norm(third), 0),
        Step("relu", nn.ReLU(inplace=True), 0, FeatureInfo("c1", third, 2)),
        _pool(),
    )
    return Stem(steps, channels=third, stride=4)


# Three 3x3 in the place of the 7x7 (arXiv:1812.01187, figure 2b), and DeepLab's wider form of it.
deep_stem = partial(_deep_stem, widths=(32, 32, 64))
deeplab_stem = partial(_deep_stem, widths=(64, 64, 128))


def _cifar_stem(in_channels: int, norm: Norm, *, width: int) -> Stem:
    steps = (
        Step("conv1", nn.Conv2d(in_channels, width, 3, padding=1, bias=False), 0),
        Step("bn1", norm(width), 0),
        Step("relu", nn.ReLU(inplace=True), 0),
    )
    return Stem(steps, channels=width, stride=1)


# One 3x3 at full resolution (arXiv:1512.03385, section 4.2); ResNeXt's is wider (arXiv:1611.05431, section 5.4).
cifar_stem = partial(_cifar_stem, width=16)
cifar_stem_64 = partial(_cifar_stem, width=64)
