"""How far a metric would move had other images of the same kind been drawn: the bootstrap over images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# So many standard errors to either side make an interval of 95 %.
WIDTH = 1.96


class PerImage(Protocol):
    """What is known image by image of one evaluation, so that its metric can be had for any choice of images."""

    @property
    def names(self) -> Sequence[str]:
        """The images, as file names."""
        ...

    @property
    def quality(self) -> Array:
        """(images,), 0 to 1: what images are ranked by; NaN where there is nothing to score."""
        ...

    @property
    def metric(self) -> str:
        """The metric's name, as `bbox/AP`."""
        ...

    def value(self, counts: Array) -> float:
        """Return the metric if image i is there counts[i] times (images,); NaN where nothing can be measured."""
        ...


@dataclass(frozen=True)
class Interval:
    """A metric and the ends of its interval of 95 %; NaN where nothing can be measured."""

    value: float
    low: float
    high: float


def interval(images: PerImage, *, repeats: int = 200, seed: int = 0) -> Interval:
    """Return the metric, 0 to 1, with its interval: the images are drawn anew `repeats` times, with replacement.

    It tells what the choice of images does to the number, not what another training would. Of one image it has no
    width.
    """
    count = len(images.names)
    found = around(images.value(np.ones(count)), [images.value(counts) for counts in draws(count, repeats, seed)])
    return Interval(found.value, max(found.low, 0.0), min(found.high, 1.0))


def draws(images: int, repeats: int, seed: int) -> Iterator[Array]:
    """Yield `repeats` times how often each image is drawn, (images,) int64, if as many are drawn with replacement."""
    rng = np.random.default_rng(seed)
    for _ in range(repeats if images else 0):
        yield np.bincount(rng.integers(images, size=images), minlength=images)


def around(value: float, drawn: Sequence[float]) -> Interval:
    """Return the value and WIDTH times its standard error to either side, which is the spread of the drawn values.

    Draws in which nothing can be measured are left out. Not between percentiles of the draws: these lie too high, as a
    draw has copies of images, which make precision smooth, and with few images may all be above the value itself.
    """
    measured = np.asarray(drawn, np.float64)
    measured = measured[~np.isnan(measured)]
    if len(measured) < 2:
        return Interval(value, float("nan"), float("nan"))
    error = WIDTH * float(measured.std(ddof=1))
    return Interval(value, value - error, value + error)
