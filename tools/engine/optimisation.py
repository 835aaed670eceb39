"""The optimiser: which parameters decay, and how fast each group of them learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ...backbones import InputError
from ...backbones.errors import unknown
from ..settings import Optim


def make_optimiser(model: nn.Module, settings: Optim) -> torch.optim.Optimizer:
    """Return the optimiser of the trainable parameters.

    Norms and biases, which have one value for each channel, do not decay. Each group has a `factor` of the learning
    rate: `backbone_lr` where it is of the model's backbone, else 1. A pyramid's FPN is no part of that backbone, as it
    is as new as the head on it.
    """
    if settings.name not in OPTIMISERS:
        raise unknown("optim.name", settings.name, OPTIMISERS)
    named = [(parameter, factor) for parameter, factor in _factors(model, settings) if parameter.requires_grad]
    groups: Groups = [
        {
            "params": [p for p, own in named if own == factor and (p.ndim > 1) == decays],
            "weight_decay": settings.weight_decay if decays else 0.0,
            "factor": factor,
        }
        for factor in dict.fromkeys((1.0, settings.backbone_lr))
        for decays in (True, False)
    ]
    return OPTIMISERS[settings.name]([group for group in groups if group["params"]], settings)


def restore_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Bring back what an optimiser has gathered, from its `state_dict()`.

    Its settings stay those that it was made with, so that a run continued with other ones has them.
    """
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimiser.param_groups]
    try:
        optimiser.load_state_dict(dict(state))
    except ValueError as error:
        raise InputError(
            f"the checkpoint's optimiser has other groups of parameters than the run's ({error}); keep "
            "backbone.frozen_stages and optim.backbone_lr as the run began, or begin a new run from its weights"
        ) from error
    for group, own in zip(optimiser.param_groups, settings, strict=True):
        lacking = own.keys() - group.keys() - {"factor"}  # which checkpoints of earlier versions do not have
        if lacking:
            raise InputError(
                f"the checkpoint's optimiser has no {', '.join(sorted(lacking))}, so it is none of this kind; keep "
                "optim.name as the run began, or begin a new run from its weights"
            )
        group.update(own)


def _factors(model: nn.Module, settings: Optim) -> list[tuple[nn.Parameter, float]]:
    """Return each parameter with its factor of the learning rate."""
    backbone = getattr(model, "backbone", None)
    if settings.backbone_lr == 1:
        return [(parameter, 1.0) for parameter in model.parameters()]
    if not isinstance(backbone, nn.Module):
        raise InputError(
            f"optim.backbone_lr={settings.backbone_lr}, but {type(model).__name__} has no `backbone`; set it to 1"
        )
    body = {id(parameter) for parameter in getattr(backbone, "body", backbone).parameters()}
    return [(p, settings.backbone_lr if id(p) in body else 1.0) for p in model.parameters()]


Groups = list[dict[str, Any]]


# Fused kernels are there for each device that a run can have: CUDA, MPS and the CPU.
def _sgd(groups: Groups, settings: Optim) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, settings.lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=True)


def _adamw(groups: Groups, settings: Optim) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, settings.lr, betas=(settings.betas[0], settings.betas[1]), fused=True)


OPTIMISERS: dict[str, Callable[[Groups, Optim], torch.optim.Optimizer]] = {"sgd": _sgd, "adamw": _adamw}
