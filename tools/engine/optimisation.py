"""The optimiser and the learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...backbones.errors import unknown
from ..config import Optim, Schedule


def make_optimiser(model: nn.Module, settings: Optim) -> torch.optim.Optimizer:
    """Return the optimiser of the trainable parameters; norms and biases (one value per channel) do not decay."""
    if settings.name not in OPTIMISERS:
        raise unknown("optim.name", settings.name, OPTIMISERS)
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups: Groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMISERS[settings.name]([group for group in groups if group["params"]], settings)


Groups = list[dict[str, Any]]


def _sgd(groups: Groups, settings: Optim) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, settings.lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=True)


def _adamw(groups: Groups, settings: Optim) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, settings.lr, fused=True)


OPTIMISERS: dict[str, Callable[[Groups, Optim], torch.optim.Optimizer]] = {"sgd": _sgd, "adamw": _adamw}


def learning_rate(settings: Schedule, optim: Optim, steps_per_epoch: float) -> Callable[[int], float]:
    """Return the learning rate as a function of the step, from 0."""
    if settings.decay not in DECAYS:
        raise unknown("schedule.decay", settings.decay, DECAYS)
    decay = DECAYS[settings.decay]

    def rate(step: int) -> float:
        warmed = min(1.0, step / settings.warmup_steps) if settings.warmup_steps else 1.0
        warmup = settings.warmup_factor + (1 - settings.warmup_factor) * warmed
        return optim.lr * warmup * decay(settings, step / steps_per_epoch)

    return rate


def _multistep(settings: Schedule, epoch: float) -> float:
    return settings.gamma ** sum(epoch >= milestone for milestone in settings.milestones)


def _cosine(settings: Schedule, epoch: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / settings.epochs)))


def _poly(settings: Schedule, epoch: float) -> float:
    return float((1 - min(1.0, epoch / settings.epochs)) ** settings.power)


DECAYS: dict[str, Callable[[Schedule, float], float]] = {"multistep": _multistep, "cosine": _cosine, "poly": _poly}
