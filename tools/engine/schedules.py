"""The learning rate over time: a warm-up, and one of several decays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...backbones.errors import unknown
from ..settings import Optim, Schedule


def length(settings: Schedule, steps_per_epoch: float) -> int:
    """Return how many optimiser steps a schedule takes, at least one."""
    steps = settings.epochs * steps_per_epoch if settings.steps is None else settings.steps
    return max(1, round(steps))


def milestones(settings: Schedule, steps_per_epoch: float) -> list[int]:
    """Return the first step after each milestone."""
    unit = steps_per_epoch if settings.steps is None else 1.0
    # A hair less than the product, which may be a hair more than the whole number that it stands for.
    return [math.ceil(milestone * unit - 1e-6) for milestone in settings.milestones]


def learning_rate(settings: Schedule, optim: Optim, steps_per_epoch: float) -> Callable[[int], float]:
    """Return the learning rate as a function of the step, from 0.

    The rate of step s is that of s steps taken of all: the last step is not yet at the end of cosine or poly, as in
    torchvision's and detectron2's training (mmengine's has one step less in all, and reaches it). The warm-up is a
    factor on the decay, as detectron2's.
    """
    if settings.decay not in DECAYS:
        raise unknown("schedule.decay", settings.decay, DECAYS)
    decay = DECAYS[settings.decay]
    span = Span(length(settings, steps_per_epoch), milestones(settings, steps_per_epoch))

    def rate(step: int) -> float:
        warmed = min(1.0, step / settings.warmup_steps) if settings.warmup_steps else 1.0
        warmup = settings.warmup_factor + (1 - settings.warmup_factor) * warmed
        return optim.lr * warmup * (settings.floor + (1 - settings.floor) * decay(settings, span, step))

    return rate


@dataclass(frozen=True)
class Span:
    """A schedule in steps: how many there are, and the first after each milestone."""

    steps: int
    milestones: Sequence[int]


def _multistep(settings: Schedule, span: Span, step: int) -> float:
    return settings.gamma ** sum(step >= milestone for milestone in span.milestones)


def _cosine(settings: Schedule, span: Span, step: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, step / span.steps)))


def _poly(settings: Schedule, span: Span, step: int) -> float:
    return float((1 - min(1.0, step / span.steps)) ** settings.power)


DECAYS: dict[str, Callable[[Schedule, Span, int], float]] = {"multistep": _multistep, "cosine": _cosine, "poly": _poly}
