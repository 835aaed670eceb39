"""The images worth looking at: the worst and the best of a stream."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from ..evaluation.reduction import gathered

T = TypeVar("T")
U = TypeVar("U")

# So many of each does a report show.
COUNT = 24


class Kept(NamedTuple, Generic[T]):
    """An image that was kept: its quality, its row in the data set, and what was made of it."""

    quality: float
    row: int
    payload: T


class Extremes(Generic[T]):
    """Keeps what belongs to the `count` worst and the `count` best images of a stream, and nothing of the others.

    Of equal quality the image of the lower row is the worse, so that parts of a stream, merged, give what the whole
    gives. Images of quality NaN are left out.
    """

    def __init__(self, count: int = COUNT) -> None:
        self.count = count
        self._ranked: list[tuple[float, int]] = []
        self._payloads: dict[int, T] = {}

    def add(self, quality: float, row: int, make: Callable[[], T]) -> None:
        """Offer an image, each row once; `make` is called only where the image is kept, perhaps for a while."""
        if math.isnan(quality):
            return
        insort(self._ranked, (quality, row))
        if len(self._ranked) > 2 * self.count:
            _, middle = self._ranked.pop(self.count)  # neither among the worst nor among the best
            if middle == row:
                return
            del self._payloads[middle]
        self._payloads[row] = make()

    def reduce(self) -> None:
        """Bring what all processes of torch.distributed have kept into the first; once, after the last image."""
        parts = gathered([Kept(*ranked, self._payloads[ranked[1]]) for ranked in self._ranked])
        self._ranked, self._payloads = [], {}
        for quality, row, payload in (kept for part in parts for kept in part):
            self.add(quality, row, lambda payload=payload: payload)  # type: ignore[misc]

    def made(self, make: Callable[[int, T], U]) -> Extremes[U]:
        """Return the same images with what `make` makes of each, from its row and what was kept of it."""
        other: Extremes[U] = Extremes(self.count)
        for quality, row in self._ranked:
            other.add(quality, row, partial(make, row, self._payloads[row]))
        return other

    def worst(self) -> list[Kept[T]]:
        """Return the worst, the worst first: of fewer than twice `count` images the worse half."""
        return self._kept(self._ranked[: self._halfway()])

    def best(self) -> list[Kept[T]]:
        """Return the best, the best first: of fewer than twice `count` images the better half."""
        return self._kept(self._ranked[self._halfway() :][::-1])

    def _halfway(self) -> int:
        return -(-len(self._ranked) // 2)

    def _kept(self, ranked: list[tuple[float, int]]) -> list[Kept[T]]:
        return [Kept(quality, row, self._payloads[row]) for quality, row in ranked]
