"""Our backbones in mmdetection and mmsegmentation: a module in mmengine's registry, and what their configs ask for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..contract import Backbone, FeatureInfo, Preprocessing
from ..errors import InputError
from ..records import find_record
from ..registry import create_backbone, load_named, weights_records
from ..weights import Source, is_path, load_source, read_source
from .shared import at, default_levels, missing

try:
    from mmengine.logging import print_log
    from mmengine.model import BaseModule
    from mmengine.registry import MODELS
    from mmengine.runner import CheckpointLoader
except ImportError as error:
    raise missing(error, "mmengine", "pip install 'vertebra[mmengine]'") from error

STAGES = (0, 1, 2, 3)
_NORMS = {"BN": "batch", "SyncBN": "sync_batch", "GN": "group"}
_AFFINE = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
# What other backbones of these libraries take, and what stands for it here.
_INSTEAD = {
    "depth": "name='resnet50'",
    **dict.fromkeys(("groups", "base_width"), "name='resnext50_32x4d'"),
    **dict.fromkeys(("deep_stem", "avg_down"), "name='resnet50d', or 'resnet50c' for deep_stem alone"),
    "num_stages": "out_indices, behind whose last no stage is built",
    "style": "nothing, strides stand in the 3x3 convolutions ('pytorch')",
    "pretrained": "init_cfg=dict(type='Pretrained', checkpoint='imagenet'), and pretrained=None in the model",
    **dict.fromkeys(("strides", "dilations", "contract_dilation"), "output_stride=16 or 8, which sets both alone"),
    "drop_path_rate": "drop_path",
}
# Weights that fit by their keys alone, of networks with BGR input, strides in the 1x1 or standardised convolutions.
_OF_OTHERS = re.compile("mmlab.*(caffe|msra|detectron|gn_ws)")


@MODELS.register_module()
class VertebraBackbone(BaseModule):  # type: ignore[misc]  # mmengine has no types
    """A backbone by name, as mmdetection and mmsegmentation build theirs.

    out_indices: counted in stages, 0 is the first. frozen_stages: -1 none, 0 the stem, 1 the first stage too.
    norm_cfg: type BN, SyncBN or GN; requires_grad=False keeps gradients from all norms. norm_eval: batch norms stay in
    eval mode. with_cp: recompute activations in the backward pass. output_stride, in_channels, drop_path: as for
    `create_backbone`. init_cfg: dict(type="Pretrained", checkpoint=...) with what create_backbone takes as weights, or
    an address that mmengine reads.
    """

    is_init: bool

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int] = STAGES,
        *,
        frozen_stages: int = -1,
        norm_cfg: Mapping[str, Any] | None = None,
        norm_eval: bool = False,
        output_stride: int = 32,
        in_channels: int = 3,
        drop_path: float | None = None,
        with_cp: bool = False,
        init_cfg: Mapping[str, Any] | None = None,
        **others: Any,  # of other backbones, by habit or from a base config: an error with a word on each
    ) -> None:
        if others:
            raise _not_ours(others)
        _check_init(init_cfg or {})
        super().__init__(init_cfg)
        norm, trained = _norm(norm_cfg or {"type": "BN"})
        self.name = name
        self.norm_eval = norm_eval
        self.body = create_backbone(
            name,
            out_features=at(out_indices, "out_indices", default_levels(name)),
            norm=norm,
            output_stride=output_stride,
            in_channels=in_channels,
            drop_path=drop_path,
            checkpointing=with_cp,
        )
        _freeze(self.body, frozen_stages)
        for module in self.body.modules():
            if isinstance(module, _AFFINE) and not trained:
                module.requires_grad_(False)

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        return self.body.feature_info

    @property
    def out_channels(self) -> list[int]:
        """Channels of the maps: what a neck calls `in_channels`."""
        return [info.channels for info in self.feature_info]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map (N, C, H, W) normalised images to the maps of out_indices, (N, channels, H / stride, W / stride) each."""
        return tuple(self.body(images).values())

    def train(self, mode: bool = True) -> VertebraBackbone:
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, _BatchNorm) and self.norm_eval:
                module.eval()
        return self

    def init_weights(self) -> None:
        """Load what init_cfg asks for, whole or not at all, once."""
        if not self.init_cfg or self.is_init:
            super().init_weights()  # tells of a second call; our own initialisation is done
            return
        checkpoint = str(self.init_cfg["checkpoint"])
        if "://" in checkpoint:
            report = load_source(self.body, _read(checkpoint))
        else:
            report = load_named(self.body, self.name, checkpoint)
        self.is_init = True
        expected = _as_config(self.body.preprocessing)
        print_log(f"{checkpoint}: {report}. Its data_preprocessor: {expected}", logger="current")


def channels(name: str, out_indices: Sequence[int] = STAGES) -> list[int]:
    """Return the channels of a backbone's stages, for the in_channels of a neck or head; nothing is loaded."""
    return [info.channels for info in _described(name, out_indices).feature_info]


def data_preprocessor(name: str, weights: str | None = None, *, in_channels: int = 3) -> dict[str, Any]:
    """Return mean and std in 0..255 and bgr_to_rgb for a config's data_preprocessor, to which images come as BGR.

    weights: the checkpoint of init_cfg, where it has preprocessing of its own; nothing is downloaded.
    """
    found = None
    if weights is not None and not is_path(weights):
        found = find_record(name, weights, weights_records(name)).preprocessing
    elif weights is not None and "://" not in weights:  # an address says nothing of it
        found = read_source(weights).preprocessing
    found = found or _described(name, STAGES[:1]).preprocessing
    return _as_config(found.for_channels(in_channels))


def _described(name: str, out_indices: Sequence[int]) -> Backbone:
    with torch.device("meta"):
        return create_backbone(name, out_features=at(out_indices, "out_indices", default_levels(name)))


def _as_config(preprocessing: Preprocessing) -> dict[str, Any]:
    expected = preprocessing.of_bytes()
    return {"mean": list(expected.mean), "std": list(expected.std), "bgr_to_rgb": len(expected.mean) == 3}


def _check_init(init_cfg: Mapping[str, Any]) -> None:
    kind = getattr(init_cfg.get("type"), "__name__", init_cfg.get("type"))
    if init_cfg and (kind not in ("Pretrained", "PretrainedInit") or set(init_cfg) != {"type", "checkpoint"}):
        raise InputError(
            f"init_cfg={dict(init_cfg)}; it can be dict(type='Pretrained', checkpoint=...). Without it the backbone "
            "initialises itself, and in the checkpoint of a detector it is found without a prefix"
        )


def _norm(norm_cfg: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the name of the norm, and whether its affine values are trained."""
    options = dict(norm_cfg)
    kind, trained = options.pop("type", None), options.pop("requires_grad", True)
    if kind not in _NORMS or options not in ({}, {"num_groups": 32} if kind == "GN" else {}):
        raise InputError(
            f"norm_cfg={dict(norm_cfg)}; type can be {', '.join(_NORMS)}, requires_grad True or False, and num_groups "
            "of GN 32; eps and momentum are the backbone's own"
        )
    return _NORMS[kind], trained


def _freeze(body: Backbone, frozen_stages: int) -> None:
    if frozen_stages == -1:
        return
    last = len(body.stages()) - 1
    if not 0 <= frozen_stages <= last:
        raise InputError(f"frozen_stages={frozen_stages}; it can be -1 (none), 0 (the stem) and up to {last} (all)")
    body.freeze_(frozen_stages + 1)


def _read(address: str) -> Source:
    if _OF_OTHERS.search(address):
        raise InputError(
            f"init_cfg: the weights at {address} are for a network with other input (BGR) or other convolutions; take "
            "checkpoint='imagenet'"
        )
    try:
        content = CheckpointLoader.load_checkpoint(address, map_location="cpu")
    except Exception as error:  # each kind of address has a client and errors of its own
        raise InputError(f"init_cfg: mmengine cannot read {address}: {type(error).__name__}: {error}") from error
    return replace(read_source(content), name=address)


def _not_ours(options: Mapping[str, Any]) -> InputError:
    words = "; ".join(f"for {name}: {_INSTEAD.get(name, 'nothing, it is not offered')}" for name in options)
    return InputError(
        f"VertebraBackbone does not take {', '.join(options)}. Write {words}. If they come from a _base_ config: "
        "backbone=dict(_delete_=True, type='VertebraBackbone', ...)"
    )
