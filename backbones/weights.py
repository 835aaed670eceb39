"""Loading weights strictly: whatever is not loaded is listed, or the load fails."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .contract import Backbone, Preprocessing
from .errors import InputError
from .norms import FrozenBatchNorm2d

if TYPE_CHECKING:
    from .records import WeightsRecord

WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")
RUN_CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class LoadReport:
    """What a load did, in keys of the model, but for `dropped`, which are the source's.

    loaded: those that have new values. dropped: what the source has and the model has no place for. kept: those that
    kept their values. renamed: (key of the source, key of the model). adapted: input convolutions whose RGB weights
    were fitted to another number of channels.
    """

    loaded: tuple[str, ...]
    dropped: tuple[str, ...]
    kept: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...] = ()
    adapted: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded, {len(self.dropped)} dropped, {len(self.kept)} kept as they were"
        if self.renamed:
            text += f", {len(self.renamed)} renamed"
        return text + "".join(f", {key} adapted from RGB" for key in self.adapted)


def load_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any]) -> LoadReport:
    """Load a state dict, a file (.pt, .pth, .safetensors) or a run folder into a model, and report what was done.

    Takes the weights of the same model; or, for a model with a backbone in it, those of the backbone alone (as
    torchvision and timm publish them, classifier included), and the rest keeps its values. Only the classifier, stages
    that are not built and `num_batches_tracked` may be left over. Anything else is an InputError that leaves the model
    be. RGB weights fit a backbone with other `in_channels`: summed for one channel, else repeated in order and scaled
    by 3 / channels, so that the sum stays. Preprocessing that the source records is the backbone's from then on.
    """
    name, state, preprocessing = _read(source)
    prefix, trunk = _trunk(model)
    plan = _plan(model, "", state)
    if plan.faults and trunk is not None and trunk is not model:
        of_trunk = _plan(trunk, prefix, state)
        plan = of_trunk if not of_trunk.faults else plan
    if plan.faults:
        raise InputError(
            f"{name} does not fit {type(model).__name__}: {'; '.join(plan.faults)}. "
            "Give the weights of this very model, or of its backbone"
        )
    plan.part.load_state_dict(plan.state, strict=False)  # num_batches_tracked alone can be missing
    if trunk is not None and preprocessing is not None:
        trunk.preprocessing = preprocessing.for_channels(len(trunk.preprocessing.mean))
    loaded = {f"{plan.prefix}{key}" for key in plan.state}
    return LoadReport(
        tuple(sorted(loaded)),
        tuple(sorted(plan.dropped)),
        tuple(key for key in model.state_dict() if key not in loaded),
        tuple((key, f"{plan.prefix}{own}") for key, own in plan.renamed),
        tuple(f"{plan.prefix}{key}" for key in plan.adapted),
    )


def load_record(model: nn.Module, record: WeightsRecord) -> LoadReport:
    """Load published weights into a backbone or a model around it, with their preprocessing and their norms' eps."""
    _, trunk = _trunk(model)
    if trunk is None:
        raise InputError(f"{type(model).__name__} has no vertebra.Backbone in it to load {record.tag} into")
    report = load_weights(model, {"model": record.fetch(), "preprocessing": asdict(record.preprocessing)})
    for module in trunk.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)):
            module.eps = record.eps
    return report


def read_state(path: str | os.PathLike[str]) -> Any:
    """Read a file of tensors and plain types; never runs code that the file brings."""
    path = Path(path)
    if path.is_dir():
        path = path / RUN_CHECKPOINT
    if not path.is_file():
        raise InputError(f"no weights at {path}; give a file (.pt, .pth, .safetensors) or a run folder")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen types for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        raise InputError(f"{path} cannot be read as weights (tensors and plain types only): {reason[:200]}") from error


def recorded_preprocessing(model: nn.Module) -> dict[str, list[float]]:
    """Return the preprocessing in plain lists, as a checkpoint keeps it beside the weights for `load_weights`."""
    _, trunk = _trunk(model)
    assert trunk is not None
    return {"mean": list(trunk.preprocessing.mean), "std": list(trunk.preprocessing.std)}


def _read(
    source: str | os.PathLike[str] | Mapping[str, Any],
) -> tuple[str, dict[str, Tensor], Preprocessing | None]:
    """Return the source's name, its state dict, and the preprocessing that it records, if it does."""
    name, content = (
        ("the state dict", source) if isinstance(source, Mapping) else (os.fspath(source), read_state(source))
    )
    preprocessing = None
    if isinstance(content, Mapping) and isinstance(recorded := content.get("preprocessing"), Mapping):
        preprocessing = Preprocessing(tuple(recorded["mean"]), tuple(recorded["std"]))
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{name} holds no state dict: a mapping from names to tensors is expected")
    return name, dict(content), preprocessing


def _trunk(model: nn.Module) -> tuple[str, Backbone | None]:
    """Return the innermost backbone of a model, with its prefix: the network that public classifiers fit."""
    found: tuple[str, Backbone | None] = ("", None)
    for name, module in model.named_modules():
        if isinstance(module, Backbone):
            found = (f"{name}." if name else "", module)
    return found


@dataclass
class _Plan:
    """What loading a state dict into a part of a model would do; with faults it cannot be done."""

    part: nn.Module
    prefix: str
    state: dict[str, Tensor]
    dropped: list[str]
    renamed: list[tuple[str, str]]
    adapted: list[str]
    faults: list[str]


def _plan(part: nn.Module, prefix: str, source: Mapping[str, Tensor]) -> _Plan:
    target = part.state_dict()
    droppable = part.droppable_keys if isinstance(part, Backbone) else ()
    plan = _Plan(part, prefix, {}, [], [], [], [])
    unexpected = []
    for key, value in source.items():
        own = _own_name(part, key)
        if own in target:
            plan.state[own] = value
            if own != key:
                plan.renamed.append((key, own))
        elif own.startswith(droppable) or own.endswith("num_batches_tracked"):
            plan.dropped.append(key)
        else:
            unexpected.append(key)
    missing = [key for key in target if key not in plan.state and not key.endswith("num_batches_tracked")]
    if missing:
        plan.faults.append(f"{len(missing)} keys are missing (as {min(missing)!r})")
    if unexpected:
        plan.faults.append(f"{len(unexpected)} keys are unexpected (as {min(unexpected)!r})")
    _adapt_input(plan, target)
    wrong = [key for key, value in plan.state.items() if target[key].shape != value.shape]
    if wrong:
        key = wrong[0]
        plan.faults.append(f"{key!r} has shape {tuple(plan.state[key].shape)}, the model {tuple(target[key].shape)}")
    return plan


def _own_name(part: nn.Module, key: str) -> str:
    for pattern, replacement in part.renames if isinstance(part, Backbone) else ():
        key = re.sub(pattern, replacement, key)
    return key


def _adapt_input(plan: _Plan, target: Mapping[str, Tensor]) -> None:
    """Fit the RGB weights of a backbone's first convolution to the channels that it takes."""
    if not isinstance(plan.part, Backbone):
        return
    convs = (f"{name}.weight" for name, module in plan.part.named_modules() if isinstance(module, nn.Conv2d))
    key = next(convs, None)
    if key not in plan.state or plan.state[key].ndim != 4:
        return
    rgb, channels = plan.state[key], target[key].shape[1]
    if rgb.shape[1] != 3 or channels == 3:
        return
    if channels == 1:
        plan.state[key] = rgb.sum(dim=1, keepdim=True)
    else:
        plan.state[key] = rgb[:, [i % 3 for i in range(channels)]] * (3 / channels)
    plan.adapted.append(key)
