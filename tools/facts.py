"""Facts of a backbone, measured: parameters, multiply-adds and features, stage by stage and in all."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..backbones import Backbone, create_backbone, list_backbones, weights_records
from ..backbones.contract import Trunk
from ..backbones.references import CLASSIFIERS, Reference, reference

# Measuring all names takes a minute, so what the registry's own come to is kept; a test measures them again.
BEGIN, END = "<!-- models: written by `make readme` -->\n", "<!-- end of models -->\n"
RECORDED = Path(__file__).with_name("facts.json")


@dataclass(frozen=True)
class Facts:
    """A backbone in figures. Parameters and multiply-adds are without and with the classifier that it is known for.

    multiply_adds are for one image of `size` x `size` pixels. features: (name, channels, stride). weights: tags of
    public ones, best first, and the best ImageNet top-1 among them in per cent.
    """

    name: str
    parameters: int
    with_classifier: int
    size: int
    multiply_adds: int
    features: tuple[tuple[str, int, int], ...]
    weights: tuple[str, ...] = ()
    top1: float | None = None


@dataclass(frozen=True)
class StageFacts:
    """One step of a network: its name and type, what comes out of it, and what it costs."""

    name: str
    kind: str
    blocks: int
    channels: int
    height: int
    width: int
    feature: str | None
    parameters: int
    multiply_adds: int


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


@cache
def recorded() -> dict[str, Facts]:
    """Return the recorded facts of the registry's own names."""
    return {row["name"]: _from_json(row) for row in json.loads(RECORDED.read_text())} if RECORDED.is_file() else {}


def _from_json(row: dict[str, Any]) -> Facts:
    features = tuple((name, channels, stride) for name, channels, stride in row.pop("features"))
    return Facts(**{**row, "features": features, "weights": tuple(row["weights"])})


def facts(name: str) -> Facts:
    """Return a backbone's facts: recorded ones for our own names, measured for others."""
    return recorded().get(name) or measure(name)


def to_json(rows: Sequence[Facts | StageFacts]) -> str:
    """Return rows as JSON, one to a line."""
    return "[\n" + ",\n".join(json.dumps(asdict(row)) for row in rows) + "\n]\n"


def record(readme: Path) -> None:
    """Measure the registry's own names again, and write the file and the README's table."""
    from .catalogue import markdown

    rows = [measure(name) for name in list_backbones()]
    RECORDED.write_text(to_json(rows))
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(before + BEGIN + markdown(rows) + END + rest.split(END)[1])


if __name__ == "__main__":
    record(Path(sys.argv[1]))
