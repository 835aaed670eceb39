"""What the exchange must know of a framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..contract import Preprocessing
from ..errors import InputError
from ..registry import row
from .files import Content
from .pixels import Told
from .spelling import SPELLINGS, Spelling
from .structure import OWN, kind, resnet


@dataclass(frozen=True)
class Framework:
    """A framework whose weights are exchanged.

    has: whether it has the network of one of our names. build: its own network of that name. largest: of a pixel's
    values. told: what a file of it says of its images, or an InputError where it says that the network is another.
    habit: what its images are where no file says it. remarks: what a file leaves open, though features depend on it.
    wrap: what a file of it holds around the tensors. suffixes: how the names of its files may end. advice: what its
    users have to write. moved: (from, to) beginnings of keys, for detectors that keep a stage of the backbone
    elsewhere. adopt: its own reading of a foreign spelling.
    """

    name: str
    has: Callable[[str], bool]
    build: Callable[[str], nn.Module]
    largest: float
    told: Callable[[Content, str], Told]
    habit: Callable[[str, Spelling], Told]
    wrap: Callable[[Mapping[str, Tensor], Preprocessing], Mapping[str, Any]]
    suffixes: tuple[str, ...]
    advice: Callable[[str, Preprocessing, Path], tuple[str, ...]]
    remarks: Callable[[Content, str], tuple[str, ...]]
    moved: tuple[tuple[str, str], ...] = ()
    adopt: Callable[[nn.Module, Spelling, Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda module, spelling, s: s

    def spellings(self, name: str) -> tuple[Spelling, ...]:
        """Return how its files may name the tensors of a backbone; an InputError where it has no such network."""
        named = SPELLINGS[self.name].get(kind(name) or "")
        if named is None or not self.has(name):
            has = [own for own in OWN if kind(own) in SPELLINGS[self.name] and self.has(own)]
            raise InputError(f"{self.name} has no network like {name}; of ours it has {', '.join(has)}")
        return named(name)

    def taps(self, name: str) -> dict[str, tuple[str, bool]]:
        """Return our names of features with the modules of its network after which they stand.

        With each, whether an activation is still to be applied.
        """
        found = kind(name)
        if found == "vgg":
            return _before_pools(name)
        return _TAPS["detectron2"] if self.name == "detectron2" else _TAPS[found or ""]


def unknown_stride(name: str) -> tuple[str, ...]:
    """Return what is to be said of a file that does not say where its bottlenecks stride."""
    network = resnet(name)
    if network is None or network.basic:
        return ()
    other = name.removesuffix("_caffe") if network.strides_first else f"{name}_caffe"
    return (
        f"{name} strides in the {'first 1x1' if network.strides_first else '3x3'} of a bottleneck; the file does not "
        f"say where its network does (STRIDE_IN_1X1, style){f': else it is {other}' if other in OWN else ''}",
    )


def noted(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return what a file of ours for another framework says of its images, for us to read again."""
    return {"preprocessing": {"mean": list(preprocessing.mean), "std": list(preprocessing.std)}}


def _stages(modules: Iterable[str], activate: bool = False) -> dict[str, tuple[str, bool]]:
    return {f"c{level}": (module, activate) for level, module in enumerate(modules, 2)}


_LAYERS = _stages(f"layer{i}" for i in range(1, 5))
_TAPS = {
    "detectron2": _stages(f"res{i}" for i in range(2, 6)),
    "plain": _LAYERS,
    "deep": _LAYERS,
    "preactivation": _stages([*(f"stages.{i}.blocks.0.norm1" for i in (1, 2, 3)), "norm"]),
    "densenet": _stages([*(f"features.transition{i}.norm" for i in (1, 2, 3)), "features.norm5"], activate=True),
}


def _before_pools(name: str) -> dict[str, tuple[str, bool]]:
    """Return the ReLUs before the pools of a flat VGG, and the last pool."""
    found = row(name)
    taps, index = {}, 0
    for block, depth in enumerate(found.depths, 1):
        index += depth * (3 if found.norms else 2) + 1
        taps[f"c{block}"] = (f"features.{index - 2}", False)
    return {**taps, "c6": (f"features.{index - 1}", False)}
