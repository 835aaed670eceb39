"""Counts of what was found for what is true."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...backbones import InputError


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes as a tuple; an InputError where there are none, or one is there twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice or not names:
        came = f"{', '.join(map(repr, twice))} twice" if names else "no names of classes"
        raise InputError(f"{came} came; an evaluation needs one name for each class, no two alike")
    return tuple(names)


def check_image_names(names: Sequence[str] | None, count: int) -> Sequence[str | None]:
    """Return a name, or None, for each of `count` images; an InputError where there are more or fewer."""
    if names is None:
        return [None] * count
    if len(names) != count:
        raise InputError(f"{len(names)} names came for {count} images; each image has one")
    return names


def numbered(names: Sequence[str | None]) -> list[str]:
    """Return the names of images, in which those without one have their number."""
    return [f"image {row}" if name is None else name for row, name in enumerate(names)]


def confusion(truth: Tensor, found: Tensor, classes: int, counted: Tensor) -> Tensor:
    """Return (classes, classes), int64: how often the class of the row is true and that of the column was found.

    truth, found: integers of one shape, in 0..classes-1 where `counted` (bool, of that shape) holds.
    """
    # One bin more, for what is not counted: picking out the counted values takes seven times as long.
    bins = torch.where(counted, truth * classes + found, classes * classes)
    counts = torch.bincount(bins.flatten(), minlength=classes * classes + 1)
    return counts[:-1].reshape(classes, classes)
