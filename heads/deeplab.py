"""DeepLab v3 (arXiv:1706.05587) and v3+ (arXiv:1802.02611) as rows, on any backbone.

Keys of v3 are torchvision's, so that its checkpoints load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..backbones import Backbone, BackboneOptions, FeatureInfo, InputError, Pyramid
from ..backbones.errors import unknown
from ..backbones.norms import Norm, norm_layer
from .aspp import ASPP, CONVOLUTIONS, Convolution, Joined, decoder, deeplab_head, fcn_head, reduction
from .segmenter import Segmenter, check_classes
from .semantic_losses import LossSettings

# The stride of the feature that v3+ refines its map with.
FINE_STRIDE = 4


@dataclass(frozen=True)
class DeepLabV3:
    """The row of a DeepLab v3: call it with a backbone to build the segmenter.

    Sizes are (short side, longest side) in pixels; None leaves images as they are; 520 is that of torchvision's
    recipe, without its bound on the longest side. `pad_to` lists the shapes (H, W) that batches are padded to, for a
    compiled model.

    `aspp_rates` None are 12, 24 and 36 at stride 8, half of that at 16, a quarter at 32. `convolution` is `plain` or
    `separable`, of every 3x3 but those of the auxiliary head. With `aux_weight` there is such a head on the feature
    before the deepest, and its losses count by that weight; None is without.

    `losses` are summed: cross_entropy, ohem or dice (see `semantic_losses`, which says what the next three values are).
    At test time probabilities are averaged over `test_scales` of the image and, with `test_flip`, its mirror image.
    """

    model: ClassVar[type[nn.Module]] = Segmenter
    backbone_options: ClassVar[BackboneOptions] = {"output_stride": 8}

    train_size: tuple[int, int] | None = (520, 2048)
    test_size: tuple[int, int] | None = (520, 2048)
    pad_to: tuple[tuple[int, int], ...] = ()
    aspp_channels: int = 256
    aspp_rates: tuple[int, ...] | None = None
    convolution: str = "plain"
    dropout: float = 0.5
    head_norm: str = "batch"
    aux_weight: float | None = 0.5
    losses: tuple[str, ...] = ("cross_entropy",)
    class_weights: tuple[float, ...] = ()
    hard_probability: float = 0.7
    hard_share: float = 1 / 16
    test_scales: tuple[float, ...] = (1.0,)
    test_flip: bool = False

    def __call__(self, backbone: Backbone, num_classes: int) -> Segmenter:
        """Build the segmenter; `num_classes` counts the background where that is a class."""
        check_classes(num_classes)
        if isinstance(backbone, Pyramid):
            raise InputError(
                f"DeepLab stands on a backbone itself, not on a pyramid ({_strides(backbone)}): give it pyramid.body"
            )
        norm = norm_layer(self.head_norm)
        deepest = backbone.feature_info[-1]
        classifier = self._classifier(backbone, num_classes, norm)
        used = [deepest.name, *self._others(backbone)]
        auxiliary = None
        if self.aux_weight is not None:
            if len(backbone.feature_info) < 2:
                raise InputError(
                    f"the auxiliary head needs a feature before the deepest, but the backbone has {_strides(backbone)} "
                    "alone: give it more out_features, or set aux_weight to None"
                )
            before = backbone.feature_info[-2]
            auxiliary = fcn_head(before.name, before.channels, num_classes, norm)
            used.append(before.name)
        backbone.select_(used)
        return Segmenter(
            backbone,
            classifier,
            auxiliary,
            num_classes=num_classes,
            losses=self.losses,
            loss_settings=LossSettings(self.class_weights, self.hard_probability, self.hard_share),
            aux_weight=self.aux_weight or 0.0,
            train_size=self.train_size,
            test_size=self.test_size,
            pad_to=self.pad_to,
            test_scales=self.test_scales,
            test_flip=self.test_flip,
        )

    def _others(self, backbone: Backbone) -> tuple[str, ...]:
        """Return the features that the classifier takes beside the deepest."""
        return ()

    def _classifier(self, backbone: Backbone, num_classes: int, norm: Norm) -> nn.Module:
        channels = self.aspp_channels
        block = self._convolution()(channels, channels, 1, norm)
        deepest = backbone.feature_info[-1]
        return deeplab_head(deepest.name, self._aspp(deepest, norm), channels, num_classes, block, norm)

    def _aspp(self, deepest: FeatureInfo, norm: Norm) -> ASPP:
        rates = self.aspp_rates
        if rates is None:
            rates = tuple(max(1, i * 96 // deepest.stride) for i in (1, 2, 3))
        return ASPP(
            deepest.channels,
            self.aspp_channels,
            rates,
            convolution=self._convolution(),
            norm=norm,
            dropout=self.dropout,
        )

    def _convolution(self) -> Convolution:
        if self.convolution not in CONVOLUTIONS:
            raise unknown("convolution", self.convolution, CONVOLUTIONS)
        return CONVOLUTIONS[self.convolution]


@dataclass(frozen=True)
class DeepLabV3Plus(DeepLabV3):
    """The row of a DeepLab v3+: v3 with a decoder on the feature at stride 4, or the nearest finer one.

    `fine_channels` is what that feature is reduced to, `decoder_channels` the width of the decoder's two 3x3.
    """

    backbone_options: ClassVar[BackboneOptions] = {"output_stride": 16}

    convolution: str = "separable"
    aux_weight: float | None = None
    fine_channels: int = 48
    decoder_channels: int = 256

    def _others(self, backbone: Backbone) -> tuple[str, ...]:
        return (_fine(backbone).name,)

    def _classifier(self, backbone: Backbone, num_classes: int, norm: Norm) -> nn.Module:
        deepest, fine = backbone.feature_info[-1], _fine(backbone)
        joined = Joined(
            deepest.name, self._aspp(deepest, norm), fine.name, reduction(fine.channels, self.fine_channels, norm)
        )
        width = self.aspp_channels + self.fine_channels
        return decoder(joined, width, self.decoder_channels, num_classes, convolution=self._convolution(), norm=norm)


def _fine(backbone: Backbone) -> FeatureInfo:
    """Return the feature at stride 4, or the nearest finer one that is finer than the deepest."""
    deepest = backbone.feature_info[-1].stride
    fine = [info for info in backbone.feature_info if info.stride <= FINE_STRIDE and info.stride < deepest]
    if not fine:
        raise InputError(
            f"DeepLab v3+ needs a feature at stride {FINE_STRIDE} or finer before the deepest, but the backbone has "
            f"{_strides(backbone)}: choose other out_features, or the head deeplabv3"
        )
    return max(fine, key=lambda info: info.stride)


def _strides(backbone: Backbone) -> str:
    return ", ".join(f"{info.name} at stride {info.stride}" for info in backbone.feature_info)


DEEPLAB: Mapping[str, DeepLabV3] = {"deeplabv3": DeepLabV3(), "deeplabv3plus": DeepLabV3Plus()}
