"""Feature pyramids: a backbone with a top-down path on it, under the same contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from .contract import Backbone, FeatureInfo, Preprocessing
from .errors import InputError, unknown
from .norms import Norm, norm_layer
from .registry import BackboneOptions, create_backbone

EXTRAS = ("pool", "none")


def _conv(in_channels: int, out_channels: int, kernel: int, norm: Norm | None) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=norm is None)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv) if norm is None else nn.Sequential(conv, norm(out_channels))


class FPN(nn.Module):
    """Feature pyramid network (arXiv:1612.03144): lateral 1x1, nearest upsampling and sum, then a 3x3 on each level.

    Takes the maps of `feature_info`, high to low resolution, and gives as many with `out_channels` channels at the same
    sizes; with `extra="pool"` one more, the last subsampled by two (a 1x1 max-pool, as the authors' code has it).
    Keys are torchvision's.
    """

    def __init__(
        self, feature_info: tuple[FeatureInfo, ...], out_channels: int, *, extra: str = "pool", norm: Norm | None = None
    ) -> None:
        super().__init__()
        if extra not in EXTRAS:
            raise unknown("extra level", extra, EXTRAS)
        self.inner_blocks = nn.ModuleList(_conv(info.channels, out_channels, 1, norm) for info in feature_info)
        self.layer_blocks = nn.ModuleList(_conv(out_channels, out_channels, 3, norm) for _ in feature_info)
        levels = [FeatureInfo(_level(info.name), out_channels, info.stride) for info in feature_info]
        self.pooled = extra == "pool"
        if self.pooled:
            last = levels[-1]
            levels.append(FeatureInfo(f"p{int(last.name[1:]) + 1}", out_channels, last.stride * 2))
        self.feature_info = tuple(levels)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map {c2: (N, C2, H2, W2), …} to {p2: (N, out_channels, H2, W2), …}."""
        inner = [block(x) for block, x in zip(self.inner_blocks, features.values(), strict=True)]
        for i in reversed(range(len(inner) - 1)):
            inner[i] = inner[i] + F.interpolate(inner[i + 1], size=inner[i].shape[-2:], mode="nearest")
        levels = [block(x) for block, x in zip(self.layer_blocks, inner, strict=True)]
        if self.pooled:
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return {info.name: x for info, x in zip(self.feature_info, levels, strict=True)}


def _level(name: str) -> str:
    if name[:1] != "c" or not name[1:].isdigit():
        raise InputError(f"feature {name!r} cannot be made a pyramid level: backbone features are named c1, c2, …")
    return f"p{name[1:]}"


class Pyramid(Backbone):
    """A backbone and an FPN as one feature extractor. Keys are torchvision's: `body.…` and `fpn.…`."""

    def __init__(self, body: Backbone, fpn: FPN, out_channels: int) -> None:
        super().__init__(fpn.feature_info)
        self.body = body
        self.fpn = fpn
        self.out_channels = out_channels

    def forward_features(self, images: Tensor) -> dict[str, Tensor]:
        levels: dict[str, Tensor] = self.fpn(self.body(images))
        return levels

    @property
    def preprocessing(self) -> Preprocessing:  # the body's own, which a load may change
        return self.body.preprocessing

    @preprocessing.setter
    def preprocessing(self, preprocessing: Preprocessing) -> None:
        if "body" in self._modules:  # not yet while Backbone.__init__ sets its default
            self.body.preprocessing = preprocessing

    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        return self.body.stages()

    def checkpoint_(self) -> None:
        self.body.checkpoint_()


def create_pyramid(
    backbone: str | Callable[..., Backbone] | Backbone,
    *,
    out_channels: int = 256,
    extra: str = "pool",
    fpn_norm: str | None = None,
    **options: Unpack[BackboneOptions],
) -> Pyramid:
    """Build a backbone (a name, a row, or one that is built) with an FPN on it.

    out_channels: channels of every level. extra: `pool` adds a level at twice the last stride, `none` does not.
    fpn_norm: norm after the FPN's convolutions, none by default. options: those of `create_backbone`.
    """
    if isinstance(backbone, Backbone):
        if options:
            raise InputError(
                f"{', '.join(options)}: the backbone is built already; give its options to create_backbone"
            )
        body = backbone
    else:
        body = create_backbone(backbone, **options)
    norm = norm_layer(fpn_norm) if fpn_norm else None
    return Pyramid(body, FPN(body.feature_info, out_channels, extra=extra, norm=norm), out_channels)
