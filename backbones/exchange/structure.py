"""What a network of ours is in the words of other frameworks, read off its row."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..blocks import basic, bottleneck, post_activation, pre_activation
from ..densenet import DENSENET, DenseNet
from ..registry import row
from ..residual import RESIDUAL, RESNET_DEPTHS, Residual
from ..shortcuts import pool_then_project, project
from ..stems import deep_stem, deeplab_stem, imagenet_stem
from ..vgg import VGG, VGG_NETWORKS

OWN = (*RESIDUAL, *DENSENET, *VGG_NETWORKS)

_DEPTHS = {(row.convs, row.depths): depth for depth, row in RESNET_DEPTHS.items()}
_STEM_CHANNELS = {imagenet_stem: 64, deep_stem: 64, deeplab_stem: 128}


@dataclass(frozen=True)
class ResNet:
    """A post-activation residual network for ImageNet.

    depth: its layers as the papers count them. width: of the first stage before expansion. group_width: channels of a
    group of its 3x3. strides_first: the first 1x1 of a bottleneck carries the stride. deep: the stem is three 3x3.
    pools: shortcuts average before they project.
    """

    depth: int
    basic: bool
    width: int
    groups: int
    group_width: int
    strides_first: bool
    deep: bool
    stem_channels: int
    pools: bool


def resnet(name: str) -> ResNet | None:
    """Return a backbone in these terms; None where it is something else."""
    found = row(name)
    if not isinstance(found, Residual) or found.join is not post_activation:
        return None
    width, stem, is_basic = found.widths[0], found.stem, found.convs == basic
    plain = basic if is_basic else bottleneck
    depth = _DEPTHS.get((plain, found.depths))
    known = (
        depth is not None
        and found.shortcut in (project, pool_then_project)
        and stem in _STEM_CHANNELS
        and found.widths == tuple(width * 2**i for i in range(4))
        and replace(found.convs, groups=1, inner_ratio=1, strided=plain.strided) == plain
    )
    if not known or depth is None:
        return None
    group_width, remainder = divmod(width * found.convs.inner_ratio, found.convs.groups)
    if remainder:
        return None
    return ResNet(
        depth,
        is_basic,
        width,
        found.convs.groups,
        int(group_width),
        strides_first=not is_basic and found.convs.strided == 0,
        deep=stem is not imagenet_stem,
        stem_channels=_STEM_CHANNELS[stem],
        pools=found.shortcut is pool_then_project,
    )


def kind(name: str) -> str | None:
    """Return which table of keys a backbone has: plain, deep, preactivation, densenet or vgg; None for none."""
    found = row(name)
    if isinstance(found, DenseNet):
        return "densenet"
    if isinstance(found, VGG):
        return "vgg"
    if isinstance(found, Residual) and found.join is pre_activation:
        return "preactivation"
    if (described := resnet(name)) is not None:
        return "deep" if described.deep else "plain"
    return None
