"""How a run was trained, as its report shows it."""

from __future__ import annotations

import math
from pathlib import Path

from ..curves import HEADLINES, HELD_OUT, RAW, points_of, rates_of, read_log
from .content import Learning, Points

# More points than a screen has pixels only make the page large.
MOST_POINTS = 1000


def read_learning(run: Path) -> Learning | None:
    """Return the losses, metrics and learning rates of a run's log; None where there is no log, or no step in it.

    Of long logs the means of as many steps as leave at most 1000 points; what is not finite is left out.
    """
    if not (run / "log.jsonl").is_file():
        return None
    records = read_log(run)
    losses, scores = points_of(records)
    if not losses:
        return None
    shown = [name for headline in HEADLINES for name in (headline, f"{RAW}{headline}") if name in scores]
    return Learning(
        loss=thinned(losses),
        held_out=thinned(scores.get(HELD_OUT, [])),
        metrics={name: thinned(scores[name]) for name in shown},
        learning_rate=thinned(rates_of(records)),
    )


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """Return at most `most` points: the means of neighbours, each at the last step of its own."""
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    width = max(1, -(-len(finite) // most))
    groups = [finite[i : i + width] for i in range(0, len(finite), width)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
