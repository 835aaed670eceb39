"""mmdetection's and mmsegmentation's ResNets, which share names, arguments and files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..contract import Preprocessing
from ..errors import InputError
from .files import Content
from .framework import Framework, noted, unknown_stride
from .pixels import Channels, Three, Told, three
from .spelling import Spelling
from .structure import ResNet, resnet

_STYLE = r"\bstyle\s*=\s*['\"](\w+)['\"]"


def _arguments(network: ResNet | None) -> dict[str, Any] | None:
    """Return the dict that its configuration has for a backbone; None where that cannot say it."""
    if network is None or network.depth == 200 or (network.pools and not network.deep):
        return None
    if network.groups == 1 and network.group_width != network.width:
        return None  # wide bottlenecks
    kind = "ResNeXt" if network.groups > 1 else "ResNetV1d" if network.pools else "ResNet"
    found: dict[str, Any] = {"type": kind, "depth": network.depth}
    if network.groups > 1:
        found |= {"groups": network.groups, "base_width": network.group_width}
    if network.deep and not network.pools:
        found["deep_stem"] = True
    if network.width != 64 or network.stem_channels != 64:
        found |= {"base_channels": network.width, "stem_channels": network.stem_channels}
    return found | {"style": "caffe" if network.strides_first else "pytorch"}


def _has(name: str) -> bool:
    return _arguments(resnet(name)) is not None


def _build(name: str) -> nn.Module:
    try:
        from mmdet.models import backbones
    except ModuleNotFoundError:
        from mmseg.models import backbones
    arguments = _arguments(resnet(name)) or {}
    network: nn.Module = getattr(backbones, arguments.pop("type"))(**arguments)
    return network


def _told(content: Content, name: str) -> Told:
    """Read the configuration that a checkpoint carries as text, as much of it as it says once."""
    text = _configuration(content)
    network, style = resnet(name), _once(_STYLE, text)
    if style is not None and network is not None and not network.basic:
        ours = "caffe" if network.strides_first else "pytorch"
        if style != ours:
            where = "first 1x1" if style == "caffe" else "3x3"
            raise InputError(
                f"{content.path} says style='{style}': its bottlenecks stride in the {where}, {name}'s do not; convert "
                f"it to {name + '_caffe' if style == 'caffe' else name.removesuffix('_caffe')}"
            )
    to_rgb = _once(r"\b(?:bgr_to_rgb|to_rgb)\s*=\s*(True|False)", text)
    channels: Channels | None = None if to_rgb is None else "rgb" if to_rgb == "True" else "bgr"
    return Told(channels, _numbers("mean", text), _numbers("std", text))


def _configuration(content: Content) -> str:
    meta = content.facts.get("meta")
    texts = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, Mapping) else []
    return next((text for text in texts if isinstance(text, str)), "")


def _once(pattern: str, text: str) -> str | None:
    found = set(re.findall(pattern, text))
    return found.pop() if len(found) == 1 else None


def _numbers(name: str, text: str) -> Three | None:
    found = {" ".join(values.replace(",", " ").split()) for values in re.findall(rf"\b{name}\s*=\s*\[([^\]]*)\]", text)}
    try:
        return three([float(value) for value in found.pop().split()]) if len(found) == 1 else None
    except ValueError:  # not three numbers: something else has that name
        return None


def _habit(name: str, spelling: Spelling) -> Told:
    network = resnet(name)
    return Told("bgr" if network is not None and network.strides_first else "rgb")


def _remarks(content: Content, name: str) -> tuple[str, ...]:
    return () if _once(_STYLE, _configuration(content)) else unknown_stride(name)


def _wrap(state: Mapping[str, Tensor], preprocessing: Preprocessing) -> Mapping[str, Any]:
    return {"state_dict": dict(state), "meta": {"author": "vertebra"}} | noted(preprocessing)


def _advice(name: str, preprocessing: Preprocessing, path: Path) -> tuple[str, ...]:
    pixels = preprocessing.of_bytes()
    arguments = ", ".join(f"{key}={value!r}" for key, value in (_arguments(resnet(name)) or {}).items())
    mean, std = ([round(value, 4) for value in values] for values in (pixels.mean, pixels.std))
    return (
        f"backbone=dict({arguments}, init_cfg=dict(type='Pretrained', checkpoint={str(path)!r}))",
        f"data_preprocessor=dict(bgr_to_rgb=True, mean={mean}, std={std})",
    )


MMDET = Framework(
    "mmdet",
    has=_has,
    build=_build,
    largest=255,
    told=_told,
    habit=_habit,
    wrap=_wrap,
    suffixes=(".pth",),
    advice=_advice,
    remarks=_remarks,
    moved=(("roi_head.shared_head.layer4.", "backbone.layer4."),),
)
