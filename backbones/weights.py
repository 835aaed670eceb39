"""Loading weights strictly: whatever is not loaded is listed, or the load fails."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .contract import Backbone
from .errors import InputError

RUN_CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class LoadReport:
    """What a load did: keys that were loaded, keys of the source that were dropped, keys that kept their values."""

    loaded: tuple[str, ...]
    dropped: tuple[str, ...]
    kept: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.loaded)} tensors loaded, {len(self.dropped)} dropped, {len(self.kept)} kept as they were"


def load_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Tensor]) -> LoadReport:
    """Load a state dict, a file (.pt, .pth, .safetensors) or a run folder into a model, and report what was done.

    Takes the weights of the same model; or, for a model with a backbone in it, those of the backbone alone (as
    torchvision publishes them, classifier included), and the rest keeps its values. Only the classifier, stages that
    are not built and `num_batches_tracked` may be left over. Anything else is an InputError that leaves the model be.
    """
    name, state = _read(source)
    trunk_prefix, trunk = _trunk(model)
    if _fits(model, state):
        return _load(model, "", model, state, name)
    if trunk is not None and trunk is not model and _fits(trunk, state):
        return _load(model, trunk_prefix, trunk, state, name)
    raise InputError(_misfit(model, state, name))


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


def _read(source: str | os.PathLike[str] | Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    name, content = (
        ("the state dict", source) if isinstance(source, Mapping) else (os.fspath(source), read_state(source))
    )
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{name} holds no state dict: a mapping from names to tensors is expected")
    return name, dict(content)


def _trunk(model: nn.Module) -> tuple[str, Backbone | None]:
    """Return the innermost backbone of a model, with its prefix: the network that public classifiers fit."""
    found: tuple[str, Backbone | None] = ("", None)
    for name, module in model.named_modules():
        if isinstance(module, Backbone):
            found = (f"{name}." if name else "", module)
    return found


def _split(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[set[str], set[str], set[str]]:
    """Return the keys that may be dropped, that are unexpected, and that are missing."""
    droppable = model.droppable_keys if isinstance(model, Backbone) else ()
    target = model.state_dict()
    left = {key for key in state if key not in target}
    dropped = {key for key in left if key.startswith(droppable) or key.endswith("num_batches_tracked")}
    missing = {key for key in target if key not in state and not key.endswith("num_batches_tracked")}
    return dropped, left - dropped, missing


def _fits(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    _, unexpected, missing = _split(model, state)
    target = model.state_dict()
    return not unexpected and not missing and all(target[k].shape == v.shape for k, v in state.items() if k in target)


def _load(whole: nn.Module, prefix: str, part: nn.Module, state: Mapping[str, Tensor], name: str) -> LoadReport:
    dropped, _, _ = _split(part, state)
    taken = {key: value for key, value in state.items() if key not in dropped}
    part.load_state_dict(taken, strict=False)  # only num_batches_tracked can be missing: _fits has checked the rest
    loaded = {f"{prefix}{key}" for key in taken}
    kept = [key for key in whole.state_dict() if key not in loaded]
    return LoadReport(tuple(sorted(loaded)), tuple(sorted(dropped)), tuple(kept))


def _misfit(model: nn.Module, state: Mapping[str, Tensor], name: str) -> str:
    _, unexpected, missing = _split(model, state)
    target = model.state_dict()
    faults = []
    if missing:
        faults.append(f"{len(missing)} keys are missing (as {min(missing)!r})")
    if unexpected:
        faults.append(f"{len(unexpected)} keys are unexpected (as {min(unexpected)!r})")
    for key, value in state.items():
        if key in target and target[key].shape != value.shape:
            faults.append(f"{key!r} has shape {tuple(value.shape)}, the model {tuple(target[key].shape)}")
            break
    return (
        f"{name} does not fit {type(model).__name__}: {'; '.join(faults)}. "
        "Give the weights of this very model, or of its backbone"
    )
