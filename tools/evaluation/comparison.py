"""Two evaluations of the same images against each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...backbones import InputError
from .bootstrap import Interval, PerImage, around, draws
from .table import table


@dataclass(frozen=True)
class Comparison:
    """One metric of two evaluations, their difference, and the images on which they differ.

    difference: a - b, above 0 where the first is better. changed: (name, quality of a, quality of b), the most changed
    first; quality is NaN where there is nothing to score, which counts as 1. Images without a change are left out.
    """

    metric: str
    a: float
    b: float
    difference: Interval
    changed: tuple[tuple[str, float, float], ...]


def compare(a: PerImage, b: PerImage, *, repeats: int = 400, seed: int = 0) -> Comparison:
    """Return the comparison; its interval is paired: each draw of images is the same for both.

    What makes an image hard is hard for both, and falls out of the difference, so that this interval is narrower than
    those of the two values. An InputError where the images or the metrics differ.
    """
    _check(a, b)
    count = len(a.names)
    everything = np.ones(count)
    of_a, of_b = a.value(everything), b.value(everything)
    drawn = [a.value(counts) - b.value(counts) for counts in draws(count, repeats, seed)]
    return Comparison(a.metric, of_a, of_b, around(of_a - of_b, drawn), _changed(a, b))


def comparison_text(comparison: Comparison, names: tuple[str, str], count: int) -> str:
    """Return both values, the difference with its interval, and a table of the `count` most changed images.

    names: of the two evaluations, in the comparison's order.
    """
    c, (first, second) = comparison, names
    difference = c.difference
    lines = [
        f"{c.metric}: {first} {c.a:.3f}, {second} {c.b:.3f}",
        f"difference {difference.value:+.3f}, 95 % interval {difference.low:+.3f} to {difference.high:+.3f}: "
        + _verdict(difference, first, second),
    ]
    shown = c.changed[:count]
    if not shown:
        return "\n".join([*lines, "no image has another quality"])
    rows = [(name, _dash(a), _dash(b), _scored(a) - _scored(b)) for name, a, b in shown]
    head = f"the {len(shown)} most changed of {len(c.changed)} images with another quality:"
    return "\n".join([*lines, "", head, *table(("image", "a", "b", "a - b"), rows), f"a: {first}; b: {second}"])


def _check(a: PerImage, b: PerImage) -> None:
    if a.metric != b.metric:
        raise InputError(f"{a.metric} and {b.metric} came; a comparison needs one metric of both")
    if list(a.names) != list(b.names):
        only = sorted(set(a.names) ^ set(b.names))
        what = f"{len(only)} images are in one of them only, first {only[0]!r}" if only else "their order differs"
        raise InputError(
            f"evaluations of {len(a.names)} and {len(b.names)} images came, and {what}; evaluate both on the same data"
        )


def _changed(a: PerImage, b: PerImage) -> tuple[tuple[str, float, float], ...]:
    rows = [(name, float(of_a), float(of_b)) for name, of_a, of_b in zip(a.names, a.quality, b.quality, strict=True)]
    differing = [row for row in rows if _scored(row[1]) != _scored(row[2])]
    return tuple(sorted(differing, key=lambda row: -abs(_scored(row[1]) - _scored(row[2]))))


def _scored(quality: float) -> float:
    return 1.0 if math.isnan(quality) else quality


def _dash(quality: float) -> float | None:
    return None if math.isnan(quality) else quality


def _verdict(difference: Interval, first: str, second: str) -> str:
    if math.isnan(difference.low):
        return "nothing can be measured"
    if difference.low > 0:
        return f"{first} is better than {second} on images like these"
    if difference.high < 0:
        return f"{second} is better than {first} on images like these"
    return "no difference can be told on these images"
