"""Backbones in torchvision's detectors and segmenters: maps, keys and options named as it names them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool

from ..contract import Backbone
from ..errors import InputError
from ..norms import norm_layer
from ..pyramid import Pyramid
from ..registry import BackboneOptions, create_backbone

Source = str | Callable[..., Backbone] | Backbone

# For each detector: the argument that takes its anchors, their sides in strides of the level, and height / width. On
# strides 4 to 64 (8 to 128 but for R-CNN) these are torchvision's defaults.
_ANCHORS: Mapping[type[nn.Module], tuple[str, tuple[float, ...], tuple[float, ...]]] = {
    FasterRCNN: ("rpn_anchor_generator", (8,), (0.5, 1, 2)),
    RetinaNet: ("anchor_generator", (4, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)), (0.5, 1, 2)),
    FCOS: ("anchor_generator", (1,), (1,)),
}
# The arguments that take a pooling of regions, and the side of what it gives.
_POOLS: Mapping[type[nn.Module], tuple[str, int]] = {
    FasterRCNN: ("box_roi_pool", 7),
    MaskRCNN: ("mask_roi_pool", 14),
    KeypointRCNN: ("keypoint_roi_pool", 14),
}
_OUTPUT_STRIDES = {(False, False, False): 32, (False, False, True): 16, (False, True, True): 8}


class BackboneWithFPN(nn.Module):
    """A backbone and torchvision's FPN on it, for torchvision's detectors; keys are theirs, `body.…` and `fpn.…`."""

    def __init__(self, body: Backbone, fpn: FeaturePyramidNetwork, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.out_channels = out_channels
        # The levels that stand on the backbone's: regions are pooled from these.
        self.names = tuple(str(i) for i in range(len(body.feature_info)))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map (N, C, H, W) normalised images to {"0": (N, out_channels, H0, W0), "1": …, "pool": …}."""
        levels: dict[str, Tensor] = self.fpn(OrderedDict(zip(self.names, self.body(images).values(), strict=True)))
        return levels

    @property
    def strides(self) -> list[int]:
        """The strides of all levels; each extra one has twice the one before."""
        strides = [info.stride for info in self.body.feature_info]
        # How many are added is known by adding them: to maps without values, by a copy that nothing happens to.
        given = [torch.empty(1, info.channels, 8, 8, device="meta") for info in self.body.feature_info]
        merged = [torch.empty(1, self.out_channels, 8, 8, device="meta") for _ in given]
        levels, _ = deepcopy(self.fpn.extra_blocks).to("meta")(merged, given, list(self.names))
        return strides + [strides[-1] * 2**i for i in range(1, len(levels) - len(strides) + 1)]


def pyramid(
    backbone: Source,
    *,
    trainable_layers: int | None = None,
    returned_layers: Sequence[int] | None = None,
    extra_blocks: ExtraFPNBlock | None = None,
    out_channels: int = 256,
    fpn_norm: str | None = None,
    **options: Unpack[BackboneOptions],
) -> BackboneWithFPN:
    """Build a backbone (a name, a row, or one that is built) with an FPN, for torchvision's detectors.

    trainable_layers: how many stages are trained, counted from the deepest, the stem as one; None is all. The norms of
    the others stay in eval mode. returned_layers: which of the backbone's levels to use, counted from 1; None is all.
    extra_blocks: torchvision's, `LastLevelMaxPool()` where there is none. fpn_norm: norm after the FPN's convolutions.
    options: those of `create_backbone`.
    """
    body = _build(backbone, trainable_layers, options)
    if returned_layers is not None:
        count = len(body.feature_info)
        if not returned_layers or min(returned_layers) < 1 or max(returned_layers) > count:
            raise InputError(f"each returned layer should be in the range [1,{count}]; got {list(returned_layers)}")
        body.select_([body.feature_info[i - 1].name for i in returned_layers])
    strides = [info.stride for info in body.feature_info]
    if len(set(strides)) < len(strides):
        raise InputError(
            f"torchvision's detectors need levels of distinct strides, but the backbone's are {strides}: leave out "
            "output_stride, or choose among the levels with returned_layers"
        )
    channels = [info.channels for info in body.feature_info]
    norm = norm_layer(fpn_norm) if fpn_norm else None
    fpn = FeaturePyramidNetwork(channels, out_channels, extra_blocks or LastLevelMaxPool(), norm)
    return BackboneWithFPN(body, fpn, out_channels)


def detector_options(pyramid: BackboneWithFPN, detector: type[nn.Module] = FasterRCNN) -> dict[str, Any]:
    """Return what a detector must be told of a pyramid, as arguments of its class.

    Mean and std of the backbone's images, anchors for the strides of the levels, and the pooling of regions from them.
    """
    found = [row for kind, row in _ANCHORS.items() if issubclass(detector, kind)]
    if not found:
        known = ", ".join(kind.__name__ for kind in _ANCHORS)
        raise InputError(f"detector={detector.__name__}; it can be {known}, or a class that is made of one of them")
    ((argument, sides, ratios),) = found
    sizes = tuple(tuple(int(stride * side) for side in sides) for stride in pyramid.strides)
    if sizes[0][0] < 2:
        raise InputError(
            "torchvision rounds FCOS's anchors at stride 1 to nothing: leave that level out with returned_layers"
        )
    pools = [pool for kind, pool in _POOLS.items() if issubclass(detector, kind)]
    return {
        "image_mean": list(pyramid.body.preprocessing.mean),
        "image_std": list(pyramid.body.preprocessing.std),
        argument: AnchorGenerator(sizes, (ratios,) * len(sizes)),
        **{name: MultiScaleRoIAlign(list(pyramid.names), side, sampling_ratio=2) for name, side in pools},
    }


def body(
    backbone: Source,
    *,
    trainable_layers: int | None = None,
    return_layers: Mapping[str, str] | None = None,
    replace_stride_with_dilation: Sequence[bool] | None = None,
    **options: Unpack[BackboneOptions],
) -> Backbone:
    """Build a backbone for torchvision's segmenters, whose forward gives {"aux": …, "out": …}.

    return_layers: the features to give, and their new names, {"c4": "aux", "c5": "out"} of a ResNet; None is the
    deepest as `out` and the one before as `aux`. replace_stride_with_dilation: torchvision's word for output_stride.
    trainable_layers and options: as of `pyramid`. The backbone itself is returned, so that keys are torchvision's.
    """
    if replace_stride_with_dilation is not None:
        asked = tuple(map(bool, replace_stride_with_dilation))
        if "output_stride" in options:
            raise InputError("replace_stride_with_dilation and output_stride say the same thing: give one of them")
        if asked not in _OUTPUT_STRIDES:
            raise InputError(f"replace_stride_with_dilation={asked}; it can be {', '.join(map(str, _OUTPUT_STRIDES))}")
        options["output_stride"] = _OUTPUT_STRIDES[asked]
    network = _build(backbone, trainable_layers, options)
    if return_layers is None:
        last = [info.name for info in network.feature_info[-2:]]
        return_layers = dict(zip(reversed(last), ("out", "aux"), strict=False))
    network.select_(list(return_layers))
    names = [return_layers[info.name] for info in network.feature_info]
    # A hook, for a module around the backbone would add a part to its keys.
    network.register_forward_hook(partial(_renamed, names))
    return network


def _renamed(names: Sequence[str], _: nn.Module, __: tuple[Tensor], features: dict[str, Tensor]) -> dict[str, Tensor]:
    return OrderedDict(zip(names, features.values(), strict=True))


def _build(backbone: Source, trainable_layers: int | None, options: BackboneOptions) -> Backbone:
    if isinstance(backbone, Pyramid):
        raise InputError("the backbone has an FPN already, and torchvision's is put on: give its body")
    if trainable_layers is not None and "frozen_stages" in options:
        raise InputError("trainable_layers and frozen_stages say the same thing from both ends: give one of them")
    if isinstance(backbone, Backbone):
        if options:
            raise InputError(f"{', '.join(options)}: the backbone is built already; give them to create_backbone")
        network = backbone
    else:
        network = create_backbone(backbone, **options)
    if trainable_layers is not None:
        count = len(network.stages())
        if not 0 <= trainable_layers <= count:
            raise InputError(f"trainable layers should be in the range [0,{count}], got {trainable_layers}")
        network.freeze_(count - trainable_layers)
    return network
