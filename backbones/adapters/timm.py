"""Our backbones among timm's models: `vertebra_<name>` for every name, as classifiers and as lists of feature maps.

The head, the wrapper of `features_only` and the ways to weights are timm's own.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

from torch import Tensor, nn

from ..contract import Backbone, Preprocessing, Trunk
from ..errors import InputError
from ..records import HUB, WeightsRecord, find_record
from ..registry import create_backbone, each_backbone, weights_records
from ..stage import Recomputing
from ..weights import Source, load_source
from .shared import at, missing

try:
    from timm.layers import ClassifierHead  # type: ignore[attr-defined]
    from timm.models import (
        PretrainedCfg,
        build_model_with_cfg,
        get_arch_pretrained_cfgs,
        is_model,
        load_pretrained,
        register_model,
    )
except ImportError as error:
    raise missing(error, "timm", "pip install timm") from error

_logger = logging.getLogger(__name__)

Indices = int | Sequence[int] | None

# What of a configuration says where weights are.
_PLACES = ("state_dict", "file", "url", "hf_hub_id")
# timm's tags of torchvision's files, under which it has the sizes and crops that these are evaluated with.
_TWINS = {"torchvision_v1": "tv_in1k", "torchvision_v2": "tv2_in1k"}


class VertebraModel(nn.Module):
    """A backbone and timm's classifier head, with the methods of timm's models.

    Arguments are timm's, and `norm` and `frozen_stages` as `create_backbone` takes them.
    """

    class_layers = ("head.fc.",)

    def __init__(
        self,
        name: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        output_stride: int = 32,
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
        norm: str = "batch",
        frozen_stages: int = 0,
    ) -> None:
        super().__init__()
        self.body = create_backbone(
            name,
            out_features=lambda levels: [level.name for level in levels],
            output_stride=output_stride,
            in_channels=in_chans,
            norm=norm,
            frozen_stages=frozen_stages,
            drop_path=drop_path_rate,
        )
        self.levels = self.body.feature_info
        taps = {tap: step for step, _, tap in self.body.walk()} if isinstance(self.body, Trunk) else {}
        self.feature_info = [
            {"num_chs": level.channels, "reduction": level.stride, "module": f"body.{taps.get(level.name, level.name)}"}
            for level in self.levels
        ]
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.num_features = self.levels[-1].channels
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.head_hidden_size = self.head.num_features

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) normalised images to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the deepest map, (N, num_features, H / stride, W / stride)."""
        maps: dict[str, Tensor] = self.body(x)
        return maps[self.body.feature_info[-1].name]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x, pre_logits=pre_logits)  # type: ignore[no-any-return]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Indices = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the deepest map and those of `indices` (an int: so many of the last), high to low resolution.

        Maps are normalised and activated and come from one pass: `norm` and `stop_early` change nothing.
        """
        if output_fmt != "NCHW":
            raise InputError(f"output_fmt={output_fmt!r}; maps are NCHW")
        features = self.body(x)
        maps = [features[self.levels[i].name] for i in self._taken(indices)]
        return maps if intermediates_only else (list(features.values())[-1], maps)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what is behind the deepest of these levels, and the classifier; return their indices from 0."""
        taken = self._taken(indices)
        self.body.select_([self.levels[i].name for i in taken])
        if prune_head or taken[-1] < len(self.levels) - 1:
            self.num_features = self.levels[taken[-1]].channels
            self.head.reset(0, in_features=self.num_features)
            self.reset_classifier(0, "")
        return taken

    def _taken(self, indices: Indices) -> list[int]:
        if not isinstance(indices, Sequence):
            indices = range(-len(self.levels) if indices is None else -indices, 0)
        names = at(indices, "out_indices")(self.levels)
        return [i for i, level in enumerate(self.levels) if level.name in names]

    def get_classifier(self) -> nn.Module:
        return self.head.fc  # type: ignore[no-any-return]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        self.head_hidden_size = self.head.num_features

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        if enable:
            self.body.checkpoint_()
        for module in self.body.modules():
            if isinstance(module, Recomputing):
                module.recomputes = enable

    def no_weight_decay(self) -> set[str]:
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, list[tuple[str, tuple[float, ...] | None]]]:
        """Return the layers for layer decay: the stem, then of each stage the blocks and what is no numbered block.

        coarse: whole stages.
        """
        names = {module: re.escape(name) for name, module in self.named_modules()}
        layers: dict[str, list[tuple[str, tuple[float, ...] | None]]] = {}
        for i, stage in enumerate(self.body.stages()):
            here = f"^(?:{'|'.join(names[module] for module in stage)})"
            blocks = [(rf"{here}\.[^\d.]*(\d+)\b", None)] if i and not coarse else []
            layers[f"stage{i}"] = [*blocks, (rf"{here}\b", (inf,))]
        return layers


def _create(
    name: str, variant: str, pretrained: bool, pretrained_cfg: Any = None, cache_dir: Any = None, **options: Any
) -> nn.Module:
    """Build what `timm.create_model` was asked for; `pretrained_cfg` is, among others, the tag in the model's name."""
    if options.get("feature_cls", "getter") != "getter":
        raise InputError(f"feature_cls={options['feature_cls']!r}; it can be 'getter', which gives a list of maps")
    elsewhere = any((options.get("pretrained_cfg_overlay") or {}).get(place) for place in _PLACES)
    record = None
    if not pretrained_cfg or isinstance(pretrained_cfg, str):
        if pretrained_cfg or (pretrained and not elsewhere):
            record = find_record(name, pretrained_cfg or "imagenet", weights_records(name))
        pretrained_cfg = _config(name, record)
    wrapper = {"feature_cls": "getter", "out_indices": None}
    build = partial(VertebraModel, name)
    model: Any = build_model_with_cfg(
        build, variant, pretrained=False, pretrained_cfg=pretrained_cfg, feature_cfg=wrapper, **options
    )
    body = next(module for module in model.modules() if isinstance(module, Backbone))
    _describe(model, body)
    if pretrained:
        # Our records are checked against their digests; another place or cache is left to timm.
        state = {"state_dict": record.fetch()} if record and not elsewhere and not cache_dir else {}
        config = {**model.pretrained_cfg, "classifier": None, **state}  # _fitted does what timm does for `classifier`
        load_pretrained(model, config, filter_fn=partial(_fitted, body, record), cache_dir=cache_dir)
    return model  # type: ignore[no-any-return]


def _config(name: str, record: WeightsRecord | None) -> PretrainedCfg:
    """Return timm's description of weights; without a record, of none, and with the preprocessing left open."""
    if record is None:
        return PretrainedCfg(classifier="head.fc", mean=None, std=None)  # type: ignore[arg-type]
    twin = f"{name}.{_TWINS.get(record.tag, record.tag.removeprefix('timm_'))}"
    known = get_arch_pretrained_cfgs(name).get(
        twin, PretrainedCfg(input_size=(3, record.input_size, record.input_size))
    )
    hub = record.url.removeprefix(HUB) if record.url.startswith(HUB) else None
    known = replace(known, url=None if hub else record.url, hf_hub_id=hub, license=record.licence)
    mean, std = record.preprocessing.mean, record.preprocessing.std
    return replace(known, architecture=None, tag=record.tag, classifier="head.fc", mean=mean, std=std)


def _describe(model: Any, body: Backbone) -> None:
    """Give the backbone the preprocessing of its configuration, and the configuration the model's channels."""
    config, own = model.pretrained_cfg, body.preprocessing
    mean, std = config.get("mean", own.mean), config.get("std", own.std)
    body.preprocessing = Preprocessing(tuple(mean), tuple(std)).for_channels(len(own.mean))
    config.update(mean=body.preprocessing.mean, std=body.preprocessing.std)
    config.update({k: (len(own.mean), *config[k][1:]) for k in ("input_size", "test_input_size") if k in config})
    config["first_conv"] = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


def _fitted(body: Backbone, record: WeightsRecord | None, state: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Load public weights, or a checkpoint of this model, and return the model's tensors, which timm loads once more.

    The backbone is loaded whole or not at all; the classifier where there is one layer, of the model's shape.
    """
    source = record.tag if record else model.pretrained_cfg.get("file", "what was given as pretrained weights")
    own = {key.removeprefix("body."): value for key, value in state.items() if key.startswith("body.")}
    report = load_source(body, Source(source, own or state, norm_eps=record.eps if record else None))
    left = [key for key in state if not key.startswith("body.")] if own else report.dropped
    found = [(key.rpartition(".")[2], state[key]) for key in left if not key.endswith("num_batches_tracked")]
    head = model.get_classifier().state_dict() if isinstance(model, VertebraModel) else {}
    if sorted((key, value.numel()) for key, value in found) == sorted((k, v.numel()) for k, v in head.items()):
        for key, value in found:
            head[key].copy_(value.reshape(head[key].shape))
    elif head:
        _logger.info("%s: no classifier for %d classes, so head.fc stays as initialised", source, model.num_classes)
    return dict(model.state_dict())


_NAMES: dict[str, str] = {}


def _enter(name: str) -> None:
    """Register a backbone; `.` and `/`, which timm reads as tags and addresses, become `_`."""
    variant = "vertebra_" + re.sub(r"[./:\\]", "_", name)
    if _NAMES.setdefault(variant, name) != name:
        _logger.warning("%r is not in timm: there %s is %r; give it another name", name, variant, _NAMES[variant])
    if is_model(variant):
        return

    def entrypoint(pretrained: bool = False, **options: Any) -> nn.Module:
        return _create(name, variant, pretrained, **options)

    entrypoint.__name__ = entrypoint.__qualname__ = variant
    globals()[variant] = register_model(entrypoint)  # timm puts the name into __all__


each_backbone(_enter)
