"""Loading weights strictly: whatever is not loaded is listed, or the load fails."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .contract import Backbone, Preprocessing
from .errors import InputError
from .norms import FrozenBatchNorm2d
from .tensor_files import WEIGHT_SUFFIXES, read_state

if TYPE_CHECKING:
    from .records import WeightsRecord

Categories = tuple[tuple[int, str], ...]

# What the keys of the backbone begin with in checkpoints of whole models: ours and torchvision's; on our adapters also
# those of detectron2, mmdetection, segmentation_models.pytorch and timm.
IN_MODELS = ("backbone.body.", "backbone.", "backbone.bottom_up.body.", "encoder.body.", "body.")
# Where the adapter for segmentation_models.pytorch keeps mean and deviation, (2, C).
STATISTICS = "encoder._extra_state"

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)


@dataclass(frozen=True)
class LoadReport:
    """What a load did, in keys of the model, but for `dropped`, which are the source's.

    loaded: those that have new values. dropped: what the source has and the model did not take. kept: those that
    kept their values. renamed: (key of the source, key of the model). adapted: input convolutions whose RGB weights
    were fitted to another number of channels. reset: those of the layers that depend on the classes, where
    `reset_classes` left them as they were. categories: (id, name) for each label of the model from 1, where the source
    names them and its class layers were loaded.
    """

    loaded: tuple[str, ...]
    dropped: tuple[str, ...]
    kept: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...] = ()
    adapted: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    categories: Categories | None = None

    @property
    def reset_layers(self) -> tuple[str, ...]:
        """The layers of `reset`, each once."""
        return tuple(dict.fromkeys(key.rpartition(".")[0] for key in self.reset))

    def counts(self) -> str:
        """Say what was done, but for `reset`."""
        text = f"{len(self.loaded)} tensors loaded, {len(self.dropped)} dropped, {len(self.kept)} kept as they were"
        if self.renamed:
            text += f", {len(self.renamed)} renamed"
        return text + "".join(f", {key} adapted from RGB" for key in self.adapted)

    def __str__(self) -> str:
        return self.counts() + (f", re-initialised: {', '.join(self.reset_layers)}" if self.reset else "")


@dataclass(frozen=True)
class Source:
    """Weights that were read, with what is known of them.

    norm, norm_eps: of the backbone. categories: (id, name) for each label from 1. renames: (pattern, replacement) pairs
    that turn the keys of a whole model into our own, applied in order. advice: what to do where they do not fit.
    """

    name: str
    state: Mapping[str, Tensor]
    preprocessing: Preprocessing | None = None
    norm: str | None = None
    norm_eps: float | None = None
    categories: Categories | None = None
    renames: tuple[tuple[str, str], ...] = ()
    advice: str = "Give the weights of this very model, or of its backbone"


def load_weights(
    model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any], *, reset_classes: bool = False
) -> LoadReport:
    """Load a state dict, a file (.pt, .pth, .safetensors) or a run folder into a model, and report what was done.

    Takes the weights of the same model; or, for a model with a backbone in it, those of the backbone alone (as
    torchvision and timm publish them, classifier included), or of a model of another kind on the same backbone (a
    classifier's for a detector), and the rest keeps its values. Only the classifier, that other model's head, stages
    that are not built and `num_batches_tracked` may be left over. Anything else is an InputError that leaves the model
    be. RGB weights fit a backbone with other `in_channels`: summed for one channel, else repeated in order and scaled
    by 3 / channels, so that the sum stays. Preprocessing and norms' eps that the source records are the backbone's from
    then on.

    reset_classes: for fine-tuning on other classes. The weights of the same model but for the classes are loaded; the
    layers that depend on them (the model's `class_layers`) keep their values, in a new model their initialisation.
    """
    return load_source(model, read_source(source), reset_classes=reset_classes)


def load_source(model: nn.Module, source: Source, *, reset_classes: bool = False) -> LoadReport:
    """Load weights that were read, as `load_weights` does."""
    prefix, trunk = _trunk(model)
    layers = class_layers(model)
    if reset_classes and not layers:
        raise InputError(
            f"reset_classes=True, but {type(model).__name__} has no layers that depend on the classes (class_layers)"
        )
    plan = _plan(model, "", source, layers if reset_classes else ())
    if plan.faults and trunk is not None and not reset_classes:
        of_trunk = [_plan(trunk, prefix, source), *_plans_from_models(model, trunk, prefix, source)]
        plan = next((other for other in of_trunk if not other.faults), plan)
    if plan.faults:
        advice = source.advice
        if layers and not reset_classes and not _plan(model, "", source, layers).faults:
            advice = "Only layers that depend on the classes differ: reset_classes=True loads all the others"
        raise InputError(f"{source.name} does not fit {type(model).__name__}: {'; '.join(plan.faults)}. {advice}")
    plan.part.load_state_dict(plan.state, strict=False)  # num_batches_tracked alone can be missing
    if trunk is not None and source.preprocessing is not None:
        trunk.preprocessing = source.preprocessing.for_channels(len(trunk.preprocessing.mean))
    if trunk is not None and source.norm_eps is not None:
        _set_eps(trunk, source.norm_eps)
    loaded = {f"{plan.prefix}{key}" for key in plan.state}
    reset = tuple(key for key in model.state_dict() if key.startswith(layers)) if reset_classes else ()
    return LoadReport(
        tuple(sorted(loaded)),
        tuple(sorted(plan.dropped)),
        tuple(key for key in model.state_dict() if key not in loaded and key not in reset),
        tuple((key, f"{plan.prefix}{own}") for key, own in plan.renamed),
        tuple(f"{plan.prefix}{key}" for key in plan.adapted),
        reset,
        source.categories if plan.part is model and not reset_classes else None,
    )


def load_record(model: nn.Module, record: WeightsRecord) -> LoadReport:
    """Load published weights into a backbone or a model around it, with their preprocessing and their norms' eps."""
    if _trunk(model)[1] is None:
        raise InputError(f"{type(model).__name__} has no vertebra.Backbone in it to load {record.tag} into")
    return load_source(model, Source(record.tag, record.fetch(), record.preprocessing, norm_eps=record.eps))


def class_layers(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the keys whose shapes depend on the number of classes; a backbone has none."""
    layers: tuple[str, ...] = getattr(model, "class_layers", ())
    return layers


def is_path(text: str) -> bool:
    """Tell a file or a run folder from a tag such as `imagenet`."""
    return "/" in text or os.sep in text or Path(text).suffix in WEIGHT_SUFFIXES or Path(text).exists()


def recorded_preprocessing(model: nn.Module) -> dict[str, list[float]]:
    """Return the preprocessing in plain lists, as a checkpoint keeps it beside the weights for `load_weights`."""
    _, trunk = _trunk(model)
    assert trunk is not None
    return {"mean": list(trunk.preprocessing.mean), "std": list(trunk.preprocessing.std)}


def recorded_norm_eps(model: nn.Module) -> float | None:
    """Return the eps that all norms of the backbone share, as a checkpoint keeps it; None where there is no such one.

    A network whose norms differ has been built so, and will be built so again.
    """
    _, trunk = _trunk(model)
    assert trunk is not None
    found = {module.eps for module in trunk.modules() if isinstance(module, _NORMS)}
    return float(found.pop()) if len(found) == 1 else None


def read_source(source: str | os.PathLike[str] | Mapping[str, Any]) -> Source:
    """Read a state dict, a file or a run folder, with what a checkpoint records beside the weights.

    Of a checkpoint with a moving average of the weights (`ema`), that is read, as evaluation and prediction do.
    """
    name, content = (
        ("the state dict", source) if isinstance(source, Mapping) else (os.fspath(source), read_state(source))
    )
    facts = _facts(content)
    for wrapper in ("ema", "model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{name} holds no state dict: a mapping from names to tensors is expected")
    if STATISTICS in content and "preprocessing" not in facts:
        facts["preprocessing"] = Preprocessing(*map(tuple, content[STATISTICS].tolist()))
    return Source(name, dict(content), **facts)


def _facts(content: object) -> dict[str, Any]:
    """Return what a checkpoint records beside its weights, as arguments of Source; other people's may use the names."""
    found: dict[str, Any] = {}
    if not isinstance(content, Mapping):
        return found
    if isinstance(recorded := content.get("preprocessing"), Mapping):
        found["preprocessing"] = Preprocessing(tuple(recorded["mean"]), tuple(recorded["std"]))
    if isinstance(eps := content.get("norm_eps"), float):
        found["norm_eps"] = eps
    pairs = content.get("categories")
    if isinstance(pairs, (list, tuple)) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        found["categories"] = tuple((int(id), str(name)) for id, name in pairs)
    return found


def _set_eps(trunk: Backbone, eps: float) -> None:
    for module in trunk.modules():
        # A norm of the batch's own statistics divides by 0 where a channel is dead; eps 0 is for constants alone.
        if isinstance(module, FrozenBatchNorm2d) or (eps > 0 and isinstance(module, _NORMS)):
            module.eps = eps


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


def _plan(part: nn.Module, prefix: str, source: Source, skipped: tuple[str, ...] = ()) -> _Plan:
    """Plan a load; the model's keys that begin with one of `skipped` keep their values, the source's are dropped."""
    target = {key: value for key, value in part.state_dict().items() if not key.startswith(skipped)}
    droppable: tuple[str, ...] = getattr(part, "droppable_keys", ())
    renames = part.renames if isinstance(part, Backbone) else source.renames
    plan = _Plan(part, prefix, {}, [], [], [], [])
    unexpected = []
    for key, value in source.state.items():
        own = _renamed(key, renames)
        if own in target:
            plan.state[own] = value
            if own != key:
                plan.renamed.append((key, own))
        elif own.startswith((*droppable, *skipped)) or own.endswith("num_batches_tracked"):
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


def _plans_from_models(model: nn.Module, trunk: Backbone, prefix: str, source: Source) -> Iterator[_Plan]:
    """Plan to take the backbone out of a model of another kind: one whose other keys are none of this model's.

    A model of the same kind that does not fit is a mistake, of which taking its backbone alone would say nothing.
    """
    own = model.state_dict().keys()
    for outer in IN_MODELS:
        inside = {key.removeprefix(outer): value for key, value in source.state.items() if key.startswith(outer)}
        outside = [key for key in source.state if not key.startswith(outer)]
        if inside and not own & set(outside):
            plan = _plan(trunk, prefix, replace(source, state=inside))
            plan.renamed = [(f"{outer}{key}", new) for key, new in plan.renamed]
            plan.dropped = [*outside, *(f"{outer}{key}" for key in plan.dropped)]
            yield plan


def _renamed(key: str, renames: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
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
