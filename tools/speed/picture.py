"""The picture of a contest: a group of bars for each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

# By how a contestant's name begins, the longest that fits; peers are grey, so that ours stand out.
COLOURS = {"torchvision": "0.55", "detectron2": "0.75", "vertebra": "C0", "vertebra.optimize": "C1"}


def draw(path: Path, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the medians of each step as bars, with a line from the shortest to the longest run, and ratios beside."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = [(step, list(of_step)) for step, of_step in groupby(rows, key=lambda row: row["step"])]
    heights = [0.9 + 0.32 * len(of_step) for _, of_step in groups]
    figure = Figure(figsize=(9, sum(heights) + 0.8), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (step, of_step) in zip(panels, groups, strict=True):
        _draw_step(panel, step, of_step)
    panels[-1].set_xlabel("seconds: median, and a line from the shortest run to the longest")
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(path, dpi=110)


def _draw_step(panel: Any, step: str, rows: Sequence[Mapping[str, Any]]) -> None:
    medians = [row["median"] for row in rows]
    spread = [[row["median"] - row["min"] for row in rows], [row["max"] - row["median"] for row in rows]]
    places = range(len(rows))
    colours = [COLOURS[max((name for name in COLOURS if row["name"].startswith(name)), key=len)] for row in rows]
    panel.barh(places, medians, xerr=spread, color=colours, ecolor="0.2", capsize=2, height=0.7)
    for place, row in zip(places, rows, strict=True):
        panel.annotate(
            f"{row['median']:.3g} s, {row['ratio']:.2f}x",
            (row["max"], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    panel.set_yticks(places, [row["name"] for row in rows], fontsize=8)
    panel.invert_yaxis()
    panel.set_xlim(0, max(row["max"] for row in rows) * 1.22)  # room for what is written beside the longest
    panel.set_title(step, loc="left", fontsize=10)
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)
