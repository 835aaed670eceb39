"""Names of backbones: who offers which, their patterns and their order. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import EntryPoint, entry_points

ENTRY_POINTS = "vertebra.backbones"
TIMM = "timm/"


@cache
def installed() -> Mapping[str, tuple[EntryPoint, ...]]:
    """Return the backbones that installed packages offer, by name; nothing of them is imported."""
    offered: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=ENTRY_POINTS):
        offered[point.name] = (*offered.get(point.name, ()), point)
    return offered


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names, each once, that match a shell pattern, such as `resnet*`, in the order of their numbers."""
    return sorted((name for name in set(names) if fnmatchcase(name, pattern)), key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort resnet18 before resnet101: runs of digits by value."""
    runs: list[str] = []
    for char in name:
        if runs and runs[-1].isdigit() == char.isdigit():
            runs[-1] += char
        else:
            runs.append(char)
    return [(int(run), "") if run.isdigit() else (-1, run) for run in runs]
