"""detectron2's ResNets: its files, Caffe2's names among them, and its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..contract import Preprocessing
from ..errors import InputError
from .files import Content
from .framework import Framework, noted, unknown_stride
from .pixels import Told, three
from .spelling import Spelling
from .structure import ResNet, resnet

EPS = 1e-5  # of all its norms


def _options(network: ResNet | None) -> dict[str, Any] | None:
    """Return what stands under MODEL.RESNETS of its configuration; None where that cannot say it."""
    if (
        network is None
        or network.depth == 200
        or network.pools
        or (network.basic and (network.deep or network.width != 64))
    ):
        return None
    options: dict[str, Any] = {"DEPTH": network.depth, "STRIDE_IN_1X1": network.strides_first}
    options |= {"NUM_GROUPS": network.groups, "WIDTH_PER_GROUP": network.group_width}
    options |= {"RES2_OUT_CHANNELS": network.width * (1 if network.basic else 4)}
    options |= {"STEM_OUT_CHANNELS": network.stem_channels}
    # DeepLab's own default dilates the last stage's blocks by 1, 2 and 4.
    return options | ({"STEM_TYPE": "deeplab", "RES5_MULTI_GRID": [1, 1, 1]} if network.deep else {})


def _has(name: str) -> bool:
    return _options(resnet(name)) is not None


def _build(name: str) -> nn.Module:
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone.resnet import build_resnet_backbone as build

    options = _options(resnet(name)) or {}
    config = get_cfg()
    if "STEM_TYPE" in options:
        from detectron2.projects.deeplab import add_deeplab_config
        from detectron2.projects.deeplab.resnet import build_resnet_deeplab_backbone as build

        add_deeplab_config(config)
    config.MODEL.BACKBONE.FREEZE_AT = 0
    config.MODEL.RESNETS.update(options)
    config.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    network: nn.Module = build(config, ShapeSpec(channels=3))
    return network


def _adopt(module: nn.Module, spelling: Spelling, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return Caffe2's tensors under the names that detectron2 finds for them; statistics as its norms begin with."""
    if not spelling.folds:
        return state
    from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

    target = module.state_dict()
    found = dict(align_and_update_state_dicts(target, dict(state), c2_conversion=True))
    for key, value in target.items():
        if key.endswith("running_mean"):
            found.setdefault(key, torch.zeros(value.shape))
        if key.endswith("running_var"):
            found.setdefault(key, torch.ones(value.shape) - EPS)
    return found


def _told(content: Content, name: str) -> Told:
    network = resnet(name)
    if content.facts.get("__author__") == "torchvision":
        if network is not None and network.strides_first:
            raise InputError(
                f"{content.path} holds torchvision's weights, which stride in the 3x3: convert it to another backbone "
                f"than {name}, such as {name.removesuffix('_caffe')}"
            )
        imagenet = Preprocessing().of_bytes()
        return Told("rgb", three(imagenet.mean), three(imagenet.std))
    mean, std = (content.state.get(key) for key in ("pixel_mean", "pixel_std"))
    if mean is None or std is None or mean.numel() != 3 or std.numel() != 3:
        return Told()
    means = three(mean.flatten().tolist())
    if means[0] == means[2]:
        return Told(None, means, three(std.flatten().tolist()))
    # Of photographs blue is the darkest.
    return Told("bgr" if means[0] < means[2] else "rgb", means, three(std.flatten().tolist()))


def _habit(name: str, spelling: Spelling) -> Told:
    # Caffe's world is BGR. detectron2's own is not one world: its configuration says which, and its files do not.
    return Told("bgr") if spelling.folds else Told()


def _remarks(content: Content, name: str) -> tuple[str, ...]:
    strides = () if content.facts.get("__author__") == "torchvision" else unknown_stride(name)
    network = resnet(name)
    if network is None or not network.deep:
        return strides
    return (*strides, "DeepLab's configuration dilates res5 by RES5_MULTI_GRID; ours is compared as with [1, 1, 1]")


def _wrap(state: Mapping[str, Tensor], preprocessing: Preprocessing) -> Mapping[str, Any]:
    # Its checkpointer finds the backbone inside any detector by the ends of the names.
    return {"model": dict(state), "__author__": "vertebra", "matching_heuristics": True} | noted(preprocessing)


def _advice(name: str, preprocessing: Preprocessing, path: Path) -> tuple[str, ...]:
    options = _options(resnet(name)) or {}
    pixels = preprocessing.of_bytes()
    lines = ["INPUT:", '  FORMAT: "RGB"', "MODEL:", f"  WEIGHTS: {path}"]
    lines += [f"  PIXEL_{key}: {_rounded(values)}" for key, values in (("MEAN", pixels.mean), ("STD", pixels.std))]
    if "STEM_TYPE" in options:
        lines += ["  BACKBONE:", "    NAME: build_resnet_deeplab_backbone  # after deeplab.add_deeplab_config(cfg)"]
    lines += ["  RESNETS:", *(f"    {key}: {value}" for key, value in options.items()), '    NORM: "FrozenBN"']
    return tuple(lines)


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [round(value, 4) for value in values]


DETECTRON2 = Framework(
    "detectron2",
    has=_has,
    build=_build,
    largest=255,
    told=_told,
    habit=_habit,
    wrap=_wrap,
    suffixes=(".pkl", ".pth"),
    advice=_advice,
    remarks=_remarks,
    moved=(("roi_heads.res5.", "backbone.res5."),),
    adopt=_adopt,
)
