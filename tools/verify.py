"""Proof of a backbone: its counts against the published ones, its features against torchvision's and timm's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import load_weights
from ..backbones.references import reference
from .counting import count_parameters, measure, meta_network
from .facts import Facts

# In float64, relative to the largest value of the reference's feature.
TOLERANCE = 1e-8

# Where a reference network shows our features: by our names, the modules after which they stand, and for those whose
# module does not end with the activation, that it is to be applied.
_RESNET = {f"c{i + 1}": (f"layer{i}", False) for i in range(1, 5)}
_RESNET_V2 = {**{f"c{i + 1}": (f"stages.{i}.blocks.0.norm1", False) for i in range(1, 4)}, "c5": ("norm", False)}
_DENSENET = {
    **{f"c{i + 1}": (f"features.transition{i}.norm", True) for i in range(1, 4)},
    "c5": ("features.norm5", True),
}


def _before_pools(reference_network: nn.Module) -> dict[str, tuple[str, bool]]:
    layers = dict(reference_network.get_submodule("features").named_children())
    pools = [int(name) for name, module in layers.items() if isinstance(module, nn.MaxPool2d)]
    taps = {f"c{i}": (f"features.{pool - 1}", False) for i, pool in enumerate(pools, start=1)}
    return {**taps, "c6": (f"features.{pools[-1]}", False)}


_MODULES: tuple[tuple[str, Callable[[nn.Module], Mapping[str, tuple[str, bool]]]], ...] = (
    ("resnetv2_*", lambda _: _RESNET_V2),
    ("densenet*", lambda _: _DENSENET),
    ("vgg*", _before_pools),
    ("*", lambda _: _RESNET),
)


@dataclass(frozen=True)
class Verdict:
    """What was found of one name. Differences of features are relative; None where there is nothing to compare with."""

    facts: Facts
    published: int | None
    published_multiply_adds: float | None
    source: str
    torchvision: float | None
    timm: float | None
    counts: tuple[tuple[str, int], ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """What is not as it should be."""
        ours = self.facts.with_classifier
        faults = [
            f"{library} has {count:,} parameters, ours {ours:,}" for library, count in self.counts if count != ours
        ]
        if self.published is not None and self.published != ours:
            faults.append(f"{self.source} has {self.published:,} parameters, ours {ours:,}")
        billions = self.facts.multiply_adds / 1e9
        if self.published_multiply_adds is not None and round(billions, 1) != self.published_multiply_adds:
            faults.append(f"{self.source} has {self.published_multiply_adds} G multiply-adds, ours {billions:.1f} G")
        for library, difference in (("torchvision", self.torchvision), ("timm", self.timm)):
            if difference is not None and not difference <= TOLERANCE:
                faults.append(f"features differ from {library}'s by {difference:.1e}")
        return tuple(faults)


def peers(name: str) -> dict[str, Callable[[], nn.Module]]:
    """Return what builds the network of that name in torchvision and in timm, where they have it."""
    import timm
    from torchvision import models

    found: dict[str, Callable[[], nn.Module]] = {}
    if name in models.list_models():
        found["torchvision"] = lambda: models.get_model(name)
    if name in timm.list_models():
        found["timm"] = lambda: timm.create_model(name)
    return found


def verify(name: str) -> Verdict:
    """Measure a backbone, and compare it with what is published and with the libraries that have it."""
    published = reference(name)
    differences: dict[str, float] = {}
    counts = {}
    for library, build in peers(name).items():
        with torch.device("meta"):
            network = build()
        counts[library] = count_parameters(network)
        differences[library] = feature_difference(name, network)
    return Verdict(
        measure(name),
        published.parameters,
        published.multiply_adds,
        published.source,
        differences.get("torchvision"),
        differences.get("timm"),
        tuple(counts.items()),
    )


def feature_difference(name: str, reference_network: nn.Module) -> float:
    """Return the largest difference of any feature, with equal weights, in float64, relative to the feature's largest.

    reference_network: on the meta device. It is given weights and statistics at random, so that a norm left out or in
    the wrong place shows.
    """
    generator = torch.Generator().manual_seed(0)
    _fill(reference_network, generator)
    network = meta_network(name).to_empty(device="cpu").double()
    load_weights(network, reference_network.state_dict())
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=generator)
    expected = _taps(name, reference_network, images)
    with torch.no_grad():
        found = network(images)
    return max(float((found[key] - expected[key]).abs().max() / expected[key].abs().max()) for key in found)


def _fill(network: nn.Module, generator: torch.Generator) -> None:
    """Make a network of the meta device real: float64, with values that keep its signals at a size."""
    network.to_empty(device="cpu").double().eval()
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            tensor.zero_()
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif name.endswith((".weight", "running_var")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(0, 0.2, generator=generator)


def _taps(name: str, network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return a reference network's maps under our names of features."""
    modules = next(taps for pattern, taps in _MODULES if fnmatchcase(name, pattern))(network)
    found: dict[str, Tensor] = {}

    def keep(key: str, activate: bool) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, _: Any, out: Tensor) -> None:
            # A copy, because an activation may follow in place.
            found[key] = out.relu() if activate else out.clone()

        return hook

    handles = [network.get_submodule(path).register_forward_hook(keep(key, a)) for key, (path, a) in modules.items()]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found
