"""The registry: backbones by name, ours and other people's, built through one call."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypedDict, TypeVar

from torch import Tensor

from .contract import Backbone
from .errors import InputError, unknown
from .norms import Norm, norm_layer
from .weights import load_weights

OUTPUT_STRIDES = (8, 16, 32)


class Builder(Protocol):
    """What the registry holds: a function, or a row of a table, that builds a backbone with all its stages.

    It may leave out arguments that it has no use for; asking for one that it leaves out is then an error. With an
    attribute `default_features` it says which features are given where none are asked for; all otherwise.
    """

    def __call__(self, *, in_channels: int, output_stride: int, norm: Norm, drop_path: float | None) -> Backbone: ...


class BackboneOptions(TypedDict, total=False):
    """The options of `create_backbone`, for the calls that hand them on."""

    weights: str | os.PathLike[str] | Mapping[str, Tensor] | None
    out_features: tuple[str, ...] | None
    output_stride: int
    in_channels: int
    norm: str
    frozen_stages: int
    drop_path: float | None
    checkpointing: bool


@dataclass(frozen=True)
class Entry:
    builder: Callable[..., Backbone]
    owner: str


_REGISTRY: dict[str, Entry] = {}

F = TypeVar("F", bound=Callable[..., Backbone])


def register_backbone(name: str) -> Callable[[F], F]:
    """Return a decorator that enters a builder under `name`; a clash is an error that names both owners."""

    def register(builder: F) -> F:
        owner = _owner(builder)
        if name in _REGISTRY:
            raise InputError(
                f"backbone {name!r} is registered already, by {_REGISTRY[name].owner}; {owner} needs another name"
            )
        _REGISTRY[name] = Entry(builder, owner)
        return builder

    return register


def _owner(builder: Callable[..., Backbone]) -> str:
    called = builder if inspect.isroutine(builder) or inspect.isclass(builder) else type(builder)
    return f"{called.__module__}.{called.__qualname__}"


def list_backbones(pattern: str = "*") -> list[str]:
    """Return the registered names that match a shell pattern, such as `resnet*`, in the order of their numbers."""
    return sorted((name for name in _REGISTRY if fnmatchcase(name, pattern)), key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort resnet18 before resnet101: runs of digits by value."""
    runs: list[str] = []
    for char in name:
        if runs and runs[-1].isdigit() == char.isdigit():
            runs[-1] += char
        else:
            runs.append(char)
    return [(int(run), "") if run.isdigit() else (-1, run) for run in runs]


def row(name: str) -> Any:
    """Return what is registered under `name`: for our own backbones a frozen dataclass to vary with `replace`."""
    if name not in _REGISTRY:
        raise unknown("backbone", name, _REGISTRY, see="See list_backbones() or `vertebra backbones list`")
    return _REGISTRY[name].builder


def create_backbone(
    backbone: str | Callable[..., Backbone],
    *,
    weights: str | os.PathLike[str] | Mapping[str, Tensor] | None = None,
    out_features: tuple[str, ...] | None = None,
    output_stride: int = 32,
    in_channels: int = 3,
    norm: str = "batch",
    frozen_stages: int = 0,
    drop_path: float | None = None,
    checkpointing: bool = False,
) -> Backbone:
    """Build a backbone by name, or from a row.

    weights: a state dict, a file or a run folder (see `load_weights`); None is random initialisation.
    out_features: names of the features to return; the modules behind the deepest of them are not built.
    output_stride: upper bound on the deepest stride, 8, 16 or 32; dilation takes the place of the strides beyond it.
    in_channels: channels of the images. norm: `batch`, `frozen_batch`, `sync_batch` or `group`.
    frozen_stages: how many stages get no gradient and keep their norms in eval mode; 1 is the stem.
    drop_path: chance in [0, 1) that the last block is dropped for a sample (stochastic depth), less for earlier ones;
    None is the backbone's own, 0 for all but the `_sd` names, which drop blocks for whole batches.
    checkpointing: recompute activations in the backward pass; outputs, gradients and running statistics stay the same.
    """
    name = backbone if isinstance(backbone, str) else _owner(backbone)
    builder = row(backbone) if isinstance(backbone, str) else backbone
    if output_stride not in OUTPUT_STRIDES:
        raise InputError(f"output_stride={output_stride}; it can be {', '.join(map(str, OUTPUT_STRIDES))}")
    if in_channels < 1:
        raise InputError(f"in_channels={in_channels}; an image has one channel or more")
    if drop_path is not None and not 0 <= drop_path < 1:
        raise InputError(f"drop_path={drop_path}; it is a chance from 0 to below 1")
    arguments = _accepted(
        name,
        builder,
        given={"in_channels": in_channels, "output_stride": output_stride, "norm": norm, "drop_path": drop_path},
        neutral={"in_channels": (3,), "output_stride": (32,), "norm": ("batch",), "drop_path": (None, 0)},
    )
    if "norm" in arguments:
        arguments["norm"] = norm_layer(norm)
    network = builder(**arguments)
    _check_contract(name, network)
    chosen = out_features or getattr(builder, "default_features", None)
    if chosen:
        network.select_(chosen)
    network.freeze_(frozen_stages)
    if checkpointing:
        network.checkpoint_()
    if weights is not None:
        load_weights(network, weights)
    return network


def _accepted(
    name: str, builder: Callable[..., Backbone], given: dict[str, Any], neutral: dict[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """Return the arguments that the builder takes; one that it leaves out may only be neutral."""
    parameters = inspect.signature(builder).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return given
    for option, value in given.items():
        if option not in parameters and value not in neutral[option]:
            raise InputError(f"backbone {name!r} does not take {option}={value!r}; its builder has no such argument")
    return {option: value for option, value in given.items() if option in parameters}


def _check_contract(name: str, network: object) -> None:
    if not isinstance(network, Backbone):
        raise InputError(
            f"the builder of {name!r} returned {type(network).__name__}; it must return a vertebra.Backbone"
        )
    if type(network).forward is not Backbone.forward:
        raise InputError(
            f"{type(network).__name__} defines forward; define forward_features instead, which returns every feature"
        )
    if not network.feature_info:
        raise InputError(f"{type(network).__name__} declares no features; hand them to super().__init__")
