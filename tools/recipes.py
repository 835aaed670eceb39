"""What a run says of its learning rate: what it is, and what its schedule was published with."""

from __future__ import annotations

import math
import re
from pathlib import Path

from ..backbones import InputError
from .config import read_schedule
from .scaling import RULES
from .settings import Config, Optim


def rate_line(config: Config) -> str:
    """Return the learning rate in one line, with that of the schedule and whether it follows from it."""
    optim = config.optim
    line = f"learning rate {optim.lr:.4g} for {optim.batch_size} images a step"
    published = _published_rate(config.choices.schedule, optim)
    if published is None:
        return line
    rate, images, expected = published
    schedule = Path(config.choices.schedule).stem
    if images == optim.batch_size and rate == optim.lr:
        return f"{line} (as {schedule})"
    return f"{line} ({schedule}: {rate:g} for {images:g}{', scaled' if math.isclose(optim.lr, expected) else ''})"


def _published_rate(schedule: str, optim: Optim) -> tuple[float, float, float] | None:
    """Return the rate that a schedule's file states, for how many images, and what follows for the run's batch size.

    None where the file states none for that optimiser, or is gone.
    """
    try:
        stated = read_schedule(schedule).get("optim", {})
    except InputError:
        return None
    found = re.fullmatch(r"\$\{(\w+):([^,]+),([^,]+)\}", str(stated.get("lr")))
    if found is None or found[1] not in RULES or stated.get("name", Optim.name) != optim.name:
        return None
    rate, images = float(found[2]), float(found[3])
    return rate, images, RULES[found[1]](rate, images, optim.batch_size)
