"""detectron2: backbones by name in its yaml configs and in LazyConfig, on images as it normalises them.

detectron2 numbers maps by stride, res2 and p2 at 4, res3 and p3 at 8; so are ours here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import pairwise
from math import log2
from typing import Any

import torch
from torch import Tensor, nn

from ..contract import FeatureInfo, Preprocessing
from ..errors import InputError, unknown
from ..registry import create_backbone
from .shared import default_levels, missing

try:
    from detectron2 import modeling
    from detectron2.config import CfgNode, defaults
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
except ImportError as error:
    source = "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
    raise missing(error, "detectron2", source) from error

NORMS = {"BN": "batch", "FrozenBN": "frozen_batch", "SyncBN": "sync_batch", "GN": "group"}

# The node MODEL.VERTEBRA and its defaults.
_NODE = {"NAME": "", "WEIGHTS": "", "NORM": "", "OUTPUT_STRIDE": 32, "DROP_PATH": None, "CHECKPOINTING": False}
_NODE |= {"PIXEL_MAX": 255}

# The options of VertebraBackbone and the keys of a config for them.
_KEYS = {key.lower(): f"MODEL.VERTEBRA.{key}" for key in _NODE} | {
    "freeze_at": "MODEL.BACKBONE.FREEZE_AT",
    "input_format": "INPUT.FORMAT",
    "pixel_mean": "MODEL.PIXEL_MEAN",
    "pixel_std": "MODEL.PIXEL_STD",
}
_MAPS = {
    "out_features": "MODEL.FPN.IN_FEATURES, or without a pyramid MODEL.RESNETS.OUT_FEATURES; then also "
    "MODEL.RPN.IN_FEATURES, MODEL.ROI_HEADS.IN_FEATURES and MODEL.ANCHOR_GENERATOR.SIZES"
}

# What our own errors say otherwise.
_WORDS = {"unknown backbone": "name: unknown backbone", "frozen_stages": "freeze_at"}
_WORDS |= {repr(ours): repr(theirs) for theirs, ours in NORMS.items()}

# What of MODEL.RESNETS may differ from detectron2's defaults: two keys are read, the head of C4 models takes its width
# from the third, and the fourth is False ("stride in the 3x3") in all of ours, whatever it says.
_RESNETS = ("OUT_FEATURES", "NORM", "RES2_OUT_CHANNELS", "STRIDE_IN_1X1")


@contextmanager
def _in_its_words() -> Iterator[None]:
    """Say what is wrong in detectron2's words: its options, and the keys of a config that set them."""
    try:
        yield
    except InputError as error:
        text = str(error)
        for ours, theirs in _WORDS.items():
            text = text.replace(ours, theirs)
        keys = "; ".join(key for option, key in (_KEYS | _MAPS).items() if option in text)
        raise InputError(f"{text} (in a config: {keys})" if keys else text) from error


class VertebraBackbone(modeling.Backbone):  # type: ignore[misc]  # detectron2 has no types
    """A backbone of ours under detectron2's contract, its options in detectron2's words.

    name: any of `vertebra.list_backbones()`. out_features: maps by stride, res2 at 4, res3 at 8, …; None is
    what the backbone gives by default, for ImageNet's res2 to res5.
    freeze_at: as of detectron2's ResNet, 1 is the stem. norm: BN, FrozenBN, SyncBN or GN; FrozenBN leaves a network
    without batch norms as it is. weights, output_stride, drop_path, checkpointing: see `create_backbone`.
    input_format, pixel_mean, pixel_std: those of the model around it; its images become what the weights expect.
    pixel_max: the value that the weights know as 1, 65535 for images of 16 bits.
    """

    def __init__(
        self,
        name: str,
        *,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
        norm: str = "BN",
        weights: str | os.PathLike[str] | Mapping[str, Tensor] | None = None,
        output_stride: int = 32,
        drop_path: float | None = None,
        checkpointing: bool = False,
        input_format: str = "BGR",
        pixel_mean: Sequence[float] = (103.53, 116.28, 123.675),
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
        pixel_max: float = 255,
    ) -> None:
        super().__init__()
        levels: dict[str, str] = {}

        def choose(features: tuple[FeatureInfo, ...]) -> tuple[str, ...]:
            levels.update(_by_stride(features))
            if out_features is None:
                return tuple(level.name for level in default_levels(name)(features))
            if not out_features or not set(out_features) <= set(levels):
                there = ", ".join(f"{n} ({f.channels}@{f.stride})" for n, f in zip(levels, features, strict=True))
                raise InputError(f"out_features={list(out_features)}; the maps (channels@stride) of {name} are {there}")
            return tuple(levels[feature] for feature in out_features)

        with _in_its_words():
            if norm not in NORMS:
                raise unknown("norm", norm, NORMS)
            if len(pixel_mean) == 3 and input_format not in ("BGR", "RGB"):
                raise InputError(f"input_format={input_format!r}; it can be BGR or RGB")
            frozen_nothing = norm == "FrozenBN" and not _has_batch_norms(name)
            self.body = create_backbone(
                name,
                weights=weights,
                out_features=choose,
                output_stride=output_stride,
                in_channels=len(pixel_mean),
                norm="batch" if frozen_nothing else NORMS[norm],
                frozen_stages=freeze_at,
                drop_path=drop_path,
                checkpointing=checkpointing,
            )
        self.names = {ours: theirs for theirs, ours in levels.items()}
        self.flips = len(pixel_mean) == 3 and input_format == "BGR"
        order = slice(None, None, -1 if self.flips else 1)
        mean, std = (tuple(value / pixel_max for value in values)[order] for values in (pixel_mean, pixel_std))
        self.given = Preprocessing(mean, std)
        self._expect(self.body.preprocessing)

    def _expect(self, expected: Preprocessing) -> None:
        """Find the scale and shift from values that detectron2 normalised to those that are expected."""
        self.expected = expected
        ours, theirs = (torch.tensor((p.mean, p.std), device="cpu").double() for p in (expected, self.given))
        self.converts = not torch.allclose(ours, theirs)
        like = next(self.body.parameters())
        for name, values in (("scale", theirs[1] / ours[1]), ("shift", (theirs[0] - ours[0]) / ours[1])):
            self.register_buffer(name, values[:, None, None].to(like), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map (N, C, H, W) images that detectron2 normalised to {res2: (N, C2, ceil(H / 4), ceil(W / 4)), …}."""
        if self.body.preprocessing != self.expected:  # weights that were loaded since have brought their own
            self._expect(self.body.preprocessing)
        if self.flips:
            images = images.flip(1)
        if self.converts:
            images = torch.addcmul(self.shift, images, self.scale)
        with _in_its_words():  # frozen norms may have been given nothing
            return {self.names[name]: x for name, x in self.body(images).items()}

    def output_shape(self) -> dict[str, Any]:
        return {self.names[info.name]: ShapeSpec(info.channels, stride=info.stride) for info in self.body.feature_info}


def _by_stride(features: tuple[FeatureInfo, ...]) -> dict[str, str]:
    """Return our names by detectron2's, which count powers of two of the stride, and go on where dilation holds it."""
    names: dict[str, str] = {}
    number = -1
    for info in features:
        number = max(number + 1, int(log2(info.stride)))
        names[f"res{number}"] = info.name
    return names


def _has_batch_norms(name: str) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in create_backbone(name).modules())


def add_vertebra_config(cfg: CfgNode) -> None:
    """Add the node MODEL.VERTEBRA to a config made before this module was imported; later ones have it."""
    if "VERTEBRA" not in cfg.MODEL:
        cfg.MODEL.VERTEBRA = CfgNode(_NODE)


def _bottom_up(cfg: CfgNode, out_features: Sequence[str]) -> VertebraBackbone:
    if "VERTEBRA" not in cfg.MODEL:
        raise InputError(
            "MODEL.VERTEBRA is missing: the config was made before the adapter was imported; "
            "call vertebra.backbones.adapters.detectron2.add_vertebra_config(cfg)"
        )
    for key, default in defaults._C.MODEL.RESNETS.items():
        if key not in _RESNETS and cfg.MODEL.RESNETS[key] != default:
            raise InputError(
                f"MODEL.RESNETS.{key}={cfg.MODEL.RESNETS[key]} is for detectron2's own ResNets, set it to {default}: "
                "MODEL.VERTEBRA.NAME says which network it is, MODEL.VERTEBRA.OUTPUT_STRIDE (16, 8) dilates it"
            )
    if "ImageNetPretrained" in cfg.MODEL.WEIGHTS:
        raise InputError(
            f"MODEL.WEIGHTS={cfg.MODEL.WEIGHTS!r} is a ResNet of detectron2's own, of which nothing would be loaded: "
            "set MODEL.WEIGHTS='' and MODEL.VERTEBRA.WEIGHTS='imagenet', or a file"
        )
    options = {option: reduce(getattr, key.split("."), cfg) for option, key in _KEYS.items()}
    options["norm"] = options["norm"] or cfg.MODEL.RESNETS.NORM
    options["weights"] = options["weights"] or None
    return VertebraBackbone(**options, out_features=out_features)


def _pyramid(cfg: CfgNode, top_block: Callable[[str, Any], Any]) -> FPN:
    fpn = cfg.MODEL.FPN
    bottom_up = _bottom_up(cfg, fpn.IN_FEATURES)
    shapes = [bottom_up.output_shape()[name] for name in fpn.IN_FEATURES]
    strides = [shape.stride for shape in shapes]
    if any(after != 2 * before for before, after in pairwise(strides)):
        raise InputError(
            f"MODEL.FPN.IN_FEATURES={list(fpn.IN_FEATURES)} have strides {strides}; a pyramid takes each at twice the "
            "stride before it: leave out maps, or set MODEL.VERTEBRA.OUTPUT_STRIDE=32"
        )
    top = top_block(fpn.IN_FEATURES[-1], shapes[-1])
    return FPN(bottom_up, fpn.IN_FEATURES, fpn.OUT_CHANNELS, fpn.NORM, top, fpn.FUSE_TYPE)


def build_vertebra_backbone(cfg: CfgNode, input_shape: object) -> VertebraBackbone:
    """Build the maps of MODEL.RESNETS.OUT_FEATURES, without a pyramid."""
    return _bottom_up(cfg, cfg.MODEL.RESNETS.OUT_FEATURES)


def build_vertebra_fpn_backbone(cfg: CfgNode, input_shape: object) -> FPN:
    """Build detectron2's pyramid, with a level pooled from the last."""

    def pool(name: str, shape: Any) -> Any:
        top = LastLevelMaxPool()
        top.in_feature = f"p{int(log2(shape.stride))}"  # its p5 may not be the last level
        return top

    return _pyramid(cfg, pool)


def build_vertebra_retinanet_fpn_backbone(cfg: CfgNode, input_shape: object) -> FPN:
    """Build detectron2's pyramid, with P6 and P7 from the last map."""
    return _pyramid(cfg, lambda name, shape: LastLevelP6P7(shape.channels, cfg.MODEL.FPN.OUT_CHANNELS, name))


for _builder in (build_vertebra_backbone, build_vertebra_fpn_backbone, build_vertebra_retinanet_fpn_backbone):
    modeling.BACKBONE_REGISTRY.register(_builder)
add_vertebra_config(defaults._C)
