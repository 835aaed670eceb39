"""Who is measured: a row for each way to run the model, all with the same random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from ...backbones import Preprocessing
from ...backbones.fast_convs import use_fast_convs_
from ...heads import load_weights
from ...heads.images import make_batch
from ..memory import keep_freed_memory, map_large_tensors
from ..peers import freeze_, our_model, peer_of
from .case import Case
from .detectron2_peer import detectron2_model
from .hardware import DTYPES
from .steps import RATE, Contestant, plain_sgd

# What makes a contestant: from the case, the step, the name of a dtype, and torchvision's model, which may be changed.
Build = Callable[[Case, str, str, nn.Module], dict[str, Any]]


# --- ways to run it --------------------------------------------------------------------------------------------------


def _as_it_ships(case: Case, step: str, dtype: str, reference: nn.Module) -> dict[str, Any]:
    return {"model": reference, "memory": map_large_tensors, "optimiser": plain_sgd}


def _equal(case: Case, step: str, dtype: str, reference: nn.Module) -> dict[str, Any]:
    """Return torchvision's model in the layout that ours chooses for itself, with our autocast, compile and SGD."""
    with torch.set_grad_enabled(step == "train"):
        probe = make_batch([torch.zeros(3, 32, 32, device=case.device)], Preprocessing(), None).images
    if probe.is_contiguous(memory_format=torch.channels_last):
        reference.to(memory_format=torch.channels_last)
        reference.get_submodule("backbone").register_forward_pre_hook(_to_channels_last)
    if case.compiled:
        for name in peer_of(case.head).trunk:
            reference.get_submodule(name).compile()
    return {"model": reference, "autocast": _autocast(dtype), "optimiser": partial(plain_sgd, fused=True)}


def _detectron2(case: Case, step: str, dtype: str, reference: nn.Module) -> dict[str, Any]:
    classes = peer_of(case.head).classes
    model = detectron2_model(case.head, case.backbone, classes, case.objects, reference, _frozen(case, step))
    return {"model": model, "memory": map_large_tensors, "optimiser": lambda made: made.optimiser(RATE)}


def _ours(
    case: Case, step: str, dtype: str, reference: nn.Module, *, checkpointing: bool = False, fast: bool = False
) -> dict[str, Any]:
    model = our_model(
        case.head, case.backbone, case.size, case.objects,
        frozen_stages=_frozen(case, step), checkpointing=checkpointing,
    ).to(case.device)  # fmt: skip
    load_weights(model, reference.state_dict())
    if fast:
        use_fast_convs_(model)
    if case.compiled:
        model.compile()
    # As `train`: with checkpointing memory that is freed goes back to the system.
    return {
        "model": model,
        "autocast": _autocast(dtype),
        "memory": map_large_tensors if checkpointing else keep_freed_memory,
    }


def _optimised(case: Case, step: str, dtype: str, reference: nn.Module) -> dict[str, Any]:
    from ...backbones.optimise import optimize  # here, as it is the one row that needs it

    model = our_model(case.head, case.backbone, case.size, case.objects).to(case.device)
    load_weights(model, reference.state_dict())
    return {"model": optimize(model, dtype=dtype, compiled=case.compiled)}


def _frozen(case: Case, step: str) -> int:
    return case.frozen_stages if step == "train" else 0


def _autocast(dtype: str) -> torch.dtype | None:
    return None if dtype == "float32" else DTYPES[dtype]


def _to_channels_last(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].contiguous(memory_format=torch.channels_last),)


# --- the rows --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A way to run the model.

    library: whose it is, where it is not ours; it is there when asked for. steps: those that it has. as_asked: it comes
    in each dtype of `dtypes` that is asked for, and compiled if that is; else as it ships, in float32. wanted: whether
    a case has it. kind: whose parts it has (see `parts.py`), None where it is not taken apart.
    """

    name: str
    build: Build
    library: str | None = None
    steps: tuple[str, ...] = ("inference", "rle", "train")
    as_asked: bool = True
    dtypes: tuple[str, ...] = tuple(DTYPES)
    wanted: Callable[[Case], bool] = lambda case: True
    kind: str | None = None


# The first is what the others are compared with. What wants the same of the C library stands together.
ROWS: Sequence[Row] = (
    Row("torchvision as it ships", _as_it_ships, "torchvision", as_asked=False, kind="torchvision"),
    Row("detectron2 as it ships", _detectron2, "detectron2", as_asked=False),
    Row("torchvision, equal settings", _equal, "torchvision", kind="torchvision"),
    Row("vertebra", _ours, kind="vertebra"),
    Row(
        "vertebra, fast convolutions",
        partial(_ours, fast=True),
        steps=("train",),
        dtypes=("float32",),
        wanted=lambda case: case.device.type == "cpu",
        kind="vertebra",
    ),
    Row(
        "vertebra, checkpointing",
        partial(_ours, fast=True, checkpointing=True),
        steps=("train",),
        wanted=lambda case: case.checkpointing,
        kind="vertebra",
    ),
    Row("vertebra.optimize", _optimised, steps=("inference", "rle"), kind="vertebra"),
)


@dataclass(frozen=True)
class Entry:
    """A row in a dtype."""

    row: Row
    dtype: str
    compiled: bool

    @property
    def name(self) -> str:
        if not self.row.as_asked:
            return self.row.name
        return ", ".join([self.row.name, self.dtype, *(["compiled"] if self.compiled else [])])


def entries(case: Case, step: str) -> list[Entry]:
    """Return who takes part in a step."""
    rows = [
        row
        for row in ROWS
        if step in row.steps and row.wanted(case) and (row.library is None or row.library in case.libraries)
    ]
    return [
        Entry(row, dtype, case.compiled and row.as_asked)
        for row in rows
        for dtype in (case.dtypes if row.as_asked else ("float32",))
        if dtype in row.dtypes
    ]


def contestant(case: Case, step: str, entry: Entry, reference: nn.Module) -> Contestant:
    """Return an entry's model with the weights of the reference, which stays as it is."""
    return Contestant(
        name=entry.name, dtype=entry.dtype, **entry.row.build(case, step, entry.dtype, deepcopy(reference))
    )


def reference_of(case: Case, step: str, images: Sequence[Tensor]) -> nn.Module:
    """Return torchvision's model with random weights that find something in the images."""
    torch.manual_seed(0)
    peer = peer_of(case.head)
    reference = peer.reference(case.backbone, peer.classes, case.size, case.objects).to(case.device)
    calibrate_(reference, reference.get_submodule(peer.class_scores), images)
    freeze_(reference, _frozen(case, step))
    return reference


@torch.no_grad()
def calibrate_(model: nn.Module, class_scores: nn.Module, images: Sequence[Tensor]) -> None:
    """Give random weights what a trained model has: activations of unit size, and classes to be found.

    The norms take the statistics of these images; the class scores are centred and spread, so that some are high.
    """

    def measure(norm: Any, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.fill_(variance.mean())  # one for all channels: a small image leaves some without any

    def spread(layer: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        scores = output.transpose(0, 1).flatten(1)  # (K, objects) or (K, N * h * w)
        mean = scores.mean(dim=1)
        factor = 2.5 / (scores - mean[:, None]).std()
        layer.weight.mul_(factor)
        layer.bias.copy_((layer.bias - mean) * factor)
        changed: Tensor = layer.forward(inputs[0])  # norms that follow take the statistics of what is found
        return changed

    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    hooks.append(class_scores.register_forward_hook(spread))
    model.eval()(list(images))
    for hook in hooks:
        hook.remove()
