"""What follows from the number of images in a step: resolvers that the YAML files may use.

A schedule is published for a batch size, and trains on so many images. With `optim.batch_size` set to another number
the files' `${scaled:0.02,16}` and `${steps:90000,16}` follow it; a number in their place stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

from ..backbones import InputError


def scaled(rate: float, images: float, batch_size: int) -> float:
    """Return the rate of SGD, which grows with the images of a step (arXiv:1706.02677)."""
    return rate * batch_size / images


def root_scaled(rate: float, images: float, batch_size: int) -> float:
    """Return the rate of AdamW, which grows with the root of the images of a step (arXiv:2205.10287)."""
    return rate * math.sqrt(batch_size / images)


def steps(count: float, images: float, batch_size: int) -> int:
    """Return how many steps see the images of `count` steps, of so many each."""
    return max(1, round(count * images / batch_size))


RULES: dict[str, Callable[[float, float, int], float]] = {"scaled": scaled, "root_scaled": root_scaled, "steps": steps}


def register_rules() -> None:
    """Make the rules known to OmegaConf by their names; they read the batch size of the settings that they stand in."""
    for name, rule in RULES.items():
        OmegaConf.register_resolver(name, _resolver(name, rule), replace=True)


def _resolver(name: str, rule: Callable[[float, float, int], float]) -> Callable[..., Any]:
    def resolve(*given: Any, _root_: Any) -> Any:
        if len(given) != 2 or not all(isinstance(value, int | float) and value > 0 for value in given):
            raise InputError(f"${{{name}:{','.join(map(str, given))}}}; write two numbers, a value and its batch size")
        return rule(given[0], given[1], max(1, _root_.optim.batch_size))

    return resolve
