"""From a file to one of our networks: whose names its keys have, where in the file they are, and what is left over."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contract import Backbone
from ..errors import InputError, unknown
from ..registry import create_backbone
from ..weights import Source, load_source, read_source
from .comparing import eps_of, set_eps
from .detectron2 import DETECTRON2
from .files import Content, read
from .framework import Framework
from .mmdet import MMDET
from .named import TIMM, TORCHVISION
from .pixels import ORDERS, Pixels, Told, settle, three
from .spelling import Spelling
from .structure import kind, resnet

FRAMEWORKS: Mapping[str, Framework] = {each.name: each for each in (DETECTRON2, MMDET, TORCHVISION, TIMM)}
OURS = "vertebra"


@dataclass(frozen=True)
class Reading:
    """A backbone that was read: the network, with its preprocessing, its eps and in eval mode, and whence it came.

    layout: vertebra, or whose keys the file has. dropped: the file's keys that no tensor of the backbone has. state:
    the tensors that were taken, under the file's names. framework, spelling and pixels are None for our own files.
    """

    name: str
    network: Backbone
    layout: str
    prefix: str
    dropped: tuple[str, ...]
    state: Mapping[str, Tensor]
    notes: tuple[str, ...]
    framework: Framework | None = None
    spelling: Spelling | None = None
    pixels: Pixels | None = None


@dataclass(frozen=True)
class _Fit:
    """A spelling against a file: at which prefix its keys begin, and which are not there."""

    framework: Framework
    spelling: Spelling
    prefix: str
    keys: Mapping[str, str]
    missing: tuple[str, ...]


def read_backbone(
    source: str | os.PathLike[str],
    backbone: str,
    *,
    layout: str | None = None,
    given: Told = Told(),  # noqa: B008  # frozen
    eps: float | None = None,
    prefix: str | None = None,
) -> Reading:
    """Read the weights of a backbone out of a file of another framework, or of ours.

    layout: detectron2, mmdet, torchvision, timm or vertebra; found by the keys where it is None. given: what the images
    were, where the file does not say or is wrong. eps: of the norms, where it is not 1e-5. prefix: of the backbone's
    keys, for a file that holds several.
    """
    for option, value, known in (("layout", layout, (OURS, *FRAMEWORKS)), ("channels", given.channels, ORDERS)):
        if value is not None and value not in known:
            raise unknown(option, value, known)
    network = create_backbone(backbone).eval()
    if layout == OURS or (layout is None and (Path(source).is_dir() or kind(backbone) is None)):
        return _read_ours(source, backbone, network)
    content = _moved(read(source))
    if layout is None and _is_ours(content, network):
        return _read_ours(source, backbone, network)
    fit = _recognised(content, backbone, network, layout, prefix)
    return _read_theirs(content, backbone, network, fit, given, eps)


def _is_ours(content: Content, network: Backbone) -> bool:
    """Say whether a file has our keys and says what ours do beside them."""
    own = {key for key in network.state_dict() if not key.endswith("num_batches_tracked")}
    return "preprocessing" in content.facts and any(
        all(f"{outer}{key}" in content.state for key in own) for outer in ("", "backbone.", "backbone.body.")
    )


def _read_ours(source: str | os.PathLike[str], backbone: str, network: Backbone) -> Reading:
    found = replace(
        read_source(source), advice="Give the weights of this backbone; only those with batch norm are exchanged"
    )
    report = load_source(network, found)
    set_eps(network, found.norm_eps)
    return Reading(backbone, network, OURS, "", report.dropped, network.state_dict(), ())


def _moved(content: Content) -> Content:
    """Put a stage of the backbone that a detector keeps elsewhere back behind the others."""
    for there, here in (pair for framework in FRAMEWORKS.values() for pair in framework.moved):
        keys = [key for key in content.state if key.startswith(there)]
        if keys and not any(key.startswith(here) for key in content.state):
            renamed = {key: here + key.removeprefix(there) for key in keys}
            state = {renamed.get(key, key): value for key, value in content.state.items()}
            return replace(content, state=state, notes=(*content.notes, f"{here}* is {there}* in the file"))
    return content


def _recognised(content: Content, backbone: str, network: Backbone, layout: str | None, prefix: str | None) -> _Fit:
    """Return the spelling that fits a file; an InputError where none does, or where it does at several places."""
    frameworks = [FRAMEWORKS[layout]] if layout else _likeliest(content)
    fits: list[_Fit] = []
    refusals = []
    for framework in frameworks:
        try:
            spellings = framework.spellings(backbone)
        except InputError as error:
            refusals.append(error)
            continue
        for spelling in spellings:
            fits += _fits(framework, spelling, spelling.keys(network), content.state, prefix)
    if not fits:
        if len(refusals) == len(frameworks) == 1:
            raise refusals[0]
        names = ", ".join(framework.name for framework in frameworks)
        raise InputError(
            f"{content.path} has nothing that begins like {backbone} in the keys of {names} (its first is "
            f"{min(content.state)!r}); give the name of the network that it holds"
        )
    best = min(fits, key=lambda fit: len(fit.missing))
    if best.missing:
        raise InputError(
            f"{content.path} is nearest to {best.spelling.title}'s {backbone}, of which {len(best.missing)} keys are "
            f"missing (as {min(best.missing)!r}); give the name of the network that it holds"
        )
    again = [fit.prefix for fit in fits if not fit.missing and fit.spelling is best.spelling]
    if len(again) > 1:
        raise InputError(f"{content.path} has {backbone} more than once, at {', '.join(again)}; choose with prefix")
    return best


def _likeliest(content: Content) -> list[Framework]:
    """Return the frameworks; those that share keys share tensors too, and differ in what their images are by habit."""
    ordered = list(FRAMEWORKS.values())
    if "meta" not in content.facts:
        ordered.sort(key=lambda framework: framework is MMDET)
    return ordered


def _fits(
    framework: Framework, spelling: Spelling, keys: Mapping[str, str], state: Mapping[str, Tensor], prefix: str | None
) -> Iterable[_Fit]:
    first = next(iter(keys))
    places = {key.removesuffix(first) for key in state if key.endswith(first)}
    for place in sorted(places):
        if (place and not place.endswith(".")) or prefix not in (None, place, place.removesuffix(".")):
            continue
        missing = [f"{place}{key}" for key in keys if f"{place}{key}" not in state]
        if spelling.folds:
            missing = [key for key in missing if not key.endswith(("_bn_rm", "_bn_riv"))]
        if len(missing) < len(keys) / 2:
            yield _Fit(framework, spelling, place, keys, tuple(missing))


def _read_theirs(
    content: Content, backbone: str, network: Backbone, fit: _Fit, given: Told, eps: float | None
) -> Reading:
    framework, spelling, place = fit.framework, fit.spelling, fit.prefix
    if spelling.folds and eps is not None:
        raise InputError(f"eps={eps}: norms in {spelling.title}'s files are scale and shift alone; leave eps out")
    described = resnet(backbone)
    strides_first = described is not None and described.strides_first
    pixels = settle(
        given,
        _our_note(content, framework.largest) or framework.told(content, backbone),
        framework.habit(backbone, spelling),
        framework.largest,
        strides_first,
        ask=f"{content.path} does not say whether its images were RGB or BGR (INPUT.FORMAT in detectron2's "
        "configuration; its default is BGR): give the channels",
    )
    dropped = _leftovers(content, network, fit)
    taken = {key: content.state[f"{place}{key}"] for key in fit.keys if f"{place}{key}" in content.state}
    target = network.state_dict()
    for key, value in taken.items():
        if value.shape != target[fit.keys[key]].shape:
            raise InputError(
                f"{content.path}: {place}{key} has shape {tuple(value.shape)}, {backbone} needs "
                f"{tuple(target[fit.keys[key]].shape)}; give the name of the network that the file holds"
            )
    ours = {fit.keys[key]: value for key, value in taken.items()}
    eps = eps_of(network) if eps is None else eps
    if spelling.folds and eps is not None:
        _unfold(ours, target, eps)
    first = next(key for key, value in target.items() if value.ndim == 4)
    if pixels.channels == "bgr":
        ours[first] = ours[first].flip(1)
    load_source(network, Source(content.path, ours, pixels.preprocessing))
    set_eps(network, eps)
    notes = (*content.notes, *framework.remarks(content, backbone))
    return Reading(backbone, network, spelling.title, place, dropped, taken, notes, framework, spelling, pixels)


def _our_note(content: Content, largest: float) -> Told:
    """Return what we have written beside the weights for another framework."""
    recorded = content.facts.get("preprocessing")
    if not isinstance(recorded, Mapping):
        return Told()
    found: dict[str, Any] = {key: three([x * largest for x in recorded[key]]) for key in ("mean", "std")}
    return Told("rgb", **found)


def _leftovers(content: Content, network: Backbone, fit: _Fit) -> tuple[str, ...]:
    """Return the keys that are left over: a classifier's, or of other parts of a model; others are an InputError."""
    heads = (*network.droppable_keys, *fit.spelling.heads)
    dropped, unexpected = [], []
    for key in content.state:
        inner = key.removeprefix(fit.prefix)
        if key.startswith(fit.prefix) and inner in fit.keys:
            continue
        foreign = not key.startswith(fit.prefix) or not fit.spelling.belongs(inner)
        counter = inner.endswith(("num_batches_tracked", "_momentum"))
        if foreign or counter or inner.startswith(heads) or key in ("pixel_mean", "pixel_std"):
            dropped.append(key)
        else:
            unexpected.append(key)
    if unexpected:
        raise InputError(
            f"{content.path} has {len(unexpected)} keys that {fit.spelling.title}'s network of that name does not have "
            f"(as {min(unexpected)!r}); give the name of the network that it holds"
        )
    return tuple(sorted(dropped))


def _unfold(state: dict[str, Tensor], target: Mapping[str, Tensor], eps: float) -> None:
    """Add the statistics with which a norm is scale and shift alone: mean 0, variance 1 - eps."""
    for key, value in target.items():
        if key.endswith("running_mean"):
            state.setdefault(key, torch.zeros(value.shape))
        if key.endswith("running_var"):
            state.setdefault(key, torch.ones(value.shape) - eps)
