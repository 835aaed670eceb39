"""Residual networks: one trunk made of a few values, and the table of its variants.

A residual network answers four questions, and each answer is a value that acts: which convolutions a block applies
(`Convs`), where norm and activation sit and how the branches join (`Join`), what the shortcut does where the shape
changes, and which stem comes first. A variant is a row of `RESIDUAL`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import nn
from torchvision.ops import StochasticDepth

from .blocks import (
    Convs,
    Join,
    basic,
    bottleneck,
    bottleneck_v1,
    post_activation,
    pre_activation,
)
from .contract import FeatureInfo, Preprocessing, Step, Trunk
from .errors import InputError
from .initialisation import kaiming_fan_out, kaiming_zero_last
from .norms import Norm
from .placement import place
from .shortcuts import Shortcut, nothing, pool_then_project, project, project_bare, project_everywhere, zero_pad
from .stage import BatchDrop, Stage
from .stems import StemBuilder, bare_stem, cifar_stem, cifar_stem_64, deep_stem, deeplab_stem, imagenet_stem

drop_samples = partial(StochasticDepth, mode="row")
drop_batches = BatchDrop

# timm's names of pre-activation networks, in ours.
_TIMM_V2 = (
    (r"^stem\.conv\.", "conv1."),
    (r"^norm\.", "norm5."),
    *((rf"^stages\.{i}\.blocks\.0\.norm1\.", f"norm{i + 1}.") for i in (1, 2, 3)),
    *((rf"^stages\.{i}\.blocks\.", f"layer{i + 1}.") for i in range(4)),
    (r"^(layer\d\.\d+\.downsample)\.conv\.", r"\1."),
)


@dataclass(frozen=True)
class Residual:
    """A residual network as a row: call it to build the network with all its stages.

    `depths` counts the blocks of each stage, `widths` their channels before expansion; every stage but the first
    halves the resolution. `dropout` is the chance between the convolutions of a block. `drop` is what stochastic depth
    does to a branch, `drop_path` the last block's chance where none is asked for.
    """

    depths: tuple[int, ...]
    convs: Convs
    join: Join = post_activation
    shortcut: Shortcut = project
    stem: StemBuilder = imagenet_stem
    widths: tuple[int, ...] = (64, 128, 256, 512)
    init: Callable[[nn.Module], None] = kaiming_fan_out
    dropout: float = 0.0
    drop: Callable[[float], nn.Module] = drop_samples
    drop_path: float = 0.0
    renames: tuple[tuple[str, str], ...] = ()

    @property
    def default_features(self) -> tuple[str, ...]:
        """All stages but the stem."""
        return tuple(f"c{stage + 1}" for stage in range(1, len(self.depths) + 1))

    def __call__(self, *, in_channels: int, output_stride: int, norm: Norm, drop_path: float | None = None) -> Trunk:
        last_drop = self.drop_path if drop_path is None else drop_path
        if last_drop and self.shortcut is nothing:
            raise InputError(f"drop_path={last_drop}: a network without shortcuts has nothing left of a dropped block")
        stem = self.stem(in_channels, norm)
        steps = list(stem.steps)
        channels, activated = stem.channels, stem.activated
        # The chance to be dropped grows linearly with depth (arXiv:1603.09382, equation 4).
        chances = iter([last_drop * (i + 1) / sum(self.depths) for i in range(sum(self.depths))])
        strides = [1] + [2] * (len(self.depths) - 1)
        stages = zip(self.depths, self.widths, place(strides, stem.stride, output_stride), strict=True)
        for stage, (depth, width, at) in enumerate(stages, start=1):
            blocks = []
            for i in range(depth):
                here = at if i == 0 else at.after()
                convs = self.convs.build(channels, width, here)
                shortcut = self.shortcut(channels, convs[-1].out_channels, here, norm)
                chance = next(chances)
                block = self.join.entered if i == 0 and activated else self.join.block
                dropped = self.drop(chance) if chance else nn.Identity()
                blocks.append(block(convs, shortcut, norm, dropped, self.dropout))
                channels = convs[-1].out_channels
            feature = FeatureInfo(f"c{stage + 1}", channels, at.reduction)
            steps += self.join.tap(Step(f"layer{stage}", Stage(blocks), stage, feature), norm)
            activated = True
        network = Trunk(
            steps,
            Preprocessing().for_channels(in_channels),
            droppable_keys=("fc.", "head.", "linear."),
            renames=self.renames,
        )
        self.init(network)
        return network


def _grouped(groups: int, base_width: int) -> Convs:
    """Bottleneck of ResNeXt (arXiv:1611.05431, table 1): `groups` paths of `base_width` channels in the first stage."""
    return replace(bottleneck, groups=groups, inner_ratio=groups * base_width / 64)


RESNET_DEPTHS = {
    18: Residual((2, 2, 2, 2), basic),
    34: Residual((3, 4, 6, 3), basic),
    50: Residual((3, 4, 6, 3), bottleneck),
    101: Residual((3, 4, 23, 3), bottleneck),
    152: Residual((3, 8, 36, 3), bottleneck),
    200: Residual((3, 24, 36, 3), bottleneck),
}
_WIDE = replace(bottleneck, inner_ratio=2)

IMAGENET = {
    **{f"resnet{depth}": row for depth, row in RESNET_DEPTHS.items()},
    "resnet34_a": replace(RESNET_DEPTHS[34], shortcut=zero_pad),
    "resnet34_c": replace(RESNET_DEPTHS[34], shortcut=project_everywhere),
    # As the paper strides, and Caffe's weights with it: those of MSRA, on which detectron2's first models stand.
    **{f"resnet{depth}_caffe": replace(RESNET_DEPTHS[depth], convs=bottleneck_v1) for depth in (50, 101, 152)},
    "resnet50c": replace(RESNET_DEPTHS[50], stem=deep_stem),
    "resnet101c": replace(RESNET_DEPTHS[101], stem=deep_stem),
    "resnet152c": replace(RESNET_DEPTHS[152], stem=deep_stem),
    **{
        f"resnet{depth}d": replace(row, stem=deep_stem, shortcut=pool_then_project, init=kaiming_zero_last)
        for depth, row in RESNET_DEPTHS.items()
    },
    # DeepLab's "R103": ResNet-101 with three 3x3 of 64, 64 and 128 channels as stem.
    "resnet103": replace(RESNET_DEPTHS[101], stem=deeplab_stem),
    **{
        f"resnetv2_{depth}": replace(row, join=pre_activation, shortcut=project_bare, stem=bare_stem, renames=_TIMM_V2)
        for depth, row in RESNET_DEPTHS.items()
    },
    "resnext50_32x4d": replace(RESNET_DEPTHS[50], convs=_grouped(32, 4)),
    "resnext101_32x4d": replace(RESNET_DEPTHS[101], convs=_grouped(32, 4)),
    "resnext101_32x8d": replace(RESNET_DEPTHS[101], convs=_grouped(32, 8)),
    "resnext101_64x4d": replace(RESNET_DEPTHS[101], convs=_grouped(64, 4)),
    "resnext152_32x4d": replace(RESNET_DEPTHS[152], convs=_grouped(32, 4)),
    "wide_resnet34_2": replace(RESNET_DEPTHS[34], widths=(128, 256, 512, 1024)),
    "wide_resnet50_2": replace(RESNET_DEPTHS[50], convs=_WIDE),
    "wide_resnet101_2": replace(RESNET_DEPTHS[101], convs=_WIDE),
    "plain18": replace(RESNET_DEPTHS[18], shortcut=nothing),
    "plain34": replace(RESNET_DEPTHS[34], shortcut=nothing),
}


def _cifar(blocks: int, convs: Convs = basic) -> Residual:
    """Three stages at strides 1, 2 and 4, shortcuts without parameters (arXiv:1512.03385, section 4.2)."""
    return Residual((blocks,) * 3, convs, shortcut=zero_pad, stem=cifar_stem, widths=(16, 32, 64))


def _cifar_v2(blocks: int, convs: Convs) -> Residual:
    """Pre-activation: bottlenecks project where the shape changes, basic blocks pad (arXiv:1603.05027, appendix)."""
    shortcut = zero_pad if convs is basic else project_bare
    return replace(_cifar(blocks, convs), join=pre_activation, shortcut=shortcut)


def _wrn(depth: int, factor: int, dropout: float = 0.0) -> Residual:
    """WRN-depth-factor (arXiv:1605.07146, table 1): depth = 6 n + 4, widths times `factor`."""
    return replace(
        _cifar_v2((depth - 4) // 6, basic),
        shortcut=project_bare,
        widths=(16 * factor, 32 * factor, 64 * factor),
        dropout=dropout,
    )


_WRN = ((16, 8), (22, 8), (28, 10), (28, 12), (40, 1), (40, 2), (40, 4))

CIFAR = {
    **{f"resnet{depth}": _cifar((depth - 2) // 6) for depth in (20, 32, 44, 56, 110, 1202)},
    # Stochastic depth as its paper has it: whole batches, the last block with a chance of one half.
    "resnet110_sd": replace(_cifar(18), drop=drop_batches, drop_path=0.5),
    "resnet1202_sd": replace(_cifar(200), drop=drop_batches, drop_path=0.5),
    "plain20": replace(_cifar(3), shortcut=nothing),
    "plain56": replace(_cifar(9), shortcut=nothing),
    "resnetv2_110": _cifar_v2(18, basic),
    "resnetv2_164": _cifar_v2(18, bottleneck),
    "resnetv2_1001": _cifar_v2(111, bottleneck),
    **{
        f"resnext29_{groups}x64d": replace(
            _cifar(3, _grouped(groups, 64)), shortcut=project, stem=cifar_stem_64, widths=(64, 128, 256)
        )
        for groups in (8, 16)
    },
    **{f"wrn{depth}_{factor}": _wrn(depth, factor) for depth, factor in _WRN},
    **{f"wrn{depth}_{factor}_dropout": _wrn(depth, factor, dropout=0.3) for depth, factor in _WRN[:3] + _WRN[-1:]},
}

RESIDUAL = {**IMAGENET, **CIFAR}
