"""What values settings may have."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import TYPE_CHECKING

from ..backbones import InputError

if TYPE_CHECKING:
    from .settings import Config, Schedule

LEAST: dict[str, float] = {
    "schedule.epochs": 0,
    "schedule.steps": 1,
    "schedule.warmup_steps": 0,
    "schedule.power": 0,
    "optim.batch_size": 1,
    "optim.accumulation": 1,
    "optim.lr": 0,
    "optim.backbone_lr": 0,
    "optim.weight_decay": 0,
    "engine.workers": 0,
    "engine.log_every": 1,
    "engine.checkpoint_every": 1,
    "engine.keep": 1,
    "engine.loss_images": 0,
    "engine.precise_norms": 0,
    "engine.skip_limit": 0,
    "engine.pictures": 0,
    "data.held_out": 0,
    "data.margin": 0,
    "data.empty_ratio": 0,
    "data.channels": 1,
    "data.limit": 1,
    "transforms.short": 32,
    "transforms.longest": 32,
}

# Shares, and factors that are no more than 1.
SHARES = ("schedule.warmup_factor", "schedule.gamma", "schedule.floor")

# (more than, less than, what else to say)
BETWEEN: dict[str, tuple[float, float, str]] = {
    "optim.ema": (0, 1, ", as 0.9998, or null"),
    "optim.clip_norm": (0, math.inf, ", or null"),
    "engine.evaluate_every": (0, math.inf, ": it counts epochs, or is null"),
}


def check(config: Config) -> None:
    """Refuse what no run can have; a setting that is null is as it should be."""
    for key, least in LEAST.items():
        value = attrgetter(key)(config)
        if value is not None and value < least:
            raise InputError(f"{key}={value}; it must be at least {least:g}")
    for key in SHARES:
        value = attrgetter(key)(config)
        if not 0 <= value <= 1:
            raise InputError(f"{key}={value}; it is from 0 to 1")
    for key, (low, high, more) in BETWEEN.items():
        value = attrgetter(key)(config)
        if value is not None and not low < value < high:
            allowed = f"more than {low}" if math.isinf(high) else f"between {low} and {high}"
            raise InputError(f"{key}={value}; it is {allowed}{more}")
    for key, values in (("momentum", (config.optim.momentum,)), ("betas", config.optim.betas)):
        if not all(0 <= value < 1 for value in values):
            raise InputError(f"optim.{key}={', '.join(map(str, values))}; from 0 to less than 1")
    if config.optim.nesterov and config.optim.momentum == 0:
        raise InputError("optim.nesterov=true needs optim.momentum above 0")
    _check_milestones(config.schedule)


def _check_milestones(schedule: Schedule) -> None:
    """Refuse milestones that were meant as epochs in a schedule that counts steps, and the other way round."""
    if schedule.decay != "multistep" or not schedule.milestones:
        return
    milestones = ", ".join(f"{milestone:g}" for milestone in schedule.milestones)
    if schedule.steps is not None and max(schedule.milestones) < schedule.steps / 10:
        raise InputError(
            f"schedule.milestones=[{milestones}] count steps, as schedule.steps={schedule.steps} is set, but look like "
            "epochs; set them, too"
        )
    if schedule.steps is None and min(schedule.milestones) > max(1000, 100 * schedule.epochs):
        raise InputError(
            f"schedule.milestones=[{milestones}] count epochs, as schedule.epochs={schedule.epochs:g} does, but look "
            "like steps; set them, too"
        )
