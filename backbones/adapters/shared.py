"""What all adapters share: how levels are counted, and what is said where a framework is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..contract import FeatureInfo
from ..errors import InputError
from ..registry import Choose, default_features, row

Levels = tuple[FeatureInfo, ...]
Count = Callable[[Levels], Levels]


def missing(error: ImportError, package: str, install: str) -> ImportError:
    """Return what to raise where `package` cannot be imported: how to install it, or what is wrong inside it."""
    if (error.name or "").partition(".")[0] != package:
        return error  # it is there; something that it needs is not
    return ImportError(f"this adapter needs {package}, which is not installed: {install}", name=package)


def every_level(levels: Levels) -> Levels:
    """Count all levels of a backbone, the stem's included."""
    return levels


def default_levels(name: str) -> Count:
    """Count the levels that a backbone gives by default: of a ResNet the stages, so that 0 is c2."""
    names = default_features(row(name))
    return lambda levels: tuple(level for level in levels if names is None or level.name in names)


def at(indices: Sequence[int], option: str, counted: Count = every_level) -> Choose:
    """Return what chooses the levels at these indices for `create_backbone`; negative ones count from the end.

    option: what the framework calls the indices, for the error.
    """

    def choose(features: Levels) -> tuple[str, ...]:
        levels = counted(features)
        if not indices or not all(-len(levels) <= index < len(levels) for index in indices):
            there = ", ".join(f"{i} ({level.channels}@{level.stride})" for i, level in enumerate(levels))
            raise InputError(f"{option}={tuple(indices)}; the levels (channels@stride) of this backbone are {there}")
        return tuple(levels[index].name for index in indices)

    return choose
