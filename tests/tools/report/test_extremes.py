"""The worst and the best of a stream: against sorting all of it."""

import math
import random

import pytest

from vertebra.tools.report.extremes import Extremes


@pytest.mark.parametrize("images", [0, 1, 2, 5, 6, 7, 100])
@pytest.mark.parametrize("seed", range(5))
def test_as_if_all_were_sorted(images: int, seed: int) -> None:
    """Also with equal qualities; of few images each is on one side only, the middle one among the worst."""
    rng = random.Random(seed)
    stream = [(rng.randrange(6) / 5, row) for row in range(images)]
    kept: Extremes[str] = Extremes(3)
    for quality, row in stream:
        kept.add(quality, row, lambda row=row: f"picture {row}")
    ranked = [(quality, row, f"picture {row}") for quality, row in sorted(stream)]
    half = min(3, math.ceil(images / 2))
    assert kept.worst() == ranked[:half]
    assert kept.best() == ranked[::-1][: min(3, images - half)]


def test_only_what_is_kept_is_made() -> None:
    made: list[int] = []
    kept: Extremes[None] = Extremes(2)
    for row, quality in enumerate([0.5, 0.1, 0.9, float("nan"), 0.2, 0.6, 0.55, 0.05]):
        kept.add(quality, row, lambda row=row: made.append(row))
    # 5 is between 2, 0 and 1, 4 when it comes, and so is 6; NaN is nothing.
    assert made == [0, 1, 2, 4, 5, 7]
    assert [one.row for one in kept.worst()] == [7, 1]
    assert [one.row for one in kept.best()] == [2, 5]
