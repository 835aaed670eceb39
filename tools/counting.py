"""Facts of a backbone, counted: parameters, multiply-adds and features, stage by stage and in all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..backbones import Backbone, create_backbone, weights_records
from ..backbones.contract import Trunk
from ..backbones.references import CLASSIFIERS, Reference, reference
from .facts import Facts, StageFacts


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(parameter.numel() for parameter in module.parameters())


def measure(name: str) -> Facts:
    """Build a backbone without memory or arithmetic, on the meta device, and count."""
    published = reference(name)
    network = meta_network(name)
    parameters = count_parameters(network)
    multiply_adds, _ = _counted(_bare(network), torch.empty(1, 3, published.size, published.size, device="meta"))
    classifier = CLASSIFIERS[published.classifier](network.feature_info, published.classes)
    records = weights_records(name)
    return Facts(
        name,
        parameters,
        parameters + classifier,
        published.size,
        multiply_adds + classifier - _biases(published),
        tuple((info.name, info.channels, info.stride) for info in network.feature_info),
        tuple(record.tag for record in records),
        records[0].top1 if records else None,
    )


def meta_network(name: str) -> Backbone:
    with torch.device("meta"):
        return create_backbone(name).eval()


def _bare(module: nn.Module) -> nn.Module:
    """Take the norms out: they are no multiply-adds, and on the meta device most of the time."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        else:
            _bare(child)
    return module


def _biases(published: Reference) -> int:
    """A classifier's biases are parameters, but no multiply-adds."""
    return published.classes + (2 * 4096 if published.classifier == "vgg" else 0)


def _counted(module: nn.Module, x: Tensor) -> tuple[int, Any]:
    """Return the multiply-adds of convolutions and matrix products, and what came out."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = module(x)
    return counter.get_total_flops() // 2, out


def stage_facts(name: str) -> tuple[StageFacts, ...]:
    """Return the steps of one of our networks in order; of another backbone, its features alone."""
    size = reference(name).size
    network = meta_network(name)
    x = torch.empty(1, 3, size, size, device="meta")
    if not isinstance(network, Trunk):
        _, features = _counted(network, x)
        return tuple(
            StageFacts(info.name, "", 0, *_shape(features[info.name]), info.name, 0, 0) for info in network.feature_info
        )
    rows = []
    for step, module, feature in network.walk():
        multiply_adds, x = _counted(module, x)
        blocks = len(list(module.children()))
        rows.append(
            StageFacts(step, _kind(module), blocks, *_shape(x), feature, count_parameters(module), multiply_adds)
        )
    return tuple(rows)


def _shape(x: Tensor) -> tuple[int, int, int]:
    """Return channels, height and width."""
    _, channels, height, width = x.shape
    return channels, height, width


def _kind(module: nn.Module) -> str:
    """Return the type of a module, or of what a sequence of modules is made of."""
    parts = list(module.children())
    return type(parts[-1] if parts else module).__name__
