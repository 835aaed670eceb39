"""Straight lines through costs, and the curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Line:
    """What costs at x are by least squares, `start + slope * x`, and the share of their variance that this explains."""

    start: float
    slope: float
    r2: float

    def at(self, x: float) -> float:
        """Return the cost at x."""
        return self.start + self.slope * x


def fit(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """Return the line through three points or more; where all costs are one, it explains all there is."""
    slope, start = map(float, np.polyfit(xs, ys, 1))
    mean = fmean(ys)
    total = sum((y - mean) ** 2 for y in ys)
    left = sum((y - start - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    return Line(start, slope, 1 - left / total if total else 1.0)


@dataclass(frozen=True)
class Curve:
    """What one step costs along one axis: seconds, and bytes where they are known, at each x.

    unit: of x. names: of the points, as they are to be read. base: which of them all curves have in common.
    """

    axis: str
    step: str
    unit: str
    names: tuple[str, ...]
    xs: tuple[float, ...]
    seconds: tuple[float, ...]
    memory: tuple[int | None, ...]
    base: int

    @property
    def line(self) -> Line:
        return fit(self.xs, self.seconds)

    @property
    def memory_line(self) -> Line | None:
        """Gigabytes; None where they are not known."""
        known = [value / 1e9 for value in self.memory if value is not None]
        return fit(self.xs, known) if len(known) == len(self.xs) else None

    @property
    def doubled(self) -> float:
        """How many times the base's seconds twice its x costs, by the line."""
        x = self.xs[self.base]
        return self.line.at(2 * x) / self.line.at(x)


COLOURS: Mapping[str, str] = {"inference": "tab:blue", "train": "tab:orange"}


def draw(path: Path, curves: Sequence[Curve], title: str) -> None:
    """Draw a panel for each axis, seconds above and gigabytes below; lines are the fits. The file is a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(curve.axis for curve in curves))
    rows = 2 if any(curve.memory_line for curve in curves) else 1
    figure = Figure(figsize=(3.0 * len(axes) + 0.4, 2.6 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, len(axes), squeeze=False)
    for curve in curves:
        above = panels[0, axes.index(curve.axis)]
        _draw(above, curve, curve.seconds, curve.line)
        above.set_title(curve.axis, fontsize=10)
        if curve.memory_line is not None:
            _draw(panels[1, axes.index(curve.axis)], curve, [(m or 0) / 1e9 for m in curve.memory], curve.memory_line)
    for row, unit in zip(panels, ("seconds", "GB"), strict=False):
        row[0].set_ylabel(unit, fontsize=9)
    panels[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(path, dpi=100)


def _draw(panel: Any, curve: Curve, ys: Sequence[float], line: Line) -> None:
    colour = COLOURS[curve.step]
    panel.plot(curve.xs, ys, "o", color=colour, markersize=4, label=curve.step)
    ends = (min(curve.xs), max(curve.xs))
    panel.plot(ends, [line.at(x) for x in ends], color=colour, linewidth=1)
    panel.set_xlabel(f"{curve.unit} ({curve.names[0]} … {curve.names[-1]})", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.set_ylim(0, max(1.1 * max(ys), panel.get_ylim()[1]))
    panel.set_xlim(0, 1.05 * max(curve.xs))
    panel.grid(alpha=0.3)
