"""What DeepLab's heads are made of: convolutions by name, spatial pyramid pooling, decoder and auxiliary head.

Keys are torchvision's. Heads take all features of a backbone, high to low resolution, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.fast_convs import TapsConv2d, goes_by_products
from ..backbones.norms import Norm

Features = Mapping[str, Tensor]
# From input channels, output channels, rate and norm to a 3x3 convolution without bias.
Convolution = Callable[[int, int, int, Norm], nn.Module]


def plain(in_channels: int, out_channels: int, rate: int, norm: Norm) -> nn.Module:
    """Return one 3x3 convolution."""
    if rate > 1:
        # At rates of the order of the map most taps lie in the padding.
        return TapsConv2d(in_channels, out_channels, 3, padding=rate, dilation=rate, bias=False)
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


def separable(in_channels: int, out_channels: int, rate: int, norm: Norm) -> nn.Module:
    """Return a 3x3 of each channel and a 1x1 of all, with norm and ReLU between, as the authors' code has them."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=rate, dilation=rate, groups=in_channels, bias=False),
        norm(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
    )


CONVOLUTIONS: Mapping[str, Convolution] = {"plain": plain, "separable": separable}


def _activated(conv: nn.Module, channels: int, norm: Norm) -> tuple[nn.Module, ...]:
    return conv, norm(channels), nn.ReLU(inplace=True)


def _pointwise(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


class ImagePooling(nn.Sequential):
    """The mean of the image, at every place: (N, C, H, W) -> (N, C', H, W).

    A batch norm has no statistics of one image, which has one value in each channel: it then takes its running ones, as
    in evaluation, and leaves them be.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1), *_activated(_pointwise(in_channels, out_channels), out_channels, norm)
        )

    def lacks_statistics(self, images: int) -> bool:
        """Say whether the norm, as it is now, cannot take the statistics of so many images."""
        norm: Any = self[2]
        if images > 1 or not (norm.training and isinstance(norm, nn.modules.batchnorm._BatchNorm)):
            return False
        parallel = torch.distributed.is_available() and torch.distributed.is_initialized()
        shared = parallel and isinstance(norm, nn.SyncBatchNorm)
        group: Any = norm.process_group if shared else None
        return not (shared and torch.distributed.get_world_size(group) > 1)

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = self[2]
        pooled = self[1](self[0](x))
        if self.lacks_statistics(x.shape[0]):
            pooled = F.batch_norm(
                pooled, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
            )
        else:
            pooled = norm(pooled)
        spread: Tensor = self[3](pooled).expand(-1, -1, *x.shape[-2:])
        return spread


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (arXiv:1706.05587, section 3.3): (N, C, H, W) -> (N, channels, H, W).

    A 1x1 convolution, a 3x3 at each rate and the image's mean beside each other, then a 1x1 over all of them.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        rates: Sequence[int],
        *,
        convolution: Convolution,
        norm: Norm,
        dropout: float,
    ) -> None:
        super().__init__()
        branches = [_pointwise(in_channels, channels), *(convolution(in_channels, channels, r, norm) for r in rates)]
        self.convs = nn.ModuleList(
            [
                *(nn.Sequential(*_activated(branch, channels, norm)) for branch in branches),
                ImagePooling(in_channels, channels, norm),
            ]
        )
        self.by_tap = any(isinstance(branch, TapsConv2d) for branch in branches)
        total = channels * len(self.convs)
        self.project = nn.Sequential(*_activated(_pointwise(total, channels), channels, norm), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        point, *atrous, pooling = self.convs
        # The layout that all of them need, made once.
        spread = x.contiguous(memory_format=torch.channels_last) if self.by_tap and goes_by_products(x) else x
        branches = [point(x), *(branch(spread) for branch in atrous), pooling(x)]
        projected: Tensor = self.project(torch.cat(branches, dim=1))  # from (N, channels * branches, H, W)
        return projected


class OnFeature(nn.Sequential):
    """Modules in a row on one of the features."""

    def __init__(self, feature: str, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.feature = feature

    def forward(self, features: Features) -> Tensor:
        logits: Tensor = super().forward(features[self.feature])  # type: ignore[no-untyped-call]
        return logits


class Joined(nn.Module):
    """ASPP of a deep feature, upsampled, beside a fine one reduced by a 1x1 (arXiv:1802.02611, section 3.1)."""

    def __init__(self, deep: str, aspp: ASPP, fine: str, reduce: nn.Module) -> None:
        super().__init__()
        self.deep = deep
        self.fine = fine
        self.aspp = aspp
        self.reduce = reduce

    def forward(self, features: Features) -> Tensor:
        fine = self.reduce(features[self.fine])  # (N, C', H, W)
        deep = F.interpolate(self.aspp(features[self.deep]), size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat((deep, fine), dim=1)


def fcn_head(feature: str, in_channels: int, num_classes: int, norm: Norm) -> OnFeature:
    """Return the auxiliary head: a 3x3 to a quarter of the channels, and the logits."""
    width = max(1, in_channels // 4)
    return OnFeature(
        feature,
        *_activated(nn.Conv2d(in_channels, width, 3, padding=1, bias=False), width, norm),
        nn.Dropout(0.1),
        nn.Conv2d(width, num_classes, 1),
    )


def deeplab_head(feature: str, aspp: ASPP, channels: int, num_classes: int, block: nn.Module, norm: Norm) -> OnFeature:
    """Return the head of v3: ASPP, a 3x3 `block`, and the logits."""
    return OnFeature(feature, aspp, *_activated(block, channels, norm), nn.Conv2d(channels, num_classes, 1))


def decoder(
    joined: Joined, in_channels: int, channels: int, num_classes: int, *, convolution: Convolution, norm: Norm
) -> nn.Sequential:
    """Return the decoder of v3+: two 3x3 on the joined features, and the logits.

    The last dropout is that of the decoders of mmsegmentation.
    """
    return nn.Sequential(
        joined,
        nn.Sequential(*_activated(convolution(in_channels, channels, 1, norm), channels, norm)),
        nn.Sequential(*_activated(convolution(channels, channels, 1, norm), channels, norm)),
        nn.Dropout(0.1),
        nn.Conv2d(channels, num_classes, 1),
    )


def reduction(in_channels: int, channels: int, norm: Norm) -> nn.Sequential:
    """Return what reduces the fine feature: a 1x1 with norm and ReLU."""
    return nn.Sequential(*_activated(_pointwise(in_channels, channels), channels, norm))
