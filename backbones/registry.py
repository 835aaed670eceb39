"""The registry: backbones by name, ours and other people's, built through one call."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any, Protocol, TypedDict, TypeVar

from torch import Tensor, nn

from .contract import Backbone, FeatureInfo
from .densenet import DENSENET
from .errors import InputError, unknown
from .highway import HIGHWAY
from .names import TIMM, installed, matching
from .norms import Norm, norm_layer
from .records import WeightsRecord, find_record, public_records
from .residual import RESIDUAL
from .timm_networks import TimmNetwork, timm_names
from .vgg import VGG_NETWORKS
from .weights import LoadReport, is_path, load_record, load_weights

OUTPUT_STRIDES = (8, 16, 32)


class Builder(Protocol):
    """What the registry holds: a function, or a row of a table, that builds a backbone with all its stages.

    It may leave out arguments that it has no use for; asking for one that it leaves out is then an error. With an
    attribute `default_features` it says which features are given where none are asked for; all otherwise.
    """

    def __call__(self, *, in_channels: int, output_stride: int, norm: Norm, drop_path: float | None) -> Backbone: ...


Choose = Callable[[tuple[FeatureInfo, ...]], Sequence[str]]


class BackboneOptions(TypedDict, total=False):
    """The options of `create_backbone`, for the calls that hand them on."""

    weights: str | os.PathLike[str] | Mapping[str, Tensor] | None
    out_features: tuple[str, ...] | Choose | None
    output_stride: int
    in_channels: int
    norm: str
    frozen_stages: int
    drop_path: float | None
    checkpointing: bool


Records = Sequence[WeightsRecord] | Callable[[], Sequence[WeightsRecord]]


@dataclass(frozen=True)
class Entry:
    """What is registered under a name: what builds it, whose it is, and its public weights, best first."""

    builder: Callable[..., Backbone]
    owner: str
    weights: Records = ()


_REGISTRY: dict[str, Entry] = {}
_WATCHERS: list[Callable[[str], None]] = []

F = TypeVar("F", bound=Callable[..., Backbone])


def register_backbone(name: str, *, weights: Records = ()) -> Callable[[F], F]:
    """Return a decorator that enters a builder under `name`; a clash is an error that names both owners.

    weights: records of its public weights, best first, or a function that returns them when they are asked for.
    """

    def register(builder: F) -> F:
        entry = Entry(builder, _owner(builder), weights)
        if name in _REGISTRY:
            raise _clash(name, _REGISTRY[name].owner, entry.owner)
        _REGISTRY[name] = entry
        for enter in _WATCHERS:
            enter(name)
        return builder

    return register


def each_backbone(enter: Callable[[str], None]) -> None:
    """Call `enter` with every name in the registry and in installed packages, and with later ones as they come.

    So another library's registry can mirror this one. A package that registers by a call what it also offers by entry
    point gives its name twice.
    """
    _WATCHERS.append(enter)
    for name in list_backbones():
        enter(name)


def _clash(name: str, first: str, second: str) -> InputError:
    return InputError(f"backbone {name!r} is registered already, by {first}; {second} needs another name")


def _owner(builder: Callable[..., Backbone]) -> str:
    called = builder if inspect.isroutine(builder) or inspect.isclass(builder) else type(builder)
    return f"{called.__module__}.{called.__qualname__}"


def _enter(point: EntryPoint) -> None:
    """Register what an installed package offers; a package may register the same builder by a call as well."""
    package = point.dist.name if point.dist else "an installed package"
    try:
        builder = point.load()
    except Exception as error:  # other people's code may raise anything
        raise InputError(
            f"backbone {point.name!r} of {package} ({point.value}) cannot be imported: {type(error).__name__}: {error}"
        ) from error
    there = _REGISTRY.setdefault(point.name, Entry(builder, f"{package} ({point.value})"))
    if there.builder is not builder:
        raise _clash(point.name, there.owner, f"{package} ({point.value})")


def _entry(name: str) -> Entry:
    """Return what is registered under a name: by a call, by an installed package, or in timm."""
    for point in installed().get(name, ()):
        _enter(point)
    if name in _REGISTRY:
        return _REGISTRY[name]
    if name.startswith(TIMM):
        return Entry(TimmNetwork(name.removeprefix(TIMM)), "timm", partial(public_records, name))
    raise unknown("backbone", name, list_backbones(), see="See list_backbones() or `vertebra backbones list`")


def list_backbones(pattern: str = "*") -> list[str]:
    """Return the registered names that match a shell pattern, such as `resnet*`, in the order of their numbers.

    timm's networks are listed where the pattern asks for them: `timm/convnext*`.
    """
    return matching({*_REGISTRY, *installed(), *(timm_names() if pattern.startswith(TIMM) else ())}, pattern)


def row(name: str) -> Any:
    """Return what is registered under `name`: for our own backbones a frozen dataclass to vary with `replace`."""
    return _entry(name).builder


def weights_records(name: str) -> tuple[WeightsRecord, ...]:
    """Return the records of a backbone's public weights, best first; none where there are none."""
    records = _entry(name).weights
    return tuple(records() if callable(records) else records)


def create_backbone(
    backbone: str | Callable[..., Backbone],
    *,
    weights: str | os.PathLike[str] | Mapping[str, Tensor] | None = None,
    out_features: tuple[str, ...] | Choose | None = None,
    output_stride: int = 32,
    in_channels: int = 3,
    norm: str = "batch",
    frozen_stages: int = 0,
    drop_path: float | None = None,
    checkpointing: bool = False,
) -> Backbone:
    """Build a backbone by name, or from a row.

    weights: `imagenet` (the best public record of that name), the tag of a record such as `torchvision_v1`, or a state
    dict, a file or a run folder (see `load_weights`); None is random initialisation.
    out_features: names of the features to return, or a function that chooses them from all; the modules behind the
    deepest of them are not built.
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
    if "in_channels" in arguments:  # a builder that knows no means of its own leaves those of RGB
        network.preprocessing = network.preprocessing.for_channels(in_channels)
    chosen = out_features(network.feature_info) if callable(out_features) else out_features or default_features(builder)
    if chosen:
        network.select_(chosen)
    network.freeze_(frozen_stages)
    if checkpointing:
        network.checkpoint_()
    if weights is not None:
        load_named(network, backbone if isinstance(backbone, str) else None, weights)
    return network


def default_features(builder: Callable[..., Backbone]) -> tuple[str, ...] | None:
    """Return the features that a builder gives where none are asked for; None is all."""
    names: tuple[str, ...] | None = getattr(builder, "default_features", None)
    return names


def load_named(
    model: nn.Module, name: str | None, weights: str | os.PathLike[str] | Mapping[str, Tensor]
) -> LoadReport:
    """Load weights into a backbone or the model around it: `imagenet` or a tag of `name`'s, else see `load_weights`."""
    if not isinstance(weights, str) or is_path(weights):
        return load_weights(model, weights)
    if name is None:
        raise InputError(f"weights={weights!r}: only a registered name has public weights, a row has none; give a file")
    return load_record(model, find_record(name, weights, weights_records(name)))


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


_TABLES: tuple[Mapping[str, Callable[..., Backbone]], ...] = (RESIDUAL, DENSENET, HIGHWAY, VGG_NETWORKS)
for _table in _TABLES:
    for _name, _row in _table.items():
        register_backbone(_name, weights=partial(public_records, _name))(_row)
